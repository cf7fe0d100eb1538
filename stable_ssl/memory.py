"""Memory that a process has freed, kept for what it allocates next."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**30  # bytes, of an allocation that is not mapped from the kernel anew


def keep_freed() -> None:
    """Let glibc keep what is freed, also where it is larger than 32 MB, as a batch is.

    The kernel clears and maps new memory page by page: on the CPU of a virtual machine
    that took 240 us for a view of 224 pixels, and all arithmetic on it 30. The process
    then holds the most that it ever needed. Nothing is changed where the environment
    sets the allocator, or where there is no glibc.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    chosen |= "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and not chosen:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
