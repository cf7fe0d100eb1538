"""The user's own modules of a run: copied, named when they change, told apart."""

import json
import sys

import pytest

from stable_ssl import report
from stable_ssl.loggers.own_code import changes, code_of, own_modules, recorded
from stable_ssl.tools.runs import read_run

SCRIPT = """
import helper_of_mine
import stable_ssl

class Mine(stable_ssl.SimCLR):
    def compute_loss(self):
        return helper_of_mine.FACTOR * super().compute_loss()["loss"]

if __name__ == "__main__":
    stable_ssl.launch(Mine, "simclr")
"""
FEW = ["optim.epochs=1", "log.eval.untrained=false", "log.eval.few_labels=[]"]
FEW += ["log.pictures=null", "log.eval.linear=null"]


def finished(done):
    """Return a process that ended well."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def idea(tmp_path):
    (tmp_path / "my_idea.py").write_text(SCRIPT)
    (tmp_path / "helper_of_mine.py").write_text("FACTOR = 1.0\n")
    return tmp_path


@pytest.fixture
def folder(idea, shell):
    finished(shell("my_idea.py", *FEW, "log.run=a"))
    return idea / "logs/runs/simclr/a"


def test_what_a_run_used_is_in_its_folder_and_a_change_is_named(folder, idea, shell):
    code = {p.relative_to(folder / "code").as_posix() for p in folder.glob("code/*")}
    assert code == {"my_idea.py", "helper_of_mine.py", "files.json"}
    assert (folder / "code/my_idea.py").read_text() == SCRIPT
    assert (folder / "code/my_idea.py").stat().st_mode & 0o777 == 0o600
    known = json.loads((folder / "code/files.json").read_text())
    assert known["helper_of_mine.py"]["path"] == str(idea / "helper_of_mine.py")
    before = code_of(folder)
    (launch,) = json.loads((folder / "environment.json").read_text())
    assert launch["own"] == before
    assert changes(recorded(folder)) == {} and before == read_run(folder).flat["code"]
    (idea / "helper_of_mine.py").unlink()
    (idea / "my_idea.py").write_text(SCRIPT + "\n")
    assert changes(recorded(folder)) == {
        "helper_of_mine.py": "gone",
        "my_idea.py": "changed",
    }
    command = "from stable_ssl.commands import main; main()"
    done = shell("-c", command, "rerun", "logs/runs/simclr/a", "--dry-run")
    assert "code helper_of_mine.py  kept  gone" in finished(done).stdout
    (folder / "code/files.json").write_text("[1]")  # nobody's: nothing to compare
    assert changes(recorded(folder)) == {} and code_of(folder) is None


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b", 3, None, "/no/such/file"])
def test_what_a_stranger_names_is_never_waited_for(path, tmp_path):
    (tmp_path / "code").mkdir()
    record = {"mine.py": {"path": path, "sha256": "0" * 16}}
    (tmp_path / "code" / "files.json").write_text(json.dumps(record))
    assert changes(recorded(tmp_path)) == {"mine.py": "gone"}


@pytest.mark.slow
def test_two_codes_are_no_two_seeds(folder, idea, shell):
    (idea / "helper_of_mine.py").write_text("FACTOR = 2.0\n")
    finished(shell("my_idea.py", *FEW, "log.run=b", "hardware.seed=1"))
    runs, _ = report.load(idea / "logs")
    assert runs["code"].nunique() == 2
    with pytest.warns(UserWarning, match="code"):
        report.table(runs, ["model.name"], value=["val/knn_acc1"])
    more = ["log.run=a", "log.resume=auto", "optim.epochs=2"]
    done = finished(shell("my_idea.py", *FEW[1:], *more))
    assert "code of this run has changed: helper_of_mine.py (changed)" in done.stderr
    first, second = json.loads((folder / "environment.json").read_text())
    both = {first["own"], second["own"]}
    assert len(both) == 2 and {*read_run(folder).flat["code"].split("+")} == both


def test_the_library_and_installed_packages_are_not_the_users():
    found = own_modules(["stable_ssl.trainer", "torch", "json", "pytest", "__main__"])
    assert not found
    assert [*own_modules([__name__])] == [f"{__name__.replace('.', '/')}.py"] or found
    assert "stable_ssl" in sys.modules
