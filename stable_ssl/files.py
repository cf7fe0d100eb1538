"""Write files so that a crash, of process or machine, leaves the old one or the new.

The new content is written beside the old file, flushed to the disk, and renamed; then
the rename is flushed. Files to which rows are appended need none of this.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600  # mode of a file that others must not read


def write_atomically(path: Path, content: str | bytes, private: bool = False) -> None:
    """Write a file, text as UTF-8, unless it holds just that already; make its folder.

    Args:
        path: of the file.
        content: the whole of it.
        private: let its owner alone read it, whoever could read the old one.

    Raises:
        OSError: it could not be written; the old file is untouched.
    """
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")  # names of files
    if not _holds(path, content) or (private and path.stat().st_mode & 0o077):
        with replacing(path) as new:
            if private:  # from the moment that it is there
                new.touch(mode=PRIVATE)
            new.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path; the file written there then replaces `path`.

    Nothing happens to `path` where the block raises. Its folder is made, and what
    killed processes left half-written there is deleted; so blocks of one folder do not
    nest.

    Raises:
        OSError: it could not be flushed or renamed; the old file is untouched.
    """
    _make_folder(path.parent)
    _delete_leftovers(path.parent)
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield new
        _flush(new)
        os.replace(new, path)
    finally:  # a rename to another name of the same file leaves both
        new.unlink(missing_ok=True)
    _flush(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder, which then replaces the folder `path`.

    Raises:
        OSError: it could not be flushed or renamed; the old folder is untouched.
    """
    _make_folder(path.parent)
    new, old = (path.with_name(f".{path.name}.{age}.tmp") for age in ("new", "old"))
    if old.exists() and not path.exists():  # killed between the two renames below
        os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        for written in (*new.rglob("*"), new):
            _flush(written)
        if path.is_dir():  # a rename replaces only an empty one
            os.replace(path, old)
        os.replace(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def overwritten(path: Path, text: str) -> bool:
    """Write over a small file, which needs no room on a disk; return whether it is.

    A crash may tear it: only for what `write_atomically` had no room for.
    """
    try:
        with open(path, "r+b") as file:
            file.write(text.encode())
            file.truncate()
        return True
    except OSError:
        return False


def add_name(path: Path, name: str) -> None:
    """Give a file another name in its folder: a hard link, or else a copy.

    Raises:
        OSError: as for `replacing`.
    """
    other = path.with_name(name)
    if other.is_file() and os.path.samefile(path, other):
        return
    with replacing(other) as new:
        try:
            os.link(path, new)
        except OSError:
            shutil.copyfile(path, new)


def _holds(path: Path, content: bytes) -> bool:
    """Return whether a file has this content."""
    if not path.is_file() or path.stat().st_size != len(content):
        return False
    return path.read_bytes() == content


def _make_folder(folder: Path) -> None:
    """Make a folder, and flush its name before a file is written to it."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _flush(folder.parent)


def _delete_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that were killed while they wrote."""
    for path in folder.glob(".*.tmp"):
        pid = path.name.split(".")[-2]
        # in a container a restarted process often has the number of the killed one
        if pid.isdigit() and (int(pid) == os.getpid() or start_of(int(pid)) is None):
            path.unlink(missing_ok=True)


def start_of(pid: int) -> str | None:
    """Return when a process started, in ticks since the boot; None if there is none.

    A number may be given to a new process; where there is no /proc, any counts.
    """
    stat = text_of(f"/proc/{pid}/stat")
    if stat is not None:  # the name of its program, in brackets, may hold spaces
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # a zombie, or dead
    if os.path.exists("/proc/self/stat"):
        return None
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return "some" if isinstance(error, PermissionError) else None
    return "some"


def text_of(path: str) -> str | None:
    """Return the content of a file of the system, None where there is none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
