"""Whose code a run folder would execute: it is shown, and its reader asked.

A run folder may be a stranger's. Nothing has to be agreed to that is a building block
of the library, of torch.nn, torch.optim or torchvision.transforms, or that lies in the
folder of a script that the reader names. All else needs a yes in a terminal, or
`--trust`; what lies among the run folders themselves always needs `--trust`.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType
from typing import Any

import stable_ssl
from stable_ssl.instantiate import find_object
from stable_ssl.loggers.table import printable
from stable_ssl.optim.config import is_foreign
from stable_ssl.recorded import is_within, read_record, runs_folder
from stable_ssl.schema import ConfigError

SHIPPED_SCRIPTS = Path(stable_ssl.__file__).resolve().parents[1] / "runs"
# modules of the library whose functions may be named: they only compute
FUNCTIONS = tuple(
    "stable_ssl.data.presets stable_ssl.losses. stable_ssl.schedule_curves".split()
)
# keys of timm that say where weights come from
WEIGHTS = "checkpoint_path pretrained_cfg pretrained_cfg_overlay cache_dir".split()


@dataclass(frozen=True)
class Use:
    """Something of a run folder's choice that would be executed."""

    what: str  # a dotted path, a file, a folder
    where: str  # the key that names it, or what it is
    among_runs: bool = False  # whether it lies among run folders, and is nobody's code


# --- what is named --------------------------------------------------------------------


def uses(run: Path, config: Any, own: Path | None = None) -> list[Use]:
    """Return what the configuration of a run has imported or read, and needs a yes.

    Args:
        run: its folder.
        config: what its config.yaml says, with what the command line changes, plain.
        own: folder whose modules need none.
    """
    return [
        Use(what, key)
        for key, what in _named(config, run)
        if not (is_building_block(what) or (own and _defined_in(own, what, run)))
    ]


def of_the_record(run: Path, named: Sequence[Use]) -> list[Use]:
    """Leave out what only the command line names, which is the reader's own."""
    recorded = {what for _, what in _named(read_record(run), run)}
    return [use for use in named if use.what in recorded]


def of_the_working_folder(run: Path) -> list[Use]:
    """Return the file `.env` of a working folder that may have come with the runs."""
    file, runs = Path.cwd() / ".env", runs_folder(Path(os.path.realpath(run)))
    if file.is_file() and is_within(Path.cwd(), runs.parent if runs else run):
        return [Use(str(file), "sets variables", among_runs(file, run))]
    return []


def of_a_script(script: Path | None, run: Path) -> list[Use]:
    """Return a script that a run folder names, unless it is one of the library's."""
    if script is None or script.resolve().parent == SHIPPED_SCRIPTS:
        return []
    return [Use(str(script), "the script that started it", among_runs(script, run))]


def among_runs(path: Path, run: Path) -> bool:
    """Return whether a path lies in the folder `runs` that a run folder lies in."""
    run = Path(os.path.realpath(run))
    return is_within(path, runs_folder(run) or run)


def _named(config: Any, run: Path) -> Iterator[tuple[str, str]]:
    """Yield (key, dotted path or file) of all that a plain config has imported or read.

    It is what reaches `find_object`, `build_object` and Hydra's `instantiate`, and what
    other libraries may unpickle.
    """
    from stable_ssl.data.datasets import BUILDERS

    for group, node in config.items():
        if group != "hydra":  # the reader's, see recorded.py
            yield from _targets(node, str(group))
    name = _get(config, "model", "name")
    if isinstance(name, str) and "." in name:
        yield "model.name", name
    scheduler = _get(config, "optim", "scheduler")
    if is_foreign(scheduler) and "_target_" not in scheduler:
        yield "optim.scheduler.name", f"torch.optim.lr_scheduler.{scheduler['name']}"
    for network in ("backbone", "teacher"):
        node = _get(config, "model", network)
        node = node if isinstance(node, Mapping) else {"name": node}
        for key in ("name", *WEIGHTS):
            if node.get(key) and (key in WEIGHTS or ":" in str(node[key])):
                yield f"model.{network}.{key}", f"weights: {node[key]}"
    for key, dataset in _datasets(_get(config, "data")):
        roots = _get(config, "data", "root"), dataset.get("root")
        root = Path(*(str(root) for root in roots if root))
        if str(dataset.get("name")) not in BUILDERS and among_runs(root, run):
            yield key, f"data: {root}"


def _targets(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Yield (key, dotted path) of each `_target_` and `callable`, at any depth."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        children = enumerate(value)
    for name, child in children:
        key = f"{at}.{name}"
        if name in ("_target_", "callable") and isinstance(child, str):
            yield key, child
        yield from _targets(child, key)


def _datasets(value: Any, at: str = "data") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (key, node) of each dataset below a node of the group `data`."""
    for name, child in value.items() if isinstance(value, Mapping) else ():
        if name == "dataset" and isinstance(child, Mapping):
            yield f"{at}.dataset", child
        else:
            yield from _datasets(child, f"{at}.{name}")


def _get(config: Any, *names: str) -> Any:
    for name in names:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


# --- what needs no yes ----------------------------------------------------------------


def is_building_block(path: str) -> bool:
    """Return whether a dotted path is a class that a config may name of anybody's.

    What counts is where it is defined, not how its path begins: stable_ssl.files.os is
    a module of Python. Nothing but the library's, torch's and torchvision's is imported
    to find out.
    """
    from torch import nn, optim
    from torch.utils import data

    from stable_ssl.augment import Op
    from stable_ssl.data.presets import RotationCollate
    from stable_ssl.evaluation.evaluator import Evaluator

    own = (nn.Module, optim.Optimizer, data.Dataset, Op, Evaluator, RotationCollate)
    kinds = {  # by the package that defines them
        "stable_ssl": own,
        "torch.nn": nn.Module,
        "torch.optim": (optim.Optimizer, optim.lr_scheduler.LRScheduler),
        "torch.utils.data": data.Sampler,
        "torchvision.transforms": object,
    }
    package = next((p for p in kinds if path.startswith(f"{p}.")), None)
    if package is None:
        return False
    try:
        found = find_object(path, "")
    except Exception:  # whatever an odd module raises as it is imported
        return False
    module = f"{getattr(found, '__module__', '')}"
    if isinstance(found, FunctionType):
        return f"{module}.".startswith(FUNCTIONS)
    if not isinstance(found, type):
        return False
    return f"{module}.".startswith(f"{package}.") and issubclass(found, kinds[package])


def _defined_in(own: Path, path: str, run: Path, hops: int = 9) -> bool:
    """Return whether a class or function is defined in a folder, by its text alone.

    Args:
        own: the folder; its modules are those in it, and in `src` of it.
        path: dotted: of packages, a module, and a name that it defines.
        run: a run folder; what lies in the `log.folder` around it is nobody's own.
        hops: modules that may hand the name on.
    """
    *module, name = path.split(".")
    if not (module and hops) or module[0] in sys.stdlib_module_names:
        return False
    runs = runs_folder(Path(os.path.realpath(run)))
    strangers = [folder for folder in (runs and runs.parent, runs, run) if folder]
    strangers = [folder for folder in strangers if not is_within(own, folder)]
    for root in (own, own / "src"):
        file, search = None, [str(root)]
        for part in module:  # none is imported, as a lookup of a.b would import a
            spec = PathFinder.find_spec(part, search)
            file = spec.origin if spec else None
            search = list(spec.submodule_search_locations or ()) if spec else []
        if file is None or not file.endswith(".py") or not is_within(Path(file), own):
            continue
        if any(is_within(Path(file), folder) for folder in strangers):
            continue
        source = _source(Path(file), module, name)
        if source == path or (source and _defined_in(own, source, run, hops - 1)):
            return True
    return False


def _source(file: Path, module: Sequence[str], name: str) -> str | None:
    """Return the dotted path that a module has a name from: its own, or an import's."""
    package = list(module if file.name == "__init__.py" else module[:-1])
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):
        return None
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return ".".join([*module, name])
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return ".".join([*above, *filter(None, [node.module]), alias.name])
    return None


# --- the question ---------------------------------------------------------------------


def shown(named: Sequence[Use]) -> str:
    """Return a line for each thing that would be executed, none that could hide one."""
    lines = (f"  {printable(use.what)}  ({printable(use.where)})" for use in named)
    return "\n".join(["it would execute or read, besides the library itself:", *lines])


def agree(run: Path, named: Sequence[Use], trust: bool) -> None:
    """Return if the reader agrees to what a run folder would execute.

    Raises:
        ConfigError: there is no yes, or it takes more than that.
    """
    if trust or not named:
        return
    print(shown(named), file=sys.stderr)
    if nobodys := [use.what for use in named if use.among_runs]:
        raise ConfigError(
            f"{printable(nobodys[0])} lies among run folders, and a yes is not enough:"
            " look at it, then give --trust, or start elsewhere or a script of your own"
        )
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{run} would execute what is not the library's, see above; if you trust it"
            " all, give --trust (rerun and export take --script FILE too, a script of"
            " your own: it is started instead, and the modules in its folder are fine)"
        )
    print("is all of it to be trusted? [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        answer = input()
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was started")
