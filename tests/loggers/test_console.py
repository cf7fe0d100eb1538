"""The console: plain lines in a file, a bar on a real terminal that is given back."""

import io
import os
import pty
import subprocess
import sys
import tty

import pytest

from stable_ssl.loggers.console import Console, fitted, format_metrics

TRAIN = {
    "train/loss": 3.21412,
    "train/probe_loss": 0.5,
    "train/lr": 0.3,
    "perf/images_per_s": 12345.6,
}


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose last number is the time."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[-1])
    return now


def live(console, epochs=2, rows=4):
    """Show a run of `rows` train rows and one evaluation an epoch."""
    console.progress(epochs * rows)
    for step in range(1, epochs * rows + 1):
        console.update(step, step / rows, epochs, TRAIN)
        if step % rows == 0:
            console.epoch(step // rows, epochs, {"val/acc1": 0.961})
    console.stop()


def test_metrics_are_short_and_keep_their_units():
    assert (
        format_metrics(TRAIN)
        == "loss 3.214  probe_loss 0.5000  lr 0.3  12,346 images/s"
    )
    assert format_metrics({"val/knn_acc1": 0.9721}) == "val  knn_acc1 97.2 %"
    assert format_metrics({"train/loss": float("nan"), "n": 3}) == "loss nan  n 3"
    assert format_metrics({}) == ""
    cost = {"perf/data_wait": 0.0593, "perf/memory_gib": 0.88031}
    assert format_metrics(cost) == "6 % waiting for data  0.88 GiB"


def test_a_line_fits_the_terminal(monkeypatch):
    row = {f"val/{name}": 0.5 for name in ("acc1", "acc5", "knn_acc1", "knn_acc5")}
    assert fitted(row, 80) == format_metrics(row)
    assert fitted(row, 50) == "val  acc1 50.0 %  acc5 50.0 %  knn_acc1 50.0 %"
    assert fitted(row, 20) == "val  acc1 50.0 %"
    assert fitted(row, 5) == "val  acc1 50.0 %"  # one is shown always
    row = {**TRAIN, "train/grad_norm": 1.0, "perf/memory_gib": 2.0}
    assert fitted(row, 75).endswith("12,346 images/s  grad_norm 1.000")
    assert fitted(row, 60).endswith("lr 0.3  12,346 images/s")
    stream = io.StringIO()
    monkeypatch.setenv("COLUMNS", "40")
    Console(stream).epoch(1, 2, {f"val/m{i}": 0.5 for i in range(20)})
    assert 30 < len(stream.getvalue()) <= 41  # with the end of the line


def test_a_file_gets_at_most_a_train_line_an_epoch():
    stream = io.StringIO()
    live(Console(stream), epochs=3, rows=50)
    lines = stream.getvalue().splitlines()
    assert (
        sum("loss" in line for line in lines) <= 4
    )  # the first row, then one an epoch
    assert sum("val  acc1 96.1 %" in line for line in lines) == 3
    assert all(line.isprintable() for line in lines)


def test_short_epochs_get_a_train_line_every_ten_seconds(clock):
    stream = io.StringIO()
    console = Console(stream)
    console.progress(1000)
    for epoch in range(1, 101):  # a second each
        clock.append(float(epoch))
        console.update(10 * epoch, epoch, 100, TRAIN)
    lines = stream.getvalue().splitlines()
    assert [int(line[6:9]) for line in lines] == [*range(1, 100, 10), 100]


def test_a_stream_of_few_characters_replaces_the_others():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Console(stream).line("naïve")
    assert raw.getvalue() == b"na?ve\n"


def test_rich_is_not_imported_without_a_terminal():
    code = (
        "import sys; from stable_ssl.loggers.console import Console; c = Console();"
        "c.progress(10); c.update(1, 0.1, 1, {}); c.stop();"
        "print('rich' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "False", out.stderr


@pytest.fixture
def terminal(monkeypatch):
    """Return a text stream on a pseudo-terminal, and a reader of what it shows."""
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = pty.openpty()
    tty.setraw(slave)
    stream = open(slave, "w", encoding="utf-8")

    def read():
        stream.flush()
        os.write(slave, b"\0")  # marks the end
        seen = b""
        while not seen.endswith(b"\0"):
            seen += os.read(master, 65536)
        return seen[:-1].decode()

    yield stream, read
    stream.close()
    os.close(master)


def test_a_terminal_shows_a_bar_with_lines_above(terminal):
    stream, read = terminal
    console = Console(stream)
    live(console, epochs=1, rows=2)
    console.table("[a] table")
    seen = read()
    assert "loss 3.214  lr 0.3  12,346 images/s" in seen
    assert "\x1b[?25l" in seen and seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
    assert "epoch 1/1  val  acc1 96.1 %\n" in seen
    assert seen.endswith("\n[a] table\n\n")


def test_stop_gives_the_cursor_back_after_an_error(terminal):
    stream, read = terminal
    console = Console(stream)
    with pytest.raises(ZeroDivisionError):
        try:
            console.progress(10)
            console.update(1, 0.1, 1, TRAIN)
            raise ZeroDivisionError
        finally:
            console.stop()
            console.stop()
    assert read().count("\x1b[?25h") == 1


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch):
    stream, read = terminal
    monkeypatch.setenv("TERM", "dumb")
    live(Console(stream))
    assert "\x1b" not in read()
