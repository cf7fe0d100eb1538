"""Two tasks, a signal in mid-epoch, scancel: on a real Slurm."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from stable_ssl import checkpoint
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slurm

QUICK = [
    "log.run=run",
    "optim.epochs=30",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.pictures=null",
    "log.eval.every_n_epochs=10",
    "log.every_n_steps=3",
    "hydra.launcher.timeout_min=10",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=null",
]
MAIN = REPOSITORY / "runs" / "main.py"


def line(folder, launcher, *overrides):
    """Return the command line of a run in a folder."""
    launcher = [f"hydra/launcher={launcher}"] if launcher else []
    place = f"log.folder={folder}"
    quick = [q for q in QUICK if launcher or not q.startswith("hydra")]
    return [sys.executable, str(MAIN), *launcher, place, *quick, *overrides]


def submit(folder, launcher, *overrides):
    """Start a command that waits for its job; return it once the job trains."""
    process = subprocess.Popen(
        line(folder, launcher, *overrides),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    rows = folder / "runs" / "simclr" / "run" / "metrics.jsonl"
    end = time.monotonic() + 180
    while not (rows.exists() and rows.read_text().count("train/loss") >= 4):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the job does not start"
        time.sleep(0.05)
    return process


def outcome(folder):
    run = folder / "runs" / "simclr" / "run"
    status = json.loads((run / "status.json").read_text())["status"]
    launches = json.loads((run / "environment.json").read_text())
    state = checkpoint.load(run / "ckpts" / "last.ckpt")
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    plain = [
        {k: v for k, v in row.items() if k.partition("/")[0] not in ("time", "perf")}
        for row in rows
    ]
    return status, launches, state, plain


def same(a, b):
    assert a[3] == b[3]
    for part in ("modules", "optimizers", "evaluators", "ranks"):
        assert checkpoint.equal(a[2][part], b[2][part]), part


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train here, undisturbed, by one and by two processes."""
    found = {}
    for n in (1, 2):
        folder = tmp_path_factory.mktemp(f"whole{n}")
        done = subprocess.run(
            line(folder, None, f"hardware.processes={n}"),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found[n] = outcome(folder)
    return found


def job_of(folder):
    return outcome_of_launch(folder)["slurm"]["SLURM_JOB_ID"]


def outcome_of_launch(folder):
    file = folder / "runs" / "simclr" / "run" / "environment.json"
    return json.loads(file.read_text())[-1]


def test_two_tasks_are_two_ranks(slurm, whole, tmp_path):
    two = "hydra.launcher.tasks_per_node=2"
    done = subprocess.run(
        line(tmp_path, "submitit_slurm", two), cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    found = outcome(tmp_path)
    assert found[0] == "finished" and found[1][-1]["processes"] == 2
    same(found, whole[2])


def test_signals_in_mid_epoch_requeue_and_end_bit_identical(slurm, whole, tmp_path):
    """A requeued job waits about two minutes; so both wait together."""
    waiting = {}
    for tasks in (1, 2):
        folder = tmp_path / str(tasks)
        folder.mkdir()
        asked = [f"hydra.launcher.tasks_per_node={tasks}"]
        if tasks == 1:
            asked += ["log.resume=null"]  # its own folder is no other run's
        waiting[tasks] = submit(folder, "submitit_slurm", *asked)
        subprocess.run(["scancel", "--signal=USR2", job_of(folder)], check=True)
    for tasks, process in waiting.items():
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
        found = outcome(tmp_path / str(tasks))
        assert found[0] == "finished" and len(found[1]) == 2, "it was not interrupted"
        assert found[1][1]["slurm"]["SLURM_RESTART_COUNT"] == "1"
        same(found, whole[tasks])


def test_scancel_leaves_no_half_written_file(slurm, tmp_path):
    process = submit(tmp_path, "submitit_slurm", "log.checkpoint.every_n_steps=1")
    subprocess.run(["scancel", job_of(tmp_path)], check=True)
    run = tmp_path / "runs" / "simclr" / "run"
    end = time.monotonic() + 60
    while json.loads((run / "status.json").read_text())["status"] == "running":
        assert time.monotonic() < end, "the status never changed"
        time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=60)
    status, _, state, rows = outcome(tmp_path)
    assert status in ("preempted", "failed") and state["step"] > 0 and rows
    assert not list(run.rglob("*.tmp"))


def test_a_time_out_of_the_local_launcher_resumes_in_the_same_folder(whole, tmp_path):
    """submitit_local needs no Slurm: it signals, and starts the job again itself."""
    process = submit(tmp_path, "submitit_local")
    os.kill(outcome_of_launch(tmp_path)["pid"], signal.SIGUSR2)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    found = outcome(tmp_path)
    assert found[0] == "finished" and len(found[1]) == 2
    same(found, whole[1])
