"""Datasets by name: the embedded digits, torchvision's, folders, and registered ones.

A dataset is a torch dataset, map-style or iterable, of samples that `Fields` takes
apart and images that `Decode` takes. Those that fit in memory are one `Images`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stable_ssl import seeding
from stable_ssl.data.array import Arrays
from stable_ssl.data.decode import Decode
from stable_ssl.data.few_labels import check_few, choose_few
from stable_ssl.data.fields import as_classes, sample_name
from stable_ssl.data.folder import ImageFolder
from stable_ssl.data.huggingface import HuggingFace
from stable_ssl.data.unreadable import Unreadable
from stable_ssl.instantiate import accepted_by, build_object, find_object, register
from stable_ssl.schema import ConfigError, nearest, refuse_url

BUILDERS: dict[str, Callable[..., Dataset]] = {
    "image_folder": ImageFolder,
    "array": Arrays,
    "huggingface": HuggingFace,
}


def register_dataset(name: str) -> Callable:
    """Register `builder(root, subset, **kwargs) -> Dataset` under a name.

    The top of this file says what a dataset is. Its attribute `classes`, a list of
    names, or `num_classes` gives the number of classes.

    Raises:
        ConfigError: another builder has that name.
    """

    def decorate(builder: Callable[..., Dataset]) -> Callable[..., Dataset]:
        register(BUILDERS, name, builder, "a dataset")
        return builder

    return decorate


@dataclass(eq=False, repr=False)
class Images(Dataset):
    """Images in memory as one tensor."""

    images: Tensor  # (N, C, H, W) uint8, or float32 in [0, 1]
    labels: Tensor  # (N,) int64; of other tasks (N, ...)
    num_classes: int | None  # of the whole dataset; None where there are no labels
    source: Dataset | None = None  # the dataset that was read into memory, if any ...
    rows: Tensor | None = None  # ... and which of its samples these are, (N,) int64
    classes: Sequence[str] = ()  # names of the labels, where known

    @property
    def left_out(self) -> int:
        """How many samples of the source could not be read."""
        return 0 if self.rows is None else len(self.source) - len(self.rows)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        label = self.labels[index]
        return self.images[index], label if label.ndim else label.item()

    def subset(self, index: Tensor) -> Images:
        """Return the images at `index`, (M,) int64."""
        images, labels = self.images[index], self.labels[index]
        return Images(images, labels, self.num_classes, classes=self.classes)


def build_dataset(node: Mapping, root: str = "", download: bool = False) -> Dataset:
    """Build a dataset from a node {name | _target_, root, subset, **kwargs}.

    Args:
        node: its `root` is relative to the argument `root` unless absolute, and null is
            that argument. `labels_per_class` keeps that many images of each class, and
            `labels_seed` (0) chooses them. A _target_ without the arguments name and
            subset is not given them: a recipe may set them for another dataset.
        root: parent of the datasets, `data.root`.
        download: whether torchvision may fetch a missing one.

    Raises:
        ConfigError: unknown name, subset or argument; missing files.
    """
    arguments = {k: v for k, v in node.items() if k != "image_transform"}
    per_class = arguments.pop("labels_per_class", None)
    labels_seed = arguments.pop("labels_seed", 0)
    if per_class is not None:
        dataset = build_dataset(arguments, root, download)
        return labelled_subset(dataset, per_class, labels_seed)
    for name in ("root", "split_file"):
        refuse_url(f"dataset.{name}", arguments.get(name))
    subfolder = arguments.get("root")
    arguments["root"] = str(Path(root) / (subfolder or ""))
    if "_target_" in arguments:
        if subfolder is None:  # the target may have no such argument
            del arguments["root"]
        accepted = accepted_by(find_object(arguments["_target_"], "dataset"))
        if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            for key in {"name", "subset"} - accepted.keys():
                arguments.pop(key, None)
        return build_object(arguments, "dataset")
    check_name(arguments)
    name, subset = arguments.pop("name"), arguments.pop("subset", None)
    if name in BUILDERS:
        _refuse_unknown(name, arguments, BUILDERS[name])
        return BUILDERS[name](subset=subset, **arguments)
    return _torchvision(name, subset, download, arguments)


def _refuse_unknown(name: str, arguments: Mapping[str, Any], builder: Callable) -> None:
    accepted = list(accepted_by(builder))
    if unknown := [key for key in arguments if key not in accepted]:
        raise ConfigError(
            f"the dataset {name} takes no {unknown[0]}{nearest(unknown[0], accepted)}"
        )


def labelled_subset(dataset: Dataset, per_class: int, seed: int = 0) -> Dataset:
    """Return as many images of each class, the labelled part of a larger dataset.

    Args:
        dataset: one that lists its labels.
        per_class: images of each class.
        seed: of the choice; with one seed, fewer are a part of more.

    Raises:
        ConfigError: a class has fewer, or the dataset does not list its labels.
    """
    if type(per_class) is not int or per_class < 1:
        raise ConfigError(f"labels_per_class={per_class}: use an integer from 1 on")
    if type(seed) is not int:
        raise ConfigError(f"labels_seed={seed}: use an integer")
    listed = isinstance(dataset, (Images, ImageFolder, Arrays, HuggingFace))
    if not listed or not isinstance(dataset.labels, Tensor):
        raise ConfigError(
            f"labels_per_class={per_class}: {type(dataset).__name__} does not list its"
            " labels; use an image folder or a dataset held in memory"
        )
    known = (dataset.labels >= 0).nonzero().flatten()
    labels = dataset.labels[known]
    check_few(labels, str(per_class), "labels_per_class")
    return dataset.subset(known[choose_few(labels, str(per_class), seed)])


def held_in_memory(
    dataset: Dataset, limit: float, skip: bool, decode: Decode
) -> Dataset:
    """Decode a folder or array once, where all images have one size and fit.

    Whether it is held depends on the files and the limit alone, not on the machine:
    held images are augmented in float from the start, while a worker rounds the crop to
    uint8 first, and views must not differ between machines.

    Args:
        dataset: any dataset; one of another kind is returned as it is.
        limit: in GiB of decoded images; 0 never holds.
        skip: leave unreadable images out with a warning, or raise.
        decode: makes tensors of them.

    Raises:
        Unreadable: an image cannot be read, and `skip` is off.
    """
    if not isinstance(dataset, (ImageFolder, Arrays)) or not limit or not len(dataset):
        return dataset
    failures: dict[int, Unreadable] = {}  # by row
    other = Event()  # an image has another size

    def decoded(row: int) -> Tensor | None:
        try:
            entry = dataset[row][0]
            if not decode.applies(entry, False):
                other.set()
                return None
            return decode(entry, sample_name(dataset, row))
        except Unreadable as error:
            failures[row] = error
            return None

    first = next(filter(_is_tensor, map(decoded, range(len(dataset)))), None)
    if first is None and not other.is_set():
        raise Unreadable(f"no image can be read; such as {failures[0]}")
    if other.is_set() or first.nbytes * len(dataset) > limit * 2**30:
        return dataset
    images = torch.empty(len(dataset), *first.shape, dtype=first.dtype)
    unlike: dict[int, Tensor] = {}  # of its size, but not of its channels or depth

    def fill(row: int) -> bool:
        image = None if other.is_set() else decoded(row)
        if image is None:
            return False
        if image.shape[1:] != first.shape[1:]:
            other.set()
        elif (len(image), image.dtype) != (len(first), first.dtype):
            unlike[row] = image
        else:
            images[row] = image
        return row not in unlike

    with ThreadPoolExecutor() as pool:  # PIL decodes without Python's lock
        read = torch.tensor(list(pool.map(fill, range(len(dataset)))))
    if other.is_set():
        return dataset
    for row in sorted(unlike)[:1]:
        kinds = (f"{tuple(x.shape)} of {x.dtype}" for x in (first, unlike[row]))
        raise ConfigError(
            f"{sample_name(dataset, row)} is unlike the first of its dataset:"
            f" {' and '.join(kinds).replace('torch.', '')}; set channels of the dataset"
            " to rgb or grey, or convert its files to one type"
        )
    for row in sorted(failures):
        if not skip:
            raise failures[row]
        warnings.warn(f"skipped: {failures[row]}", stacklevel=2)
    rows = read.nonzero().flatten()
    images = images if len(rows) == len(images) else images[rows]
    labels, num_classes = as_classes(dataset.labels[rows]), dataset.num_classes
    return Images(images, labels, num_classes, dataset, rows)


def _is_tensor(image: Tensor | None) -> bool:
    return image is not None


# --- the embedded default -------------------------------------------------------------

DIGITS_SPLIT = {"train": (0, 1197), "val": (1197, 1397), "test": (1397, 1797)}


@register_dataset("digits")
def digits(root: str = "", subset: str | Sequence[str] | None = None) -> Images:
    """Return scikit-learn's handwritten digits, (1, 8, 8), split once and for good.

    Source: the test part of UCI's "Optical Recognition of Handwritten Digits"; 1,797
    images of 10 classes: 1,197 train, 200 val, 400 test.
    """
    raw = torch.from_numpy(_digits_table())
    images = raw[:, :-1].mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    whole = Images(images, raw[:, -1].long(), 10)
    order = seeding.permutation(len(whole), 0)
    ranges = [slice(*DIGITS_SPLIT[name]) for name in _subsets(subset, DIGITS_SPLIT)]
    return whole.subset(torch.cat([order[rows] for rows in ranges]))


def _digits_table() -> numpy.ndarray:
    """Return 64 values of 0 to 16 and the label of each digit, (1797, 65) float64.

    Read from scikit-learn's file, since to import scikit-learn takes 1.5 s.
    """
    package = find_spec("sklearn").submodule_search_locations[0]
    file = Path(package, "datasets", "data", "digits.csv.gz")
    if not file.is_file():  # moved by another version
        from sklearn.datasets import load_digits

        raw = load_digits()
        return numpy.column_stack([raw.data, raw.target])
    return numpy.loadtxt(file, delimiter=",")


def _subsets(subset: str | Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Return the asked subsets as a list, all of them for None."""
    names = list(known) if subset is None else subset
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"subset={name} is not one of {', '.join(known)}{nearest(name, known)}"
            )
    return names


def check_name(node: Any) -> None:
    """Refuse a dataset node whose name is neither registered nor torchvision's.

    Raises:
        ConfigError: with the nearest name.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"dataset={node}: write dataset.name={node}")
    if "_target_" in node or node.get("name") in BUILDERS:
        return
    if node.get("name") is None:
        raise ConfigError("a dataset needs a name or a _target_; it has neither")
    from torchvision import datasets

    name, classes = node["name"], [n for n in datasets.__all__ if n[0].isupper()]
    if name not in classes:
        raise ConfigError(
            f"there is no dataset {name}{nearest(name, [*BUILDERS, *classes])}"
            f" (registered: {', '.join(BUILDERS)}; or the name of any torchvision"
            " dataset)"
        )


# --- torchvision ----------------------------------------------------------------------


def _torchvision(
    name: str, subset: str | None, download: bool, arguments: dict[str, Any]
) -> Dataset:
    """Build a torchvision dataset; classes differ in their arguments for a subset."""
    from torchvision import datasets

    cls = getattr(datasets, name)
    accepted = accepted_by(cls)
    root = arguments["root"] if "root" in accepted else arguments.pop("root")
    if "download" in accepted:
        arguments["download"] = download
    if subset is not None:
        if not isinstance(subset, str):
            raise ConfigError(f"{name} takes one subset, not {list(subset)}")
        choices = [key for key in ("train", "split", "image_set") if key in accepted]
        if not choices:
            raise ConfigError(f"{name} has no subsets; set subset: null")
        if choices[0] == "train":
            arguments["train"] = _subsets(subset, ["train", "test"]) == ["train"]
        else:
            arguments[choices[0]] = subset
    _refuse_unknown(name, arguments, cls)
    try:
        dataset = cls(**arguments)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(
            f"{name} in {root}: {error}"
            + ("" if download else "; data.download=true fetches a missing dataset")
        ) from error
    return _in_memory(dataset)


def _in_memory(dataset: Dataset) -> Dataset:
    """Return a torchvision dataset that holds its pixels in memory as `Images`."""
    pixels = getattr(dataset, "data", None)
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if labels is None or not hasattr(pixels, "shape"):
        return dataset
    pixels, labels = torch.as_tensor(pixels), torch.as_tensor(labels)
    if pixels.dtype != torch.uint8 or labels.ndim != 1:
        return dataset
    if pixels.ndim == 3:  # (N, H, W)
        pixels = pixels[:, None]
    elif pixels.shape[-1] in (1, 3):  # (N, H, W, C)
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    classes = getattr(dataset, "classes", None)
    num_classes = len(classes) if classes else int(labels.max()) + 1
    return Images(pixels, labels.long(), num_classes, classes=classes or ())
