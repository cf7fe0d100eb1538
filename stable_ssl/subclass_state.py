"""The attributes that a subclass sets, beside modules and optimizers, as a state.

Two kinds go into a checkpoint: objects that have a state (a `state_dict`, or a random
generator, a deque, a set), and plain values (numbers, texts, tensors, lists and dicts
of them) that changed since setup. What changed and is neither is named once.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from stable_ssl import checkpoint, distributed
from stable_ssl.checkpoint import State
from stable_ssl.schema import ConfigError

CONSTANT = (type, ModuleType, FunctionType, BuiltinFunctionType)  # never a state
Accessors = tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]
ACCESSORS: dict[type, Accessors] = {  # functions that read and restore a state
    torch.Generator: (
        lambda g: g.get_state(),
        lambda g, state: g.set_state(state.cpu()),
    ),
    numpy.random.Generator: (
        lambda g: g.bit_generator.state,
        lambda g, state: setattr(g.bit_generator, "state", state),
    ),
    numpy.random.RandomState: (
        lambda g: g.get_state(legacy=False),
        lambda g, state: g.set_state(state),
    ),
    random.Random: (
        lambda g: g.getstate(),
        lambda g, state: g.setstate(state),
    ),
    deque: (list, lambda d, state: (d.clear(), d.extend(state))),
    set: (list, lambda s, state: (s.clear(), s.update(state))),
}


class Attributes:
    """The attributes that a subclass of the trainer set, and what they were at first.

    Args:
        owner: the trainer, after setup and before a checkpoint is loaded.
        known: names of attributes that are not the subclass's.
        elsewhere: objects whose state is kept elsewhere, or not at all: loaders,
            optimizers.
        not_saved: names that are left out, silently.
        say: prints a message about what cannot be saved.
    """

    def __init__(
        self,
        owner: nn.Module,
        known: Collection[str],
        elsewhere: Collection[Any],
        not_saved: Collection[str],
        say: Callable[[str], None],
    ):
        self.owner, self.say = owner, say
        self.left_out = {*known, *not_saved}
        self.elsewhere = {id(owner), *map(id, elsewhere)}
        self.initial = {name: (v, _snapshot(v)) for name, v in self._attributes()}
        self.warned: set[str] = set()  # names of which `say` has spoken

    def _attributes(self) -> Iterator[tuple[str, Any]]:
        for name, value in vars(self.owner).items():
            if name not in self.left_out and id(value) not in self.elsewhere:
                yield name, value

    def state(self) -> State:
        """Return what this rank has, in tensors of the CPU: any rank can read it.

        Synchronises the host where some are on a GPU.

        Returns:
            {"objects": {path: state}, "values": {name: value}, "on_cpu": paths of
            tensors of values that are not where the model is}.
        """
        objects = {
            path: _each(read(obj), lambda x, _: x.cpu())
            for path, obj, (read, _) in self._objects()
        }
        holders = {path.partition(".")[0] for path in objects}
        values: dict[str, Any] = {}
        for name, value in self._attributes():
            first, snapshot = self.initial.get(name, (self, None))  # else: it is new
            # what is of no plain type counts as changed only where it was replaced
            changed = snapshot is not None and not checkpoint.equal(
                _snapshot(value), snapshot
            )
            if name in holders:
                if changed:  # a number, say, beside an object in a dict
                    self._warn_once(name, value)
            elif name not in self.warned and (changed or value is not first):
                try:
                    values[name] = checkpoint.readable(value, f"self.{name}")
                except ConfigError:
                    self._warn_once(name, value)
        on_cpu: list[str] = []

        def copied(x: Tensor, path: str) -> Tensor:
            if x.device.type == "cpu" != self.owner.device.type:
                on_cpu.append(path)
            return x.detach().to("cpu", copy=True)

        values = _each(values, copied)
        return {"objects": objects, "values": values, "on_cpu": on_cpu}

    def load_state(self, state: State, device: torch.device) -> None:
        """Restore what `state` returned; values are where they were.

        Args:
            state: of a run on any device.
            device: of this one.

        Raises:
            ConfigError: an object of the checkpoint is not there.
        """
        objects = {path: (obj, write) for path, obj, (_, write) in self._objects()}
        for path, saved in state["objects"].items():
            if path not in objects:
                raise ConfigError(
                    f"the checkpoint holds the state of self.{path}, which is not"
                    " there; build it in one of the initialize_ methods"
                )
            obj, write = objects[path]
            write(obj, saved)
        on_cpu = {*state.get("on_cpu", ())}

        def moved(x: Tensor, path: str) -> Tensor:
            return x if path in on_cpu else x.to(device)

        for name, value in _each(state["values"], moved).items():
            if name not in self.left_out:  # which no state of these holds
                now = getattr(self.owner, name, None)
                setattr(self.owner, name, _like(now, value))

    def _objects(self) -> Iterator[tuple[str, Any, Accessors]]:
        """Yield (path, object, how to read and restore its state), each object once."""
        seen = set(self.elsewhere)
        for name, value in self._attributes():
            for path, leaf in _leaves(name, value):
                accessors = _accessors(leaf)
                if accessors is not None and id(leaf) not in seen:
                    seen.add(id(leaf))
                    yield path, leaf, accessors

    def _warn_once(self, name: str, value: Any) -> None:
        if name not in self.warned and not isinstance(value, CONSTANT):
            self.warned.add(name)
            self.say(
                f"self.{name}, a {type(value).__name__}, changed and is in no"
                " checkpoint: a resumed run has it as setup leaves it; give it a"
                " state_dict and load_state_dict, keep tensors and numbers instead, or"
                f' set not_saved = ("{name}",)'
            )


def merged(states: Sequence[State]) -> State:
    """Return the state that all ranks share once, or each rank's where they differ.

    Args:
        states: `Attributes.state` of each rank.
    """
    alike = all(checkpoint.equal(states[0], other) for other in states[1:])
    return {"alike": states[0]} if alike else {"ranks": list(states)}


def of_rank(saved: State) -> State:
    """Return this rank's part of what `merged` returned."""
    if "alike" in saved:
        return saved["alike"]
    return saved["ranks"][distributed.rank() % len(saved["ranks"])]


def differing(saved: State) -> list[str]:
    """Return which attributes differ between the ranks of what `merged` returned."""
    first, *others = saved.get("ranks", [saved.get("alike")])
    names = dict.fromkeys(
        (kind, name)
        for rank in [first, *others]
        for kind in ("objects", "values")
        for name in rank[kind]
    )
    return [
        name
        for kind, name in names
        if not all(
            checkpoint.equal(first[kind].get(name), o[kind].get(name)) for o in others
        )
    ]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a value, or what lists and dicts hold, with its path."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(f"{path}.{name}", item)
    else:
        yield path, value


def _accessors(value: Any) -> Accessors | None:
    """Return how a state is read and restored, None of what has none."""
    for kind, accessors in ACCESSORS.items():
        if isinstance(value, kind):
            return accessors
    if isinstance(value, (type, Tensor)) or not hasattr(value, "load_state_dict"):
        return None
    return (lambda obj: obj.state_dict()), (lambda obj, s: obj.load_state_dict(s))


def _like(template: Any, value: Any) -> Any:
    """Return a dict as one of the template's class, such as defaultdict; any depth."""
    if isinstance(template, (list, tuple)) and isinstance(value, (list, tuple)):
        pairs = zip_longest(template[: len(value)], value)
        return type(value)(_like(old, new) for old, new in pairs)
    if not isinstance(template, dict) or not isinstance(value, dict):
        return value
    factory = getattr(template, "default_factory", None) or (lambda: None)
    new = copy.copy(template)
    new.clear()
    for name, part in value.items():
        new[name] = _like(template[name] if name in template else factory(), part)
    return new


def _held(value: Any) -> dict[str, Any]:
    """Return what shows that an object without a state changed.

    That is its numbers and texts, which tensors and arrays it holds, and how long its
    lists and the like are. What a tensor holds is left out: it may be a weight.
    """
    if is_dataclass(value):
        names = [field.name for field in fields(value) if hasattr(value, field.name)]
        held = {name: getattr(value, name) for name in names}
    else:
        held = getattr(value, "__dict__", {})
    found = {}
    for name, part in held.items():
        if type(part) in checkpoint.PLAIN:
            found[name] = part
        elif isinstance(part, (Tensor, numpy.ndarray)):
            found[name] = id(part)
        elif isinstance(part, (list, dict, set, deque)):
            found[name] = len(part)
    return found


def _snapshot(value: Any) -> Any:
    """Return what to compare with later; None of what never changes in place.

    Of a tensor its identity and version are enough; an object with a state, whose
    changes are saved, counts as a constant.
    """
    if _accessors(value) is not None:
        return ()
    if isinstance(value, Tensor):
        return (id(value), value._version)
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        parts = {name: _snapshot(item) for name, item in value.items()}
        return None if None in parts.values() else parts
    if isinstance(value, CONSTANT):
        return None
    if is_dataclass(value) or hasattr(value, "__dict__"):
        return _held(value) or None
    try:
        return (checkpoint.readable(value),)
    except ConfigError:
        return None


def _each(value: Any, change: Callable[[Tensor, str], Tensor], path: str = "") -> Any:
    """Return a value, each tensor changed, given its path; any dict is a plain one."""
    if isinstance(value, Tensor):
        return change(value, path)
    if isinstance(value, dict):
        kind = OrderedDict if type(value) is OrderedDict else dict
        return kind((n, _each(v, change, f"{path}.{n}")) for n, v in value.items())
    if type(value) in (list, tuple):
        parts = [_each(v, change, f"{path}.{i}") for i, v in enumerate(value)]
        return type(value)(parts)
    return value
