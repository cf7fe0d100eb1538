"""One process owns a run folder at a time: `lock.json` in it names that process.

A lock outlives a process that was killed. Whoever comes next takes it over where the
owner is seen to be gone: its machine has no such process any more, its Slurm job was
started again, or nobody has touched the file for ten minutes, by the clock of the file
system. An owner that was only suspended meanwhile finds another's token, and ends.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stable_ssl.files import start_of, text_of
from stable_ssl.schema import ConfigError

NAME = "lock.json"
TOUCH_SECONDS = 30  # between two signs of life
STALE_SECONDS = 600  # without one; the clock of a machine may be off by a minute
SETTLE_SECONDS = 0.2  # for those that take a lock over at the same moment


class Taken(ConfigError):
    """A run folder belongs to another process."""


class Lock:
    """Own a folder until `release`; a thread gives the signs of life.

    Args:
        folder: an existing one.

    Raises:
        Taken: another process owns it; the message says which, and what to do.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self.token = uuid.uuid4().hex
        self._released = threading.Event()
        self.acquire()
        threading.Thread(target=self._stay_alive, daemon=True).start()

    def acquire(self) -> None:
        """Create the file, or take it over from an owner that is gone.

        Raises:
            Taken: there is an owner, or another process was faster.
        """
        new = self.path.with_name(f".{NAME}.{os.getpid()}.tmp")
        try:
            for _ in range(9):  # an owner may end between two looks at the file
                new.write_text(json.dumps(this_process() | {"token": self.token}))
                if _create(self.path, new):
                    return
                owner = read_owner(self.path.parent)
                try:
                    age = new.stat().st_mtime - self.path.stat().st_mtime
                except FileNotFoundError:
                    continue
                if owner and is_alive(owner, age) and not _is_this_process(owner):
                    raise Taken(_refusal(self.path, owner, age))
                os.replace(new, self.path)  # of several that do, the last has it
                time.sleep(SETTLE_SECONDS)
                if self.is_ours():
                    return
            raise Taken(f"{self.path} comes and goes; try again")
        finally:
            new.unlink(missing_ok=True)

    def is_ours(self) -> bool:
        """Return whether the folder is still ours, False if the file was deleted.

        Raises:
            Taken: it is another's.
        """
        try:
            owner = read_owner(self.path.parent)
        except OSError:  # who writes next says it
            return True
        if owner is not None and owner.get("token") != self.token:
            raise Taken(
                f"{self.path.parent} was taken over by {_named(owner)}; this process"
                " writes no more to it and ends"
            )
        return owner is not None

    def release(self) -> None:
        """Give the folder free; harmless if it is another's."""
        self._released.set()
        with suppress(OSError, Taken):
            if self.is_ours():
                self.path.unlink()

    def _stay_alive(self) -> None:
        while not self._released.wait(TOUCH_SECONDS):
            try:
                if self.is_ours():
                    os.utime(self.path)
            except Taken:
                return  # whoever writes next says it
            except OSError:
                pass


def is_held(folder: Path) -> bool:
    """Return whether a process owns a run folder, as far as can be seen from here."""
    try:
        owner = read_owner(folder)
        return owner is not None and is_alive(owner, _age(folder / NAME))
    except OSError:
        return False


def is_alive(owner: Mapping[str, Any], age: float) -> bool:
    """Return whether the owner of a lock may still be at work.

    Args:
        owner: as `this_process` described it.
        age: seconds since its last sign of life.
    """
    now, pid, restart = this_process(), owner.get("pid"), owner.get("restart")
    if now["job"] is not None and owner.get("job") == now["job"]:
        if isinstance(restart, int) and restart < now["restart"]:
            return False
    if owner.get("machine") == now["machine"] and isinstance(pid, int):
        if owner.get("boot") != now["boot"]:  # since, or it is another of that name
            return age < 2 * TOUCH_SECONDS
        if owner.get("started") != start_of(pid):
            return False
    return age < STALE_SECONDS


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others.

    A number of a process means something only on its machine, in its namespace (of a
    container), until the machine boots.
    """
    namespace = None
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return {
        "machine": f"{platform.node()} {namespace}",
        "boot": text_of("/proc/sys/kernel/random/boot_id"),
        "pid": os.getpid(),
        "started": start_of(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
    }


def read_owner(folder: Path) -> dict[str, Any] | None:
    """Return what a lock says of its owner: {} if it is torn, None without a lock."""
    try:
        owner = json.loads((folder / NAME).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_this_process(owner: Mapping[str, Any]) -> bool:
    """Return whether the owner is an earlier trainer of this process, in a notebook."""
    return {**owner, "token": None} == {**this_process(), "token": None}


def _create(path: Path, new: Path) -> bool:
    """Give a new file its name, unless there is one of that name."""
    try:
        os.link(new, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with open(path, "x") as file:
                file.write(new.read_text())
        except FileExistsError:
            return False
    return True


def _refusal(path: Path, owner: Mapping[str, Any], age: float) -> str:
    """Return what a second process is told."""
    return (
        f"{path.parent} is in use by {_named(owner)}, alive {max(0, round(age))} s ago;"
        " wait for its end, or choose another log.run (log.load_from takes its"
        f" weights); if you know that it is gone, delete {path}"
    )


def _named(owner: Mapping[str, Any]) -> str:
    """Return an owner as a person would find it."""
    if not owner:
        return "an unknown process"
    machine = str(owner.get("machine")).partition(" ")[0]
    job = f" (Slurm job {owner['job']})" if owner.get("job") else ""
    return f"process {owner.get('pid')} on {machine}{job}"


def _age(path: Path) -> float:
    """Return the seconds since a file was touched, by this machine's clock."""
    return time.time() - path.stat().st_mtime
