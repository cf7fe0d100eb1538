"""What a run ran on: the packages are those that are installed."""

import subprocess
import sys

from stable_ssl.loggers.environment import packages


def test_importing_setuptools_changes_no_version():
    lines = (
        "from stable_ssl.loggers.environment import packages",
        "before = packages()",
        "import setuptools  # puts the packages that it carries on the path",
        "assert packages() == before",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_of_two_copies_the_one_that_is_imported_counts(tmp_path, monkeypatch):
    for folder, version in (("second", "2.0"), ("first", "1.0"), ("_vendor", "0.1")):
        told = tmp_path / folder / f"chess-{version}.dist-info"
        told.mkdir(parents=True)
        (told / "METADATA").write_text(f"Name: chess\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path / folder)
    assert packages()["chess"] == "1.0"
    assert "torch" in packages()
