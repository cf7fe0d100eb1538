"""What comes from elsewhere is data, what leads elsewhere is refused, secrets stay."""

import ast
import csv
import functools
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import stable_ssl
from stable_ssl import (
    ConfigError,
    checkpoint,
    commands,
    load_config,
    report,
)
from stable_ssl.commands import jobs, launcher, rerun, trust
from stable_ssl.config import compose, recipes, resolver
from stable_ssl.files import write_atomically
from stable_ssl.instantiate import build_object, find_object
from stable_ssl.loggers.arguments import masked_arguments
from stable_ssl.loggers.environment import git_state
from stable_ssl.loggers.run_names import check_names
from stable_ssl.loggers.table import printable
from stable_ssl.secrets import is_secret, masked, to_yaml
from stable_ssl.subclass_state import Attributes
from stable_ssl.tools import drawing, style, table_formats

QUICK = [
    *("optim.epochs=null", "optim.steps=2", "optim.scheduler.warmup_epochs=0"),
    *("log.eval.untrained=false", "log.eval.few_labels=[]", "log.pictures=null"),
    *("log.run=x", "log.every_n_steps=1", "++model.backbone.width=4"),
]
ROW = {"step": 1, "epoch": 1.0, "time": 1.0, "train/loss": 1.0, "test/knn_acc1": 0.5}
few = settings(max_examples=100, deadline=None)


@functools.cache
def written():
    """Return the config.yaml of a run."""
    return to_yaml(load_config("simclr", QUICK))


@pytest.fixture
def forge(tmp_path):
    """Return a maker of run folders as a stranger may have changed them."""

    def make(name="x", changes=(), launch=None, before="", rows=(ROW,), **files):
        folder = tmp_path / "logs" / "runs" / "simclr" / name
        folder.mkdir(parents=True)
        config = yaml.safe_load(written())
        for key, value in dict(changes).items():
            *path, last = key.split(".")
            node = config
            for part in path:
                node = node.setdefault(part, {})
            node[last] = value
        text = before + yaml.safe_dump(config, sort_keys=False)
        (folder / "config.yaml").write_text(text)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(lines)
        (folder / "status.json").write_text('{"status": "finished"}')
        if launch is not None:
            (folder / "environment.json").write_text(json.dumps([launch]))
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture
def started(monkeypatch):
    """Return what `rerun` and `export` would start, which is not started."""
    lines = []
    monkeypatch.setattr(launcher, "start", lambda line: lines.append(["here", *line]))
    done = subprocess.CompletedProcess((), 0)
    instead = SimpleNamespace(run=lambda line: lines.append(line) or done)
    monkeypatch.setattr(rerun, "subprocess", instead)
    return lines


@pytest.fixture
def command(capfd, tmp_path, monkeypatch):
    """Return a runner of `stable-ssl <arguments>`: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            commands.main([str(argument) for argument in arguments])
        return ended.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture
def terminal(monkeypatch):
    """Return a setter of what a person in a terminal answers; the questions."""
    asked = []

    def answer(text):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda *_: asked.append(text) or text)
        return asked

    return answer


@pytest.fixture
def programs(monkeypatch):
    """Return the programs that a test starts."""
    import matplotlib.font_manager  # noqa: F401  asks fontconfig once a machine

    seen = []
    start = subprocess.Popen.__init__
    for name in ("system", "popen", "posix_spawn", "posix_spawnp", "execv", "execve"):
        monkeypatch.setattr(os, name, lambda *line, **_: seen.append(line))
    monkeypatch.setattr(
        subprocess.Popen,
        "__init__",
        lambda self, *line, **more: seen.append(line) or start(self, *line, **more),
    )
    return seen


# --- a run folder of somebody else's --------------------------------------------------

CALLABLE = {"callable": "evil.go", "kwargs": {}}
NAMED = {  # what a configuration may have imported, and by which key
    "metric": ({"log.metrics.f": CALLABLE}, "log.metrics.f.callable"),
    "method": ({"model.name": "evil.go"}, "model.name"),
    "optimizer": ({"optim.optimizer": {"_target_": "evil.go"}}, "optim.optimizer"),
    "probe": (
        {"log.eval.linear.optimizer": {"_target_": "evil.go"}},
        "log.eval.linear.optimizer",
    ),
    "schedule": ({"optim.scheduler": {"_target_": "evil.go"}}, "optim.scheduler"),
    "evaluator": ({"log.eval.mine": {"_target_": "evil.go"}}, "log.eval.mine"),
    "dataset": ({"data.val.dataset": {"_target_": "evil.go"}}, "data.val.dataset"),
    "sampler": ({"data.train.sampler": {"_target_": "evil.go"}}, "data.train.sampler"),
    "collate": (
        {"data.train.collate_fn": {"_target_": "evil.go"}},
        "data.train.collate_fn",
    ),
    "op": (
        {"data.val.dataset.image_transform": [{"_target_": "evil.go"}]},
        "data.val.dataset.image_transform.0",
    ),
    "nested": (
        {"log.eval.a": {"_target_": "torch.nn.ReLU", "x": [{"_target_": "evil.go"}]}},
        "log.eval.a.x.0",
    ),
    "group": ({"mine": {"deep": [{"_target_": "evil.go"}]}}, "mine.deep.0"),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((kind, "rerun") for kind in NAMED), ("metric", "export"), ("method", "export")],
)
def test_what_a_run_folder_names_is_shown_and_needs_trust(
    forge, command, started, kind, name
):
    changes, key = NAMED[kind]
    folder = forge(changes=changes)
    code, _, err = command(name, folder)
    assert code == 2 and not started
    shown, error = err.rstrip().rsplit("\n", 1)
    assert re.search(rf"^  evil\.go  \({re.escape(key)}", shown, re.M), err
    assert "--trust" in error and "--script" in error
    assert command(name, folder, "--trust")[0] == 0
    assert started[0][0] == "here" and "--trust" in started[0]


def test_a_dry_run_shows_it_and_asks_nothing(forge, command, started):
    folder = forge(changes=NAMED["metric"][0])
    code, out, _ = command("rerun", folder, "--dry-run")
    assert code == 0 and not started
    assert "  evil.go  (log.metrics.f.callable)\n" in out


def test_the_same_folder_by_hand_is_asked_for_too(forge, command, monkeypatch):
    folder = forge(changes=NAMED["metric"][0])
    checked = []
    monkeypatch.setattr(jobs, "check", lambda *_, **__: checked.append(1) or 1 / 0)
    line = ["--config-dir", folder, "--config-name", "config"]
    code, _, err = command(*line)
    assert code == 2 and "  evil.go  (log.metrics.f.callable)" in err and not checked
    with pytest.raises(ZeroDivisionError):
        command(*line, "--trust")


def test_what_the_command_line_changes_is_the_readers_own(forge, command, started):
    folder = forge(changes=NAMED["metric"][0])
    mine = "log.metrics.f.callable=torch.nn.functional.cross_entropy"
    assert command("rerun", folder, mine)[0] == 0
    assert command("rerun", folder, "~log.metrics.f")[0] == 0
    assert len(started) == 2


def nested():
    leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    targets = st.fixed_dictionaries(
        {}, optional={"_target_": st.just("evil.go"), "callable": st.just("evil.go")}
    )
    names = st.text(st.characters(codec="ascii", categories=["L"]), max_size=4)
    return st.recursive(
        leaves | targets,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
        ),
        max_leaves=8,
    )


@few
@given(nested())
def test_no_target_is_too_deep_to_be_seen(value):
    count = len(re.findall("'evil.go'", repr(value)))
    found = trust.uses(Path("/logs/runs/a/b"), {"mine": value})
    assert len(found) == count


@pytest.mark.parametrize(
    "path",
    [
        "stable_ssl.files.os.system",
        "stable_ssl.files.write_atomically",
        "stable_ssl.files.shutil.rmtree",
        "stable_ssl.commands.rerun.subprocess.run",
        "stable_ssl.commands.main",
        "stable_ssl.checkpoint.torch.load",
        "stable_ssl.distributed.spawn",
        "stable_ssl.config.dotenv.read_env",
        "stable_ssl.instantiate.build_object",
        "stable_ssl.trainer.Path",
        "stable_ssl.models.backbone",
        "stable_ssl.data.build_dataset",
        "stable_ssl.BaseTrainer.run",
        "stable_ssl_evil.SimCLR",
        "stable_ssl.no_such.SimCLR",
        "torch.nn.modules.module.torch.hub.load",
        "torch.nn.functional.warnings.sys.exit",
        "torch.optim.lr_scheduler.warnings.sys.exit",
        "torch.optim.swa_utils.AveragedModel.load_state_dict",
        "torch.load",
        "torchvision.transforms.functional.torch.load",
        "torchvision.datasets.MNIST",
        "torch.nn",
    ],
)
def test_a_path_that_only_begins_as_the_librarys_is_none_of_its_blocks(path):
    assert not trust.is_building_block(path)


@pytest.mark.parametrize(
    "path",
    [
        *("stable_ssl.SimCLR", "stable_ssl.methods.byol.BYOL", "stable_ssl.optim.LARS"),
        *("stable_ssl.optim.lars.LARS", "stable_ssl.data.RotationCollate"),
        *("stable_ssl.data.train_transforms", "stable_ssl.losses.nt_xent"),
        *(
            "stable_ssl.evaluation.knn.Knn",
            "stable_ssl.data.sources.folder.ImageFolder",
        ),
        *("stable_ssl.augment.Solarize", "torch.nn.CrossEntropyLoss"),
        *("torch.optim.AdamW", "torch.optim.lr_scheduler.StepLR"),
        *("torch.utils.data.WeightedRandomSampler",),
        *("torchvision.transforms.v2.RandAugment",),
    ],
)
def test_building_blocks_need_no_question(path):
    assert trust.is_building_block(path)


@functools.cache
def shipped(name):
    """Return a recipe, composed."""
    config = compose(name, ["++data.root=/data", "++log.folder=/logs"])
    config = OmegaConf.to_container(config)
    return {key: value for key, value in config.items() if key != "hydra"}


@pytest.mark.parametrize("name", recipes())
def test_a_shipped_recipe_asks_nothing_and_holds_no_secret(name):
    config = shipped(name)
    assert trust.uses(Path("/logs/runs/a/b"), config) == []
    with resolver.stand_ins():
        resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
        assert masked(OmegaConf.create(config)) == resolved


def test_a_shipped_recipe_runs_again_without_a_question(forge, command):
    folder = forge()
    code, _, err = command("rerun", folder, "log.run=again", "optim.steps=1")
    assert code == 0, err
    kept = yaml.safe_load((folder.with_name("again") / "config.yaml").read_text())
    assert kept["optim"]["steps"] == 1
    environment = folder.with_name("again") / "environment.json"
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600


def test_every_place_that_finds_an_object_by_a_path_is_known():
    """One more has to be among what `trust.uses` looks for."""
    finders, found = {"find_object", "build_object", "instantiate"}, set()
    package = Path(stable_ssl.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in finders:
                found.add(path.relative_to(package).as_posix())
    of_the_library = {"instantiate.py", "tool_registry.py", "trainer.py"}
    assert found - of_the_library == {
        "commands/trust.py",  # building blocks
        "data/build.py",  # sampler, collate_fn, image_transform: _target_
        "data/datasets.py",  # dataset: _target_
        "evaluation/custom_metrics.py",  # log.metrics: callable
        "evaluation/suite.py",  # log.eval: _target_
        "methods/__init__.py",  # model.name
        "methods/multitask.py",  # model.heads, model.loss: _target_
        "optim/build.py",  # optim.optimizer: _target_
        "optim/schedules.py",  # optim.scheduler: name or _target_
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.backbone": "hf-hub:evil/model"}, "weights: hf-hub:evil/model"),
        ({"model.backbone.name": "local-dir:/x"}, "weights: local-dir:/x"),
        ({"model.backbone.checkpoint_path": "x.pth"}, "weights: x.pth"),
        ({"model.teacher": "hf-hub:evil/model"}, "weights: hf-hub:evil/model"),
        ({"model.teacher.checkpoint_path": "x.pth"}, "weights: x.pth"),
        ({"optim.scheduler.name": "sys.exitLR"}, "torch.optim.lr_scheduler.sys.exitLR"),
        (
            {"data.root": "logs/runs", "data.train.dataset.name": "MNIST"},
            "data: logs/runs",
        ),
        (
            {
                "data.root": ".",
                "data.val.dataset": {"name": "LSUN", "root": "logs/runs"},
            },
            "data: logs/runs",
        ),
    ],
)
def test_what_other_libraries_may_unpickle_is_named_too(
    forge, command, started, changes, words
):
    code, _, err = command("rerun", forge(changes=changes))
    assert code == 2 and f"  {words}  (" in err and not started


# --- its configuration is values ------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"hydra": {"callbacks": {"x": {"_target_": "evil.go"}}}},
        {"hydra": {"searchpath": ["pkg://evil"]}},
        {"hydra": {"launcher": {"_target_": "evil.go"}}},
        {"defaults": ["simclr", {"override hydra/launcher": "evil"}]},
        {"log.project": "${oc.env:HUSH}"},
        {"log.tags": ["of ${oc.env:HUSH}"]},
        {"mine": {"a": [{"b": "${oc.decode:${oc.env:HUSH}}"}]}},
    ],
)
def test_what_no_run_writes_is_refused_before_anything_is_composed(
    forge, command, changes, monkeypatch
):
    monkeypatch.setenv("HUSH", "hush-hush")
    folder = forge(changes=changes)
    by_hand = ["--config-dir", folder, "--config-name", "config", "--cfg", "job"]
    for line in (["rerun", folder, "--trust"], ["rerun", folder, "--dry-run"], by_hand):
        code, out, err = command(*line)
        assert code == 2 and "which no run writes" in err
        assert "hush-hush" not in out + err
    assert command("export", folder)[0] == 2
    assert [path.name for path in folder.parent.iterdir()] == ["x"]
    with pytest.raises(ConfigError, match="which no run writes"):
        load_config("config", folders=[folder])


def test_it_goes_where_it_belongs_whatever_its_head_says(forge):
    folder = forge(before="# @package hydra.callbacks\n")
    assert load_config("config", folders=[folder]).model.name == "simclr"


def test_files_beside_it_are_no_recipes(forge, command, started):
    folder = forge()
    for name in ("debug/fast", "hydra/launcher/evil", "local/default", "simclr"):
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# @package _global_\nlog: {tags: [evil]}\n")
    config = load_config("config", ["debug=fast"], [folder])
    assert (list(config.log.tags), config.log.experiment) == ([], "debug")
    code, _, err = command("rerun", folder, "hydra/launcher=evil")
    assert code == 2 and "no 'evil' of the group 'hydra/launcher'" in err


def test_the_file_env_among_runs_needs_trust(forge, command, started, monkeypatch):
    folder = forge()
    (folder.parent / ".env").write_text("LD_PRELOAD=evil.so\n")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(folder.parent)
    code, _, err = command("rerun", folder)
    assert code == 2 and ".env lies among run folders" in err and not started
    assert command("rerun", folder, "--trust")[0] == 0 and started


def test_the_file_env_beside_runs_is_asked_for(forge, command, started, monkeypatch):
    folder = forge()
    monkeypatch.setattr(os, "environ", os.environ.copy())
    (folder.parents[3] / ".env").write_text("DATA_ROOT=/data\n")
    assert command("rerun", folder)[0] == 0 and len(started) == 1
    (folder.parents[2] / ".env").write_text("LD_PRELOAD=evil.so\n")
    monkeypatch.chdir(folder.parents[2])
    code, _, err = command("rerun", folder)
    assert code == 2 and ".env  (sets variables)" in err and len(started) == 1


def test_a_key_that_two_parsers_read_differently_hides_nothing(forge, command, started):
    folder = forge()
    text = (folder / "config.yaml").read_text()
    keys = "mine: {1e3: {_target_: evil.go}, 0o17: {? [a] : 1}}\n"
    (folder / "config.yaml").write_text(text + keys.replace(", 0o17: {? [a] : 1}", ""))
    code, _, err = command("rerun", folder)
    assert code == 2 and "  evil.go  (mine.1" in err and not started


def test_modules_of_the_working_folder_are_for_what_was_agreed_to(
    forge, command, monkeypatch, tmp_path
):
    (tmp_path / "torchmetrics.py").write_text("1 / 0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    ends = []
    monkeypatch.setattr(jobs, "check", lambda *_, **__: ends.append(sys.path[-2:]))
    monkeypatch.setattr(launcher, "run_names", lambda *_: 1 / 0)
    line = ["--config-dir", forge(), "--config-name", "config"]
    for more in ([], ["++log.eval.mine={_target_: my.Own}"]):
        with pytest.raises(ZeroDivisionError):
            command(*line, *more)
    here = [str(tmp_path), str(tmp_path / "src")]
    assert [end == here for end in ends] == [False, True]


# --- its script -----------------------------------------------------------------------


@pytest.fixture
def script(tmp_path):
    """Return a writer of a script that would be started."""

    def write(folder, name="mine.py", text="class Checked: ...\n"):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def of(path, **more):
    return {"argv": [path.name], "cwd": str(path.parent), **more}


@pytest.mark.parametrize("answer", ["y", "Yes ", "n", ""])
def test_a_script_on_record_is_started_by_a_yes(
    forge, command, started, script, terminal, answer
):
    mine = script("code")
    folder = forge(launch=of(mine))
    code, _, err = command("rerun", folder)
    assert code == 2 and f"  {mine}  (the script" in err and not started
    asked = terminal(answer)
    code, _, err = command("rerun", folder)
    assert asked == [answer] and f"  {mine}  (the script" in err
    assert ([line[1] for line in started] == [str(mine)]) == (code == 0)
    assert (code == 0) == (answer.strip().lower() in ("y", "yes"))


def test_another_trainer_than_the_methods_needs_its_script(forge, command, started):
    mixup = of(Path("/gone/mixup.py"), trainer="__main__.Mixup")
    code, _, err = command("rerun", forge(launch=mixup))
    assert code == 2 and "trained __main__.Mixup, and /gone/mixup.py is no scri" in err
    assert not started
    simclr = of(Path("/gone/main.py"), trainer="stable_ssl.methods.simclr.SimCLR")
    assert command("rerun", forge("y", launch=simclr))[0] == 0 and started


@pytest.mark.parametrize("place", ["logs/runs/simclr/x", "logs/runs", "link"])
def test_a_script_among_runs_is_never_started_by_a_yes(
    forge, command, started, script, terminal, place, tmp_path
):
    folder = forge()
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    evil = script(place, "evil.py")
    (folder / "environment.json").write_text(json.dumps([of(evil)]))
    asked = terminal("y")
    for name in ("rerun", "export"):
        code, _, err = command(name, folder)
        assert code == 2 and "a yes is not enough" in err
    assert not started and not asked
    assert command("rerun", folder, "--trust")[0] == 0
    assert started[0][1] == str(evil)
    mine = script("code")
    assert command("rerun", folder, "--script", mine)[0] == 0
    assert started[1][1] == str(mine) and "--trust" not in started[1]


def test_a_script_of_ones_own_stands_for_its_folder_alone(
    forge, command, started, script
):
    mine = script("code")
    script("code/lab", "__init__.py", "from .parts import Deep as Margin, run\n")
    script("code/lab", "parts.py", "from os import system as run\nclass Deep: ...\n")
    script("code/src", "stream.py", "from lab.parts import Deep\ndef make(): ...\n")
    script("code", "one.py", "from two import Thing\n")
    script("code", "two.py", "from one import Thing\n")
    for path in ("mine.Checked", "lab.Margin", "lab.parts.Deep", "stream.Deep"):
        folder = forge(path, {"log.eval.a": {"_target_": path}}, of(mine))
        assert command("rerun", folder, "--script", mine)[0] == 0, path
    assert len(started) == 4 and not any("--trust" in line for line in started)
    for path in (
        "lab.run",
        "mine.sys.exit",
        "stream.os.system",
        "os.path.join",
        "one.Thing",
    ):
        folder = forge(path, {"log.eval.a": {"_target_": path}}, of(mine))
        code, _, err = command("rerun", folder, "--script", mine)
        assert code == 2 and f"  {path}  (log.eval.a" in err
    assert len(started) == 4


@pytest.mark.parametrize("place", ["logs/runs/simclr/x", "logs/runs", "logs"])
def test_modules_beside_runs_are_in_no_ones_folder(
    forge, command, started, script, place
):
    mine = script(".")
    path = f"{place.replace('/', '.')}.evil.Deep"
    folder = forge(changes={"log.eval.a": {"_target_": path}})
    script(place, "evil.py", "class Deep: ...\n")
    code, _, err = command("rerun", folder, "--script", mine)
    assert code == 2 and f"  {path}  (" in err and not started


def test_scripts_of_the_library_are_its_own(forge, command, started, main):
    code, out, _ = command("rerun", forge(launch=of(main)))
    assert code == 0 and started[0][1] == str(main)


@pytest.mark.parametrize(
    "launch",
    [
        *({"argv": 3}, {"argv": [3]}, {"argv": []}, {"cwd": 3}, {"cwd": ["a"]}, [], 3),
        *({"processes": "9"}, {"git": "a", "argv": ["x.py"]}, {"packages": [1]}),
        *({"argv": ["a\0.py"]}, {"argv": ["a.py"], "cwd": "a\0"}, {"device": None}),
    ],
)
def test_a_record_of_other_kinds_is_no_record(forge, command, launch):
    code, out, err = command("rerun", forge(launch=launch), "--dry-run")
    assert code == 0 and "Traceback" not in err, err


# --- reading executes nothing ---------------------------------------------------------


def checkout(folder, marker):
    """Make a checkout whose configuration names programs for all that git may do."""
    program = folder / "program.sh"
    folder.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\necho x >> {marker}\n")
    program.chmod(0o755)
    git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b"]
    (folder / "a.txt").write_text("one\n")
    (folder / ".gitattributes").write_text("* diff=evil\n")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    (folder / "a.txt").write_text("two\n")
    hooks = folder / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "post-index-change").symlink_to(program)
    with open(folder / ".git" / "config", "a") as file:
        file.write(
            f"[core]\nfsmonitor = {program}\n[diff]\nexternal = {program}\n"
            f'[diff "evil"]\ncommand = {program}\ntextconv = {program}\n'
        )


def test_git_starts_nothing_that_a_checkout_names(tmp_path):
    checkout(tmp_path / "code", tmp_path / "marker")
    state = git_state(tmp_path / "code")
    assert len(state["commit"]) == 40 and "-one\n+two" in state["diff"]
    assert not (tmp_path / "marker").exists()
    assert git_state(tmp_path) == {"commit": None, "diff": None}


@pytest.mark.parametrize(
    "line",
    ["table x", "plot x --kind compare", "report x", "rerun x --dry-run"],
)
def test_reading_a_run_folder_starts_no_program(
    forge, command, monkeypatch, programs, line, tmp_path
):
    folder = forge(changes=NAMED["metric"][0], launch={"argv": ["evil.py"], "cwd": "."})
    (folder / "evil.py").write_text("raise SystemExit(3)\n")
    (folder / "evil").mkdir()
    (folder / "evil" / "__init__.py").write_text(f"open({str(tmp_path / 'm')!r}, 'w')")
    monkeypatch.chdir(folder)
    code, out, err = command(*line.replace(" x", f" {folder}").split())
    assert code == 0, err
    assert not programs and not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml", "environment.json"])
def test_no_link_out_of_a_run_folder_is_read(forge, command, tmp_path, name):
    folder = forge(launch={})
    (tmp_path / "private").write_text("hush: hush-hush\n")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "private")
    for line in (["table", folder], ["report", folder], ["rerun", folder, "--dry-run"]):
        code, out, err = command(*line)
        assert code == 2 and "is a link out of the run folder" in err
        assert "hush-hush" not in out + err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("kind", ["pipe", "loop", "endless"])
def test_odd_files_are_said_in_a_line(forge, command, kind):
    folder = forge()
    if kind == "endless":
        with open(folder / "config.yaml", "a") as file:
            file.write("mine: &a {b: [*a]}\n")
    elif kind == "pipe":  # which would be waited for
        os.mkfifo(folder / "overrides.yaml")
    else:
        (folder / "overrides.yaml").symlink_to("overrides.yaml")
    code, out, err = command("rerun", folder, "--dry-run")
    assert code == 2 and "Traceback" not in out + err
    assert command("table", folder)[0] == 2


def test_a_checkpoint_names_nothing_in_another_folder(tmp_path, tiny, config):
    kept = checkpoint.Checkpoints(tmp_path / "ckpts", 1, True, largest=True)
    kept.save({"step": 1, "epoch": 1}, 1, 1, 0.5)
    (tmp_path / "other.ckpt").write_bytes((tmp_path / "ckpts/last.ckpt").read_bytes())
    kept.resume({"step": 1, "epoch": 1, "best": [(0.9, "../other.ckpt")]})
    assert kept.best == [] and not (tmp_path / "best.ckpt").exists()
    run = tiny(config())
    attributes = Attributes(run, {"run_dir"}, [], [], print)
    values = {"run_dir": "/elsewhere", "mine": 3}
    attributes.load_state({"objects": {}, "values": values}, torch.device("cpu"))
    assert run.run_dir is None and run.mine == 3


def test_no_picture_from_elsewhere_is_in_a_page(forge, command, tmp_path):
    from PIL import Image

    folder = forge()
    (tmp_path / "private").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "private" / "views_e001.png")
    (folder / "figures").symlink_to(tmp_path / "private", target_is_directory=True)
    assert command("report", folder)[0] == 0
    assert (
        "data:image" not in (tmp_path / "report.html").read_text().split("<script")[-2]
    )


def test_an_export_writes_through_no_link(forge, command, started, tmp_path):
    folder = forge()
    (folder / "console.log").symlink_to(tmp_path / "profile")
    code, _, err = command("export", folder)
    assert code == 2 and "console.log is a link out of the run folder" in err
    assert not started
    assert command("export", folder, "--trust")[0] == 0


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_is_tensors_and_values(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"a": Evil()}, buffer, _use_new_zipfile_serialization=zipped)
    content = buffer.getvalue() if zipped else buffer.getvalue() + b"\0\0"
    digest = hashlib.sha256(content).hexdigest().encode()
    Path("evil.ckpt").write_bytes(content[:-2] + b"\x40\0" + digest)
    with pytest.raises(ConfigError, match="holds more than|not a stable-SSL check"):
        checkpoint.load("evil.ckpt")
    assert not Path("executed").exists()
    with pytest.raises(Exception, match="."), monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **o: 1 / 0 if o["weights_only"] else 1)
        checkpoint.save(Path("right.ckpt"), {"a": 1})
        checkpoint.load("right.ckpt")


@pytest.mark.parametrize(
    "path",
    [
        *("subprocess.Popen", "os.system", "shutil.rmtree", "builtins.eval"),
        *("importlib.import_module", "pickle.loads", "runpy.run_path"),
        *("stable_ssl.files.os.system", "torch.os.popen", "operator.methodcaller"),
    ],
)
def test_what_acts_on_the_machine_is_no_part_of_a_run(path):
    with pytest.raises(ConfigError, match=f"^my.key: {path} acts on the machine"):
        find_object(path, "my.key")
    inner = {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": path}]}
    for node in ({"_target_": path}, inner):
        with pytest.raises(ConfigError, match="^my.key: "):
            build_object(node, "my.key")


@pytest.mark.parametrize("path", ["functools.partial", "os.path.join", "math.cos"])
def test_what_computes_may_be_pythons_own(path):
    assert find_object(path, "at")


def test_a_method_is_a_trainer(config):
    job = OmegaConf.create({"model": {"name": "torch.nn.Linear"}})
    with pytest.raises(ConfigError, match="model.name=torch.nn.Linear is no trainer"):
        jobs.trainer_class(None, job)


# --- names of runs --------------------------------------------------------------------

NO_NAMES = ["..", ".", "", " ", "../x", "../../../x", "/tmp/x", "a/b", "a/", ".hidden"]
NO_NAMES += ["a\nb", "a\x1b[2Jb", "a\u202eb", "x" * 256, "\u00e9" * 128]
NO_EXPERIMENTS = ["..", ".", "", "../x", "a/../../x", "/tmp/x", "a//b", "a/", "a/.b"]
NO_EXPERIMENTS += ["a\0b", "a/b\nc", "x" * 256]


@pytest.mark.parametrize("name", [*NO_NAMES, "a\0b"])
def test_a_name_of_a_run_is_one_folder(name, tiny, config):
    with pytest.raises(ConfigError, match="^log.run="):
        check_names("./logs", "simclr", name)
    run = tiny(config())
    run.config.log.run = name  # after the config was checked
    with pytest.raises(ConfigError, match="^log.run="):
        run.run()
    assert not Path(run.config.log.folder, "runs").exists()


@pytest.mark.parametrize("name", NO_EXPERIMENTS)
def test_an_experiment_lies_below_runs(name):
    with pytest.raises(ConfigError, match="^log.experiment="):
        check_names("./logs", name, None)


@few
@given(st.text(max_size=12), st.text("./\\ a\0", max_size=12))
def test_whatever_is_accepted_is_a_folder_below_runs(experiment, run):
    """Both ways: what is refused would not be a visible folder of its own there."""
    runs = Path("/logs/runs")
    try:
        check_names("/logs", experiment, run)
    except ConfigError:
        return
    path = Path(os.path.normpath(runs / experiment / run))
    assert path == runs / experiment / run and path.parent.is_relative_to(runs)
    assert len(path.relative_to(runs).parts) >= 2 and path.name == run


@pytest.mark.parametrize(
    "name", ["a", "a b", "it's", 'q"', "ü é", "漢字", "a\\b", "-x"]
)
def test_other_names_are_right(name):
    check_names("./logs", f"{name}/{name}", name)


@few
@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=9))
def test_any_text_is_quoted_for_the_command_line(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for tail in ("", "\\", '"', "${x}", '\\"', "\\${x}"):
        override = f"key={jobs.quoted(text + tail)}"
        value = OverridesParser.create().parse_override(override).value()
        assert OmegaConf.create({"key": value}).key == text + tail


@pytest.mark.parametrize(
    "line",
    [
        ["log.run=.."],
        ["log.experiment=../../x"],
        ["log.folder=''"],
        ["-m", "log.run=a,..", "optim.steps=1,2"],
        ["-m", "log.experiment=a,..", "optim.steps=1,2"],
        ["-m", f"log.run={'x' * 255}", "optim.steps=1,2"],  # and the job's number
        ["hydra/launcher=submitit_local", "log.run=../x"],
        ["hydra/launcher=submitit_slurm", "log.experiment=.."],
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_written(command, tmp_path, line):
    code, _, err = command("--config-name=simclr", *QUICK[:6], *line)
    assert code == 2 and re.match("error: .*log.(run|experiment|folder)=", err), err
    assert len(err.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_nested_experiment_is_exported_from_its_place(forge, command, started):
    folder = forge()
    moved = folder.parents[1] / "ablation" / "lr" / "it's"
    moved.parent.mkdir(parents=True)
    folder.rename(moved)
    assert command("export", moved)[0] == 0
    assert 'log.experiment="ablation/lr"' in started[0]
    assert 'log.run="it\'s"' in started[0]


# --- secrets --------------------------------------------------------------------------

NAMES = (
    "key apikey api_key API_KEY apiKey x-api-key token tokens hf_token accessToken"
    " secret secrets clientSecret secret_access aws_secret_access_key access_key_id"
    " AccessKeyId password passwords passwd db_passwd dbpassword passphrase pwd auth"
    " basic_auth authorization bearer credentials api_keys private_keys cookie"
).split()
NO_SECRETS = [
    *(("num_tokens", 196), ("max_tokens", "77"), ("tokens", 196), ("reg_tokens", 4)),
    *(("mask_token", True), ("mask_token", "zeros"), ("class_token", "mean")),
    *(("key", None), ("api_key", ""), ("auth", False), ("tokens", [64, 128])),
    *(("author", "me"), ("authors", ["me"]), ("authority", "me"), ("keyboard", "de")),
    *(("keys", ["image", "label"]), ("sort_key", "path"), ("image_key", "jpg")),
    *(("monkey", "see"), ("tokenizer", "bpe"), ("token_dim", 64), ("key_dim", 64)),
    *(("password_length", 12), ("num_secrets", 3), ("lr", 0.1), ("", "x"), ("7", "x")),
]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_name_says_is_secret_is_masked_everywhere(name, tmp_path):
    config = OmegaConf.create({"mine": [{name: "hush-hush"}], "log": {"run": "x"}})
    assert "hush-hush" not in to_yaml(config) and "mine" in to_yaml(config)
    arguments = [
        f"++mine.{name}=hush-hush",
        f"++mine={{a: {{{name}: hush-hush}}, b: 1}}",
    ]
    arguments += [f"--{name}", "hush-hush", f"++mine.{name}=hush-hush,2"]
    recorded = masked_arguments(arguments)
    assert "hush" not in str(recorded) and "b: 1" in recorded[1]


@pytest.mark.parametrize(("name", "value"), NO_SECRETS)
def test_other_values_stay_so_that_the_run_can_be_repeated(name, value):
    assert not is_secret(name, value)
    config = {"mine": {name: value}}
    assert masked(OmegaConf.create(config)) == config
    text = json.dumps(value)
    for argument in (f"++mine.{name}={text}", f"++mine={{{name}: {text}, b: 1}}"):
        assert masked_arguments([argument]) == [argument]


words = st.sampled_from(["", "my_", "wandb_", "AWS_", "the-"])


@few
@given(words, st.sampled_from(NAMES), st.text("abcXYZ019_-", min_size=1), st.booleans())
def test_a_secret_is_masked_whatever_stands_around_it(before, name, value, listed):
    value = f"hush{value}"
    text = f"[{value}, {value}]" if listed else value
    line = masked_arguments(
        [f"++a={{b: [1, {{{before}{name}: {text}}}], c: {{d: 2}}}}"]
    )
    assert "hush" not in line[0] and line[0].endswith(", c: {d: 2}}")
    config = {"a": {f"{before}{name}": [value] if listed else value, "c": 1}}
    assert masked(OmegaConf.create(config)) == {"a": {f"{before}{name}": "***", "c": 1}}


@few
@given(
    st.sampled_from(["num_{}", "n_{}", "max_{}", "mask_{}", "cls_{}", "{}"]),
    st.sampled_from(["tokens", "secrets", "keys"]),
    st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none(),
)
def test_a_count_is_no_secret(form, name, value):
    assert not is_secret(form.format(name), value)


@few
@given(st.text("abz09._%:+@!", min_size=1), st.sampled_from(["https", "s3", "redis"]))
def test_a_password_in_a_url_is_masked_in_any_text(password, scheme):
    url = f"see {scheme}://me:hush{password}@host:80/a@b?c=1, and"
    kept = f"see {scheme}://me:***@host:80/a@b?c=1, and"
    config = OmegaConf.create({"log": {"tags": [url]}, "url": url})
    assert masked(config) == {"log": {"tags": [kept]}, "url": kept}
    assert masked_arguments([f"++mine.url='{url}'", url]) == [
        f"++mine.url='{kept}'",
        kept,
    ]


@pytest.mark.parametrize(
    "url", ["https://host:8080/a@b", "git@host:a/b", "https://me@host/a", "a://b/c:d@e"]
)
def test_other_urls_stay(url):
    assert masked(OmegaConf.create({"url": url})) == {"url": url}


def test_a_folder_of_the_shell_is_no_password(monkeypatch):
    monkeypatch.setenv("PWD", "/home/me")
    monkeypatch.setenv("MY_PWD", "hush-hush")
    config = {"root": "${oc.env:PWD}/data", "text": "is ${oc.env:MY_PWD}"}
    kept = {"root": "/home/me/data", "text": "is ***"}
    assert masked(OmegaConf.create(config)) == kept


def test_a_masked_password_is_asked_for(forge, command, started):
    folder = forge(changes={"mine": {"url": "https://me:***@host", "passwd": "***"}})
    code, _, err = command("rerun", folder)
    assert code == 2 and err.startswith("error: mine.url was a secret and is masked")
    code, _, err = command("rerun", folder, "mine.url=https://me:x@host")
    assert code == 2 and err.startswith("error: mine.passwd was a secret")
    assert not started


@pytest.mark.parametrize("before", [None, 0o644, 0o666, 0o600])
def test_a_private_file_is_its_owners_alone(tmp_path, before):
    path = tmp_path / "environment.json"
    if before is not None:
        path.write_text("old")
        path.chmod(before)
    for text in ("old", "new", "new"):
        write_atomically(path, text, private=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == text


# --- texts of a run folder ------------------------------------------------------------

NASTY = [
    "a\n\\input{/etc/passwd}",
    "a\r\\input{/etc/passwd}",
    "a\u2028\\input{/etc/passwd}",
    "<script>alert(1)</script>",
    "[a](javascript:alert(1)) ![b](http://c)",
    "a|b\\|c`d`",
    "=1+cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\t=1",
    " =1",
    "\uff1d1",
    "\x1b]0;title\x07\x1b[2Jb",
    "\x9b2J\u202egnp",
    "$\\mathbf{x}$ and $",
    "$\\unknown{",
    "_a & % # ~ ^ { }",
]


@pytest.fixture
def nasty(forge):
    """Return frames of runs in which one text stands in every place that has one."""

    def make(text):
        metric, key = f"test/{text}_acc1", text.replace("/", "")
        for seed, value in enumerate((0.5, 0.6)):
            row = {"step": 1, "epoch": 1.0, "time": 1.0, metric: value, "val/loss": 0.1}
            facts = {f"{text}_acc1": {"label": text, "title": text, "protocol": text}}
            forge(
                f"s{seed}",
                {"hardware.seed": seed, "mine": {key: text}, "log.monitor": metric},
                rows=[row],
                metrics=facts,
            )
        runs = report.load(forge("other", rows=[ROW]).parent)[0]
        return runs[runs[metric].notna()], f"mine.{key}", metric

    return make


@pytest.mark.parametrize("text", NASTY)
def test_it_is_text_in_every_format_of_a_table(nasty, text):
    runs, key, metric = nasty(text)
    table = report.table(runs, [key], value=metric)
    made = {
        kind: getattr(table_formats, kind)(table)
        for kind in ("text", "markdown", "csv", "latex")
    }
    for kind, shown in made.items():
        assert all(c == "\n" or c.isprintable() for c in shown), kind
    body = made["latex"].splitlines()
    assert [line for line in body if line.startswith("%")] == body[:2]
    assert not any(re.search(r"\\(input|unknown|mathbf)", line) for line in body[2:])
    for plain in re.findall(r"(?<!\\)[#$%&_]", "".join(body[2:])):
        assert plain in "&$"  # between the cells, and around \pm
    assert "<" not in made["markdown"]
    assert not re.search(r"(?<!\\)[\[\]`]", made["markdown"])
    widths = {
        len(re.findall(r"(?<!\\)\|", line)) for line in made["markdown"].split("\n")
    }
    assert widths == {0, 3}
    for cells in csv.reader(io.StringIO(made["csv"])):
        for cell in cells:
            formula = cell.lstrip().startswith(table_formats.FORMULA)
            assert not formula or re.fullmatch(r"-|-?[\d.]+", cell)


@few
@given(st.text(min_size=1))
def test_any_text_is_one_line_and_no_command_of_any_format(text):
    latex, markdown, cell = (
        getattr(table_formats, f)(text) for f in ("in_latex", "in_markdown", "in_csv")
    )
    for shown in (latex, markdown, printable(text), style.literal(text)):
        assert "\r" not in shown and "\x1b" not in shown and "\u2028" not in shown
    assert "\n" not in latex + markdown + printable(text)
    assert not re.search(r"(?<!\\)[%&#_]|\\input", latex)
    assert "<" not in markdown and not re.search(r"(?<!\\)(\\\\)*[\[\]|`*]", markdown)
    number = re.fullmatch(r"\s*[-+]?[\d_.einfatyEINFATY+-]+\s*", text)
    assert not cell.lstrip().startswith(table_formats.FORMULA) or number or text == "-"


@pytest.mark.parametrize("text", ["-0.5", "+1e-3", "-inf", "-", "0.5", "a=b", "it's"])
def test_numbers_and_other_cells_stay_as_they_are(text):
    assert table_formats.in_csv(text) == text


@pytest.mark.parametrize(
    "text", ["$x$", "$\\unknown{", "a$b", "\\$x\\$ $", "x\ny\x1b$"]
)
def test_a_dollar_is_drawn_as_one(nasty, text, tmp_path):
    from matplotlib.figure import Figure

    runs, key, metric = nasty(text)
    figure = Figure()
    drawn = figure.text(0, 0, style.literal(text))
    figure.savefig(tmp_path / "one.png")
    assert drawn.get_text().lstrip().replace("\\$", "$") == printable(text, "\n")
    assert not drawn.get_text().startswith("_")  # which no legend shows
    runs = runs.assign(**{key: [f"1{text}", f"2{text}"]})
    style.save(report.compare(runs, metric, [key]), tmp_path / "compare")
    group = drawing.Group(text, text, runs, "k")
    assert group.drawn == style.literal(text)


@pytest.mark.parametrize("text", ["\x1b]0;x\x07", "a\nerror: b", "<script>", "=1"])
def test_what_a_command_prints_steers_no_terminal(nasty, command, text, tmp_path):
    nasty(text)
    lines = ["table logs", "table logs --value test/no", "report logs", "plot logs"]
    lines += [f"table logs --format {kind}" for kind in ("markdown", "csv", "latex")]
    for line in lines:
        _, out, err = command(*line.split())
        assert all(c == "\n" or c.isprintable() for c in out + err), line
        quoted = "csv" in line  # a line break within a cell
        assert quoted or not re.search("^error: b", out + err, re.M)
    page = (tmp_path / "report.html").read_text()
    assert len(re.findall("<script", page)) == page.count("</script>") == 3 + 2
    names = [path.name for path in (tmp_path / "figures").glob("*")]
    assert all(name.isprintable() for name in names)


def test_a_label_of_another_kind_is_none(forge, command):
    folder = forge(metrics={"knn_acc1": {"label": ["a"], "order": "b"}})
    code, out, err = command("table", folder)
    assert code == 0 and "test/knn_acc1" in out, err


def test_a_command_of_a_page_can_be_pasted(forge, command, tmp_path):
    launch = {"argv": ["a\x1b[201~; evil\n", "b"], "git": {"commit": 3, "diff": [1]}}
    folder = forge(launch=launch)
    assert command("report", folder)[0] == 0
    page = (tmp_path / "report.html").read_text()
    report_of = json.loads(re.search(r'id="report">(.*?)</script>', page)[1])
    (told,) = report_of["runs"][0]["launches"]
    assert told["command"].isprintable() and told["command"].startswith("'a\\x1b")
    assert report_of["environments"][told["machine"]]["git"]["commit"] == "3"
