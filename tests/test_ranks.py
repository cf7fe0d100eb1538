"""Promise 3: N processes are one process; and what happens when one of them dies."""

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from stable_ssl import checkpoint, distributed, load_config
from stable_ssl.config import ConfigError
from stable_ssl.methods import SimCLR, Supervised
from tests.conftest import REPOSITORY

QUICK = [
    "optim.epochs=3",
    "optim.scheduler.warmup_epochs=1",
    "log.eval.untrained=false",
    "log.eval.few_labels=[2]",
    "log.eval.every_n_epochs=1",
    "log.every_n_steps=1",
    "log.run=run",
    "log.pictures=null",
]


def doubled(trainer):
    """Return the trainer in float64, which shows what rounding would hide."""

    class Double(trainer):
        def initialize_modules(self):
            super().initialize_modules()
            self.double()
            self.backbone.register_forward_pre_hook(lambda _, x: (x[0].double(),))

    return Double


def train(kind, folder, *overrides):
    """Train; return the rows and the checkpoint. The same on every rank."""
    torch.set_num_threads(1)
    name = "supervised" if kind is Supervised else "simclr"
    config = load_config(name, [*QUICK, f"log.folder={folder}", *overrides])
    seen = []

    class Watched(doubled(kind) if "data.root=double" in overrides else kind):
        def before_train_step(self):
            if self.step < 2:
                x, y = self.data
                views = x if isinstance(x, list) else [x]
                seen.append([v.clone() for v in views] + [y.clone()])

    trainer = Watched(config)
    trainer.run()
    rows = []
    if trainer.rank == 0:
        text = (trainer.run_dir / "metrics.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
    weights = {k: v.clone() for k, v in trainer.state_dict().items()}
    probe = getattr(trainer.evaluation.probe, "state_dict", dict)()
    return {"seen": seen, "rows": rows, "weights": weights, "probe": probe}


def difference(a, b):
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


@pytest.mark.parametrize(
    ("kind", "n", "overrides"),
    [
        (SimCLR, 2, ["optim.accumulate=3", "optim.grad_max_norm=0.5"]),
        pytest.param(SimCLR, 4, [], marks=pytest.mark.slow),
        pytest.param(Supervised, 2, ["optim.accumulate=2"], marks=pytest.mark.slow),
    ],
    ids=["simclr-2-accumulated", "simclr-4", "supervised-2-accumulated"],
)
def test_ranks_train_as_one_process(ranks, tmp_path, kind, n, overrides):
    overrides = [*overrides, "data.root=double", "++model.backbone.width=8"]
    one = train(kind, tmp_path / "one", *overrides)
    several = ranks(n, train, kind, str(tmp_path / "several"), *overrides)
    for step, views in enumerate(one["seen"]):  # bit-identical, parts in order
        for i, whole in enumerate(views):
            parts = [rank["seen"][step][i] for rank in several]
            assert torch.equal(whole, torch.cat(parts))
    for rank in several:
        assert difference(one["weights"], rank["weights"]) < 1e-8
        assert not one["probe"] or difference(one["probe"], rank["probe"]) < 1e-5
    rows = several[0]["rows"]
    assert [row.keys() for row in rows] == [row.keys() for row in one["rows"]]
    for a, b in zip(one["rows"], rows, strict=True):
        for name in a:
            if name.partition("/")[0] not in ("time", "perf"):
                loose = 0.02 if "few2" in name else 1e-5
                assert a[name] == pytest.approx(b[name], abs=loose), name


def resumed_state(folder, damaged):
    """Return what a rank reads of a run, how many files it verified, what it warned."""
    verified, verify = [], checkpoint.verify
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(record=True) as w,
    ):
        warnings.simplefilter("always")
        patch.setattr(checkpoint, "verify", lambda p: verified.append(p) or verify(p))
        try:
            state, _ = checkpoint.choose("auto", Path(folder))
            found = state["step"]
        except ConfigError as error:
            found = str(error)
        if not damaged:
            path = f"{folder}/e000_s000002.ckpt"
            assert checkpoint.choose(path, Path(f"{folder}/nothing"))[0]["step"] == 2
    return found, len(verified), len(w)


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_one_rank_verifies_what_all_read(ranks, tmp_path, damaged):
    for step in (1, 2):
        path = tmp_path / f"e000_s{step:06d}.ckpt"
        checkpoint.save(path, {"step": step, "w": torch.ones(10)})
        if step > 2 - damaged:
            os.truncate(path, 100)
    (main, *main_did), (other, *other_did) = ranks(
        2, resumed_state, str(tmp_path), damaged
    )
    assert main == other and other_did == [0, 0]
    assert main_did == [2, [0, 1, 1][damaged]]
    assert main == 2 - damaged or "no other in" in main


class Taught(SimCLR):
    """A SimCLR with a frozen teacher that follows it."""

    def initialize_modules(self):
        super().initialize_modules()
        self.teacher = copy.deepcopy(self.backbone).requires_grad_(False)

    def after_train_step(self):
        for t, s in zip(
            self.teacher.parameters(), self.backbone.parameters(), strict=True
        ):
            t.lerp_(s.detach(), 0.1)


def smooth(module):
    """Replace ReLUs: rounding decides which way an input at their edge goes."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ReLU):
            setattr(module, name, torch.nn.GELU())
        smooth(child)


def first_gradients(folder):
    """Return loss, gradient and teacher of a step of each method in both precisions."""
    found = {}
    for kind, kinds in ((Taught, "simclr"), (Supervised, "supervised")):
        for double in (False, True):

            class Stopped(doubled(kind) if double else kind):
                def initialize_modules(self):
                    super().initialize_modules()
                    smooth(self)

                def optimizer_step(self):
                    self.gradients = {n: p.grad for n, p in self.named_parameters()}
                    super().optimizer_step()

            name = f"{kinds}{double:d}"
            one = ["optim.epochs=null", "optim.steps=1", f"log.folder={folder}/{name}"]
            trainer = Stopped(load_config(kinds, [*QUICK[1:], *one]))
            trainer.run()
            gradients = {n: g for n, g in trainer.gradients.items() if g is not None}
            found[name] = trainer.metrics["train/loss"], gradients, trainer.state_dict()
    return found


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_first_gradient_is_that_of_one_process(ranks, tmp_path, n):
    one = first_gradients(tmp_path / "one")
    for rank in ranks(n, first_gradients, str(tmp_path / "several")):
        for name, (loss, gradients, state) in one.items():
            tolerance = 1e-10 if name.endswith("1") else 1e-5
            again, several, modules = rank[name]
            assert loss == pytest.approx(again, rel=tolerance)
            assert gradients.keys() == several.keys() and len(gradients) > 5
            whole = torch.stack([g.norm() for g in gradients.values()]).norm()
            apart = [several[k] - g for k, g in gradients.items()]
            assert torch.stack([a.norm() for a in apart]).norm() <= tolerance * whole
            for a, g in zip(apart, gradients.values(), strict=True):
                assert a.norm() <= tolerance * max(g.norm(), 1e-3 * whole)
            assert difference(state, modules) < 1e-5  # teacher and statistics


@pytest.mark.slow
def test_in_float32_the_first_loss_agrees(ranks, tmp_path):
    short = ["optim.epochs=1", "log.eval.few_labels=[]"]
    one = train(SimCLR, tmp_path / "one", *short)
    two = ranks(2, train, SimCLR, str(tmp_path / "two"), *short)
    first, again = one["rows"][0]["train/loss"], two[0]["rows"][0]["train/loss"]
    assert first == pytest.approx(again, rel=1e-6)


class Unused(SimCLR):
    """A trainer with a layer that its loss does not use."""

    def initialize_modules(self):
        super().initialize_modules()
        self.forgotten = torch.nn.Linear(3, 3)


@pytest.mark.slow
def test_parameters_that_get_no_gradient_stay_as_they_are(ranks, tmp_path):
    """No gradient on any rank is none, as on one process: nothing decays them."""
    short = ["optim.epochs=null", "optim.steps=3", "optim.weight_decay=0.1"]
    short += ["data.root=double", "++model.backbone.width=8"]
    one = train(Unused, tmp_path / "one", *short)
    two = ranks(2, train, Unused, str(tmp_path / "two"), *short)
    assert difference(one["weights"], two[0]["weights"]) < 1e-8


def averaged(used_by):
    """Return the gradients of two layers, the second used by some ranks only."""
    layers = [torch.nn.Linear(2, 2) for _ in range(3)]
    own = distributed.rank() + 1.0
    for layer, used in zip(
        layers, (True, distributed.rank() in used_by, False), strict=True
    ):
        if used:
            (own * layer(torch.ones(1, 2))).sum().backward()
    parameters = [p for layer in layers for p in layer.parameters()]
    distributed.average_gradients(parameters)
    return [None if p.grad is None else p.grad.mean().item() for p in parameters]


def test_a_gradient_that_some_ranks_lack_counts_as_zero_there(ranks):
    for found in ranks(2, averaged, (1,)):
        assert found == [1.5, 1.5, 1.0, 1.0, None, None]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.batch_size=127"], "batch_size=127 is not divisible by 2 processes"),
        (["data.batch_size=100", "data.train.drop_last=false"], "a last batch of 97"),
    ],
)
def test_batches_that_cannot_be_shared(overrides, words, monkeypatch):
    from stable_ssl import distributed
    from stable_ssl.config import complete
    from stable_ssl.data import build_loaders

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    config = load_config("simclr", [*QUICK, *(f"++{o}" for o in overrides)])
    with pytest.raises(ConfigError, match=words):
        build_loaders(complete(config), torch.device("cpu"))


# --- the command line -----------------------------------------------------------------


def command(folder, *overrides):
    main = str(REPOSITORY / "runs" / "main.py")
    quick = [*QUICK, "log.eval.few_labels=[]", "log.checkpoint.every_n_steps=2"]
    return [sys.executable, main, f"log.folder={folder}", *quick, *overrides]


def finished(folder):
    run = folder / "runs" / "simclr" / "run"
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    state = checkpoint.load(run / "ckpts" / "last.ckpt")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    plain = [
        {k: v for k, v in row.items() if k.partition("/")[0] not in ("time", "perf")}
        for row in rows
    ]
    return state, plain


def same(a, b):
    assert a[1] == b[1]
    for part in ("modules", "optimizers", "evaluators", "ranks"):
        assert checkpoint.equal(a[0][part], b[0][part]), part


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train with two processes, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        command(folder, "hardware.processes=2"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return finished(folder)


def start(folder, steps, *overrides):
    """Start two processes; return them once so many rows are written."""
    process = subprocess.Popen(
        command(folder, "hardware.processes=2", *overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    rows = folder / "runs" / "simclr" / "run" / "metrics.jsonl"
    end = time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count("train/loss") >= steps):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    return process


def children(pid):
    """Return the processes of a run, rank 0 first."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                with open(f"/proc/{entry}/cmdline") as file:
                    line = file.read()
            except OSError:
                continue
            if parent == pid and "spawn_main" in line:
                found.append(int(entry))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_which_then_resumes(whole, tmp_path, rank):
    process = start(tmp_path, 11, "optim.epochs=3")
    os.kill(children(process.pid)[rank], signal.SIGKILL)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60 and process.returncode not in (0, None)
    assert re.search(rf"rank {rank} of 2 was ended by SIGKILL", errors)
    status = tmp_path / "runs" / "simclr" / "run" / "status.json"
    assert json.loads(status.read_text())["status"] == "failed"
    again = command(tmp_path, "hardware.processes=2")
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same(finished(tmp_path), whole)


def test_a_signal_is_honoured_by_all_ranks_at_one_step(whole, tmp_path):
    process = start(tmp_path, 5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    status = tmp_path / "runs" / "simclr" / "run" / "status.json"
    found = json.loads(status.read_text())
    assert found["status"] == "preempted" and "SIGTERM at step" in found["reason"]
    done = subprocess.run(
        command(tmp_path, "hardware.processes=2"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    same(finished(tmp_path), whole)


class Hung(SimCLR):
    """One rank does not come to the fourth step, or does not run any more."""

    def compute_loss(self):
        if self.step == 3 and self.rank == 1:
            if "stop" in self.config.log.tags:
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)
        return super().compute_loss()


HANGS = [("sleep", "it does what they do not"), ("stop", "nothing is heard of it")]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "words"), HANGS)
def test_a_rank_that_hangs_is_named_and_ends_the_run(tmp_path, monkeypatch, how, words):
    monkeypatch.syspath_prepend(REPOSITORY)
    keys = ["hardware.processes=2", "hardware.timeout=5", f"log.tags=[{how}]"]
    config = load_config("simclr", [*QUICK, f"log.folder={tmp_path}", *keys])
    with pytest.raises(distributed.RankFailed, match=f"^rank 1 of 2 .*{words}"):
        Hung(config).run()
    run = tmp_path / "runs" / "simclr" / "run"
    ended = json.loads((run / "status.json").read_text())
    assert ended["status"] == "failed" and "hardware.timeout=5.0 s" in ended["reason"]
    assert not (run / "lock.json").exists()


class Slow(SimCLR):
    """Rank 0 takes longer over an evaluation than a rank may in training."""

    def after_eval_epoch(self):
        if self.rank == 0:
            time.sleep(12)


@pytest.mark.slow
def test_ranks_wait_for_an_evaluation_without_a_limit(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    keys = ["hardware.processes=2", "hardware.timeout=2", "optim.epochs=1"]
    Slow(load_config("simclr", [*QUICK, f"log.folder={tmp_path}", *keys])).run()
    status = tmp_path / "runs" / "simclr" / "run" / "status.json"
    assert json.loads(status.read_text())["status"] == "finished"


def test_torchrun(whole, tmp_path):
    """Of a process that torch itself aborts once its work is done, the run goes on.

    A thread of torch's is now and then not joined when an interpreter ends, which
    torchrun takes for a failure; the same command then ends the run.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    line = [*torchrun, "--nproc-per-node=2", *command(tmp_path)[1:]]
    for _ in range(3):
        done = subprocess.run(line, capture_output=True, text=True)
        if "terminate called without an active exception" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    same(finished(tmp_path), whole)
    assert done.stdout.count("top-1 accuracy on frozen features") == 1


@pytest.mark.slow
def test_torchrun_on_several_machines(whole, tmp_path):
    """Here they are one, with an agent of torchrun for each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    torchrun += ["--nproc-per-node=1", "--rdzv-backend=c10d", place]
    line = [*torchrun, *command(tmp_path, "hardware.num_nodes=2")[1:]]
    agents = [subprocess.Popen(line, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0]
    same(finished(tmp_path), whole)
