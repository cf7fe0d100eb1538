"""Signals, sent to real processes in the middle of an epoch."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

from stable_ssl.preemption import CTRL_C, Preempted, Preemption

OPTIONS = [
    "optim.epochs=3",
    "log.every_n_steps=2",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.pictures=null",
]
MAIN = Path(__file__).resolve().parents[1] / "runs" / "main.py"


def start(folder, name, *options):
    line = [sys.executable, MAIN, f"log.folder={folder}", f"log.run={name}"]
    return subprocess.Popen(
        [*line, *OPTIONS, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(run, count, process):
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def status(run):
    return json.loads((run / "status.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that no signal met."""
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder, "whole").wait(240) == 0
    return folder / "runs" / "simclr" / "whole"


@pytest.mark.parametrize(
    "name",
    [
        "SIGTERM",
        pytest.param("SIGUSR2", marks=pytest.mark.slow),
        pytest.param("SIGINT", marks=pytest.mark.slow),
        pytest.param("SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_exactly(whole, tmp_path, rows, name):
    number = getattr(signal, name)
    process = start(tmp_path, "stopped")
    run = tmp_path / "runs" / "simclr" / "stopped"
    wait_for_rows(run, 3, process)
    os.kill(process.pid, number)
    assert process.wait(60) == 128 + number
    assert (CTRL_C in process.stderr.read()) == (name == "SIGINT")
    assert status(run)["status"] == "preempted"
    step = int(status(run)["reason"].removeprefix(f"{name} at step "))
    assert (run / "ckpts" / f"e{step // 9:03d}_s{step:06d}.ckpt").exists()
    assert start(tmp_path, "stopped").wait(240) == 0
    assert status(run)["status"] == "finished"
    assert rows(run) == rows(whole)


def test_a_handler_from_before_is_called_after_the_state_is_saved(tmp_path):
    """As submitit's, which requeues the job and ends the process."""
    script = tmp_path / "chained.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, pathlib, signal, sys
        from stable_ssl import SimCLR, load_config

        def before(number, frame):
            saved = list(pathlib.Path({str(tmp_path)!r}).rglob("last.ckpt"))
            sys.exit(7 if saved else 8)

        signal.signal(signal.SIGUSR2, before)

        class Stopping(SimCLR):
            def after_train_step(self):
                if self.step == 4:
                    os.kill(os.getpid(), signal.SIGUSR2)

        options = ["log.folder={tmp_path}", "log.eval.untrained=false"]
        Stopping(load_config("simclr", options)).run()
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr


def test_a_signal_after_the_last_step_leaves_the_run_finished(tiny, config):
    class Late(tiny):
        def test(self):
            os.kill(os.getpid(), signal.SIGTERM)
            super().test()

    trainer = Late(config())
    trainer.run()
    assert status(trainer.run_dir)["status"] == "finished"


def test_the_second_ctrl_c_stops_at_once(tiny, config):
    class Impatient(tiny):
        def compute_loss(self):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
            raise AssertionError("still here")

    trainer = Impatient(config())
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert status(trainer.run_dir)["status"] == "preempted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2", "SIGINT", "SIGHUP"])
def test_before_the_first_step_a_signal_ends_the_run_where_it_is(name):
    with Preemption() as preemption:
        preemption.at_once()
        with pytest.raises(Preempted, match=f"{name} before the first step"):
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(10)
        with pytest.raises(SystemExit) as caught:
            preemption.chain()
    assert caught.value.code == 128 + getattr(signal, name)


def test_a_signal_that_was_swallowed_is_honoured_before_the_first_step():
    with Preemption() as preemption:
        preemption.at_once()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Preempted:
            pass  # as Python does in a destructor
        with pytest.raises(Preempted, match="SIGTERM before the first step"):
            preemption.at_steps()


def test_between_steps_a_signal_waits(capfd):
    with Preemption() as preemption:
        preemption.at_once()
        preemption.at_steps()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested == "SIGTERM"
        assert capfd.readouterr().err == ""
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.requested == "SIGINT"
        assert capfd.readouterr().err == f"\n{CTRL_C}\n"


def test_a_forked_worker_leaves_a_signal_to_the_main_process(capfd):
    with Preemption():
        worker = os.fork()
        if worker == 0:
            for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
            os._exit(0)
        assert os.waitpid(worker, 0)[1] == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("place", ["initialize_modules", "before_eval_epoch"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_the_first_step_ends_the_run_where_it_is(
    tiny, config, rows, name, place
):
    number = getattr(signal, name)

    def stop(self):
        os.kill(os.getpid(), number)
        raise AssertionError("still here")

    stopped = type("Stopped", (tiny,), {place: stop})
    trainer = stopped(config("base", "log.eval.untrained=true"))
    with pytest.raises(SystemExit) as caught:
        trainer.run()
    assert caught.value.code == 128 + number
    assert status(trainer.run_dir) == {
        "status": "preempted",
        "reason": f"{name} before the first step; nothing to save",
        "format": 1,
    }
    whole = tiny(config("base", "log.eval.untrained=true", "log.run=whole"))
    whole.run()
    again = tiny(config("base", "log.eval.untrained=true"))
    again.run()
    assert rows(again.run_dir) == rows(whole.run_dir)


def wrapped(number):
    """Lose the exception of a signal as an import does: another one takes its place."""
    try:
        os.kill(os.getpid(), number)
    except BaseException as error:
        raise ImportError("a circular import, most likely") from error


def swallowed(number):
    """Lose the exception of a signal as a destructor does."""
    try:
        os.kill(os.getpid(), number)
    except BaseException:
        pass


@pytest.mark.parametrize("place", ["initialize_run", "initialize_optimizer", "test"])
@pytest.mark.parametrize("lost", [wrapped, swallowed])
def test_a_signal_in_setup_is_one_whatever_becomes_of_its_exception(
    tiny, config, monkeypatch, lost, place
):
    heard = []
    monkeypatch.setenv("SLURM_PROCID", "0")

    def stop(self, *arguments):
        getattr(super(Stopped, self), place)(*arguments)
        lost(signal.SIGUSR2)

    Stopped = type("Stopped", (tiny,), {place: stop})
    trainer = Stopped(config("base", "log.eval.untrained=true"))
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        with pytest.raises(SystemExit) as caught:
            trainer.run()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert caught.value.code == 128 + signal.SIGUSR2
    assert heard == [signal.SIGUSR2]  # as submitit's handler, which requeues
    assert status(trainer.run_dir) == {
        "status": "preempted",
        "reason": "SIGUSR2 before the first step; nothing to save",
        "format": 1,
    }


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch._dynamo", "torch._dynamo.utils"])
def test_a_signal_while_an_optimizer_imports_torchs_compiler(tmp_path, module):
    script = tmp_path / "stopped.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        from stable_ssl import SimCLR, load_config

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    sys.meta_path.remove(self)
                    os.kill(os.getpid(), signal.SIGTERM)

        class Stopping(SimCLR):
            def initialize_optimizer(self):
                sys.meta_path.insert(0, Finder())
                super().initialize_optimizer()
                raise AssertionError("it was imported before")

        options = ["log.folder={tmp_path}", "log.run=run"]
        Stopping(load_config("simclr", options)).run()
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert status(tmp_path / "runs" / "simclr" / "run")["status"] == "preempted"


# --- a terminal that is closed, an import that is interrupted -------------------------


@pytest.mark.slow
def test_a_terminal_that_is_closed_stops_a_run_as_sigterm_does(tmp_path):
    """It sends SIGHUP, and what is printed from then on fails."""
    parent, child = os.openpty()
    line = [sys.executable, MAIN, f"log.folder={tmp_path}", "log.run=run", *OPTIONS]
    process = subprocess.Popen(
        line,
        stdin=child,
        stdout=child,
        stderr=child,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(child)
    metrics = tmp_path / "runs" / "simclr" / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        os.set_blocking(parent, False)
        with suppress(BlockingIOError):
            os.read(parent, 65536)  # or the terminal would be full
        time.sleep(0.01)
    os.close(parent)
    process.wait(60)
    ended = status(metrics.parent)
    assert ended["status"] == "preempted"
    assert ended["reason"].startswith("SIGHUP at step ")
    assert (metrics.parent / "ckpts" / "last.ckpt").exists()


def test_what_is_ignored_stays_ignored():
    """As nohup and a shell's `&` ask it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
        assert preemption.requested is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "start",
    [
        "import stable_ssl; stable_ssl.launch()",
        "from stable_ssl.commands import main; main([])",
        "from stable_ssl.commands import main; main(['rerun', 'x'])",
    ],
)
def test_ctrl_c_while_torch_is_imported_prints_no_traceback(tmp_path, start):
    (tmp_path / "torch.py").write_text(
        "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"
    )
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {start}")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")
