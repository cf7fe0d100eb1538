"""The rooms of the house: who may import whom, and what an import costs."""

import ast
import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from stable_ssl import BaseTrainer

PACKAGE = Path(__file__).resolve().parents[1] / "stable_ssl"
ROWS = [  # a file imports only from rooms above its own
    {"batch", "cadence", "files", "lazy", "memory", "schema", "secrets"}
    | {"background", "preemption", "schedule_curves", "seeding", "vectors"},
    {"instantiate", "distributed", "lock", "recorded", "splits"}
    | {"torch_errors", "value_types"},
    {"augment", "tensor_files"},
    {"data", "models", "losses", "optim", "checkpoint", "loggers"},
    {"evaluation", "subclass_state", "run"},
    {"config", "state", "lifecycle", "setup_checks", "tool_registry"},
    {"opening"},
    {"trainer", "tools"},  # neither knows the other; a run finds tools by their names
    {"methods", "report"},
    {"commands"},
    {"loading"},
]
TOOLS = {"tools", "report", "commands", "loading"}
APART = TOOLS | {"methods", "models", "losses", "augment"}  # not of the core
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room(path):
    """Return the room of a file: its first name below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def row(name):
    """Return the row of a room."""
    (found,) = [i for i, rooms in enumerate(ROWS) if name in rooms]
    return found


def imports(path):
    """Yield the rooms that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "stable_ssl":
                yield from ([parts[1]] if parts[1:] else [a.name for a in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("stable_ssl."):
                    yield alias.name.split(".")[1]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy":
            for module in ast.literal_eval(node.args[1]):
                yield module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rows_above_its_own(path):
    own = room(path)
    for imported in imports(path):
        allowed = imported == own or row(imported) < row(own)
        assert allowed, f"{path.name} ({own}) imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_core_imports_no_tools(path):
    """A run finds them by name, `stable_ssl.tool_registry`; nothing else knows them."""
    if room(path) not in TOOLS:
        assert not TOOLS & set(imports(path))


def test_a_tool_that_is_missing_or_fails_is_a_sentence(tiny, config, monkeypatch):
    from stable_ssl import tool_registry

    monkeypatch.setitem(sys.modules, "stable_ssl.tools.summary", None)  # deleted
    monkeypatch.delattr("stable_ssl.tools.summary", raising=False)
    monkeypatch.setitem(tool_registry.MODES, "export", f"{__name__}.fails")
    keys = ["log.export.types=[torchscript]", "optim.epochs=1"]
    with pytest.warns(UserWarning) as caught:
        tiny(config("base", *keys)).run()
    said = [str(w.message) for w in caught if "the run is complete" in str(w.message)]
    assert len(said) == 2 and "stable_ssl.tools.summary" in said[0]
    assert "fails failed: RuntimeError('no disk')" in said[1]


def fails(run):
    raise RuntimeError("no disk")


def test_methods_do_not_import_one_another():
    for path in (PACKAGE / "methods").glob("[a-z]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("stable_ssl.methods")


def test_report_imports_no_torch():
    code = (
        "import sys\n"
        "from stable_ssl.report import load, summary, overview, learning_curves\n"
        "from stable_ssl import commands; from stable_ssl.tools import plot, page\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_heavy_modules_are_imported_where_they_are_used():
    heavy = (
        "torchvision hydra torch._dynamo wandb tensorboard matplotlib pandas sklearn"
        " timm rich submitit"
    ).split()
    code = (
        "import torch, sys; before = set(sys.modules); import stable_ssl;"
        "stable_ssl.BaseTrainer; stable_ssl.SimCLR;"
        f"print([m for m in {heavy} if m in sys.modules and m not in before])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr


def lines_by_room():
    """Yield (room, lines of its Python files), and those of the core, of everything."""
    counts = Counter()
    for path in PACKAGE.rglob("*.py"):
        counts[room(path)] += len(path.read_text().splitlines())
    yield from sorted(counts.items())
    yield "core", sum(n for name, n in counts.items() if name not in APART)
    yield "all", counts.total()


def test_lines_by_room_are_listed():
    """Shown by -s, or by -rP at the end."""
    lines = dict(lines_by_room())
    print("\n" + "\n".join(f"{n:>6,}  {name}" for name, n in lines.items()))
    assert set(lines) >= set().union(*ROWS)


TWO_LOSSES = ("dinov2", "ibot")  # of class tokens and of patches


def test_a_method_is_one_page():
    for path in (PACKAGE / "methods").glob("[a-z]*.py"):
        longest = 170 if path.stem in TWO_LOSSES else 110
        assert len(path.read_text().splitlines()) <= longest, path.name


PRIVATE = {  # names of other libraries that have no public twin, and why
    "subclass_state.py": {"_version"},  # of a tensor: torch's notes on autograd name it
    "data/loading/processes.py": {"_exit"}  # of os, and public
    | {"_shutdown_workers", "_workers"},  # of torch's workers, to end and to look at
    "data/loading/worker.py": {"_replace"},  # of named tuples, and public
    "loggers/means.py": {"_base"},  # of a view of a tensor
    "models/ema.py": {"_foreach_lerp_"},  # one kernel for all tensors
    "models/masked_vit.py": {"_pos_embed"},  # of timm's ViTs
    "models/norm.py": {"_BatchNorm"},  # the class of all norms, also of others'
    "optim/lars.py": {"_foreach_add", "_foreach_add_", "_foreach_mul_"},
    "distributed/sharding.py": {"_foreach_norm", "_foreach_mul_"},
    "distributed/sharded_state.py": {"_load_state_dict"},  # public only lately
    "evaluation/suite.py": {"_version"},
    "optim/step.py": {"_version", "_foreach_div_"},
    "data/loading/loader.py": {"_replace"},
    "distributed/spawning.py": {"_exit"},
}


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def private_names(path):
    """Yield the private names that a file reads, sets or imports of others."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()"):
                yield node.attr, f"line {node.lineno}: {owner}.{node.attr}"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [
                getattr(node, "module", None) or "",
                *(a.name for a in node.names),
            ]
            for name in ".".join(modules).split("."):
                if is_private(name):
                    yield name, f"line {node.lineno}: import of {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nobody_reads_what_is_private_to_others(path):
    allowed = PRIVATE.get(path.relative_to(PACKAGE).as_posix(), set())
    read = dict(private_names(path))
    assert not [line for name, line in read.items() if name not in allowed]
    assert allowed <= set(read), "no exception any more"


def methods_of(*classes):
    """Return the names of the classes' methods, properties left out."""
    return {n for c in classes for n in dir(c) if inspect.isroutine(getattr(c, n))}


def replaced_methods(path):
    """Yield the methods that a file sets on an instance: on a module, or on self."""
    theirs = methods_of(torch.nn.Module, BaseTrainer) - methods_of(object)
    tree = ast.parse(path.read_text())
    owners = {}  # of each node within a class: the methods that the class defines
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef):
            own = {f.name for f in cls.body if isinstance(f, ast.FunctionDef)}
            own -= {f.name for f in cls.body if getattr(f, "decorator_list", ())}
            owners |= {node: own for node in ast.walk(cls)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner = ast.unparse(node.value)
            if owner in ("log", "self.settings"):  # keys of a config: `log.run`
                continue
            if node.attr in (owners.get(node, set()) if owner == "self" else theirs):
                yield node.attr, f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Attribute) and node.attr == "MethodType":
            yield node.attr, f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_method_is_replaced_on_an_instance(path):
    assert not list(replaced_methods(path))


OWN_PLACE = {  # writes to nothing that a run needs again
    "files.py": "is the helper",
    "distributed/spawning.py": "to a temporary folder between processes",
    "lock.py": "a lock is new, and complete, or it is not there",
    "loggers/console.py": "to the null device",
    "tools/table.py": "to a file of the user's, which may be a device",
}


def whole_writes(path):
    """Yield the calls that write or rename a whole file, past `replacing`'s `new`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = [*node.args[:2], *(k.value for k in node.keywords if k.arg == "mode")]
        modes = [a.value for a in given if isinstance(a, ast.Constant)]
        writes = name.endswith((".write_text", ".write_bytes", "json.dump"))
        modes = [mode for mode in modes if isinstance(mode, str) and "a" not in mode]
        anew = any(set("wx+") & set(mode) for mode in modes)
        writes |= name.endswith("open") and anew
        renames = name in ("os.replace", "os.rename", "shutil.move", "os.link")
        renames |= name.endswith((".rename", ".hardlink_to"))
        to_new = any(isinstance(n, ast.Name) and n.id == "new" for n in ast.walk(node))
        if renames or (writes and not to_new):
            yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_whole_files_are_written_by_one_atomic_helper(path):
    """What is written is what `replacing` yields, by convention called `new`."""
    found = list(whole_writes(path))
    if path.relative_to(PACKAGE).as_posix() in OWN_PLACE:
        assert found, "no exception any more"
    else:
        assert not found, "use stable_ssl.files"
