"""Checkpoints that a crash cannot damage: written atomically, checked on reading.

A large one is written while the training goes on, from a copy of the state: the loop
waits for that copy alone. What a kill leaves is what it would leave if the loop waited
for the file, because

- what is written before a checkpoint is on the disk before its thread begins: the rows,
  of which it holds the lengths;
- the thread does to the folder of checkpoints what the loop would do, in the same
  order, and nobody else touches that folder before it has ended: the next save, a
  resume and the end of the run wait for it;
- what the loop appends meanwhile, rows and lines of the console, is what it would have
  appended if this checkpoint had not been due: it is cut off when a run goes on from an
  earlier one;
- what says that a state is saved, or deletes one, waits: the status of a run, the other
  ranks at a preemption, `finish`, exports.
"""

from __future__ import annotations

import copy
import io
import math
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy
import torch

from stable_ssl import distributed
from stable_ssl.background import Background
from stable_ssl.distributed import sharded_state
from stable_ssl.distributed.sharding import shared_out_like
from stable_ssl.files import add_name, replacing
from stable_ssl.schema import ConfigError, unwritable
from stable_ssl.tensor_files import (
    CorruptCheckpoint,
    read_sealed,
    verify,
    write_sealed,
)

SUFFIX, SHARDS = ".ckpt", ".shards"
SETTINGS = {  # what a resumed run must share with its start; None: every key
    "data": (
        *("train", "labelled", "num_classes", "in_memory"),
        *("batch_size", "batch_size_per_gpu"),
        *("fields", "range", "layout", "decode"),
    ),
    "model": None,
    "optim": None,
    "hardware": ("seed", "precision", "sync_batchnorm", "sharding"),
}
FREE = {"optim.epochs", "optim.steps"}  # see `length_changed`
FREE |= {"model.checkpointing"}  # changes no result
MOVABLE = {"root", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor"}
MOVABLE |= {"timeout", "multiprocessing_context"}  # of a loader or a dataset
LARGE = 2**20  # bytes of a state that is worth a copy and a thread, see `Checkpoints`
EXTRA_STATE = "_extra_state"  # what a module's own state is called in a state dict
PLAIN = {int, float, bool, complex, str, bytes, type(None)}
State: TypeAlias = dict[str, Any]  # tensors, plain Python types, lists, dicts of them


class Stateful(Protocol):
    """What has a state to save: a module, and a trainer, which is one."""

    def state_dict(self) -> State:
        """Return the state."""

    def load_state_dict(self, state_dict: State, strict: bool = True) -> Any:
        """Restore a state; where strict, all of it and nothing else."""


def save(path: Path, state: State) -> None:
    """Write `state` to `path` so that a crash leaves the old file or the new one.

    Tensors are copied to the CPU: synchronises the device.

    Raises:
        OSError: the disk is full or the folder not writable; `path` is then untouched.
        ConfigError: something in the state could not be read again.
    """
    state = readable(state)
    with replacing(path) as new:
        write_sealed(new, state)


def readable(value: Any, at: str = "state") -> Any:
    """Return a state with the numbers and arrays of numpy as Python's and tensors.

    Raises:
        ConfigError: names what is neither these nor what `load` reads.
    """
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.copy())
    if type(value) in PLAIN or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, dict):
        plain = {readable(k, at): readable(v, f"{at}.{k}") for k, v in value.items()}
        same = all(plain.get(k, plain) is v for k, v in value.items())
        return value if same else plain
    if type(value) in (list, tuple):
        return type(value)(readable(v, f"{at}[{i}]") for i, v in enumerate(value))
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"{at} is a {type(value).__name__}, which a checkpoint cannot hold: it"
            " holds tensors, numbers, text, and lists and dicts of them"
        ) from error
    return value


def snapshot(state: State) -> State:
    """Return a copy in the host's memory, where tensors share memory as they did.

    Synchronises the device.
    """
    storages: dict[Any, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
    elsewhere = {
        id(tensor): _on_host(tensor, storages)
        for tensor in _tensors(state)
        if tensor.device.type not in ("cpu", "meta") or not tensor.is_leaf
    }
    return copy.deepcopy(state, elsewhere)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a state."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)


def _on_host(tensor: torch.Tensor, storages: dict[Any, Any]) -> torch.Tensor:
    """Return a copy of a tensor in the host's memory.

    Args:
        tensor: of any device.
        storages: (original, copy) by address and size, of what was copied before.
    """
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.layout != torch.strided:
        return tensor.to("cpu", copy=True)
    original = tensor.untyped_storage()
    place = original.data_ptr(), original.nbytes()
    if place not in storages:
        host = torch.UntypedStorage(original.nbytes())
        storages[place] = original, host.copy_(original)
    view = tensor.storage_offset(), tensor.shape, tensor.stride()
    return torch.empty(0, dtype=tensor.dtype).set_(storages[place][1], *view)


def load(
    path: Path | str,
    device: torch.device | str = "cpu",
    *,
    verified: bool = False,
    mesh: Any = None,
) -> State:
    """Read what `save` wrote, after its checksum; see `tensor_files` of its memory.

    Args:
        path: of the file.
        device: of the tensors.
        verified: whether its checksum has been compared, as by another rank.
        mesh: of the processes among which sharded tensors are shared out again.

    Raises:
        ConfigError: there is no such file.
        CorruptCheckpoint: it is truncated, changed, or no checkpoint of this library.
    """
    if not verified:
        verify(Path(path))
    state = read_sealed(Path(path), device, mesh)
    if type(state) is not dict:
        raise CorruptCheckpoint(
            f"{path} holds a {type(state).__name__} instead of a run's state"
        )
    return state


def newest_valid(folder: Path, mesh: Any = None) -> State | None:
    """Return the state of the newest readable checkpoint of a run, None without any.

    A truncated or corrupt one is skipped with a warning that names it. Where somebody
    deleted them all, `last.ckpt` still holds the newest. Rank 0 looks for it, and the
    others read what it found: synchronises the ranks.

    Args:
        folder: of the run's checkpoints.
        mesh: as for `load`.

    Raises:
        CorruptCheckpoint: there are some, and none can be read.
        ConfigError: a folder has the name of one.
    """
    path = distributed.from_main(lambda: _newest_valid(folder))
    return None if path is None else load(path, verified=True, mesh=mesh)


def _newest_valid(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be read."""
    paths = _in_order(folder) or _files(folder, f"last{SUFFIX}")
    for path in reversed(paths):
        try:
            load(path)
            return path
        except CorruptCheckpoint as error:
            if path == paths[0]:
                raise CorruptCheckpoint(
                    f"{error}, and no other in {folder} can be read; move that folder"
                    " away to start afresh, or choose another log.run"
                ) from error
            warnings.warn(f"{error}; trying the one before", stacklevel=4)
    return None


def is_newest(path: str | Path, folder: Path, step: int, epoch: int) -> bool:
    """Return whether a file is the newest checkpoint of a run, by any of its names.

    Args:
        path: of the file.
        folder: of the run's checkpoints.
        step: of the file.
        epoch: of the file.
    """
    if Path(path).absolute().parent.resolve() != folder.resolve():
        return False
    newest = _in_order(folder)[-1:]
    return all(_position(one.name) == (step, epoch) for one in newest)


def choose(
    resume: str | None, folder: Path, mesh: Any = None
) -> tuple[State | None, bool]:
    """Return the state that a run starts from, and whether it is the run's own.

    A run's own newest checkpoint comes first, so that a run which was started from
    another one's state goes on with its own when it is started again. Synchronises the
    ranks.

    Args:
        resume: auto, None (afresh), or the path of another run's checkpoint.
        folder: of the run's own checkpoints.
        mesh: as for `load`.
    """
    state = newest_valid(folder, mesh) if resume is not None else None
    if state is not None or resume in (None, "auto"):
        return state, state is not None
    distributed.from_main(lambda: verify(Path(resume)))
    return load(resume, verified=True, mesh=mesh), False


def refuse_other_settings(saved: State, now: State) -> None:
    """Refuse to go on with a run under settings that it was not trained with.

    Args:
        saved: resolved config of the checkpoint, `filled` with what is newer.
        now: that of today; the length of the training, where data lies and what is
            written may differ; of what is evaluated see `evaluation/otherwise.py`.

    Raises:
        ConfigError: another key of `SETTINGS` differs.
    """
    for group, names in SETTINGS.items():
        old, new = saved.get(group) or {}, now.get(group) or {}
        for name in names or sorted({*old, *new}):
            path = f"{group}.{name}"
            if path not in FREE:
                refuse_other(path, old.get(name), new.get(name))


def known_to(now: State, saved: State) -> State:
    """Return the part of a config whose keys, at any depth, another has, too."""
    return {
        name: known_to(value, saved[name])
        if isinstance(value, dict) and isinstance(saved[name], dict)
        else value
        for name, value in now.items()
        if name in saved
    }


def filled(config: State, defaults: State) -> State:
    """Return a config with what it lacks, at any depth.

    Args:
        config: of a checkpoint; a key that is newer than it had its default.
        defaults: `known_to` of today's and this, completed.
    """
    found = {**defaults, **config}
    for name, value in found.items():
        if isinstance(value, dict) and isinstance(defaults.get(name), dict):
            found[name] = filled(value, defaults[name])
    return found


def refuse_other(path: str, old: Any, new: Any) -> None:
    """Refuse another value of a key, or of one below it; name the first."""
    for key, before, now in differences(path, old, new):
        raise ConfigError(
            f"this state was trained with {key}={before}, not {now}; choose the old"
            " value, or another log.run, with log.load_from for the weights alone"
        )


def differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys at or below a path that differ, with both values.

    Where data lies and how it is read may differ.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            if name not in MOVABLE:
                yield from differences(f"{path}.{name}", old.get(name), new.get(name))
    elif old != new:
        yield path, old, new


def length_changed(
    state: State,
    optim: Mapping[str, Any],
    total_steps: int,
    epoch: tuple[int | None, int | None],
) -> str:
    """Return a message if a training goes on with another length, else an empty one.

    Args:
        state: that it goes on from.
        optim: group `optim` of now.
        total_steps: of now.
        epoch: its batches and the images of a step, of now; None of what the loader
            does not say.

    Raises:
        ConfigError: the state is beyond them, or its position in the data another.
    """
    saved = state.get("lengths", epoch)  # an earlier state may lack them
    compared = 1 if state["format"] == 3 else 2  # which took 1 image where none is said
    if tuple(saved[:compared]) != epoch[:compared]:
        then, today = (
            f"{batches} batches, {images or 'an unknown number of'} images a step"
            for batches, images in (saved, epoch)
        )
        raise ConfigError(
            f"an epoch was {then}, and is {today} now: the place in the data is lost;"
            " choose the data, the batch size and the processes of then, or another"
            " log.run"
        )
    before, now = (
        f"optim.epochs={group['epochs']} optim.steps={group['steps']}"
        for group in (state["config"]["optim"], optim)
    )
    if state["step"] > total_steps:
        raise ConfigError(
            f"the checkpoint is of step {state['step']}, beyond the {total_steps} of"
            f" {now}; train longer, or choose another log.run"
        )
    if before == now:
        return ""
    return (
        f"{before} until step {state['step']}, {now} from there on: config.yaml alone"
        " does not reproduce this run"
    )


def load_modules(module: Stateful, saved: State, strict: bool = True) -> str:
    """Load the tensors that fit by name and shape; return a message about the others.

    Raises:
        ConfigError: strict, and something is missing, unexpected or of another shape;
            or nothing fits.
    """
    current = module.state_dict()
    common = [name for name in current if name in saved]
    fitting = {n: saved[n] for n in common if _shape(saved[n]) == _shape(current[n])}
    misfits = {
        "missing": [name for name in current if name not in saved],
        "unexpected": [name for name in saved if name not in current],
        "of another shape": [
            f"{name} {_shape(saved[name])} for {_shape(current[name])}"
            for name in common
            if name not in fitting
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
    if current and not fitting:
        raise ConfigError(
            f"the checkpoint has no tensor of this model: {report}; choose one of a"
            " model like this, or log.load_from=null to start afresh"
        )
    kept = {n: copy.deepcopy(v) for n, v in fitting.items() if n.endswith(EXTRA_STATE)}
    for name, value in fitting.items():
        if isinstance(value, torch.Tensor):
            fitting[name] = shared_out_like(value, current[name])
    module.load_state_dict({**fitting, **kept}, strict=False)  # which copies the others
    if report:
        return f"{len(fitting)} of {len(current)} tensors; {report}"
    return f"all {len(fitting)} tensors"


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return a tensor's shape; None of a module's extra state."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


class Checkpoints:
    """The checkpoints of one run: the newest two, the best k, `last` and `best`.

    A state of `LARGE` bytes and more is copied to the host's memory and written in the
    background; that memory is the price. For a smaller one a copy and a thread would
    take half as much CPU again, to save the milliseconds in which a disk answers.

    Files are named by epoch and step, `e002_s005157.ckpt`; a step has one, the one
    written last. `last.ckpt` and `best.ckpt` are further names of the same files. The
    newest is kept to resume from and the one before to fall back to. Weights that are
    shared out lie in a folder beside, `e002_s005157.0.shards`, which is on the disk
    before the file that names it; one that no file names is deleted.

    Args:
        folder: made when the first checkpoint is written; written by one process, but
            for `save_shards`.
        top_k: how many of the best to keep.
        last: whether the newest is named `last.ckpt` and stays after the run.
        largest: whether a larger monitored value is better.
    """

    def __init__(self, folder: Path, top_k: int, last: bool, largest: bool):
        self.folder, self.top_k, self.last, self.largest = folder, top_k, last, largest
        self.best: list[tuple[float, str]] = []  # (monitored value, file), best first
        self.background = Background()  # that writes the one in flight

    def save(self, state: State, epoch: int, step: int, value: float | None) -> Path:
        """Write one checkpoint, rank it by its monitored value, delete the surplus.

        Waits for the one before. A large one is there when `background.wait` returns.

        Args:
            state: what to save; the ranking is stored in it under `best`.
            epoch: epochs completed; names the file, as `step` does.
            step: optimizer steps taken.
            value: the monitored metric, of val at this very step, of train in the last
                row; None leaves the ranking be.

        Raises:
            ConfigError: it, or the one before, could not be written; the earlier ones
                are untouched.
        """
        self.background.wait()
        path = self.folder / f"{_name(epoch, step)}{SUFFIX}"
        state = {**state, "best": self._ranked(path.name, value)}
        if sum(t.numel() * t.element_size() for t in _tensors(state)) < LARGE:
            self._write(path, state)
        else:
            self.background.start(self._write, path, snapshot(readable(state)))
        return path

    def save_shards(self, state: State, epoch: int, step: int) -> State:
        """Write what is shared out over the ranks, each its part; return the rest.

        Waits for the disk. Synchronises the ranks.

        Args:
            state: of every rank, to be saved after this, by rank 0.
            epoch: as for `save`.
            step: as for `save`.

        Raises:
            ConfigError: a rank could not write.
        """
        return sharded_state.write(
            distributed.from_main(lambda: self._new_shards(epoch, step)), state
        )

    def _new_shards(self, epoch: int, step: int) -> Path:
        """Return a folder that no file names; of a step saved twice, another one."""
        self.background.wait()
        number = count()
        while True:
            path = self.folder / f"{_name(epoch, step)}.{next(number)}{SHARDS}"
            if not path.exists():
                return path

    def _write(self, path: Path, state: State) -> None:
        try:
            save(path, state)
        except OSError as error:
            raise unwritable(path, error) from error
        self.best = state["best"]
        kept = state.get(sharded_state.SHARDS, {}).get("folder")
        for shards in self.folder.glob(f"{path.stem}.*{SHARDS}"):
            if shards.name != kept:  # of this step, saved before
                shutil.rmtree(shards)
        self._tidy()

    def resume(self, state: State) -> None:
        """Return to what the folder was after the save of a state.

        Later checkpoints are deleted: the resumed run writes them again.

        Args:
            state: of this run, as it was read.

        Raises:
            ConfigError: a name could not be given.
        """
        self.background.wait()
        best = [
            (value, name)
            for value, name in state["best"]
            if name == Path(name).name and self._intact(name)  # of this folder
        ]
        self.best = best
        for path in _in_order(self.folder):
            if _position(path.name) > (state["step"], state["epoch"]):
                path.unlink()
        if not best:  # what `best.ckpt` names was written later
            for path in _files(self.folder, f"best{SUFFIX}"):
                path.unlink()
        self._tidy()

    def finish(self) -> None:
        """Without `last`, delete the newest at the end of a run and leave the best.

        A run of which nothing could be ranked keeps its newest, or all would be lost.
        """
        self.background.wait()
        self._tidy()
        best = {name for _, name in self.best if (self.folder / name).exists()}
        if not self.last and (best or not self.top_k):
            (self.folder / f"last{SUFFIX}").unlink(missing_ok=True)
            self._delete_but(best)

    def _tidy(self) -> None:
        """Write `last.ckpt` and `best.ckpt`; delete all but the best and the last two.

        A kill may come between a checkpoint's writing and this, so that a resumed run
        does it, too. Of one step the later checkpoint counts.
        """
        by_step = {_position(path.name)[0]: path for path in _in_order(self.folder)}
        newest = list(by_step.values())[-2:]
        if self.last and newest:
            _add_name(newest[-1], "last")
        if self.best:
            _add_name(self.folder / self.best[0][1], "best")
        self._delete_but({p.name for p in newest} | {name for _, name in self.best})

    def _intact(self, name: str) -> bool:
        """Return whether one of the best is as it was written; warn if it is not.

        Where its file was deleted, `best.ckpt` may still hold it.
        """
        path = self.folder / name
        try:
            if path.exists():
                verify(path)
            return True
        except CorruptCheckpoint as error:
            warnings.warn(f"{error}; it is no longer one of the best", stacklevel=3)
            return False

    def _ranked(self, name: str, value: float | None) -> list[tuple[float, str]]:
        """Return the ranking with this file instead of others of its step."""
        step = _position(name)[0]
        ranked = [entry for entry in self.best if _position(entry[1])[0] != step]
        if value is None or not math.isfinite(value):
            # the value of another file of this step is that of the same weights
            same_step = [v for v, other in self.best if _position(other)[0] == step]
            value = same_step[0] if same_step else None
        if value is not None:
            ranked.append((value, name))
        # the earlier wins ties
        ranked.sort(key=lambda e: (-e[0] if self.largest else e[0], _position(e[1])))
        return ranked[: self.top_k]

    def _delete_but(self, names: set[str]) -> None:
        """Delete the other files, and shards that belong to none."""
        for path in _in_order(self.folder):
            if path.name not in names:
                path.unlink()
        for shards in self.folder.glob(f"e*{SHARDS}"):
            if not (self.folder / f"{shards.name.split('.')[0]}{SUFFIX}").exists():
                shutil.rmtree(shards)


def equal(a: Any, b: Any) -> bool:
    """Compare two nested states exactly, e.g. of two runs that should be the same.

    Two nan are the same, in the same places of a tensor.
    """
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        if type(a) is not type(b) or (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return a == b


def _add_name(path: Path, name: str) -> None:
    """Give a checkpoint, if it is still there, a further name."""
    if path.exists():
        try:
            add_name(path, f"{name}{SUFFIX}")
        except OSError as error:
            raise unwritable(path.with_name(f"{name}{SUFFIX}"), error) from error


def _name(epoch: int, step: int) -> str:
    """Return the name of a checkpoint without its ending, see `_position`."""
    return f"e{epoch:03d}_s{step:06d}"


def _in_order(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest last; not `last` and `best`."""
    paths = _files(folder, f"e*_s*{SUFFIX}")
    return sorted(paths, key=lambda path: _position(path.name))


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the checkpoints of a pattern; refuse a folder of such a name."""
    paths = list(folder.glob(pattern))
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, no checkpoint; move it away")
    return paths


def _position(name: str) -> tuple[int, int]:
    """Return the step and the epoch in a file's name.

    Of one step the file of the later epoch is the newer: the epoch was ended there.
    """
    match = re.search(r"e(\d+)_s(\d+)", name)
    return (int(match[2]), int(match[1])) if match else (-1, -1)
