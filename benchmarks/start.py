"""What it takes to start, beside bare scripts with the same imports, in one run.

Each start is a process of its own, with one thread; both sides take turns. A figure is
the median of the seconds of CPU, a ratio that of the ratios of the same round. The last
figures are of a sweep, composed and checked in this process.

    python benchmarks/start.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measured import Measured, paired, run

HYDRA = """
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
ConfigStore.instance().store("config", {"optim": {"lr": 0.3}})
with initialize_config_module("hydra.conf", version_base="1.3"):
    config = compose("config", ["optim.lr=0.3"])
"""
STEP = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
torch.set_num_threads(1)
layers, last = [], 1
for i, width in enumerate((32, 64, 128, 128)):
    layers += [nn.Conv2d(last, width, 3, padding=1, bias=False)]
    layers += [nn.MaxPool2d(2)] if i in (0, 2) else []
    layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    last = width
layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 2048, bias=False)]
layers += [nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, 128, bias=False)]
model = nn.Sequential(*layers, nn.BatchNorm1d(128))
optimizer = torch.optim.SGD(model.parameters(), lr=config.optim.lr, momentum=0.9)
z = normalize(torch.cat([model(torch.rand(128, 1, 8, 8)) for _ in range(2)]))
logits = (z @ z.T / 0.5).fill_diagonal_(-1e9)
cross_entropy(logits, torch.arange(256).roll(128)).backward()
optimizer.step()
"""
END = "import os; os._exit(0)"  # as FIRST_STEP, without tidying up
PROBE = "\nimport sklearn.linear_model\n"  # of the recipe's few labels
COMMAND = "from stable_ssl.commands import main; main()"
FIRST_STEP = """
import os, stable_ssl
class First(stable_ssl.SimCLR):
    def after_train_step(self):
        os._exit(0)
stable_ssl.launch(First, "simclr")
"""
RUN = ["--config-name=simclr", "fast_dev_run=true"]
LATER = "log.eval.untrained=false"  # nothing is evaluated before the first step
LINES = (  # what, script, arguments, bare script
    ("-h", COMMAND, ["-h"], HYDRA),
    ("table -h", COMMAND, ["table", "-h"], "import omegaconf, argparse"),
    ("--cfg job", COMMAND, ["--cfg", "job"], HYDRA),
    ("first step", FIRST_STEP, [*RUN[1:], LATER], HYDRA + STEP + END),
    ("first step, evaluated before", FIRST_STEP, RUN[1:], PROBE + HYDRA + STEP + END),
    ("fast_dev_run, whole", COMMAND, RUN, PROBE + HYDRA + STEP),
)


def seconds(script, arguments, folder):
    """Return the CPU time of a process that runs a script."""
    line = [sys.executable, "-c", script, *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, cwd=folder, env=one, **quiet)
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(said.decode())
    return used.ru_utime + used.ru_stime


def compare(what, script, arguments, bare, rounds, folder):
    """Return the figure of a command line beside a bare script."""
    sides = (script, arguments), (bare, [])
    for side in sides:
        seconds(*side, folder)  # files into the page cache, bytecode
    runs = [[seconds(*side, folder) for side in sides] for _ in range(rounds)]
    ours, theirs = zip(*runs, strict=True)
    middle, ahead = statistics.median(ours), paired(theirs, ours)
    return Measured(what, middle, "s of CPU", "a bare script", ahead, "step" in what)


def sweep(jobs):
    """Yield the CPU time from a sweep's command line to its first job."""
    import torch._dynamo  # noqa: F401, which a rehearsal's optimizer imports
    from hydra.types import RunMode

    from stable_ssl.commands import jobs as of_jobs
    from stable_ssl.commands import launcher

    class Started(BaseException):
        """The first job would start now."""

    def start(*_):
        raise Started

    def rehearse(*job, rehearse=of_jobs.rehearse):
        begin = time.process_time()
        rehearse(*job)
        rehearsed.append(time.process_time() - begin)

    rehearsed = []
    launcher.Job.__call__, of_jobs.rehearse = start, rehearse
    line = ["-m", f"optim.lr=range(1,{jobs + 1})"]
    begin = time.process_time()
    command = launcher.Command(line, None, "simclr", None, Path.cwd())
    try:
        command.execute()
    except Started:
        used = time.process_time() - begin
    hydra = command.session.config_loader.loader
    begin = time.process_time()
    for number in range(20):
        hydra.load_configuration("simclr", [f"optim.lr={number}"], RunMode.RUN)
    alone = (time.process_time() - begin) / 20 * jobs
    what = f"a sweep of {jobs} jobs, to its first"
    yield Measured(what, used, "s of CPU", "Hydra's composing", alone / used, True)
    yield Measured("of it a rehearsal", sum(rehearsed), "s of CPU")


def measure(rounds, jobs):
    """Yield a figure for each start, and two for a sweep."""
    with tempfile.TemporaryDirectory() as folder:
        for line in LINES:
            yield compare(*line, rounds, folder)
        os.chdir(folder)
        yield from sweep(jobs)


if __name__ == "__main__":
    run(measure, __doc__, rounds=7, jobs=500)
