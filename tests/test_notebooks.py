"""The notebooks run from the first cell to the last, in an empty folder."""

from pathlib import Path

import pytest

from .slurm.conftest import slurm  # noqa: F401  # started for the one that needs it

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, request):
    nbclient = pytest.importorskip("nbclient", reason="it is in the docs extra")
    nbformat = pytest.importorskip("nbformat", reason="it comes with nbclient")
    if path.stem == "slurm":
        request.getfixturevalue("slurm")
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
