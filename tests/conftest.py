"""Shared pieces: small configs, a tiny trainer, command lines as a user types them."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stable_ssl import BaseTrainer, distributed, load_config
from stable_ssl.distributed.config import Hardware

torch.set_num_threads(1)  # tiny models; two threads wait for each other on busy cores
os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start, too
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPOSITORY / "tests" / "REQUIREMENTS.rst"
MARKERS = ("slow", "slurm", "gpu", "references")


class Tiny(BaseTrainer):
    """Classify digits with one linear layer: the smallest trainer."""

    predicts = True

    def initialize_modules(self):
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def compute_loss(self):
        views, labels = self.data
        x = views[0] if isinstance(views, list) else views
        return torch.nn.functional.cross_entropy(self(x), labels)


@pytest.fixture
def tiny():
    return Tiny


@pytest.fixture
def config(tmp_path):
    """Return a maker of small configs that write under tmp_path."""

    def make(name="base", *overrides):
        small = [
            f"log.folder={tmp_path}",
            "log.run=run",
            "optim.epochs=2",
            "optim.scheduler.warmup_epochs=0",
            "log.eval.untrained=false",
            "log.eval.few_labels=[]",
            "log.every_n_steps=3",
            "log.eval.every_n_epochs=1",
            "optim.lr=0.1",
        ]
        keys = {o.lstrip("+").partition("=")[0] for o in overrides}
        if not any(name.startswith("log.pictures") for name in keys):
            small.append("log.pictures=null")  # drawing takes longer than the rest
        small = [o for o in small if o.partition("=")[0] not in keys]
        return load_config(name, [*small, *overrides])

    return make


@pytest.fixture
def rows():
    """Return a reader of a run's metrics.jsonl, wall-clock fields left out."""

    def read(run_dir):
        lines = (Path(run_dir) / "metrics.jsonl").read_text().splitlines()
        return [
            {
                k: v
                for k, v in json.loads(line).items()
                if k.partition("/")[0] not in ("time", "perf")
            }
            for line in lines
        ]

    return read


@pytest.fixture
def shell(tmp_path):
    """Return a runner of `python <arguments>` in an empty folder."""

    def run(*arguments, cwd=tmp_path, timeout=240, **environment):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


def on_a_rank(fn, *arguments):
    """Join the group, call, leave it; return every rank's value."""
    hardware = Hardware(gpus=0, accelerator="cpu")
    distributed.start(hardware)
    torch.set_num_threads(1)
    try:
        value = fn(*arguments)
        distributed.start(hardware)  # a trainer leaves the group at its end
        return distributed.all_gather_object(value)
    finally:
        distributed.stop()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Keep the indexes of the tests' data away from the user's."""
    os.environ["STABLE_SSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def logging_as_before():
    """Drop the handlers that a test, or what it imports, made for its own stderr."""
    level, before = logging.root.level, _handlers()
    yield
    logging.root.setLevel(level)
    for logger, handler in _handlers() - before:
        logger.removeHandler(handler)


def _handlers():
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {(x, handler) for x in loggers for handler in getattr(x, "handlers", ())}


@pytest.fixture
def ranks(monkeypatch):
    """Return a runner of a test module's function on n processes: [value per rank]."""
    monkeypatch.syspath_prepend(REPOSITORY)  # new interpreters import tests.<module>

    def run(n, fn, *arguments):
        return distributed.spawn(on_a_rank, n, (fn, *arguments))

    return run


@pytest.fixture
def main():
    """Return the path of runs/main.py."""
    return REPOSITORY / "runs" / "main.py"


# --- what tests/REQUIREMENTS.rst names has run ----------------------------------------


def named_tests(text):
    """Return {test: its marker, or ""} of those that a part of the table names."""
    return dict(re.findall(r"``(tests/\S+::test_\w+)``(?: \((\w+)\))?", text))


def pytest_sessionfinish(session, exitstatus):
    """Fail a complete run, of one marker or none, that left a named test out."""
    config, option = session.config, session.config.option
    part = option.keyword or option.deselect or option.collectonly
    part = part or getattr(
        option, "lf", False
    )  # without a cache there is no such option
    whole = config.args_source is config.ArgsSource.TESTPATHS and not part
    marker = option.markexpr if option.markexpr in MARKERS else ""
    one = marker or option.markexpr == " and ".join(f"not {m}" for m in MARKERS)
    if exitstatus or not whole or not one or hasattr(config, "workerinput"):
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    ran, skipped = (
        {report.nodeid.partition("[")[0] for report in reporter.stats.get(kind, ())}
        for kind in ("passed", "skipped")
    )
    named = named_tests(REQUIREMENTS.read_text(encoding="utf-8")).items()
    reporter.line("")
    for test in sorted({test for test, own in named if own == marker} - ran):
        what = "skipped" if test in skipped else "not run"
        reporter.write_line(f"tests/REQUIREMENTS.rst names {test}: {what}", red=True)
        if test not in skipped:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
