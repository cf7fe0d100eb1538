"""The command `stable-ssl`: tables, figures and reruns of real runs, in words."""

import json
import subprocess
import sys
import textwrap

import pytest
import yaml

from stable_ssl.commands import COMMANDS, main
from stable_ssl.config import compose
from stable_ssl.loggers.names import SPELLED
from stable_ssl.methods import METHODS

QUICK = (
    "optim.epochs=null",
    "optim.steps=4",
    "log.every_n_steps=1",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.pictures=null",
    "log.folder=logs",
)
COMMAND = "from stable_ssl.commands import main; main()"


@pytest.fixture
def command(capfd, tmp_path, monkeypatch):
    """Return a runner of `stable-ssl <arguments>`: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Return the folder of a real sweep of 2 learning rates and 2 seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    sweep = ("-m", "hardware.seed=0,1", "optim.lr=0.1,0.3")
    line = [sys.executable, "-c", COMMAND, "--config-name=simclr", *QUICK, *sweep]
    subprocess.run(line, cwd=folder, check=True, capture_output=True)
    return folder / "logs" / "runs"


def kept(run):
    """Return the rows of a run, wall-clock fields aside."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k[:5] not in ("time", "perf/")}
        for line in lines
    ]


def test_a_table_of_a_sweep_and_what_to_choose_from(command, logs):
    code, out, err = command("table", logs)
    assert (code, err) == (0, "")
    assert "optim.lr" in out.splitlines()[2] and "test/knn_acc1" in out.splitlines()[2]
    assert "over 2 seeds" in out
    assert "keys that differ:\n  optim.lr: 0.1, 0.3\n  hardware.seed: 0, 1\n" in out
    assert "metrics:\n  test/knn_acc1" in out


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("t.tex", "% test kNN accuracy (%)"),
        ("t.md", "| method |"),
        ("t.csv", "model.name,optim.lr,"),
        ("t.txt", "test kNN accuracy"),
    ],
)
def test_a_table_in_the_format_of_its_file(command, logs, tmp_path, name, start):
    asked = (
        "--rows",
        "model.name",
        "--columns",
        "optim.lr",
        "--value",
        "test/knn_acc1",
    )
    code, out, _ = command("table", logs, *asked, "--out", f"new/{name}")
    assert (code, out) == (0, f"wrote new/{name}\n")
    assert (tmp_path / "new" / name).read_text().startswith(start)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("curves", "curves_val_knn_acc1"),
        ("sweep", "sweep_val_knn_acc1"),
        ("compare", "compare_test_knn_acc1"),
    ],
)
def test_a_figure_of_a_sweep(command, logs, tmp_path, kind, name):
    code, out, err = command("plot", logs, "--kind", kind, "--out", "f")
    assert (code, err) == (0, "")
    assert out == f"wrote f/{name}.pdf\nwrote f/{name}.png\n"
    assert (tmp_path / "f" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table", "absent"), "no run was found; give run folders"),
        (("table", "{logs}", "--rows", "optim.l"), "did you mean 'optim.lr'?"),
        (("table", "{logs}", "--at", "soon"), "found soon; give last, best or a step"),
        (("table", "{logs}", "--at", "999"), "no run came to step 999"),
        (("table", "{logs}", "--out", "{logs}"), "written as .txt, .md, .csv, .tex"),
        (("table", "{logs}", "--out", "{logs}", "--format", "csv"), "Is a directory"),
        (("tabel", "{logs}"), "tabel is no command; did you mean 'table'?"),
        (("byol",), "byol is a recipe; start it by --config-name=byol"),
        (("plot", "{logs}", "--value", "val/kn_acc1"), "did you mean 'val/knn_acc1'?"),
        (("plot", "{logs}", "--kind", "spectrum"), "++log.eval.spectrum=true"),
        (("plot", "{logs}", "--kind", "heatmap"), "say which are --x and --y"),
        (("rerun", "{logs}"), "is no run folder: it lacks config.yaml"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(command, logs, arguments, words):
    code, _, err = command(*(a.format(logs=logs) for a in arguments))
    assert code == 2
    assert words in err.splitlines()[-1] and "Traceback" not in err


@pytest.mark.parametrize("name", ["table", "plot", "rerun"])
def test_help_shows_examples(command, name):
    code, out, _ = command(name, "-h")
    assert code == 0 and f"examples:\n  stable-ssl {name} logs/runs" in out


def test_help_names_the_commands(command, capfd):
    main(["-h"])  # and goes on as Hydra's help
    out = capfd.readouterr().out
    assert all(f"stable-ssl {name} " in out for name in COMMANDS)
    assert "precision: float32" in out


def test_anything_else_is_a_run(command):
    code, _, err = command("--config-name=smclr")
    assert code == 2 and "did you mean 'simclr'" in err


def test_tables_and_figures_import_no_torch(logs, tmp_path):
    for arguments in (["table", str(logs)], ["plot", str(logs), "--kind", "compare"]):
        code = (
            f"import sys; sys.argv[1:] = {arguments}\n"
            "from stable_ssl.commands import main\n"
            "try: main()\n"
            "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_every_method_is_spelled_as_its_paper_does():
    assert set(METHODS) - set(SPELLED) == {"supervised"}
    assert all(name.lower() == name for name in SPELLED)
    names = "runs table plot report paper rerun export pack"
    assert set(COMMANDS) == set(names.split())


# --- rerun ----------------------------------------------------------------------------


def test_a_rerun_has_the_rows_of_the_original(command, logs):
    run = sorted(logs.glob("*/*"))[3]
    before = {path.name for path in run.parent.iterdir()}
    code, out, err = command("rerun", run)
    assert code == 0, err
    (again,) = (p for p in run.parent.iterdir() if p.name not in before)
    assert kept(again) == kept(run) and len(kept(run)) > 4
    first, second = (
        yaml.safe_load((r / "config.yaml").read_text()) for r in (run, again)
    )
    assert first["log"].pop("run") != second["log"].pop("run") == again.name
    assert {k: v for k, v in first["log"].items() if k != "folder"} == {
        k: v for k, v in second["log"].items() if k != "folder"
    }
    first.pop("log"), second.pop("log")
    assert first == second
    assert f"environment of {run.name}, and of now" in out
    beside = f"""'log.folder="{logs.parent}"'"""
    assert f"--config-name config log.run=null {beside}" in out


@pytest.mark.slow
def test_a_rerun_of_two_processes_has_two(command, tmp_path):
    code = [sys.executable, "-c", COMMAND, "--config-name=simclr", *QUICK]
    subprocess.run(
        [*code, "hardware.processes=2", "log.run=two"], check=True, capture_output=True
    )
    run = tmp_path / "logs" / "runs" / "simclr" / "two"
    assert command("rerun", run, "log.run=again")[0] == 0
    again = run.with_name("again")
    assert json.loads((again / "environment.json").read_text())[0]["processes"] == 2
    assert kept(again) == kept(run)


@pytest.mark.slow
def test_a_script_of_ones_own_is_started_again(command, tmp_path, shell):
    script = tmp_path / "elsewhere" / "my_idea.py"
    script.parent.mkdir()
    script.write_text(
        textwrap.dedent("""
        import stable_ssl
        from torch import nn

        class MyIdea(stable_ssl.BaseTrainer):
            def initialize_modules(self):
                self.layer = nn.Linear(64, 8)

            def forward(self, x):
                return self.layer(x.flatten(1))

            def compute_loss(self):
                views, labels = self.data
                return (self(views[0]) - self(views[1])).square().mean()

        if __name__ == "__main__":
            stable_ssl.launch(MyIdea)
        """)
    )
    done = shell(script, *QUICK, "log.run=mine")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "logs" / "runs" / "default" / "mine"
    code, out, err = command("rerun", run, "log.run=again", "--script", script)
    assert code == 0, err
    assert f"{script} --config-dir {run}" in out
    assert kept(run.with_name("again")) == kept(run)
    script.unlink()
    code, _, err = command("rerun", run)
    assert code == 2 and f"{script} is no script any more; start your own" in err


def test_what_differs_is_said_before_anything_starts(command, logs, tmp_path):
    run = sorted(logs.glob("*/*"))[0]
    there = json.loads((run / "environment.json").read_text())
    there[0] |= {"python": "3.1.4", "processes": 3, "cwd": "/elsewhere"}
    there[0]["packages"]["torch"] = "1.0"
    there[0]["packages"]["chess"] = "9"
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (copy / name).write_text((run / name).read_text())
    (copy / "environment.json").write_text(json.dumps(there))
    code, out, _ = command("rerun", copy, "--dry-run")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f"python 3.1.4 {sys.version.split()[0]}" in lines
    assert any(line.startswith("torch 1.0 ") for line in lines)
    assert any(line.startswith("folder /elsewhere ") for line in lines)
    assert "1 other packages differ" in lines
    assert lines[-2].endswith("log.run=null hardware.processes=3")  # as torchrun did
    assert not list(tmp_path.glob("logs*"))
    text = (copy / "config.yaml").read_text().replace("  nesterov: false\n", "")
    (copy / "config.yaml").write_text(text)
    err = command("rerun", copy, "--dry-run")[2]
    assert "take the defaults of now: optim.nesterov\n" in err
    (copy / "environment.json").unlink()
    assert "environment.json is missing" in command("rerun", copy, "--dry-run")[1]


def test_a_key_that_is_gone_may_be_deleted(command, logs, tmp_path):
    text = (sorted(logs.glob("*/*"))[0] / "config.yaml").read_text()
    old = text.replace("  nesterov: false\n", "  nesterov: false\n  of_old: 1\n")
    (tmp_path / "config.yaml").write_text(old)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    code, _, err = command("rerun", tmp_path, "--dry-run")
    assert code == 2 and "optim.of_old is not a key" in err
    code, out, err = command("rerun", tmp_path, "~optim.of_old", "--dry-run")
    assert code == 0 and "'~optim.of_old' log.run=null" in out, err


def test_a_masked_secret_is_asked_for_by_its_key(command, logs, tmp_path):
    config = yaml.safe_load((sorted(logs.glob("*/*"))[0] / "config.yaml").read_text())
    config["mine"] = {"service": {"api_key": "***"}, "stars": "***"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    code, _, err = command("rerun", tmp_path)
    assert code == 2
    assert err.startswith("error: mine.service.api_key was a secret and is masked")
    code, out, _ = command("rerun", tmp_path, "mine.service.api_key=s", "--dry-run")
    assert code == 0


def test_a_null_name_is_no_name():
    assert compose("simclr", ["log.run=null"]).log.run is None
    assert compose("simclr", ["log.run=20261120_154400_0"]).log.run[:4] == "2026"


@pytest.mark.parametrize(
    "line",
    [
        ["-h"],
        ["--hydra-help"],
        ["--info"],
        ["--cfg", "job"],
        ["-cn", "byol", "--cfg", "job", "data=digits", "optim.lr=1"],
        ["nosuch"],
        *(
            [name, last]
            for name in ("table", "plot", "report")
            for last in ("-h", "LOGS")
        ),
    ],
    ids=" ".join,
)
def test_what_trains_nothing_needs_no_torch(line, logs, tmp_path):
    code = (
        "import sys; from stable_ssl.commands import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    line = [str(logs) if word == "LOGS" else word for word in line]
    done = subprocess.run(
        [sys.executable, "-c", code, *line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == (2 if line == ["nosuch"] else 0), done.stderr
    assert done.stdout.splitlines()[-1] == "False"
