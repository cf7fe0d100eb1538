"""What a subclass keeps in attributes of its own, beside modules and optimizers.

Two kinds go into a checkpoint: objects that have a state (a `state_dict`, or a random
generator, a deque, a set), and plain values (numbers, texts, tensors, lists and dicts
of them) that changed since setup. What changed and is neither is named once.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from stable_ssl import checkpoint, distributed
from stable_ssl.data.batch import to_device
from stable_ssl.schema import ConfigError

CONSTANT = (type, type(copy), type(lambda: 0), type(print))  # never a state
KINDS: dict[type, tuple[Callable, Callable]] = {  # how to read and to restore a state
    torch.Generator: (
        lambda g: g.get_state(),
        lambda g, state: g.set_state(state.cpu()),
    ),
    numpy.random.Generator: (
        lambda g: g.bit_generator.state,
        lambda g, state: setattr(g.bit_generator, "state", state),
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
        owner: the trainer, all of it built and nothing loaded.
        known: names of attributes that are not the subclass's.
        elsewhere: objects whose state is kept elsewhere, or not at all: loaders,
            optimizers.
        not_saved: names that are left out, silently.
        say: is told what cannot be saved.
    """

    def __init__(
        self,
        owner: Any,
        known: Collection[str],
        elsewhere: Collection[Any],
        not_saved: Collection[str],
        say: Callable[[str], None],
    ):
        self.owner, self.say = owner, say
        self.left_out = {*known, *not_saved}
        self.elsewhere = {id(owner), *map(id, elsewhere)}
        self.at_first = {name: (value, _copied(value)) for name, value in self._own()}
        self.named: set[str] = set()  # what `say` was told of

    def _own(self) -> Iterator[tuple[str, Any]]:
        for name, value in vars(self.owner).items():
            if name not in self.left_out and id(value) not in self.elsewhere:
                yield name, value

    def state(self) -> dict[str, Any]:
        """Return {"objects": {path: state}, "values": {name: value}}, own of this rank.

        Synchronises the host where values are on a GPU.
        """
        objects = {at: read(value) for at, value, read, _ in self._objects()}
        holders = {at.partition(".")[0] for at in objects}
        values: dict[str, Any] = {}
        for name, value in self._own():
            if name in holders or not self._changed(name, value):
                continue
            try:
                values[name] = _detached(checkpoint.readable(value, f"self.{name}"))
            except ConfigError:
                self._name(name, value)
        return {"objects": objects, "values": values}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned.

        Raises:
            ConfigError: an object of the checkpoint is not there.
        """
        restorers = {at: (value, write) for at, value, _, write in self._objects()}
        for at, saved in state["objects"].items():
            if at not in restorers:
                raise ConfigError(
                    f"the checkpoint holds the state of self.{at}, which is not there;"
                    " build it in one of the initialize_ methods"
                )
            value, write = restorers[at]
            write(value, saved)
        for name, value in state["values"].items():
            setattr(self.owner, name, to_device(value, self.owner.device))

    def _objects(self) -> Iterator[tuple[str, Any, Callable, Callable]]:
        """Yield (path, object, how to read and restore its state), each object once."""
        seen: set[int] = set()
        for name, value in self._own():
            for at, one in _leaves(name, value):
                if id(one) in seen or id(one) in self.elsewhere:
                    continue
                if (way := _way(one)) is not None:
                    seen.add(id(one))
                    yield at, one, *way

    def _changed(self, name: str, value: Any) -> bool:
        """Return whether a value is another than at the end of setup."""
        if name not in self.at_first:
            return True
        first, copied = self.at_first[name]
        if copied is None:  # of no plain type: only another object is a change
            return value is not first
        return value is not first or not checkpoint.equal(_copied(value), copied)

    def _name(self, name: str, value: Any) -> None:
        if name not in self.named and not isinstance(value, CONSTANT):
            self.named.add(name)
            self.say(
                f"self.{name}, a {type(value).__name__}, changed and is in no"
                " checkpoint: a resumed run has it as setup leaves it; give it a"
                " state_dict and load_state_dict, keep tensors and numbers instead, or"
                f' set not_saved = ("{name}",)'
            )


def merged(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all ranks have alike once, and each rank's where they differ.

    Args:
        states: `Attributes.state` of each rank.
    """
    first = states[0]
    alike = all(checkpoint.equal(first, other) for other in states[1:])
    return {"alike": first} if alike else {"ranks": states}


def of_rank(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return this rank's part of what `merged` returned."""
    if "alike" in saved:
        return saved["alike"]
    return saved["ranks"][distributed.rank() % len(saved["ranks"])]


def _leaves(at: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a value, or what lists and dicts hold, with its path."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(f"{at}.{name}", one)
    elif isinstance(value, (list, tuple)):
        for i, one in enumerate(value):
            yield from _leaves(f"{at}.{i}", one)
    else:
        yield at, value


def _way(value: Any) -> tuple[Callable, Callable] | None:
    """Return how a state is read and restored, None of what has none."""
    for kind, way in KINDS.items():
        if isinstance(value, kind):
            return way
    if isinstance(value, (type, Tensor)) or not hasattr(value, "load_state_dict"):
        return None
    return (lambda one: one.state_dict()), (lambda one, s: one.load_state_dict(s))


def _copied(value: Any) -> Any:
    """Return a copy to compare with later; None of what is no plain value.

    Of a tensor its identity and version are enough.
    """
    if isinstance(value, Tensor):
        return (id(value), value._version)
    if isinstance(value, Mapping):
        parts = {name: _copied(one) for name, one in value.items()}
        return None if None in parts.values() else parts
    if isinstance(value, (list, tuple)):
        parts = [_copied(one) for one in value]
        return None if None in parts else parts
    try:
        return (checkpoint.readable(value),)
    except ConfigError:
        return None


def _detached(value: Any) -> Any:
    """Return a value whose tensors are copies outside of any graph."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _detached(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_detached(one) for one in value)
    return value
