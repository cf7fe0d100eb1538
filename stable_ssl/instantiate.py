"""Find or build the object that a config names by its dotted path."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from stable_ssl.schema import ConfigError, described, nearest


def find_object(path: str, at: str) -> Callable[..., Any]:
    """Return the class or function at a dotted path, importing modules on the way.

    Args:
        path: such as "torchmetrics.functional.accuracy".
        at: the key that holds it, for messages.

    Raises:
        ConfigError: there is no such object, it cannot be called, or Hydra's blocklist
            has it, as subprocess.Popen.
    """
    if not isinstance(path, str):
        raise ConfigError(f"{at}: found {path}; write a dotted path")
    root, *names = path.split(".")
    target: Any = _module(root, path, at)
    parent = root
    if target is None:
        raise ConfigError(
            f"{at}: {path} cannot be imported: no module {root}; install it"
        )
    for name in names:
        inner = getattr(target, name, None)
        if inner is None:
            inner = _module(f"{parent}.{name}", path, at)
        if inner is None:
            public = [n for n in dir(target) if not n.startswith("_")]
            raise ConfigError(
                f"{at}: {path} cannot be imported: {parent} has no {name}"
                f"{nearest(name, public)}"
            )
        target, parent = inner, f"{parent}.{name}"
    if not callable(target):
        kind = type(target).__name__
        raise ConfigError(
            f"{at}: {path} cannot be called: it is a {kind}; name a class or a function"
        )
    _refuse_blocked(target, path, at)
    return target


def _refuse_blocked(target: Callable[..., Any], path: str, at: str) -> None:
    """Refuse what Hydra would not instantiate: not all that is found is built by it."""
    if f"{getattr(target, '__module__', '')}".startswith("stable_ssl."):
        return  # named by the library, perhaps before it needs Hydra
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            instantiate({"_target_": path, "_partial_": True})  # looked up, not called
    except InstantiationException as error:
        if "blocklist" in str(error):
            raise ConfigError(
                f"{at}: {path} acts on the machine or runs other code, which is no part"
                " of a run; name what computes, or call it in a script of your own"
            ) from error


def register(table: dict[str, Any], name: str, item: Any, kind: str) -> None:
    """Add to a table what a user registers by a name.

    What registers again is the same in a script that a `_target_` imports, too, and in
    a notebook's cell.

    Raises:
        ConfigError: another one, of whatever `kind`, has that name.
    """
    if name in table and _place(table[name]) != _place(item):
        raise ConfigError(
            f"{kind} named {name!r} is registered already, by"
            f" {table[name].__module__}; choose another name"
        )
    table[name] = item


def _place(item: Any) -> tuple[str | None, Any]:
    """Return the file and the name of a class or function; of others, which it is."""
    module = sys.modules.get(item.__module__)
    name = getattr(item, "__qualname__", id(item))
    return getattr(module, "__file__", None), name


def accepted_by(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class or function; of some builtins, none is known."""
    try:
        return inspect.signature(target).parameters
    except ValueError:
        return {}


def taken_by(
    builder: Callable[..., Any], what: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that a class or function, `what` in words, takes.

    One that is null and that it does not have is left out: a recipe below may set it
    for another.

    Raises:
        ConfigError: names one that it does not take, and the nearest that there is.
    """
    accepted = accepted_by(builder)
    given = {k: v for k, v in arguments.items() if v is not None or k in accepted}
    if unknown := [key for key in given if key not in accepted]:
        hint = f"{nearest(unknown[0], accepted)}{left_out(unknown[0])}"
        raise ConfigError(f"{what} takes no {unknown[0]}{hint}")
    return given


def takes_any(accepted: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether a target takes keywords of any name, as of `accepted_by`."""
    return any(p.kind is p.VAR_KEYWORD for p in accepted.values())


def left_out(name: str) -> str:
    """Say how a recipe leaves out an argument that the one below it sets."""
    return f"; if a recipe below yours sets it, {name}: null leaves it out"


def build_object(node: Mapping[str, Any], at: str, **arguments: Any) -> Any:
    """Call what {_target_: dotted path, its arguments} names, nested nodes first.

    Args:
        node: read by Hydra's `instantiate`; its lists and mappings arrive as Python's.
            An argument that is null and that the target does not have is left out: a
            recipe below may set it for another.
        at: the key that holds it, for messages.
        arguments: further ones, which win.

    Raises:
        ConfigError: what `find_object` refuses, or the call itself does.
    """
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{at}: found {node}; write {{_target_: dotted.path, ...}}")
    accepted = accepted_by(find_object(node["_target_"], at))
    any_name = not accepted or takes_any(accepted)
    given = {
        key: value
        for key, value in node.items()
        if value is not None or any_name or key in accepted or key.startswith("_")
    }
    try:
        return instantiate(given, _convert_="all", **arguments)
    except HydraException as error:
        cause, text = _without_hydra(error.__cause__), " ".join(str(error).split())
        if isinstance(cause, ConfigError):  # says all that there is to say
            raise ConfigError(f"{at}: {cause}") from None
        if unknown := re.search(r"unexpected keyword argument \W*(\w+)", text):
            text += left_out(unknown[1])
        raise ConfigError(f"{at}: {text}") from cause


def _without_hydra(error: BaseException | None) -> BaseException | None:
    """Return what a target raised, as of its own code; None where the call failed."""
    trace = None if error is None else error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_globals.get("__name__", "").startswith("hydra."):
            return error.with_traceback(trace)
        trace = trace.tb_next
    return None


def _module(name: str, path: str, at: str) -> ModuleType | None:
    """Import a module; None where there is none of that name."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module may do anything when it is imported
        if isinstance(error, ModuleNotFoundError):
            # the module itself or its package is missing, not one that it imports
            if f"{name}.".startswith(f"{error.name}."):
                return None
        raise ConfigError(
            f"{at}: {path} cannot be imported: {described(error)}"
        ) from error
