"""stable-ssl runs: list, show, compare, watch and delete run folders."""

import io
import json

import pytest

from stable_ssl.commands import main
from stable_ssl.lock import Lock

from .report import conftest

make_run = conftest.make_run  # a fixture here, too


def said(capsys, *arguments):
    """Run the command; return (exit code, output, errors)."""
    with pytest.raises(SystemExit) as ended:
        main(["runs", *map(str, arguments)])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_runs_are_listed_from_the_usual_folder(make_run, capsys, monkeypatch, tmp_path):
    make_run("a", lr=0.1), make_run("b", lr=0.3)
    (tmp_path / "logs").mkdir()
    (tmp_path / "runs").rename(tmp_path / "logs" / "runs")
    monkeypatch.chdir(tmp_path)
    for arguments in ([], ["list"], ["list", "logs"], ["watch"]):
        code, out, _ = said(capsys, *arguments)
        assert code == 0 and "2 runs, last values" in out
        rows = [line.split()[:4] for line in out.splitlines()[4:6]]
        assert [row[:2] for row in rows] == [["a", "finished"], ["b", "finished"]]
        assert {row[3] for row in rows} == {"0.1", "0.3"}


def test_one_is_shown_with_what_started_it(make_run, capsys):
    folder = make_run("a")
    launch = {"argv": ["stable-ssl", "optim.lr=0.3"], "host": "h", "device_name": "cpu"}
    launch["time"] = "2026-11-20T15:44:00+0000"
    (folder / "environment.json").write_text(json.dumps([launch]))
    code, out, _ = said(capsys, "show", folder)
    assert code == 0
    for words in (
        "finished",
        "stable-ssl optim.lr=0.3",
        "2026-11-20",
        "1 launch",
        "h,",
    ):
        assert words in out
    assert "kNN (k=7)" in out  # its closing table
    (folder / "environment.json").write_text("broken")
    assert said(capsys, "show", folder)[0] == 0


def test_two_are_compared(make_run, capsys):
    a, b = make_run("a", lr=0.1), make_run("b", lr=0.3, seed=1)
    for folder, torch in ((a, "2.9"), (b, "2.10")):
        launch = {"packages": {"torch": torch}, "git": {"commit": "c" * 40}}
        launch["library"] = f"{folder.name}{'f' * 39}"
        (folder / "environment.json").write_text(json.dumps([launch]))
    code, out, _ = said(capsys, "diff", a, b)
    assert code == 0
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["optim.lr"][1:] == ["0.1", "0.3"]
    assert rows["hardware.seed"][1:] == ["0", "1"]
    assert rows["version of torch"][3:] == ["2.9", "2.10"]
    assert [text[0] for text in rows["code of stable-ssl"][3:]] == ["a", "b"]
    assert "git commit" not in rows and "test/knn_acc1" not in rows
    assert "nothing differs" in said(capsys, "diff", a, a)[1]


def test_deleting_asks_and_spares_what_runs(make_run, capsys, monkeypatch, tmp_path):
    a, b = make_run("a"), make_run("b")
    code, _, err = said(capsys, "rm", a)
    assert code == 2 and "give --yes" in err and a.exists()
    code, _, err = said(capsys, "rm", tmp_path)
    assert code == 2 and "is no run folder" in err and a.exists()
    lock = Lock(b)
    try:
        code, _, err = said(capsys, "rm", a, b, "--yes")
        assert code == 2 and "is running" in err and a.exists()
    finally:
        lock.release()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, _ = said(capsys, "rm", a)
    assert code == 1 and "nothing was deleted" in out and a.exists()
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, _ = said(capsys, "rm", a, b)
    assert code == 0 and "2 runs, last values" in out
    assert not a.exists() and not b.exists()


def test_a_link_is_no_run_folder_to_delete(make_run, capsys, tmp_path):
    a = make_run("a")
    (tmp_path / "link").symlink_to(a)
    code, _, err = said(capsys, "rm", tmp_path / "link", "--yes")
    assert code == 2 and "is no run folder" in err and a.exists()
