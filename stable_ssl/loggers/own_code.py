"""The user's own modules that a run uses: copied to its folder, and compared later.

They lie in `code/` of the run folder, `code/files.json` says where each came from and
what it held. A figure of a run can then be told from one of changed code, without git.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from stable_ssl import schema

FILE = Path("code") / "files.json"
LIBRARY = Path(__file__).resolve().parents[1]
OTHERS = [LIBRARY, LIBRARY.parent / "runs"]  # whose modules are not the user's own
OTHERS += {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib")}
OTHERS += {Path(sysconfig.get_path(name)).resolve() for name in ("platlib", "scripts")}


def modules_of(classes: Iterable[type], config: Mapping) -> Iterator[str]:
    """Yield the modules of a script, of classes and their bases, and named by a config.

    Args:
        classes: of the trainer and of its datasets.
        config: plain; each text with a dot in it may name an object.
    """
    yield "__main__"
    for cls in classes:
        yield from (base.__module__ for base in cls.__mro__)
    for _, text in schema.texts(config):
        yield text.rpartition(".")[0]


def own_modules(names: Iterable[str]) -> dict[str, Path]:
    """Return the user's files among imported modules and what they use, transitively.

    Args:
        names: of modules to begin with; those that are not imported are left out.

    Returns:
        Where each file is, by its path as modules are named: pkg/part.py.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in seen or module is None:
            continue
        seen.add(name)
        if (file := _own_file(module)) is None:
            continue
        found[_place(name, file)] = file
        for value in list(vars(module).values()):
            with suppress(Exception):  # of an object that answers for its attributes
                own = isinstance(value, ModuleType)
                waiting.append(str(value.__name__ if own else value.__module__))
    return dict(sorted(found.items()))


def _own_file(module: ModuleType) -> Path | None:
    """Return the file of a module that is the user's; None of any other."""
    file = Path(getattr(module, "__file__", None) or "").resolve()
    if file.suffix != ".py" or not file.is_file():
        return None
    others = any(file.is_relative_to(folder) for folder in OTHERS)
    return None if others or "site-packages" in file.parts else file


def _place(name: str, file: Path) -> str:
    """Return a module's path below `code/`; a script's is its file's name."""
    if name == "__main__":
        return file.name
    package = file.name == "__init__.py"
    return name.replace(".", "/") + ("/__init__.py" if package else ".py")


def digest(content: bytes) -> str:
    """Return what stands for a file's content: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


@functools.cache
def library() -> str:
    """Return what stands for the library's own code, as it is on the disk."""
    known = {
        str(path.relative_to(LIBRARY)): digest(path.read_bytes())
        for path in sorted(LIBRARY.rglob("*.py"))
    }
    return digest(json.dumps(known).encode())[:8]


def texts(files: Mapping[str, Path]) -> tuple[dict[str, str], str | None]:
    """Return what a run folder holds of the user's modules, and what stands for them.

    Returns:
        Content by path in the folder; and a hash, None where there are no modules.
    """
    copied, known = {}, {}
    for name, path in files.items():
        content = path.read_bytes()
        known[name] = {"path": str(path), "sha256": digest(content)}
        copied[f"code/{name}"] = content.decode("utf-8", "replace")
    listed = {str(FILE): json.dumps(known, indent=1)} if known else {}
    return {**copied, **listed}, _stands_for(known)


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {name: {path, sha256}} of a run's own modules; {} where there is none."""
    try:
        known = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {str(n): {**f, "path": str(f["path"])} for n, f in known.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def code_of(folder: Path) -> str | None:
    """Return what stands for all of a run's own modules; None where it has none."""
    return _stands_for(recorded(folder))


def _stands_for(files: Mapping[str, Mapping[str, Any]]) -> str | None:
    known = {name: file.get("sha256") for name, file in files.items()}
    return digest(json.dumps(known, sort_keys=True).encode())[:8] if known else None


def changes(files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return which modules of `recorded` are `changed` or `gone` where they were."""
    found = {}
    for name, file in files.items():
        path = Path(file["path"])
        try:  # of a file alone: a device or a pipe, which a stranger names, has no end
            content = path.read_bytes() if path.is_file() else None
        except (OSError, ValueError):
            content = None
        if content is None:
            found[name] = "gone"
        elif digest(content) != file.get("sha256"):
            found[name] = "changed"
    return found
