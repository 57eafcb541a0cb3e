"""Numbers as people and records have them."""

import math

import pytest

from bench.utils.numbers import finite, format_bytes, whole_number


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 MiB"), (2**20, "1 MiB"), (20 * 2**20 + 2**19, "20.5 MiB"), (2**30, "1 GiB"), (3 * 2**39, "1,536 GiB")],
)
def test_sizes_as_people_read_them(size, text):
    assert format_bytes(size) == text


def test_only_finite_numbers_are_numbers():
    assert [finite(value) for value in (1, -2.5, 0)] == [1, -2.5, 0]
    assert [finite(value) for value in (None, True, "1", math.nan, math.inf, 10**400, [1])] == [None] * 7


def test_integers_of_json_have_a_bound():
    assert whole_number("-" + "9" * 19) == -(10**19 - 1)
    with pytest.raises(ValueError, match="a whole number of 21 digits"):
        whole_number("1" * 21)
