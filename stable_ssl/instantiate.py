"""Find or build the object that a config names by its dotted path."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from stable_ssl.schema import ConfigError, described, nearest

ACTING = {  # modules of Python whose things act on the machine, or run a text as code
    *("os", "posix", "nt", "shutil", "subprocess", "sys", "signal", "ctypes", "pty"),
    *("importlib", "runpy", "pickle", "_pickle", "marshal", "multiprocessing"),
    *("io", "_io"),
    *("socket", "_socket", "urllib", "http", "ftplib", "smtplib", "webbrowser"),
}
BUILTINS = {  # likewise
    *("eval", "exec", "compile", "open", "input", "breakpoint", "exit", "quit"),
    *("__import__", "getattr", "setattr", "delattr", "globals", "locals", "vars"),
}


def find_object(path: str, at: str) -> Callable[..., Any]:
    """Return the class or function at a dotted path, importing modules on the way.

    Args:
        path: such as "torchmetrics.functional.accuracy".
        at: the key that holds it, for messages.

    Raises:
        ConfigError: there is no such object, it cannot be called, or it is no part of
            a run: what acts on the machine, such as subprocess.Popen, and what Hydra
            refuses.
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
    if _acts(target, path):
        raise _acting(path, at)
    return target


def _acts(target: Callable[..., Any], path: str) -> bool:
    """Return whether an object is one that no configuration should name."""
    module = f"{getattr(target, '__module__', '')}"
    name = f"{module}.{getattr(target, '__name__', '')}"
    if _is_acting(name) or _is_acting(path):
        return True
    if module.startswith("stable_ssl."):  # named by the library, before it needs Hydra
        return False
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            instantiate({"_target_": path, "_partial_": True})  # looked up, not called
    except InstantiationException as error:
        return "blocklist" in str(error) or "HYDRA_INSTANTIATE_ALLOWLIST" in str(error)
    return False


def _is_acting(path: str) -> bool:
    root, _, name = path.partition(".")
    return root in ACTING or (root == "builtins" and name in BUILTINS)


def _acting(path: str, at: str) -> ConfigError:
    return ConfigError(
        f"{at}: {path} acts on the machine or runs other code, which is no part of a"
        " run; name what computes, or call it in a script of your own"
    )


def _nested_targets(value: Any) -> Iterator[str]:
    """Yield the dotted paths of `_target_` at any depth."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for child in value:
            yield from _nested_targets(child)


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


def build_object(node: Mapping[str, Any], at: str, **arguments: Any) -> Any:
    """Call what {_target_: dotted path, its arguments} names, nested nodes first.

    Args:
        node: read by Hydra's `instantiate`; its lists and mappings arrive as Python's.
        at: the key that holds it, for messages.
        arguments: further ones, which win.

    Raises:
        ConfigError: what `find_object` refuses, or the call itself does.
    """
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{at}: found {node}; write {{_target_: dotted.path, ...}}")
    find_object(node["_target_"], at)
    if acting := next(filter(_is_acting, _nested_targets(dict(node))), None):
        raise _acting(acting, at)
    try:
        return instantiate(dict(node), _convert_="all", **arguments)
    except HydraException as error:
        cause = _without_hydra(error.__cause__)
        raise ConfigError(f"{at}: {' '.join(str(error).split())}") from cause


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
