"""A method is its source: equal over 20 steps, but for what its docstring says."""

import importlib

import pytest

from tests.references.steps import compare, methods, reference_of

pytestmark = pytest.mark.references


@pytest.mark.parametrize("method", methods())
def test_a_method_is_its_source(method, tmp_path):
    apart = compare(method, tmp_path, frozenset(reference_of(method).kept))
    assert apart.loss <= 1e-10 and apart.weights <= 1e-8, apart


@pytest.mark.parametrize("method", methods())
def test_what_is_kept_is_a_difference_that_the_docstring_names(method, tmp_path):
    kept = reference_of(method).kept
    module = importlib.import_module(f"stable_ssl.methods.{method}")
    said = " ".join(module.__doc__.split())
    for number, name in enumerate(kept):
        assert name in said
        without = frozenset(kept) - {name}
        apart = compare(method, tmp_path / str(number), without)
        assert apart.loss > 1e-10 or apart.weights > 1e-8, (name, apart)
