"""One process owns a run folder; who is gone loses it, who lives keeps it."""

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stable_ssl import lock
from stable_ssl.distributed import RankFailed
from stable_ssl.lifecycle import run_on_ranks
from stable_ssl.lock import STALE_SECONDS, Lock, Taken, is_alive, is_held, this_process
from stable_ssl.tools.runs import read_run


def write(folder, owner, age=0.0):
    """Write the lock of another process, touched so many seconds ago."""
    path = folder / lock.NAME
    path.write_text(json.dumps(owner) if isinstance(owner, dict) else owner)
    os.utime(path, (time.time() - age,) * 2)


def other(**changed):
    """Return a living process of this machine that is not this one."""
    found = {**this_process(), "pid": 1, "token": "another"}
    return found | {"started": this_process_started(1)} | changed


def this_process_started(pid):
    text = open(f"/proc/{pid}/stat").read()
    return text.rpartition(")")[2].split()[19]


def gone():
    """Return the number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


LIVING = {
    "a process of this machine": {},
    "another machine": {"machine": "elsewhere None", "pid": 2**22 + 1},
    "another container of this machine": {
        "machine": f"{platform.node()} pid:[7]",
        "pid": 2**22 + 1,
    },
    "the same job, as often started": {"machine": "elsewhere None", "job": "7"},
    "the same job, started again since": {"job": "7", "restart": 3},
    "another machine of its name": {"boot": "another"},
    "another job": {"machine": "elsewhere None", "job": "8", "restart": 0},
}
GONE = {
    "no such process": {"pid": 2**22 + 1},
    "its number is another's now": {"started": "1"},
    "the job was started again": {"machine": "e None", "job": "7", "restart": 1},
}


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")


@pytest.mark.parametrize("kind", LIVING)
def test_who_may_live_keeps_the_folder(tmp_path, job, kind):
    restart = {"restart": 2} | LIVING[kind]
    age = lock.TOUCH_SECONDS if "boot" in LIVING[kind] else STALE_SECONDS - 60
    write(tmp_path, other(**restart), age)
    before = (tmp_path / lock.NAME).read_bytes()
    with pytest.raises(Taken, match="in use by process .* alive \d+ s ago.*log.run"):
        Lock(tmp_path)
    assert (tmp_path / lock.NAME).read_bytes() == before
    assert os.listdir(tmp_path) == [lock.NAME]
    assert is_held(tmp_path)


@pytest.mark.parametrize("kind", [*LIVING, *GONE])
def test_who_is_gone_or_silent_loses_it(tmp_path, job, kind):
    restart = {"restart": 2} | LIVING.get(kind, {}) | GONE.get(kind, {})
    age = 5 if kind in GONE else STALE_SECONDS + 60
    write(tmp_path, other(**restart), age)
    assert is_held(tmp_path) is False
    Lock(tmp_path).release()
    assert os.listdir(tmp_path) == []


def test_who_lived_before_the_machine_booted_is_gone(tmp_path):
    write(tmp_path, other(boot="another"), age=3 * lock.TOUCH_SECONDS)
    assert is_held(tmp_path) is False
    Lock(tmp_path).release()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    owner=st.dictionaries(
        st.sampled_from([*this_process(), "token"]),
        st.sampled_from(
            [None, "7", 1, [], True, 2**80, -1, "\0", *this_process().values()]
        ),
    ),
    age=st.floats(-1e9, 1e9),
)
def test_whatever_a_lock_says_it_is_judged(owner, age):
    """A machine may have been moved, its clock set, its file edited."""
    with mock.patch.dict(os.environ, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1"):
        assert is_alive(owner, age) in (True, False)
        assert not is_alive(owner, STALE_SECONDS)


@pytest.mark.parametrize("torn", ["", "{", "[]", "7", "null"])
def test_a_torn_lock_is_nobodys(tmp_path, torn):
    """It is complete before it has its name, so a crash of the machine tore it."""
    write(tmp_path, torn)
    Lock(tmp_path).release()


def test_an_earlier_trainer_of_a_notebook_gives_way(tmp_path):
    earlier = Lock(tmp_path)
    now = Lock(tmp_path)
    assert now.is_ours()
    with pytest.raises(Taken, match="taken over by process .*writes no more"):
        earlier.is_ours()
    earlier.release()  # of which the later one is none the worse
    assert now.is_ours()


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TOUCH_SECONDS", 0.01)
    held = Lock(tmp_path)
    write(tmp_path, json.loads((tmp_path / lock.NAME).read_text()), age=900)
    while time.time() - (tmp_path / lock.NAME).stat().st_mtime > 60:
        time.sleep(0.01)  # or the test would never end
    held.release()


def race(folder, barrier, results):
    barrier.wait()
    try:
        held = Lock(folder)
    except Taken:
        results.put("refused")
        return
    time.sleep(1)  # of training
    try:
        results.put("owner" if held.is_ours() else "deleted")
    except Taken:
        results.put("ended")


@pytest.mark.parametrize("stale", [False, True])
def test_of_several_processes_one_owns_the_folder(tmp_path, stale):
    if stale:
        write(tmp_path, other(pid=2**22 + 1))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(6), context.Queue()
    processes = [
        context.Process(target=race, args=(tmp_path, barrier, results))
        for _ in range(6)
    ]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found.count("owner") == 1 and "deleted" not in found


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def unsupported(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    held = Lock(tmp_path)
    write(tmp_path, other())
    with pytest.raises(Taken):
        Lock(tmp_path)
    held.release()


# --- runs -----------------------------------------------------------------------------


def test_a_second_process_is_refused_and_nothing_is_written(tiny, config, rows):
    first = tiny(config())
    first.setup()
    write(first.run_dir, other())
    before = {p: p.read_bytes() for p in first.run_dir.rglob("*") if p.is_file()}
    with pytest.raises(Taken, match="is in use by process 1 "):
        tiny(config()).run()
    assert before == {p: p.read_bytes() for p in before}
    assert read_run(first.run_dir).status == "running"
    with pytest.raises(Taken, match="taken over by process 1"):
        first.fit()  # it had only been suspended
    first.cleanup()
    assert before == {p: p.read_bytes() for p in before}


def test_a_second_launch_on_ranks_leaves_the_status_alone(tiny, config, monkeypatch):
    def refused(*_):
        raise RankFailed("rank 1: Connection closed by peer")

    first = tiny(config())
    first.setup()
    monkeypatch.setattr("stable_ssl.distributed.spawn", refused)
    for owner, status in ((other(), "running"), (other(pid=gone()), "failed")):
        write(first.run_dir, owner)
        with pytest.raises(RankFailed):
            run_on_ranks(tiny(config()), 2)
        assert json.loads((first.run_dir / "status.json").read_text())["status"] == (
            status
        )
    first.cleanup()


def test_a_run_whose_process_is_gone_is_lost_until_it_goes_on(tiny, config):
    run = tiny(config())
    run.setup()
    write(run.run_dir, other(pid=gone()))
    found = read_run(run.run_dir)
    assert (found.status, found.rows) == ("lost", [])
    again = tiny(config())
    again.run()
    assert read_run(run.run_dir).status == "finished"
    assert not (run.run_dir / lock.NAME).exists()


def test_two_processes_at_once(main, tmp_path):
    keys = ["optim.epochs=2", f"log.folder={tmp_path}", "log.run=run"]
    keys += ["log.pictures=null", "log.every_n_steps=2", "log.eval.few_labels=[]"]
    line = [sys.executable, main, *keys]
    processes = [
        subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2]
    (refused,) = [e for e in errors if "is in use by process" in e]
    assert "Traceback" not in refused
    lines = (tmp_path / "runs/simclr/run/metrics.jsonl").read_text().splitlines()
    steps = [r["step"] for r in map(json.loads, lines) if "train/loss" in r]
    assert steps == sorted(set(steps)) and len(steps) > 5
