"""Batches of (views, labels) on the device, as a function of (seed, epoch, position).

Images in memory are indexed and augmented as whole batches. Others are decoded by the
workers of a torch DataLoader, which also run a view's operations up to the first that
fixes the size (a crop, a resize), so that images of any size become one batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stable_ssl import seeding
from stable_ssl.config import ConfigError, nearest
from stable_ssl.data.augment import View, build_ops
from stable_ssl.data.datasets import Images, build_dataset
from stable_ssl.data.sampler import BatchSampler

ON_DEVICE = 4 * 2**30  # bytes of images that are held on the GPU rather than copied


class Loader:
    """Iterate over the batches of an epoch; `set_epoch` says which, and from where.

    A batch is `(x, y)`: x a float view (N, C, H, W), or a list of them when there are
    several; y the labels (N,) int64. Views depend on (seed, epoch, index, view) alone.

    Args:
        dataset: map-style, of (image, label).
        views: one list of augmentation ops a view.
        batch_size: samples a batch.
        seed: of order and views.
        device: where batches are made or moved to.
        shuffle: a new order every epoch.
        drop_last: leave out an incomplete last batch.
        channels_last: memory format of the views.
        options: any further keyword of torch's DataLoader.
    """

    def __init__(
        self,
        dataset: Dataset,
        views: Sequence[Sequence[Any]],
        *,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        shuffle: bool = False,
        drop_last: bool = False,
        channels_last: bool = False,
        **options: Any,
    ):
        self.dataset, self.seed = dataset, seed
        self.device = torch.device(device)
        self.sampler = BatchSampler(len(dataset), batch_size, seed, shuffle, drop_last)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        if isinstance(dataset, Images):
            self.views = [View(ops) for ops in views]
            self.images, self.labels = dataset.images, dataset.labels
            if self.device.type == "cuda" and self.images.nbytes <= ON_DEVICE:
                self.images = self.images.to(self.device)
            self.workers = None
        else:
            heads, self.views = zip(*(_split(ops) for ops in views), strict=True)
            options.setdefault("persistent_workers", options.get("num_workers", 0) > 0)
            options.setdefault("pin_memory", self.device.type == "cuda")
            self.workers = DataLoader(
                _Decoded(dataset, heads, seed),
                batch_sampler=self.sampler,
                generator=torch.Generator(),  # its draws leave the global one alone
                **options,
            )

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return _to_tensor(self.dataset[0][0]).shape[0]

    @property
    def batch_size(self) -> int:
        """Samples a batch."""
        return self.sampler.batch_size

    @property
    def num_classes(self) -> int | None:
        """The number of classes that the dataset states, None without labels."""
        if hasattr(self.dataset, "num_classes"):
            return self.dataset.num_classes
        return len(getattr(self.dataset, "classes", ())) or None

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the batch in it that the next iteration starts with."""
        self.sampler.epoch, self.sampler.start = epoch, start

    def __iter__(self) -> Iterator[tuple[Tensor | list[Tensor], Tensor]]:
        for images, labels, index in self._raw():
            x = [
                view(
                    image, seeding.sample_keys(self.seed, self.sampler.epoch, index, v)
                )
                for v, (view, image) in enumerate(zip(self.views, images, strict=True))
            ]
            if x[0].shape[1] > 1:
                x = [view.to(memory_format=self.format) for view in x]
            yield (x if len(x) > 1 else x[0]), labels

    def _raw(self) -> Iterator[tuple[Sequence[Tensor], Tensor, Tensor]]:
        """Yield (one image batch a view, labels, index), all on the device."""
        if self.workers is None:
            for index in self.sampler.batches():
                where = index.to(self.images.device)
                images = self.images[where].to(self.device)
                labels = self.labels[index].to(self.device)
                yield [images] * len(self.views), labels, index.to(self.device)
        else:
            for images, labels, index in self.workers:
                images = [i.to(self.device, non_blocking=True) for i in images]
                yield images, labels.to(self.device), index.to(self.device)


def _split(ops: Sequence[Any]) -> tuple[View, View]:
    """Split a view after the first op that fixes the size: per sample, then batched."""
    cut = next((i + 1 for i, op in enumerate(ops) if op.fixes_size), 0)
    return View(ops[:cut]), View(ops[cut:], first=cut)


class _Decoded(Dataset):
    """The worker's side: decode a sample and run the head of each of its views."""

    def __init__(self, dataset: Dataset, heads: Sequence[View], seed: int):
        self.dataset, self.heads, self.seed = dataset, heads, seed

    def __getitem__(self, place: tuple[int, int]) -> tuple[list[Tensor], int, int]:
        epoch, index = place
        image, label = self.dataset[index]
        image = _to_tensor(image)[None]
        views = []
        for v, head in enumerate(self.heads):
            if head.ops:
                keys = seeding.sample_keys(self.seed, epoch, torch.tensor([index]), v)
                pixels = head(image, keys).mul_(255).round_().to(torch.uint8)
            else:
                pixels = image
            views.append(pixels[0])
        return views, label, index


def _to_tensor(image: Any) -> Tensor:
    """Return a PIL image or an array as a uint8 tensor (C, H, W)."""
    if isinstance(image, Tensor):
        return image
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(image)


# --- from the configuration -----------------------------------------------------------

LOADER_KEYS = sorted(
    {"dataset", *inspect.signature(DataLoader.__init__).parameters}
    - {"self", "sampler", "batch_sampler", "generator", "worker_init_fn", "collate_fn"}
)


def build_loaders(config: DictConfig, device: torch.device) -> dict[str, Loader]:
    """Build the loaders that a config names: train (to fit), val, test and bank.

    The bank, unless named, is the train split seen as in evaluation. What the config
    leaves to the data is written into it: `data.num_classes` and the backbone's
    `in_channels`.

    Raises:
        ConfigError: no train data to fit, or what `build_loader` refuses.
    """
    data = config.data
    nodes = {"val": data.val, "test": data.test, "bank": data.bank}
    if config.mode == "fit":
        if not data.train:
            raise ConfigError("mode=fit needs data.train; e.g. data=digits")
        nodes["train"] = data.train
    if data.train and not data.bank:
        seen = (data.val or data.test or {}).get("dataset", {})
        seen = {"image_transform": seen.get("image_transform")}
        nodes["bank"] = {"dataset": {**data.train.dataset, **seen}}
    loaders = {
        split: build_loader(
            node,
            data,
            train=split == "train",
            seed=config.hardware.seed,
            device=device,
            channels_last=config.hardware.channels_last,
        )
        for split, node in nodes.items()
        if node
    }
    if not loaders:
        raise ConfigError("the group data names no dataset; e.g. data=digits")
    some = next(iter(loaders.values()))
    data.num_classes = data.num_classes or some.num_classes
    backbone = config.model.get("backbone")
    backbone = {"name": backbone} if isinstance(backbone, str) else backbone
    if backbone and "in_channels" not in backbone:
        config.model.backbone = {**backbone, "in_channels": some.channels}
    return loaders


def build_loader(
    node: Mapping[str, Any],
    data: Any,
    *,
    train: bool,
    seed: int,
    device: torch.device,
    channels_last: bool = False,
) -> Loader:
    """Build the loader of a node {dataset: {...}, any DataLoader key}.

    Args:
        node: its own keys win over those of the group `data`.
        data: the group `data`: root, batch sizes, num_workers, download.
        train: shuffle, drop the incomplete last batch, use the train batch size.
        seed: of order and views.
        device: of the batches.
        channels_last: memory format of the views.

    Raises:
        ConfigError: unknown keys, fewer samples than a batch, missing data.
    """
    options = dict(node)
    if unknown := [k for k in options if k not in LOADER_KEYS]:
        raise ConfigError(
            f"a loader node takes no {unknown[0]}{nearest(unknown[0], LOADER_KEYS)}"
        )
    spec = options.pop("dataset", None)
    if not spec:
        raise ConfigError("a loader node needs dataset: {name: ...}; it has none")
    batch_size = data.batch_size or data.batch_size_per_gpu
    if not train and data.eval_batch_size:
        batch_size = data.eval_batch_size
    batch_size = options.pop("batch_size", batch_size)
    if batch_size is None:
        raise ConfigError("set data.batch_size (all processes) or batch_size_per_gpu")
    dataset = build_dataset(spec, data.root, data.download)
    if train and len(dataset) < batch_size:
        raise ConfigError(
            f"data.batch_size={batch_size}, but the train split has {len(dataset)}"
            " samples; use a smaller batch"
        )
    options.setdefault("num_workers", data.num_workers)
    return Loader(
        dataset,
        build_views(spec.get("image_transform")),
        batch_size=batch_size,
        seed=seed,
        device=device,
        shuffle=options.pop("shuffle", train),
        drop_last=options.pop("drop_last", train),
        channels_last=channels_last,
        **options,
    )


def build_views(transform: Sequence[Any] | None) -> list[list[Any]]:
    """Read an image_transform: a list of ops is one view, a list of lists several."""
    if OmegaConf.is_config(transform):
        transform = OmegaConf.to_container(transform, resolve=True)
    transform = transform or []
    several = any(
        isinstance(op, Sequence) and not isinstance(op, str) for op in transform
    )
    try:
        return [build_ops(ops) for ops in (transform if several else [transform])]
    except ValueError as error:
        raise ConfigError(f"image_transform: {error}") from error
