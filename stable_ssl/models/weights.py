"""Weights from elsewhere: which part of a file is which part of a model.

Files nest their tensors in dicts, and libraries put prefixes before names:
`state_dict`, then `model.backbone.conv1.weight`. None of these is listed here. A file
becomes one dict of dotted names, and the part of it that is taken is the one under
whose prefix the most names and shapes are those of the model, or of a part of it. Only
decoders and predictors have other names in their authors' files, see `official.py`.
A network is loaded whole or not at all: a few tensors that happen to fit are none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from stable_ssl.models.modifiers import HEADS, spread
from stable_ssl.models.official import renamed
from stable_ssl.schema import ConfigError
from stable_ssl.tensor_files import read

WRAPPERS = {  # what DDP, torch.compile, FSDP and activation checkpointing put in names
    *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
}
COUNTER = "num_batches_tracked"  # of batch norms; old files lack it, nothing needs it
NESTED = 8  # dicts in dicts of a file that are looked into
SHOWN = 3  # names in a message


def load_backbone(model: nn.Module, path: str) -> None:
    """Load a network's weights from a file; `reports` then yields what was done.

    Filters of another number of input channels are summed and spread, as those of
    pretrained weights are.

    Args:
        model: all of it is to be in the file, which may have more: a head, a decoder.
        path: of a file of any kind that `read` reads.

    Raises:
        ConfigError: the file cannot be read, or is of another model.
    """
    key = f"model.backbone.weights={path}"
    match = _best_match(model, tensors(read(Path(path))), key, within=False)
    lines = [*match.adapt_channels(model)]
    if wrong := match.differences("", heads=False):
        raise ConfigError(
            f"{key} is of another model ({match}): {wrong}; give model.backbone the"
            " name and sizes that it was trained with"
        )
    model.load_state_dict(match.fitting(), strict=False)
    model.weights_report = [f"{key}: {line}" for line in (*match.lines(), *lines)]


def load_networks(
    trainer: nn.Module, content: Any, path: str
) -> tuple[set[str], list[str]]:
    """Load the networks of a trainer that a file of another library has.

    Of one that is whole but for its head, the rest is loaded.

    Args:
        trainer: its children are the networks, or one that lies deeper is.
        content: of the file.
        path: of the file, for messages.

    Returns:
        The names of what was loaded, and lines that say what into what, and what was
        left on both sides.

    Raises:
        ConfigError: the file has none of the networks.
    """
    key = f"log.load_from={path}"
    match = _best_match(trainer, tensors(content), key, within=True)
    wrong = {}
    for network in dict.fromkeys(match.target or _first(n) for n in match.names):
        if text := match.differences(network, heads=True):
            wrong[network] = text
    match.leave_out(wrong)
    if not match.names:
        raise ConfigError(
            f"{key} is of another model ({match}): {'; '.join(wrong.values())}; choose"
            " the model that it was trained with"
        )
    fitting = match.fitting()
    trainer.load_state_dict(fitting, strict=False)
    return set(fitting), [f"{key}: {line}" for line in match.lines()]


def reports(module: nn.Module) -> Iterator[str]:
    """Yield what `load_backbone` did to parts of a module, to copies not again."""
    lists = [getattr(part, "weights_report", ()) for part in module.modules()]
    yield from dict.fromkeys(line for lines in lists for line in lines)


# --- names ----------------------------------------------------------------------------


def tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors in nested dicts by dotted names, without those of wrappers."""
    found = dict(_flat(content, "", NESTED))
    return {name: found[full] for name, full in _unwrapped(found).items()}


def _flat(content: Any, at: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        if content.layout == torch.strided and content.device.type == "cpu":
            if not content.is_quantized:
                yield at, content.detach()
    elif isinstance(content, Mapping) and depth:
        for name, value in content.items():
            yield from _flat(value, f"{at}.{name}" if at else str(name), depth - 1)


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Return {name without wrappers: name}; two that would be one keep theirs."""
    short = {}
    for name in names:
        *parents, last = name.split(".")
        short[name] = ".".join([*(p for p in parents if p not in WRAPPERS), last])
    times = Counter(short.values())
    return {s if times[s] == 1 else name: name for name, s in short.items()}


def _first(name: str) -> str:
    """Return the first part of a name as a prefix, or the name if it has no other."""
    first, dot, _ = name.partition(".")
    return first + dot


def _is_in(name: str, prefix: str) -> bool:
    return name.startswith(prefix) if prefix[-1:] in ("", ".") else name == prefix


def _form(value: Tensor) -> tuple[Any, ...]:
    """Return what two tensors share if one can be the other: shape and kind."""
    return tuple(value.shape), value.is_floating_point()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)


# --- matches --------------------------------------------------------------------------


@dataclass
class Match:
    """A part of a file that is a part of a model; names are without wrappers."""

    saved: dict[str, Tensor]  # of the file
    current: dict[str, Tensor]  # of the model
    full: dict[str, str]  # names of the model, with wrappers
    source: str  # prefix of the part in the file, "state_dict.encoder.", or ""
    target: str  # and in the model, "backbone.", or ""
    others: list[str]  # prefixes of other parts of the file that fit as well

    def __post_init__(self) -> None:
        """Find what has the same name and form: {name in the model: in the file}."""
        self.names = {
            name: source
            for name, source in self._pairs("")
            if source in self.saved
            and _form(self.saved[source]) == _form(self.current[name])
        }

    def __str__(self) -> str:
        """Return what is taken for what, and what else could be."""
        what, into = self.source.rstrip("."), self.target.rstrip(".")
        text = f"{what or 'the file'} -> {into or 'the model'}"
        if self.others:
            others = [other.rstrip(".") for other in self.others]
            text += f", before what fits as well: {_some(others)}"
        return text

    def _pairs(self, network: str) -> Iterator[tuple[str, str]]:
        """Yield the names of a network below the target, and what the file has."""
        for name in self.current:
            if _is_in(name, self.target) and _is_in(name, network):
                yield name, self.source + name[len(self.target) :]

    def adapt_channels(self, model: nn.Module) -> Iterator[str]:
        """Spread the filters of the first convolution over the model's channels."""
        layers = model.named_modules()
        convolutions = ((n, m) for n, m in layers if isinstance(m, nn.Conv2d))
        path, conv = next(convolutions, ("", None))
        name = next((n for n in self.full if self.full[n] == f"{path}.weight"), None)
        source = f"{self.source}{name}"
        if name in self.names or source not in self.saved or conv.groups > 1:
            return
        before, after = self.saved[source].shape, conv.weight.shape
        if len(before) == 4 and (before[0], *before[2:]) == (after[0], *after[2:]):
            self.saved[source] = spread(self.saved[source], after[1])
            self.names[name] = source
            yield f"{name} was spread from {before[1]} channels over {after[1]}"

    def differences(self, network: str, heads: bool) -> str:
        """Return how a network differs from its part of the file, "" if it does not.

        The file may have parts that the network has not, such as a head; more of a
        part that it has, such as further blocks, is of another network.

        Args:
            network: its prefix in the model.
            heads: whether the network's own head may be another one.
        """
        pairs = dict(self._pairs(network))
        parts = {_first(name[len(network) :]) for name in pairs}
        used, differing = set(pairs.values()), {"missing": [], "of another shape": []}
        for name, source in pairs.items():
            if name not in self.names and not name.endswith(COUNTER):
                if not heads or _first(name[len(network) :]).rstrip(".") not in HEADS:
                    kind = "of another shape" if source in self.saved else "missing"
                    differing[kind].append(self._shown(name, source))
        start, more = self.source + network[len(self.target) :], []
        for source in self.saved:
            part = _first(source[len(start) :])
            if source.startswith(start) and source not in used:
                same = part in parts or part.rstrip(".").isdigit()
                if same and part.rstrip(".") not in HEADS:
                    more.append(source)
        return _listed({**differing, "unexpected": more})

    def _shown(self, name: str, source: str) -> str:
        """Return a name of the model, with both shapes where the file has another."""
        if source not in self.saved:
            return name
        found, expected = self.saved[source], self.current[name]
        if found.shape == expected.shape:
            return f"{name} {found.dtype} for {expected.dtype}"
        return f"{name} {tuple(found.shape)} for {tuple(expected.shape)}"

    def leave_out(self, networks: Iterable[str]) -> None:
        """Take no tensor of networks of these prefixes."""
        for network in networks:
            self.names = {
                n: source for n, source in self.names.items() if not _is_in(n, network)
            }

    def fitting(self) -> dict[str, Tensor]:
        """Return what is to be loaded, by the model's full names."""
        return {self.full[n]: self.saved[source] for n, source in self.names.items()}

    def lines(self) -> Iterator[str]:
        """Yield what is loaded into what, and what is left on both sides."""
        yield f"{self}: {len(self.names)} tensors"
        used = set(self.names.values())
        left = [n for n in self.current if n not in self.names and COUNTER not in n]
        unused = [source for source in self.saved if source not in used]
        if left:
            sources = dict(self._pairs(""))
            shown = [self._shown(name, sources.get(name, "")) for name in left]
            yield f"left as they were, {len(left)} of the model: {_some(shown)}"
        if unused:
            yield f"left out, {len(unused)} of the file: {_some(unused)}"


def _listed(kinds: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{len(n)} {kind}: {_some(n)}" for kind, n in kinds.items() if n)


def _best_match(
    model: nn.Module, saved: dict[str, Tensor], key: str, within: bool
) -> Match:
    """Return the part of a file and of a model with the most names and forms in common.

    Of equal ones it is the largest part of the model, then the first of the file, or
    the teacher if that is a student.

    Args:
        model: the whole.
        saved: of the file, by names without wrappers.
        key: that gives the file, and the file, for messages.
        within: whether it may be a part of the model that is meant, not all of it.

    Raises:
        ConfigError: they have nothing in common.
    """
    state = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    full = _unwrapped(state)
    current = {name: state[with_wrappers] for name, with_wrappers in full.items()}
    saved = renamed(saved, current)
    alike = defaultdict(list)
    for name, value in saved.items():
        alike[name.rpartition(".")[2], _form(value)].append(name)
    targets = {""} | (set(_networks(current)) if within else set())
    counts: Counter[tuple[str, str]] = Counter()
    for name, value in current.items():
        last = name.rpartition(".")[2]
        for source in alike[last, _form(value)] if last != COUNTER else ():
            counts.update(p for p in _prefixes(source, name) if p[1] in targets)
    if not counts:
        found, expected = (
            _some([f"{n} {tuple(t.shape)}" for n, t in named.items()]) or "no tensors"
            for named in (saved, current)
        )
        raise ConfigError(
            f"{key} has no tensor of the model: found {found}; expected {expected},"
            " with any prefix; give weights of such a model, or the model's name and"
            " sizes that they were trained with"
        )
    source, target = max(counts, key=lambda p: (counts[p], -p[1].count(".")))
    most = counts[source, target]
    equals = [s for s, t in counts if t == target and counts[s, t] == most]
    source = _teacher_of(source, equals)
    others = [other for other in equals if other != source]
    return Match(saved, current, full, source, target, others)


def _teacher_of(source: str, others: Iterable[str]) -> str:
    """Return the teacher beside a student, which files of DINO's kind evaluate."""
    teacher = source.replace("student", "teacher")
    return teacher if teacher in others else source


def _networks(names: Iterable[str]) -> Iterator[str]:
    """Yield the prefixes of a model's children, and of all that has children itself."""
    for name in names:
        parts = [f"{part}." for part in name.split(".")[:-1]]
        for end in {1, *range(1, len(parts))} if parts else ():
            yield "".join(parts[:end])


def _prefixes(source: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield (prefix of the one, of the other) of which the rest is the same."""
    ours, theirs = name.split("."), source.split(".")
    for i in range(1, min(len(ours), len(theirs)) + 1):
        if ours[-i] != theirs[-i]:
            return
        yield tuple("".join(f"{p}." for p in s[:-i]) for s in (theirs, ours))


# --- what is left untrained -----------------------------------------------------------


def refuse_untrained(trainer: nn.Module, loaded: Iterable[str], path: str) -> None:
    """Refuse to evaluate what a file left as it was, as soon as that is called.

    What evaluation does not call, such as a projector, need not be in the file.

    Args:
        trainer: to be evaluated.
        loaded: names of what was loaded.
        path: of the file, for messages.

    Raises:
        ConfigError: now, of a parameter of the trainer's own; else when it is called.
    """
    loaded = set(loaded)
    trained = {name[:i] for name in loaded for i, c in enumerate(name) if c == "."}

    def refuse(name: str, *_: Any) -> NoReturn:
        raise ConfigError(
            f"log.load_from={path} has no {name}, and an evaluation that needs it would"
            " be of untrained weights; give weights that have it, or choose a model"
            " without it"
        )

    untrained = {}
    for name, value in trainer.state_dict().items():
        if name in loaded or COUNTER in name or not isinstance(value, Tensor):
            continue
        ends = (i for i, c in enumerate(name) if c == ".")
        part = next((name[:i] for i in ends if name[:i] not in trained), None)
        if part is not None:
            untrained[part] = trainer.get_submodule(part)
        elif name in dict(trainer.named_parameters()):
            refuse(name)
    for name, part in untrained.items():
        for module in part.modules():  # who calls one of them need not call it
            module.register_forward_pre_hook(partial(refuse, name))
