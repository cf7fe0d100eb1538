"""Checkpoints that survive: written atomically, checked on reading, never half there.

A file is what `torch.save` writes, tensors and plain Python types only, with the
SHA-256 of its bytes in the comment of the ZIP archive; so `torch.load` opens it.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stable_ssl.config import ConfigError

SUFFIX = ".ckpt"
SETTINGS = {  # what a resumed run must share with its start; None: every key
    "data": ("train", "batch_size", "batch_size_per_gpu", "num_classes"),
    "model": None,
    "optim": None,
    "hardware": ("seed", "precision"),
}
NO_COMMENT = b"\x00\x00"  # a ZIP archive ends with the length of its comment
DIGEST = 64  # hexadecimal characters of SHA-256


class CorruptCheckpoint(ConfigError):
    """A checkpoint that is truncated or whose bytes are not those that were written."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` so that a crash leaves the old file or the new one.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and
    the rename is flushed too. Tensors are copied to the CPU: synchronises the device.

    Raises:
        OSError: the disk is full or the folder not writable; `path` is then untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    if bytes(content[-2:]) != NO_COMMENT:
        raise RuntimeError("torch.save wrote an archive that already has a comment")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content[:-2])
            file.write(DIGEST.to_bytes(2, "little"))
            file.write(hashlib.sha256(content).hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def load(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote, after its checksum.

    Raises:
        ConfigError: there is no such file.
        CorruptCheckpoint: it is truncated, changed, or no checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no checkpoint at {path}; give the path of an existing file")
    content = bytearray(path.read_bytes())
    digest = bytes(content[-DIGEST:])
    del content[-DIGEST:]
    content[-2:] = NO_COMMENT
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise CorruptCheckpoint(f"{path} is truncated or not a stable-SSL checkpoint")
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def newest_valid(folder: Path) -> dict[str, Any] | None:
    """Return the state of the newest readable checkpoint of a run, None without one.

    A truncated or corrupt one is skipped with a warning that names it.
    """
    for path in sorted(folder.glob(f"e*_s*{SUFFIX}"), key=_step, reverse=True):
        try:
            return load(path)
        except CorruptCheckpoint as error:
            warnings.warn(f"{error}; trying the one before", stacklevel=2)
    return None


def choose(resume: str | None, folder: Path) -> tuple[dict[str, Any] | None, bool]:
    """Return the state that a run starts from, and whether it is the run's own.

    A run's own newest checkpoint comes first, so that a run which was started from
    another one's state goes on with its own when it is started again.

    Args:
        resume: auto, None (afresh), or the path of another run's checkpoint.
        folder: of the run's own checkpoints.
    """
    own = newest_valid(folder) if resume is not None else None
    if own is not None or resume in (None, "auto"):
        return own, own is not None
    return load(resume), False


def refuse_other_settings(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run under settings that it was not trained with.

    Args:
        saved: resolved config of the checkpoint.
        now: that of today; the length of the training, where data lies and what is
            evaluated or written may differ.

    Raises:
        ConfigError: another key of data, model, optim or the seed differs.
    """
    free = {"optim.epochs", "optim.steps"}
    for group, names in SETTINGS.items():
        old, new = saved.get(group) or {}, now.get(group) or {}
        for name in names or sorted({*old, *new}):
            path = f"{group}.{name}"
            if path not in free and old.get(name) != new.get(name):
                raise ConfigError(
                    f"this run was trained with {path}={old.get(name)}, not"
                    f" {new.get(name)}; choose another log.run, or the old value"
                )


def load_modules(
    module: nn.Module, saved: dict[str, torch.Tensor], strict: bool = True
) -> str:
    """Load the tensors that fit by name and shape; return in words what did not.

    Raises:
        ConfigError: strict, and something is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    misfits = {
        "missing": [name for name in own if name not in saved],
        "unexpected": [name for name in saved if name not in own],
        "of another shape": [
            f"{name} {tuple(saved[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in saved and saved[name].shape != own[name].shape
        ],
    }
    report = "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
        for kind, names in misfits.items()
        if names
    )
    if report and strict:
        raise ConfigError(
            f"the checkpoint is of another model: {report}; use the config that it was"
            " trained with"
        )
    fits = {n: t for n, t in saved.items() if n in own and t.shape == own[n].shape}
    module.load_state_dict(fits, strict=False)
    return report or f"all {len(fits)} tensors"


class Checkpoints:
    """The checkpoints of one run: the newest two, the best k, `last` and `best`.

    Files are named by epoch and step, `e002_s005157.ckpt`; `last.ckpt` and `best.ckpt`
    are further names of the same files. The newest but one is kept to fall back to.

    Args:
        folder: made when the first checkpoint is written.
        top_k: how many of the best to keep.
        last: whether the newest is kept after the run and named `last.ckpt`.
        largest: whether a larger monitored value is better.
    """

    def __init__(self, folder: Path, top_k: int, last: bool, largest: bool):
        self.folder, self.top_k, self.last, self.largest = folder, top_k, last, largest
        self.best: list[tuple[float, str]] = []  # (monitored value, file), best first

    def save(
        self, state: dict[str, Any], epoch: int, step: int, value: float | None
    ) -> Path:
        """Write one checkpoint, rank it by its monitored value, delete the surplus.

        Args:
            state: what to save; the ranking is stored in it under `best`.
            epoch: epochs completed; names the file, as `step` does.
            step: optimizer steps taken.
            value: the monitored metric at this very step; None leaves the ranking be.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"e{epoch:03d}_s{step:06d}{SUFFIX}"
        if value is not None and math.isfinite(value) and self.top_k:
            ranked = [entry for entry in self.best if entry[1] != path.name]
            ranked.append((value, path.name))  # sorted is stable: the earlier wins ties
            ranked.sort(key=lambda entry: entry[0], reverse=self.largest)
            self.best = ranked[: self.top_k]
        save(path, {**state, "best": self.best})
        if self.last:
            _name(path, "last")
        if self.best:
            _name(self.folder / self.best[0][1], "best")
        newest = sorted(self.folder.glob(f"e*_s*{SUFFIX}"), key=_step)[-2:]
        for old in self.folder.glob(f"e*_s*{SUFFIX}"):
            if old not in newest and old.name not in {name for _, name in self.best}:
                old.unlink()
        return path

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: a resumed run writes them again."""
        for path in self.folder.glob(f"e*_s*{SUFFIX}"):
            if _step(path) > step:
                path.unlink()


def _name(path: Path, name: str) -> None:
    """Give a file a further name, by a hard link where the file system has them."""
    if not path.exists():
        return
    temporary = path.with_name(f".{name}{SUFFIX}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        temporary.write_bytes(path.read_bytes())
    os.replace(temporary, path.with_name(f"{name}{SUFFIX}"))
    temporary.unlink(missing_ok=True)  # a rename to the same file leaves both names


def _step(path: Path) -> int:
    match = re.search(r"_s(\d+)", path.name)
    return int(match.group(1)) if match else -1


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
