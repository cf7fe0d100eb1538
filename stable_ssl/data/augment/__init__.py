"""Batched augmentation: torchvision's operations, drawn per image from its key.

An op is `apply(images, **draw(keys, height, width))`. `draw` turns each image's key
into parameters with torchvision's distribution; `apply` is arithmetic on the batch.
Both give an image the same bits in any batch and with any number of threads. Boolean
masks and `where` are slow in torch on the CPU, so clamps and signs replace them. On a
GPU nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stable_ssl.data.augment.blur import GaussianBlur
from stable_ssl.data.augment.colour import (
    Brightness,
    ColorJitter,
    Contrast,
    Grayscale,
    Hue,
    Normalize,
    Saturation,
    Solarize,
)
from stable_ssl.data.augment.crop import CenterCrop, RandomResizedCrop, Resize
from stable_ssl.data.augment.cuda_graph import Replay
from stable_ssl.data.augment.external import External
from stable_ssl.data.augment.geometry import HorizontalFlip, Rotation, Shear
from stable_ssl.data.augment.noise import Erasing, Noise
from stable_ssl.data.augment.op import Op, check
from stable_ssl.data.augment.own import build_own
from stable_ssl.data.augment.view import View
from stable_ssl.instantiate import accepted_by, register
from stable_ssl.schema import nearest

Node = Mapping[str, Any] | Callable[[Any], Any]  # {name, arguments}, or a callable
PER_SAMPLE: set[str] = set()  # names of functions that see one sample
OPS: dict[str, type[Op] | Callable[..., Any]] = {
    "random_resized_crop": RandomResizedCrop,
    "resize": Resize,
    "center_crop": CenterCrop,
    "horizontal_flip": HorizontalFlip,
    "rotation": Rotation,
    "shear": Shear,
    "brightness": Brightness,
    "contrast": Contrast,
    "saturation": Saturation,
    "hue": Hue,
    "color_jitter": ColorJitter,
    "grayscale": Grayscale,
    "gaussian_blur": GaussianBlur,
    "solarize": Solarize,
    "noise": Noise,
    "erasing": Erasing,
    "normalize": Normalize,
}

__all__ = ["OPS", "External", "Op", "Replay", "View", "build_ops", "register_op"]
__all__ += [op.__name__ for op in OPS.values()]


def register_op(name: str, per_sample: bool = False) -> Callable:
    """Register an op of one's own under a name, for `image_transform`.

    It is a function of a batch and its keys, `f(x, keys, **arguments)`, see `Own`; or
    `per_sample`, of what the dataset returns, `f(entry, **arguments)`, which may draw
    from the global generators: they are keyed (see `External`); or an `Op`.

    Raises:
        ConfigError: another op has that name.
    """

    def decorate(op: Any) -> Any:
        register(OPS, name, op, "an op")
        (PER_SAMPLE.add if per_sample else PER_SAMPLE.discard)(name)
        return op

    return decorate


def build_ops(nodes: Sequence[Node | None]) -> list[Op | External]:
    """Build the ops of a view.

    Args:
        nodes: {name, any of the op's arguments}, or a callable of another library,
            run one image at a time; None is skipped.

    Raises:
        ValueError: an unknown name (with the nearest), argument, or value.
    """
    return [_build(node) for node in nodes if node is not None]


def _build(node: Node) -> Op | External:
    if callable(node):
        return node if isinstance(node, Op) else External(node)
    check(
        isinstance(node, Mapping) and "name" in node,
        f"augmentation {node!r}",
        "expected a mapping with a name; e.g. {name: horizontal_flip, p: 0.5}",
    )
    name, arguments = node["name"], {k: v for k, v in node.items() if k != "name"}
    if name not in OPS:
        raise ValueError(
            f"no augmentation {name!r}{nearest(name, OPS)}; known: {', '.join(OPS)}"
        )
    op, per_sample = OPS[name], name in PER_SAMPLE
    parameters = list(accepted_by(op).values())
    if own := not isinstance(op, type):
        parameters = parameters[1 if per_sample else 2 :]
    accepted = [parameter.name for parameter in parameters]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    takes = f"it takes {', '.join(accepted)}"
    for argument in arguments:
        known = takes_any or argument in accepted
        check(known, f"{name} takes no {argument!r}", takes)
    try:
        return build_own(op, per_sample, arguments) if own else op(**arguments)
    except TypeError as error:  # an argument is missing, or is no number
        raise ValueError(f"{name}: {error}; {takes}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
