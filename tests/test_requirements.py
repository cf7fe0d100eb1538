"""tests/REQUIREMENTS.rst: each requirement once, with tests or a reason."""

import ast
import re
from functools import cache

import pytest

from .conftest import MARKERS, REPOSITORY, REQUIREMENTS, named_tests

COUNTS = {"A": 32, "B": 38, "C": 24, "D": 23, "E": 25}
IDS = [f"{part}{n}" for part, count in COUNTS.items() for n in range(1, count + 1)]
CELL = r"\n     - (.+(?:\n       .+)*)"
ROW = re.compile(rf"^   \* - (?!id$)(\S+){CELL}{CELL}$", re.MULTILINE)
TEXT = REQUIREMENTS.read_text(encoding="utf-8")
ROWS = {row: (words, shown) for row, words, shown in ROW.findall(TEXT)}


@cache
def module(file):
    return ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))


def marks(nodes):
    """Return the marks of decorators, or of the value of `pytestmark`, as source."""
    return [text for node in nodes if "pytest.mark." in (text := ast.unparse(node))]


def test_every_requirement_has_one_row():
    found = re.findall(r"^   \* - (?!id$)(\S+)$", TEXT, re.M)
    assert sorted(found) == sorted(IDS)
    assert sorted(ROWS) == sorted(IDS)


@pytest.mark.parametrize("row", IDS)
def test_a_row_says_what_is_promised_and_what_shows_it(row):
    words, shown = ROWS[row]
    assert len(words) > 20 and words.endswith((".", "?"))
    reason = re.match(r"out of scope: \w.{20,}", shown, re.S)
    assert bool(named_tests(shown)) != bool(reason), shown


@pytest.mark.parametrize("test", sorted(named_tests(TEXT)))
def test_what_is_named_is_there_and_is_run(test):
    file, _, name = test.partition("::")
    assert (REPOSITORY / file).is_file(), f"there is no {file}"
    tree = module(file)
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    (function,) = [n for n in functions if n.name == name]
    of_all = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    found = marks([*function.decorator_list, *of_all])
    assert not [m for m in found if re.search(r"mark\.(skip\b|xfail|skipif\(True)", m)]
    assert not ast.unparse(function.body[0]).startswith(("pytest.skip", "return"))
    under = [m for m in MARKERS if any(re.search(rf"mark\.{m}\b", f) for f in found)]
    assert under == [m for m in [named_tests(TEXT)[test]] if m]
