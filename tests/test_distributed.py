import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from stable_ssl import distributed
from stable_ssl.config import ConfigError
from stable_ssl.distributed import group, spawning
from stable_ssl.distributed.config import Hardware
from stable_ssl.distributed.placement import (
    Process,
    first_host,
    this_process,
)
from stable_ssl.distributed.watch import DEAD_SECONDS, Progress, missing_ranks
from stable_ssl.preemption import STOP

REPOSITORY = Path(__file__).resolve().parents[1]
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TORCHRUN = dict(zip(VARIABLES, ["1", "4", "1", "10.0.0.7", "29500"], strict=True))
SRUN = {
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NODELIST": "node[01-03,7],other5",
}


def hardware(**keys):
    return Hardware(**keys)


@pytest.fixture(autouse=True)
def nothing_started(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)  # of new interpreters, too
    for name in [*VARIABLES, *SRUN, "SLURM_STEP_NUM_TASKS", "SLURM_JOB_NODELIST"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch):
    """Return a setter of torchrun's variables."""

    def start(**changed):
        for name, value in {**TORCHRUN, **changed}.items():
            monkeypatch.setenv(name, str(value))

    return start


# --- where this process stands --------------------------------------------------------


def test_torchruns_variables():
    found = this_process(TORCHRUN)
    assert found == Process(1, 4, 1, "10.0.0.7", 29500, "torchrun")
    assert this_process({**SRUN, **TORCHRUN}) == found
    assert this_process({"RANK": "0", "WORLD_SIZE": "1"}).world_size == 1


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"RANK": "one"}, "RANK=one is wrong; expected an integer from 0 to 3"),
        ({"RANK": "4"}, "RANK=4 is wrong; expected an integer from 0 to 3"),
        ({"RANK": "-1"}, "RANK=-1 is wrong"),
        ({"RANK": None}, "RANK is not set, but WORLD_SIZE=4"),
        ({"RANK": ""}, "RANK is not set, but"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set, but RANK=1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is wrong; expected an integer 1 or above"),
        ({"LOCAL_RANK": None}, "LOCAL_RANK is not set"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK=4 is wrong"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set.*torchrun or srun"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is wrong; .* from 1 to 65535"),
    ],
)
def test_a_wrong_variable_of_torchrun_is_named(changed, words):
    environ = {k: v for k, v in (TORCHRUN | changed).items() if v is not None}
    with pytest.raises(ConfigError, match=words):
        this_process(environ)


def test_sruns_variables():
    port = 12000 + 41
    found = this_process(SRUN)
    assert found == Process(5, 8, 1, "node01", port, "Slurm")
    chosen = this_process({**SRUN, "MASTER_ADDR": "ib0", "MASTER_PORT": "77"})
    assert (chosen.address, chosen.port) == ("ib0", 77)
    assert this_process({**SRUN, "WORLD_SIZE": "8"}) == found  # a script's own
    assert this_process({**SRUN, "SLURM_JOB_ID": "42"}).port == port + 1
    assert this_process({**SRUN, "SLURM_STEP_ID": "1"}).port != port
    array = {"SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "3"}
    assert this_process({**SRUN, "SLURM_JOB_ID": "44", **array}).port == port + 3
    ours = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_JOB_NODELIST": "first"}
    assert this_process({**SRUN, **ours}).world_size == 6
    job_only = {k: v for k, v in SRUN.items() if k != "SLURM_STEP_NODELIST"}
    assert this_process({**job_only, **ours}).address == "first"


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"SLURM_PROCID": "8"}, "SLURM_PROCID=8 is wrong; .* from 0 to 7"),
        ({"SLURM_LOCALID": "x"}, "SLURM_LOCALID=x is wrong"),
        ({"SLURM_LOCALID": None}, "SLURM_LOCALID is not set, but SLURM_PROCID=5"),
        ({"SLURM_NTASKS": None}, "SLURM_NTASKS is not set"),
        ({"SLURM_NTASKS": "many"}, "SLURM_NTASKS=many is wrong"),
        ({"SLURM_STEP_NODELIST": None}, "SLURM_JOB_NODELIST is not set"),
        ({"SLURM_JOB_ID": "a"}, "SLURM_JOB_ID=a is wrong"),
    ],
)
def test_a_wrong_variable_of_slurm_is_named(changed, words):
    environ = {k: v for k, v in (SRUN | changed).items() if v is not None}
    with pytest.raises(ConfigError, match=words):
        this_process(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "41", "SLURM_NTASKS": "8"},  # a shell of salloc
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # of sbatch
        {**SRUN, "SLURM_STEP_ID": str(0xFFFFFFFA)},  # salloc's interactive step
        {**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"WORLD_SIZE": "1"},
    ],
)
def test_one_process(environ):
    found = this_process(environ)
    assert (found.rank, found.world_size, found.address) == (0, 1, None)


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("node[01-03,7],other5", "node01"),
        ("node[7,9]", "node7"),
        ("other5,node[1-2]", "other5"),
        ("a-b-1", "a-b-1"),
        ("rack[1-2]node[03-04].cluster,x", "rack1node03.cluster"),
        ("10.0.0.3", "10.0.0.3"),
    ],
)
def test_the_first_host(nodes, first):
    assert first_host(nodes) == first


# --- devices --------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """Return a setter of the number of GPUs that torch sees."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


def test_each_process_has_a_gpu_of_its_own(gpus, started):
    gpus(4)
    assert distributed.choose_device(hardware()) == torch.device("cuda", 0)
    assert distributed.choose_device(hardware(gpus=[2, 3])).index == 2
    started(LOCAL_RANK=1)
    assert distributed.choose_device(hardware()).index == 1
    assert distributed.choose_device(hardware(gpus="0,3")).index == 3
    assert distributed.choose_device(hardware(gpus=0)).type == "cpu"
    assert distributed.choose_device(hardware(accelerator="cpu")).type == "cpu"
    with pytest.raises(ConfigError, match="LOCAL_RANK=1 has no GPU of its own among 1"):
        distributed.choose_device(hardware(gpus=1))
    with pytest.raises(ConfigError, match="names a GPU twice"):
        distributed.choose_device(hardware(gpus=[1, 1]))


def test_an_accelerator_that_is_not_there_is_an_error(gpus):
    gpus(0)
    assert distributed.choose_device(hardware()) == torch.device("cpu")
    with pytest.raises(ConfigError, match="accelerator=gpu, but torch sees no GPU"):
        distributed.choose_device(hardware(accelerator="gpu"))
    with pytest.raises(ConfigError, match="gpus=1 asks for GPU 0, but torch sees 0"):
        distributed.choose_device(hardware(gpus=1))


def test_slurm_may_show_each_task_one_gpu(gpus, monkeypatch):
    gpus(1)
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    for asked in (None, 4, "0,1"):
        assert distributed.choose_device(hardware(gpus=asked)).index == 0
    assert distributed.choose_device(hardware(gpus=0)).type == "cpu"


def test_how_many_processes_are_asked_for(gpus, started):
    gpus(0)
    assert distributed.processes_asked(hardware()) == 1
    assert distributed.processes_asked(hardware(processes=3)) == 3
    gpus(4)
    assert distributed.processes_asked(hardware()) == 1
    assert distributed.processes_asked(hardware(gpus=-1)) == 4
    assert distributed.processes_asked(hardware(gpus=[1, 2], processes=2)) == 2
    assert distributed.processes_asked(hardware(gpus=0, processes=2)) == 2
    with pytest.raises(ConfigError, match="processes=3 counts processes on the CPU"):
        distributed.processes_asked(hardware(processes=3))
    started()
    assert distributed.processes_asked(hardware(gpus=-1)) == 1


# --- start ----------------------------------------------------------------------------


def test_one_process_needs_no_group():
    assert distributed.start(hardware(gpus=0)) == torch.device("cpu")
    assert not dist.is_initialized()
    distributed.stop()
    x = torch.ones(2, 3)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.is_main() and distributed.broadcast_object(5) == 5
    assert distributed.all_gather_object(5) == [5] and distributed.barrier() is None
    for collective in (
        distributed.gather,
        distributed.gather_uneven,
        distributed.all_sum,
        distributed.all_mean,
    ):
        assert collective(x).equal(x)


def test_several_asked_and_one_started_is_an_error():
    with pytest.raises(ConfigError, match="asks for 3 processes, and one was started"):
        distributed.start(hardware(gpus=0, processes=3))


def test_machines_that_nobody_started_are_an_error(started):
    with pytest.raises(ConfigError, match="num_nodes=2, but 1 were started"):
        distributed.start(hardware(gpus=0, num_nodes=2))
    started(LOCAL_WORLD_SIZE=2)
    with pytest.raises(ConfigError, match="num_nodes=3, but 2 were started"):
        distributed.start(hardware(gpus=0, num_nodes=3))


def test_all_gpus_of_a_machine_without_any_are_its_cpu(gpus):
    gpus(0)
    with pytest.warns(UserWarning, match="gpus=-1, and torch sees no GPU") as caught:
        assert distributed.start(hardware(gpus=-1)) == torch.device("cpu")
    assert len(caught) == 1


def test_float16_on_a_cpu_is_warned_of():
    with pytest.warns(UserWarning, match="float16 on a CPU.* use .*bfloat16"):
        distributed.start(hardware(gpus=0, precision="float16"))


def test_a_group_of_somebody_elses_is_left_alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        distributed.start(hardware(gpus=0))
        distributed.stop()
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"MASTER_ADDR": "nowhere.invalid"}, "MASTER_ADDR=nowhere.invalid.*not known"),
        ({"MASTER_ADDR": "127.0.0.1"}, "rank 1 of 4 did not meet .* within 1 s"),
        ({"MASTER_ADDR": "127.0.0.1", "RANK": "0"}, "rank 0 of 4 did not meet"),
    ],
)
def test_a_start_that_fails_is_fatal(started, changed, words):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started(MASTER_PORT=port, **changed)
    with pytest.raises(ConfigError, match=words):
        distributed.start(hardware(gpus=0), seconds=1)
    assert not dist.is_initialized()


# --- collectives ----------------------------------------------------------------------


def loss_of(z, offset):
    """Return a loss in which every pair of rows matters, and which rank asks."""
    return ((z @ z.T).softmax(1) * offset).square().sum() + z.prod(1).sum() * offset


def exchange():
    """Return this rank's largest errors of value and gradient, and other answers."""
    warnings.simplefilter("error", FutureWarning)
    rank, world = distributed.rank(), distributed.world_size()
    errors = {}
    for dtype in (torch.float32, torch.float64):
        whole = torch.arange(world * 6, dtype=dtype).view(world * 2, 3).sin()
        whole.requires_grad_()
        x = whole.detach().chunk(world)[rank].clone().requires_grad_()
        offsets = [r + 1 for r in range(world)]

        found = distributed.gather(x.t().contiguous().t())  # strides are no matter
        loss_of(found, offsets[rank]).backward()
        sum(loss_of(whole, offset) for offset in offsets).backward()
        expected, x_grad = whole.grad.chunk(world)[rank], x.grad
        gathered = max(
            float((found - whole).abs().max()),
            float((x_grad - expected).abs().max() / expected.abs().max()),
        )

        x.grad = whole.grad = None
        total, mean = distributed.all_sum(x), distributed.all_mean(x)
        (loss_of(total, offsets[rank]) + mean.exp().sum()).backward()
        parts = whole.view(world, 2, 3)
        sums = parts.sum(0)
        losses = [loss_of(sums, offset) for offset in offsets]
        (sum(losses) + world * (sums / world).exp().sum()).backward()
        expected = whole.grad.chunk(world)[rank]
        summed = max(
            float((total - sums).abs().max()),
            float((x.grad - expected).abs().max() / expected.abs().max()),
        )
        errors[dtype] = gathered, summed

    noise = torch.arange(9999.0).add(rank).sin().exp()  # sums round
    sums = [distributed.all_sum(noise) for _ in range(5)]
    others = distributed.all_gather_object(bytes(sums[0].numpy()))
    labels = distributed.gather_uneven(torch.full((rank,), rank))
    nothing = distributed.gather_uneven(torch.ones(0, 2))
    marks = distributed.gather_uneven(torch.tensor([True, False][: rank + 1]))
    distributed.barrier()
    with distributed.main_first():
        entered = time.monotonic()
        time.sleep(0.1)
        left = time.monotonic()
    return {
        "errors": errors,
        "equal": all(s.equal(sums[0]) for s in sums),
        "bytes": all(other == others[0] for other in others),
        "labels": labels.tolist(),
        "nothing": tuple(nothing.shape),
        "marks": marks.tolist(),
        "objects": distributed.all_gather_object({"rank": rank}),
        "main": distributed.broadcast_object((rank, distributed.is_main())),
        "turns": distributed.all_gather_object((entered, left)),
        "restarted": restarted(),
    }


def restarted():
    """Return a sum over ranks in a second group, as a sweep's next run makes one."""
    distributed.stop()
    distributed.start(hardware(gpus=0))
    return int(distributed.all_sum(torch.ones(())))


@pytest.mark.parametrize("world", [2, 4])
def test_value_and_gradient_equal_one_process(ranks, world):
    for found in ranks(world, exchange):
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            assert max(found["errors"][dtype]) < tolerance, found
        assert found["equal"] and found["bytes"]
        assert found["labels"] == [r for r in range(world) for _ in range(r)]
        assert found["nothing"] == (0, 2)
        assert found["marks"] == [True] + [True, False] * (world - 1)
        assert found["objects"] == [{"rank": r} for r in range(world)]
        assert found["main"] == (0, True)
        (_, done), *others = found["turns"]
        assert all(entered >= done for entered, _ in others)  # rank 0 downloads alone
        assert found["restarted"] == world


# --- processes of this machine --------------------------------------------------------


def die(how, folder):
    """Let rank 1 die; rank 0 waits for it in a collective."""
    distributed.start(hardware(gpus=0))
    if how == "late":
        distributed.stop()
        atexit.register(os.abort)
        return how
    if distributed.rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how in ("wrong", "aborted"):
            raise ConfigError("data.root=nowhere")
        elif how == "raised":
            raise ZeroDivisionError("boom")
        time.sleep(60)
    if how == "aborted":  # as torch's threads do now and then
        atexit.register(os.abort)
    distributed.barrier()


@pytest.mark.parametrize(
    "how, error, words",
    [
        ("killed", spawning.RankFailed, "rank 1 of 2 was ended by SIGKILL"),
        ("raised", spawning.RankFailed, "rank 1 of 2 failed: ZeroDivisionError: boom"),
        ("wrong", ConfigError, "data.root=nowhere"),
        ("aborted", ConfigError, "data.root=nowhere"),
    ],
)
def test_the_rank_that_died_is_named(monkeypatch, tmp_path, how, error, words):
    monkeypatch.setattr(spawning, "SETTLE_SECONDS", 0.4)
    before = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        distributed.spawn(die, 2, (how, tmp_path))
    assert time.monotonic() - before < 60
    if how == "raised":
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


WAITS = Progress(idle=10, waiting=True)
ELSEWHERE = Progress(idle=10)
PATIENT = Progress(patient=True)


@pytest.mark.parametrize(
    ("others", "silence", "missing"),
    [
        ({1: ELSEWHERE}, 0, {1}),
        ({1: ELSEWHERE, 2: WAITS, 3: ELSEWHERE}, 0, {1, 3}),
        ({1: WAITS}, 0, {0, 1}),  # at different places
        ({1: Progress(idle=9)}, 0, set()),  # not yet
        ({1: Progress(idle=9)}, 1, {1}),
        ({1: WAITS}, 5, {1}),  # suspended where it waits
        ({1: Progress()}, 4, set()),
        ({1: Progress()}, 5, {1}),
        ({1: PATIENT}, 100, set()),
        ({1: PATIENT, 2: WAITS}, 4, set()),
        ({1: PATIENT}, DEAD_SECONDS, {1}),
    ],
)
def test_who_keeps_a_rank_waiting(others, silence, missing):
    """Of a limit of 10 s; a tick is a second."""
    silences = dict.fromkeys(others, silence) | {0: 0}
    assert missing_ranks(0, {0: WAITS} | others, silences, 10) == missing
    gone = set(others) if silence == DEAD_SECONDS else set()
    for own in (ELSEWHERE, PATIENT, Progress(idle=9, waiting=True)):
        assert missing_ranks(0, {0: own} | others, silences, 10) == gone


def test_a_rank_ends_even_where_its_folder_cannot_be_told(monkeypatch):
    ended = []
    monkeypatch.setattr(group, "abandon", ended.append)
    distributed.at_missing(lambda reason: 1 / 0)
    group._end_process("rank 1 is missing")
    assert [str(error) for error in ended] == ["rank 1 is missing"]
    distributed.at_missing(None)


def test_a_crash_after_the_work_is_no_failure(tmp_path):
    assert distributed.spawn(die, 2, ("late", tmp_path)) == "late"


def listen(folder):
    """Say that this rank is there; wait for a signal, and say which came."""
    heard = []
    for number in STOP:
        signal.signal(number, lambda number, _: heard.append(number))
    path = folder / os.environ["RANK"]
    path.write_text(str(os.getpid()))
    while not heard:
        time.sleep(0.05)
    path.with_suffix(".heard").write_text(str(heard))
    sys.exit(128 + heard[0])


def both(folder, suffix=""):
    return [folder / f"{r}{suffix}" for r in range(2)]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_reaches_all_ranks_and_takes_its_course(monkeypatch, tmp_path, number):
    course = []
    monkeypatch.setattr(
        spawning.signal, "getsignal", lambda s: lambda *_: course.append(s)
    )

    def send():
        if wait_for(lambda: all(p.exists() for p in both(tmp_path))):
            os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    with pytest.raises(SystemExit) as exit:
        distributed.spawn(listen, 2, (tmp_path,))
    assert exit.value.code == 128 + number and course == [number]
    assert [p.read_text() for p in both(tmp_path, ".heard")] == [f"[{number}]"] * 2


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_notebooks_own_classes_reach_all_ranks():
    code = (
        "from stable_ssl import distributed\n"
        "class Idea:\n"
        "    def sum(self): return distributed.all_gather_object(distributed.rank())\n"
        "def work(idea):\n"
        "    from tests.test_distributed import hardware\n"
        "    distributed.start(hardware(gpus=0))\n"
        "    return idea().sum()\n"
        "print(distributed.spawn(work, 2, (Idea,)))"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.endswith("[0, 1]\n"), done.stderr  # an older gloo talks, too


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_no_rank_outlives_its_parent(tmp_path):
    code = (
        "from pathlib import Path; from stable_ssl import distributed\n"
        "from tests.test_distributed import listen\n"
        f"distributed.spawn(listen, 2, (Path({str(tmp_path)!r}),))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
    try:
        assert wait_for(lambda: all(p.exists() for p in both(tmp_path)))
        pids = [int(p.read_text()) for p in both(tmp_path)]
    finally:
        parent.kill()
        parent.wait()
    assert wait_for(lambda: not any(alive(pid) for pid in pids), 10)
