"""Which entries of a sample are its image and its label, and how labels are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from torch import Tensor

from stable_ssl.data.images import pil
from stable_ssl.schema import ConfigError, nearest

UNLABELLED = -1
KEYS = ("image", "label")
IMAGE_NAMES = ("image", "img", "images", "pixel_values", "x", "jpg", "png", "tiff")
LABEL_NAMES = (
    "label",
    "labels",
    "target",
    "targets",
    "y",
    "fine_label",
    "cls",
    "class",
)
Entry = str | int


@dataclass(frozen=True)
class Fields:
    """Take a sample apart: its image, its label, and what else there is.

    Args:
        image: name or number of the entry, or of several, which are a view each. None:
            the first of a tuple, or the usual name in a dict.
        label: likewise; None: the second of a tuple, or the usual name, if any.
    """

    image: Entry | Sequence[Entry] | None = None
    label: Entry | None = None

    def __call__(self, sample: Any, name: str) -> tuple[Any, Any, tuple]:
        """Return (image, or a list of several; label or None; further entries).

        Args:
            sample: a tuple, a dict, or an image alone, as the dataset returns it.
            name: for messages.

        Raises:
            ConfigError: there are no such entries.
        """
        if isinstance(sample, Mapping):
            known, entries = (IMAGE_NAMES, LABEL_NAMES), dict(sample)
        elif isinstance(sample, (tuple, list)):
            known, entries = ((0,), (1,)), dict(enumerate(sample))
        elif self.image is None and _has_values(sample):
            return sample, None, ()
        else:
            raise self._refused(sample, name, "")
        image = self.image
        if image is None:
            image = next((key for key in known[0] if key in entries), None)
        label = self.label
        if label is None:
            label = next((key for key in known[1] if key in entries), None)
        several = isinstance(image, Sequence) and not isinstance(image, str)
        keys = [*(image if several else [image]), *([] if label is None else [label])]
        for key in keys:
            if key not in entries:
                raise self._refused(sample, name, f" {', '.join(map(str, entries))}")
        images = [entries[key] for key in (image if several else [image])]
        rest = {key: value for key, value in entries.items() if key not in keys}
        extras = tuple(rest.values())
        if isinstance(sample, Mapping):
            extras = (rest,) if rest else ()
        return images if several else images[0], entries.get(label), extras

    def _refused(self, sample: Any, name: str, entries: str) -> ConfigError:
        kind = type(sample).__name__
        if self.image is not None or self.label is not None:
            given = f"data.fields={{image: {self.image}, label: {self.label}}}, but "
        else:
            given = ""
        return ConfigError(
            f"{given}{name} is a {kind}{' of' if entries else ''}{entries}; a dataset"
            " returns (image, label), a dict or an image alone, with None for a label"
            " that is not known; data.fields: {image: ..., label: ...} says which"
            " entries they are"
        )


def build_fields(node: Any) -> Fields:
    """Build `Fields` from a node of the configuration.

    Raises:
        ConfigError: it is no {image, label}, or they are no names.
    """
    node = {} if node is None else node
    for name, value in node.items() if isinstance(node, Mapping) else [("", node)]:
        several = name == "image" and isinstance(value, Sequence) and len(value)
        names = value if several and not isinstance(value, str) else [value]
        hint = "" if name in KEYS else nearest(str(name), KEYS)
        fits = all(v is None or type(v) in (str, int) for v in names)
        if name not in KEYS or not fits:
            at = f"data.fields.{name}" if name else "data.fields"
            raise ConfigError(
                f"{at}={value}{hint}: write {{image: name, label: name}}, or numbers of"
                " entries"
            )
    return Fields(**node)


def _has_values(sample: Any) -> bool:
    return isinstance(sample, (Tensor, numpy.ndarray)) or pil.is_image(sample)


def as_class(label: Any) -> Any:
    """Return the label of a sample as a number, if it is whole; -1 of None.

    So that those of one dataset make a batch, though some are None: an integer or bool
    of any type, as a scalar or of shape (1,). Labels of other kinds are returned as
    they are.
    """
    if label is None:
        return UNLABELLED
    if isinstance(label, (list, tuple)) and len(label) == 1:
        label = label[0]
    if isinstance(label, Tensor):
        whole = not (label.is_floating_point() or label.is_complex())
        return int(label) if whole and label.shape in ((), (1,)) else label
    if isinstance(label, (numpy.ndarray, numpy.generic)):
        whole = label.dtype.kind in "bui" and label.shape in ((), (1,))
        return int(label.item()) if whole else label
    return label


def number_names(
    labels: Sequence[Any], what: str, names: Sequence[str] = ()
) -> tuple[list[Any], dict[str, int]]:
    """Return labels with numbers for names of classes, and the number of each name.

    A text such as "-1" is no name, but no label, as the number is.

    Args:
        labels: names, numbers, or other kinds, which are returned as they are.
        what: they are of, for messages.
        names: of the classes in the order of their numbers; (): those that there are,
            in alphabetical order.

    Raises:
        ConfigError: some labels are names and others numbers, or a name is not one of
            the given ones.
    """
    texts = {x for x in labels if isinstance(x, str)}
    texts = {x for x in texts if not _is_negative(x)}
    number = next((x for x in labels if isinstance(x, int) and x >= 0), None)
    if texts and number is not None:
        raise ConfigError(
            f"{what}: some labels are names of classes, such as {min(texts)}, and"
            f" others are numbers, such as {number}; write one or the other for"
            " all, and -1 for what has no label"
        )
    known = [name for name in names if not _is_negative(name)]
    number_of = {name: i for i, name in enumerate(known or sorted(texts))}
    if unknown := sorted(texts - number_of.keys()):
        raise ConfigError(
            f"{what} has labels {unknown[0]}{nearest(unknown[0], list(number_of))},"
            " which classes does not name; add it, or leave classes out"
        )
    numbered = [
        number_of.get(x, UNLABELLED) if isinstance(x, str) else x for x in labels
    ]
    return numbered, number_of


def check_class_names(names: Sequence[str] | None) -> None:
    """Refuse a name of a class that would be read as no label.

    Raises:
        ConfigError: one reads as a negative number.
    """
    for name in names or ():
        if _is_negative(name):
            raise ConfigError(
                f"classes of a dataset names {name}, and a negative number is no label;"
                " leave it out, or call the class by another name"
            )


def _is_negative(label: Any) -> bool:
    """Return whether a text reads as a whole number below 0."""
    text = str(label).strip()
    return text[:1] == "-" and text[1:].isdecimal() and int(text) < 0


def count_classes(labels: Any) -> int | None:
    """Return one more than the largest label; None of what numbers no classes.

    Raises:
        ConfigError: the smallest is 1, as where classes are counted from 1.
    """
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        return None
    known = labels[labels >= 0]
    if not len(known):
        return None
    least, most = (int(bound) for bound in known.aminmax())
    if least == 1:
        raise ConfigError(
            f"the labels are from 1 to {most}, and classes are numbered from 0;"
            f" subtract 1 from each, or set data.num_classes={most + 1}"
        )
    return most + 1


def as_classes(labels: Any) -> Any:
    """Return collated labels of an integer type as numbers of classes, (N,) int64.

    Those of shape (N, 1) become (N,). Labels of other kinds are returned as they are.
    A negative number is no label: -1, or -100, which torch's losses ignore.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        return labels
    labels = labels.long()
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
