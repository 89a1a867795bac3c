"""Time and memory of a prediction, in a process of its own."""

import functools

import keras
import numpy as np
import pytest

import keras_sanet
from keras_sanet.measurement import measure


def dense():
    """A model of images with 5000 x 5000 float32 weights, 100 MB."""
    widen = keras.layers.Dense(5000)
    pooled = keras.layers.GlobalAveragePooling2D()
    return keras.Sequential([keras.Input((8, 8, 3)), pooled, widen, keras.layers.Dense(5000)])


@pytest.mark.slow
def test_memory_is_what_a_fresh_process_takes_for_the_model_and_not_what_this_one_holds():
    held = np.ones(50_000_000)  # 400 MB, more than the other process takes in all before the model
    found = measure(dense, 8, rounds=1)
    assert found.seconds > 0 and held[-1] == 1
    if found.kind == "resident" and found.memory is not None:
        assert found.memory > 100e6


@pytest.mark.slow
def test_what_can_not_be_measured_says_why():
    with pytest.raises(ValueError, match="`build` must be a function of a module"):
        measure(lambda: None)
    with pytest.raises(ChildProcessError, match="`num_classes` must be a positive integer"):
        measure(functools.partial(keras_sanet.FCN, 0))
    with pytest.raises(ValueError, match="`rounds` must be a positive integer.*=0"):
        measure(keras_sanet.FCN, rounds=0)
