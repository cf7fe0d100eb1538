"""What is due is due every so often, and at the end."""

import pytest

from stable_ssl.cadence import is_due


@pytest.mark.parametrize(
    ("every", "found"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (None, [5]), (9, [5])]
)
def test_every_so_often_and_last(every, found):
    assert [n for n in range(1, 6) if is_due(every, n, last=n == 5)] == found
    assert is_due(every, 5) == (every in (1, 5))
