"""Checkpoints written while the training goes on: nothing lost, nothing silent."""

import errno
import json
import os
import signal
import threading
import time
from collections import OrderedDict, deque
from pathlib import Path

import pytest
import torch

from stable_ssl import ConfigError, checkpoint
from stable_ssl.background import NAME, Background
from stable_ssl.checkpoint import Checkpoints, equal, load, save, snapshot
from stable_ssl.lifecycle import Diverged


@pytest.fixture(autouse=True)
def background(monkeypatch):
    """Write small checkpoints in the background, too."""
    monkeypatch.setattr(checkpoint, "LARGE", 0)


@pytest.fixture
def slow(monkeypatch):
    """Let a save begin when the training has gone on for a while."""

    def late(path, state):
        time.sleep(0.2)
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", late)


def full(monkeypatch, step):
    """Let the disk be full for the checkpoint of a step."""

    def fail(path, state):
        if state["step"] == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", fail)


def settled():
    """Wait until no thread writes, and leave its error where it is."""
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join()


def status(run):
    return json.loads((run.run_dir / "status.json").read_text())


# --- one job --------------------------------------------------------------------------


def fail():
    raise OSError("no disk")


@pytest.mark.parametrize("look", ["check", "wait", "start"])
def test_the_error_of_a_job_is_raised_once_where_one_looks_next(look):
    background = Background()
    background.start(fail)
    settled()
    arguments = [print] * (look == "start")
    with pytest.raises(OSError, match="no disk"):
        getattr(background, look)(*arguments)
    background.wait()


def test_one_job_is_done_at_a_time():
    background, running = Background(), []

    def job():
        running.append(1)
        assert len(running) == 1
        time.sleep(0.01)
        running.pop()

    for _ in range(3):
        background.start(job)
    background.wait()
    assert not running


# --- the copy -------------------------------------------------------------------------


def nested_state():
    """Return a state of tensors that share memory, of any layout, and containers."""
    base = torch.arange(24.0)
    leaf = torch.ones(3, requires_grad=True)
    modules = OrderedDict(weight=base.view(2, 3, 4), tied=base[4:10], bias=base[::2])
    modules._metadata = {"": {"version": 1}}
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    return {
        "modules": modules,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "of a graph": [2 * leaf, (2 * leaf).view(3, 1)],
        "images": images,
        "complex": torch.tensor([1 + 2j]).conj(),
        "empty": [torch.empty(0), torch.empty(0, dtype=torch.int64)],
        "plain": (1, "two", None, {"three": [3.0]}),
    }


def test_what_is_written_in_the_background_has_the_bytes_of_what_is_waited_for(
    tmp_path,
):
    state = nested_state()
    at_once, later = tmp_path / "at_once.ckpt", tmp_path / "later.ckpt"
    for name in ("of a graph", "complex"):  # whose copies have equal values alone
        del state[name]
    save(at_once, state)
    save(later, snapshot(state))
    assert at_once.read_bytes() == later.read_bytes()


def test_a_copy_shares_memory_as_the_state_does_and_none_with_it():
    state = nested_state()
    found = snapshot(state)
    assert equal(found, state | {"of a graph": found["of a graph"]})
    assert equal(found["of a graph"], [t.detach() for t in state["of a graph"]])
    for tensor in (state["modules"]["weight"], state["images"]):
        tensor.zero_()
    assert found["modules"]["tied"].tolist() == [4, 5, 6, 7, 8, 9]
    found["modules"]["weight"].zero_()
    assert not found["modules"]["tied"].any() and found["images"].any()
    assert found["modules"]._metadata == state["modules"]._metadata


def test_elsewhere_than_on_the_host_memory_is_shared_as_well():
    """As of a GPU: what no `deepcopy` can copy goes the same way."""
    base = 2 * torch.arange(6.0, requires_grad=True)
    views = base.view(2, 3), base[2:4], base.view(2, 3).t()
    found = snapshot({"views": views})["views"]
    assert all(torch.equal(a, b) for a, b in zip(found, views, strict=True))
    assert [view.stride() for view in found] == [view.stride() for view in views]
    found[0].zero_()
    assert not any(view.any() for view in found) and base[1:].all()


def test_the_state_is_that_of_the_moment_of_the_save(tmp_path, monkeypatch):
    go = threading.Event()

    def held(path, state):
        go.wait()
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", held)
    state = {"step": 1, "w": torch.zeros(3), "metrics": {"loss": 1.0}}
    keep = Checkpoints(tmp_path, top_k=0, last=True, largest=True)
    path = keep.save(state, 0, 1, None)
    state["w"] += 1
    state["metrics"]["loss"] = 2.0
    assert not path.exists()
    go.set()
    keep.background.wait()
    found = load(path)
    assert not found["w"].any() and found["metrics"] == {"loss": 1.0}


# --- who waits ------------------------------------------------------------------------


def test_a_resume_and_the_end_wait_for_what_is_in_flight(tmp_path, slow):
    keep = Checkpoints(tmp_path, top_k=1, last=False, largest=True)
    for step, value in ((1, 0.9), (2, 0.1), (3, 0.2)):
        keep.save({"step": step, "epoch": 0, "best": []}, 0, step, value)
    keep.resume({"step": 2, "epoch": 0, "best": [(0.9, "e000_s000001.ckpt")]})
    assert not (tmp_path / "e000_s000003.ckpt").exists()
    keep.save({"step": 3, "epoch": 0}, 0, 3, 0.2)
    keep.finish()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.ckpt", "e000_s000001.ckpt"]


class Killed(Exception):
    """Stands for an error of the user's."""


@pytest.mark.parametrize("end", ["its end", "SIGTERM", "an error", "cleanup"])
def test_a_run_leaves_when_its_checkpoint_is_written(tiny, config, slow, end):
    class Ending(tiny):
        def after_train_step(self):
            if self.step == 5 and end == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            if self.step == 5 and end == "an error":
                raise Killed

    run = Ending(config("base", "log.checkpoint.every_n_steps=4"))
    if end == "cleanup":
        run.setup()
        run.save_checkpoint()
        run.cleanup()
    elif end == "its end":
        run.run()
    else:
        with pytest.raises((Killed, SystemExit)):
            run.run()
    step = {"its end": 18, "SIGTERM": 5, "an error": 4, "cleanup": 0}[end]
    assert load(run.run_dir / "ckpts" / "last.ckpt")["step"] == step
    assert not list(run.run_dir.rglob(".*.tmp"))
    if end == "SIGTERM":
        assert status(run)["status"] == "preempted"


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "noticed"), [(4, 5), (18, 18)], ids=["next step", "end"]
)
def test_a_disk_that_is_full_in_the_background_ends_the_run(
    tiny, config, monkeypatch, step, noticed
):
    class Watched(tiny):
        def after_train_step(self):
            settled()  # so that the step is known in which it is noticed

    full(monkeypatch, step)
    run = Watched(config("base", "log.checkpoint.every_n_steps=4"))
    words = f"s{step:06d}.ckpt could not be written: No space left.*free some space"
    with pytest.raises(ConfigError, match=words) as caught:
        run.run()
    assert "\n" not in str(caught.value) and run.step == noticed
    assert status(run)["status"] == "failed"
    assert "No space left" in status(run)["reason"]


def test_a_signal_does_not_end_a_run_as_saved_that_is_not(tiny, config, monkeypatch):
    class Signalled(tiny):
        def after_train_step(self):
            if self.step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    full(monkeypatch, 5)
    run = Signalled(config())
    with pytest.raises(ConfigError, match="s000005.ckpt could not be written: No spa"):
        run.run()
    assert status(run)["status"] == "failed"


def test_beside_another_error_a_checkpoint_that_failed_is_a_warning(
    tiny, config, monkeypatch
):
    class Diverging(tiny):
        def after_train_step(self):
            if self.step == 4:
                settled()
                raise Diverged("by hand")

    full(monkeypatch, 3)
    run = Diverging(config("base", "log.checkpoint.every_n_steps=3"))
    with (
        pytest.warns(UserWarning, match="s000003.ckpt could not be written: No space"),
        pytest.raises(Diverged, match="by hand"),
    ):
        run.run()
    assert status(run)["status"] == "diverged"


# --- going on -------------------------------------------------------------------------


def test_a_run_saved_in_the_background_goes_on_exactly(tiny, config, rows):
    """And keeps no page of the file that it goes on from."""

    class Extra(torch.nn.Module):
        seen = torch.zeros(2)

        def get_extra_state(self):
            return {"seen": self.seen}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    class Kept(tiny):
        dies_at, mapped = None, ()

        def initialize_modules(self):
            super().initialize_modules()
            self.register_buffer("seen", torch.zeros(2), persistent=False)
            self.queue, self.mean = deque(maxlen=3), torch.zeros(64)
            self.extra = Extra()

        def before_train_step(self):
            lines = Path("/proc/self/maps").read_text().splitlines()
            self.mapped = [line for line in lines if str(self.run_dir) in line]

        def after_train_step(self):
            views, _ = self.data
            x = views[0] if isinstance(views, list) else views
            self.queue.append(x.flatten(1).mean(0))
            self.mean = self.mean + self.queue[0]
            self.seen += 1
            if self.step == self.dies_at:
                raise Killed

    keys = ["log.checkpoint.every_n_steps=4", "optim.optimizer=adamw", "optim.lr=0.01"]
    keys += ["log.every_n_steps=3"]
    whole, killed, resumed = (
        Kept(config("base", f"log.run={name}", *keys)) for name in ("a", "b", "b")
    )
    whole.run()
    killed.dies_at = 6
    with pytest.raises(Killed):
        killed.run()
    resumed.run()
    assert "step 4" in (resumed.run_dir / "console.log").read_text()
    assert not resumed.mapped
    ends = [load(run.run_dir / "ckpts" / "last.ckpt") for run in (whole, resumed)]
    for end in ends:
        for name in ("config", "rows", "metrics"):
            del end[name]
    assert equal(*ends) and rows(whole.run_dir) == rows(resumed.run_dir)
