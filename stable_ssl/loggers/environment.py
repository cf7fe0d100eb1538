"""What a run ran on: versions, host, git state, command line, devices, Slurm."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import torch

from stable_ssl import distributed
from stable_ssl.loggers import own_code
from stable_ssl.loggers.arguments import masked_arguments

SLURM = ("SLURM_JOB", "SLURM_NNODES", "SLURM_RESTART")  # what is kept of its variables
FIELD = re.compile(r"^(Name|Version): *(.+)$", re.MULTILINE)  # of a package's metadata
# starts none of the programs that a checkout's own configuration may name
GIT = "git --no-optional-locks -c core.fsmonitor=false -c core.hooksPath=/dev/null"
DIFF = "diff --no-ext-diff --no-textconv --ignore-submodules=dirty HEAD".split()


def environment(device: torch.device, trainer: type) -> dict[str, Any]:
    """Return the facts of a trainer's launch as plain JSON types.

    The state in git is that of the script's folder.
    """
    code = Path(sys.argv[0]).absolute().parent if sys.argv[0] else Path.cwd()
    path = f"{trainer.__module__}.{trainer.__qualname__}"
    return {**machine(device), "trainer": path, "git": git_state(code)}


def machine(device: torch.device) -> dict[str, Any]:
    """Return the facts of this launch that no other program has to be asked for."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "argv": masked_arguments(sys.argv),
        "cwd": os.getcwd(),
        "host": platform.node(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": str(device),
        "device_name": (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else platform.machine()
        ),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "slurm": {k: v for k, v in os.environ.items() if k.startswith(SLURM)},
        "packages": packages(),
        "library": own_code.library(),
    }


def git_state(code: Path) -> dict[str, str | None]:
    """Return commit of a folder's checkout, and what differs from it; None without."""
    return {"commit": _git(code, "rev-parse", "HEAD"), "diff": _git(code, *DIFF)}


def packages() -> dict[str, str]:
    """Return {name: version} of what is installed, as an import would find it.

    Of two copies the first on the path counts. What setuptools carries within itself
    is left out: it is on the path only from the moment something imports setuptools.
    """
    path = [folder for folder in sys.path if Path(folder).name != "_vendor"]
    stated = [_stated(package) for package in distributions(path=path)]
    return {found["Name"]: found["Version"] for found in stated[::-1] if len(found) > 1}


def _stated(package: Distribution) -> dict[str, str]:
    """Return the name and version of a package; `.version` parses all of its README."""
    text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
    return dict(FIELD.findall(text.partition("\n\n")[0]))


def _git(folder: Path, *command: str) -> str | None:
    """Return what git says of a folder, None outside a checkout."""
    try:
        return subprocess.run(
            [*GIT.split(), "-C", folder, *command],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
