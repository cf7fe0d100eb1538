"""Ops by name: the library's and those that a user registers."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any

from stable_ssl.augment.arguments import check
from stable_ssl.augment.external import BatchFunction, External
from stable_ssl.augment.op import Op
from stable_ssl.instantiate import accepted_by, left_out, register, takes_any
from stable_ssl.schema import nearest

Node = Mapping[str, Any] | Callable[[Any], Any]  # {name, arguments}, or a callable
OPS: dict[str, Callable[..., Op | External]] = {}  # what builds each of its arguments


def register_op(name: str, per_sample: bool = False) -> Callable:
    """Register an op of one's own under a name, for `image_transform`.

    It is a function of a batch and its keys, `f(x, keys, **arguments)`, see
    `BatchFunction`; or `per_sample`, of what the dataset returns, `f(entry,
    **arguments)`, which may draw from the global generators: they are keyed (see
    `External`); or an `Op`.

    Raises:
        ConfigError: another op has that name.
    """

    def decorate(op: Any) -> Any:
        builder = op if isinstance(op, type) else _builder(op, per_sample)
        register(OPS, name, builder, "an op")
        return op

    return decorate


def _builder(function: Callable[..., Any], per_sample: bool) -> Callable[..., Any]:
    """Return what builds a function's op; it takes the function's own arguments."""
    given = 1 if per_sample else 2  # a sample, or a batch and its keys

    @wraps(function)
    def build(**arguments: Any) -> Op | External:
        inspect.signature(function).bind(*[None] * given, **arguments)  # or TypeError
        called = partial(function, **arguments)
        return External(called, own=True) if per_sample else BatchFunction(called)

    build.__signature__ = inspect.Signature([*accepted_by(function).values()][given:])
    # by which `register` knows it again; an object that is called has none
    build.__qualname__ = getattr(function, "__qualname__", f"{id(function)}")
    return build


def build_ops(nodes: Sequence[Node | None]) -> list[Op | External]:
    """Build the ops of a view.

    Args:
        nodes: {name, any of the op's arguments}, or a callable of another library,
            run one image at a time; None is skipped, and so is an argument that is
            None and that the op does not have: a recipe below may set it.

    Raises:
        ValueError: an unknown name (with the nearest), argument, or value.
    """
    return [_build(node) for node in nodes if node is not None]


def check_range(ops: Sequence[Op | External]) -> None:
    """Refuse an op that counts on images in [0, 1] after one that leaves that range.

    Args:
        ops: of a view, in their order.

    Raises:
        ValueError: names both.
    """
    before = None
    for op in ops:
        if getattr(op, "p", 1) == 0:  # is never applied
            continue
        if op.needs_range and before is not None:
            name, left = _name_of(op), _name_of(before)
            own = f", or set clamp: false of {name}" if name == "noise" else ""
            raise ValueError(
                f"{name} comes after {left}, whose values are not from 0 to 1, as"
                f" {name} needs them; move {left} behind it{own}"
            )
        before = op if op.leaves_range else before


def _name_of(op: Op | External) -> str:
    """Return how a configuration names an op, or the class that it is of."""
    kind = type(getattr(op, "transform", op))
    names = (name for name, builder in OPS.items() if builder is kind)
    return next(names, kind.__name__)


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
    accepted = accepted_by(OPS[name])
    takes = f"it takes {', '.join(accepted)}"
    unknown = [] if takes_any(accepted) else [a for a in arguments if a not in accepted]
    for argument in unknown:
        if arguments.pop(argument) is not None:
            hint = left_out(argument)
            raise ValueError(f"{name} takes no {argument!r}: {takes}{hint}")
    try:
        return OPS[name](**arguments)
    except TypeError as error:  # an argument is missing, or is no number
        raise ValueError(f"{name}: {error}; {takes}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
