"""The backend's own operations against NumPy's."""

import numpy as np
import pytest
from keras import ops

from keras_sanet import _backend


def test_argmax_gives_the_first_of_equal_values_also_of_two_zeros(rng):
    x = rng.integers(-2, 3, (2, 5, 6, 4)).astype("float32")
    x[0, 0, 0] = [-1, -0.0, 0.0, -1]
    result = _backend.argmax(ops.convert_to_tensor(x))
    assert ops.convert_to_numpy(result).dtype == "int32"
    np.testing.assert_array_equal(result, x.argmax(-1))


@pytest.mark.parametrize("weighted", [False, True])
def test_histogram_counts_or_adds_weights(rng, weighted):
    cells = rng.integers(0, 9, 1000).astype("int32")
    weights = rng.uniform(size=1000).astype("float32") if weighted else None
    result = _backend.histogram(
        ops.convert_to_tensor(cells), 12, ops.convert_to_tensor(weights) if weighted else None
    )
    expected = np.bincount(cells, weights, minlength=12)
    np.testing.assert_allclose(ops.convert_to_numpy(result), expected, rtol=1e-5 * weighted)


def test_histogram_of_nothing_is_0():
    result = _backend.histogram(ops.convert_to_tensor(np.zeros(0, "int32")), 3)
    np.testing.assert_array_equal(ops.convert_to_numpy(result), [0, 0, 0])


def test_split_gives_parts_of_the_sizes(rng):
    x = rng.normal(size=(2, 6, 3)).astype("float32")
    parts = _backend.split(ops.convert_to_tensor(x), (1, 3, 2), axis=1)
    for part, expected in zip(parts, np.split(x, [1, 4], axis=1), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(part), expected)
