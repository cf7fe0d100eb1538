"""The documented Slurm command lines, on a real Slurm."""

import json

import pytest

pytestmark = pytest.mark.slurm

QUICK = [
    "optim.epochs=1",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.pictures=null",
    "hydra.launcher.timeout_min=3",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=null",
]


def finished(folder):
    """Return {run: what environment.json says of its last launch}, all finished."""
    found = {}
    for run in sorted(folder.rglob("status.json")):
        status = json.loads(run.read_text())
        assert status == {"status": "finished", "reason": "", "format": 1}
        launches = json.loads(run.with_name("environment.json").read_text())
        found[run.parent.name] = launches[-1]
    return found


def test_a_job_without_multirun_goes_to_slurm(slurm, shell, main, tmp_path):
    done = shell(main, "hydra/launcher=submitit_slurm", *QUICK)
    assert done.returncode == 0, done.stderr
    (launch,) = finished(tmp_path).values()
    assert launch["slurm"]["SLURM_JOB_PARTITION"] == "main"
    assert launch["slurm"]["SLURM_JOB_NUM_NODES"] == "1"


def test_the_yaml_form(slurm, shell, main, tmp_path):
    configs = tmp_path / "mine"
    configs.mkdir()
    (configs / "job.yaml").write_text(
        "defaults:\n"
        "  - simclr\n"
        "  - override hydra/launcher: submitit_slurm\n"
        "  - _self_\n"
    )
    done = shell(main, "-cd", configs, "-cn", "job", *QUICK)
    assert done.returncode == 0, done.stderr
    (launch,) = finished(tmp_path).values()
    assert "SLURM_JOB_ID" in launch["slurm"]


def test_a_sweep(slurm, shell, main, tmp_path):
    line = ["hydra/launcher=submitit_slurm", "-m", "++optim.lr=0.1,0.2,0.3"]
    done = shell(main, *line, *QUICK)
    assert done.returncode == 0, done.stderr
    launches = finished(tmp_path)
    assert [name[-2:] for name in launches] == ["_0", "_1", "_2"]
    assert len({e["slurm"]["SLURM_JOB_ID"] for e in launches.values()}) == 3
    assert "3 runs" in done.stdout


def test_the_runs_of_a_papers_table(slurm, shell, tmp_path):
    rows = "columns: [{value: test/acc1}]\nrows: [simclr]\n"
    (tmp_path / "table.yaml").write_text(f"title: Two seeds\nseeds: [0, 1]\n{rows}")
    command = ["-c", "from stable_ssl.commands import main; main()", "paper"]
    line = [*command, "table.yaml", "--jobs", "2", "hydra/launcher=submitit_slurm"]
    done = shell(*line, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    launches = finished(tmp_path)
    assert [name[-3:] for name in launches] == ["-s0", "-s1"]
    assert len({e["slurm"]["SLURM_JOB_ID"] for e in launches.values()}) == 2
    (row,) = json.loads((tmp_path / "logs" / "paper" / "table.json").read_text())[
        "rows"
    ]
    assert row["cells"][0]["n"] == 2
