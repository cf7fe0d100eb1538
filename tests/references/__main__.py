"""Write benchmarks/references.rst: how far each method is from its source.

python -m tests.references               # of all methods, a few seconds each
python -m tests.references simclr dino   # print their rows alone, and write nothing
"""

import argparse
import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import torch

from tests.references.steps import STEPS, Differences, compare, methods, reference_of

PAGE = Path(__file__).parents[2] / "benchmarks" / "references.rst"
HEAD = f"""\
Methods beside their sources
============================

{STEPS} steps of each method by the trainer, with its hooks, optimizer and schedule, and
by a reference written from the paper and the authors' code, or with another library's
loss: the same initial weights and views, in float64 on the CPU. The two columns of
figures are the largest difference of a loss, and of a weight, running statistic or
other state at the end. What a method does otherwise than its source, on purpose, is the
last column, with what it makes of the same figures; everywhere else the reference
follows the source. ``pip install -e ".[references]"``; then ``python -m
tests.references`` writes this page, and ``python -m pytest -m references`` checks it.

.. list-table::
   :header-rows: 1
   :widths: 12 33 8 8 39

   * - method
     - reference
     - loss
     - weights
     - kept, and why
"""


def measured(method: str, aligned: frozenset[str]) -> Differences:
    """Return the differences, and print nothing."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        return compare(method, Path(folder), aligned)


def row(method: str) -> str:
    """Return the rows of a method in the page's table."""
    reference = reference_of(method)
    kept = frozenset(reference.kept)
    loss, weights = measured(method, kept)
    said = []
    for name, why in reference.kept.items():
        apart = measured(method, kept - {name})
        figures = f"loss {apart.loss:.0e}, weights {apart.weights:.0e}"
        said.append(f"{name}: {why} ({figures})")
    cells = [method, reference.source, f"{loss:.0e}", f"{weights:.0e}", "; ".join(said)]
    first, *others = (" ".join(cell.split()).replace("`", "``") for cell in cells)
    lines = [f"   * - {first}", *(f"     - {cell}".rstrip() for cell in others)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print the rows of some methods or write the page of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*")
    names = parser.parse_args().methods
    torch.set_num_threads(1)
    rows = "".join(map(row, names or methods()))
    if names:
        print(rows, end="")
    else:
        PAGE.write_text(HEAD + rows)


if __name__ == "__main__":
    main()
