"""Checks of arguments that many functions have."""

import numpy as np
import pytest

from keras_sanet._arguments import integer, integers, sides


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)], ids=repr)
def test_integers_of_all_kinds_become_pythons(value):
    for found in (integer("n", value), *integers("n", [value]), *sides("n", value)):
        assert type(found) is int and found == 3


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float32(3), "3", None, 0, -1], ids=repr)
def test_what_is_no_positive_integer_is_named(value):
    with pytest.raises(ValueError, match="`n` must be a positive integer. Received: n="):
        integer("n", value)
    with pytest.raises(ValueError, match="`n` must be positive integers. Received: n="):
        integers("n", [1, value])
    with pytest.raises(ValueError, match="`n` must be one or two positive integers. Received: n="):
        sides("n", (value, 1))


def test_an_integer_has_its_range():
    assert integer("n", 0, least=0, most=2) == 0
    with pytest.raises(ValueError, match="`n` must be an integer, 0 or more and at most 2. .*n=3"):
        integer("n", 3, least=0, most=2)


@pytest.mark.parametrize("size", [(1, 2, 3), (), "12", None], ids=repr)
def test_a_size_has_one_or_two_sides(size):
    with pytest.raises(ValueError, match="`size` must be one or two positive integers"):
        sides("size", size)
