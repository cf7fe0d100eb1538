"""Sharded weights on the disk: a folder to which every process writes its own part.

A checkpoint is a file of rank 0. Of tensors that are shared out over the processes it
holds the shapes alone, as tensors on the device "meta", and the name of a folder beside
it, with what every process holds of them. torch.distributed.checkpoint writes and reads
that folder, so that a process reads no more than it is to hold, whatever number of
processes wrote it; a tool, which is one process, reads all.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from stable_ssl.distributed.group import all_gather_object, is_main, rank, waiting
from stable_ssl.distributed.sharding import is_sharded
from stable_ssl.schema import unwritable

SHARDS = "shards"  # of a state: {"folder": its name, "files": {name: SHA-256}}
META = torch.device("meta")
METADATA = ".metadata"  # the file that says which other one holds what
TORCH = "torch.distributed.checkpoint"
TABLES = {f"{TORCH}.metadata", f"{TORCH}.filesystem", "pathlib"}  # of their classes
BLOCK = 2**20  # bytes that are hashed at a time
Places: TypeAlias = dict[str, Tensor]  # tensors by their path in a state


def mapped_by_path(
    state: Any, change: Callable[[str, Tensor], Tensor], path: str = ""
) -> Any:
    """Return a state of dicts, lists and tuples with other tensors.

    Args:
        state: stays as it is.
        change: takes a tensor's path in the state, such as "/modules/head.weight", and
            the tensor.
        path: of the state itself.
    """
    if isinstance(state, Tensor):
        return change(path, state)
    if isinstance(state, dict):
        new = copy.copy(state)  # of its type, with what it has besides entries
        inner = {k: mapped_by_path(v, change, f"{path}/{k}") for k, v in state.items()}
        new.update(inner)
        return new
    if type(state) in (list, tuple):
        pairs = enumerate(state)
        return type(state)(mapped_by_path(v, change, f"{path}/{i}") for i, v in pairs)
    return state


# --- writing --------------------------------------------------------------------------


def write(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Write the sharded tensors of a state; return it with their shapes, see above.

    It is on the disk when this returns, on every process. Synchronises the processes.

    Args:
        folder: new, and the same on every process.
        state: as every process has it.

    Raises:
        ConfigError: a process could not write its part.
    """
    import torch.distributed.checkpoint as dcp

    parts: Places = {}

    def hollow(path: str, tensor: Tensor) -> Tensor:
        if not is_sharded(tensor):
            return tensor
        parts[path] = tensor.detach()
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)

    state = mapped_by_path(state, hollow)
    try:
        with waiting():
            dcp.save(parts, checkpoint_id=folder)  # which flushes every file
    except dcp.api.CheckpointException as error:
        causes = [wrapped[0] for wrapped in error.failures.values()]
        for cause in causes:
            if isinstance(cause, OSError):
                raise unwritable(folder, cause) from error
        raise
    own = [METADATA] if is_main() else []
    own += [path.name for path in folder.glob(f"__{rank()}_*")]
    files: dict[str, str] = {}
    for of_rank in all_gather_object({name: _digest(folder / name) for name in own}):
        files |= of_rank
    return {**state, SHARDS: {"folder": folder.name, "files": files}}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# --- reading --------------------------------------------------------------------------


def damaged(state: Any, folder: Path) -> str:
    """Return what is wrong with the shards that a state names, or "".

    Args:
        state: what a file holds; of most, without any.
        folder: where that file lies.
    """
    shards = state.get(SHARDS) if isinstance(state, dict) else None
    if shards is None:
        return ""
    place = folder / Path(shards["folder"]).name
    if not place.is_dir():
        return f"the folder {place} of its shards is missing: both belong together"
    for name, digest in shards["files"].items():
        path = place / Path(name).name
        if not path.is_file() or _digest(path) != digest:
            return f"{path} of its shards is missing, truncated or changed"
    return ""


def filled(state: Any, folder: Path, mesh: Any = None) -> Any:
    """Return what `write` made hollow with its tensors; any other state as it is.

    Args:
        state: what a file holds, whose shards are not damaged.
        folder: where that file lies.
        mesh: of the processes that share tensors out, each of which reads its part;
            None reads all of them, on the CPU.

    Raises:
        UnpicklingError: the table of the shards holds more than a table.
    """
    shards = state.get(SHARDS) if isinstance(state, dict) else None
    if shards is None:
        return state
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    found: Places = {}

    def fill(path: str, tensor: Tensor) -> Tensor:
        if tensor.device != META:
            return tensor
        found[path] = _empty(tensor, mesh)
        return found[path]

    place = folder / Path(shards["folder"]).name
    if not place.is_dir():
        raise FileNotFoundError(f"the folder {place} of its shards is missing")
    state = mapped_by_path(state, fill)
    del state[SHARDS]
    reader = _reader(place)
    _load_state_dict(found, storage_reader=reader, no_dist=True)  # each for itself
    return state


def _empty(like: Tensor, mesh: Any) -> Tensor:
    """Return a tensor of a shape and type, shared out over the processes of a mesh."""
    if mesh is None:
        return torch.empty(like.shape, dtype=like.dtype)
    from torch.distributed.tensor import Shard, empty

    places = [Shard(0)]  # as FSDP2 shares out
    return empty(*like.shape, dtype=like.dtype, device_mesh=mesh, placements=places)


class _Table(pickle.Unpickler):
    """What reads the table of the shards, and builds nothing else.

    torch writes it as a pickle, which can name any function of any module to call.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that tables are made of, or a type of numbers."""
        if (module, name) == ("torch.serialization", "_get_layout"):
            return super().find_class(module, name)
        if module in {*TABLES, "torch"} and "." not in name:
            found = super().find_class(module, name)
            if module == "torch" and (name == "Size" or isinstance(found, torch.dtype)):
                return found
            if isinstance(found, type) and found.__module__ == module != "torch":
                return found
        raise pickle.UnpicklingError(f"class {module}.{name}")


def _reader(folder: Path) -> Any:
    """Return what reads a folder of shards for torch.distributed.checkpoint."""
    from torch.distributed.checkpoint import FileSystemReader

    with open(folder / METADATA, "rb") as file:
        table = _Table(file).load()

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            return table

    return Reader(folder)
