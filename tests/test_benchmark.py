"""The benchmark of one's own model."""

import copy
import functools

import keras
import numpy as np
import pytest

import keras_sanet
from keras_sanet.benchmark import Benchmark, measure

STEPS = [
    "prediction",
    "backbone",
    "aggregator",
    "pyramid_pooling",
    "classifier, cross-entropy",
    "AdamW, metrics",
    "the same with Lovász-softmax",
]


@pytest.fixture(scope="module")
def small():
    model = keras_sanet.SANet(3, "resnet_tiny", aggregator_filters=4, pyramid_filters=4)
    return Benchmark(model, (32, 40), batch_size=2, rounds=1)


def test_every_step_is_run_twice_and_then_for_each_round(small):
    assert {name: len(seconds) for name, seconds in small.seconds.items()} == dict.fromkeys(
        STEPS, 3
    )


def test_a_part_is_the_difference_of_two_steps_and_a_share_of_the_last(small):
    known = copy.copy(small)
    # The medians after two runs: 1 s of prediction, then 2, 3, 5, 6 and 8 s up to each part, 9 s.
    known.seconds = {name: [99.0, 99.0, s] for name, s in zip(STEPS, (1.0, 2, 3, 5, 6, 8, 9))}
    parts = [line.split()[-3:] for line in str(known).splitlines()[4:9]]
    assert [float(milliseconds) for milliseconds, _, _ in parts] == [2000, 1000, 2000, 1000, 2000]
    assert [int(share) for _, share, _ in parts] == [25, 12, 25, 12, 25]  # of 8 s


def test_a_model_without_some_parts_has_the_others():
    model = keras_sanet.FCN(3, "resnet_tiny", filters=4)
    found = Benchmark(model, 32, rounds=1).seconds
    assert list(found) == ["prediction", "backbone", "head", *STEPS[4:]]


@pytest.mark.parametrize("argument", ["batch_size", "rounds"])
def test_counts_are_positive(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be a positive integer.*=0"):
        Benchmark(keras_sanet.FCN(3, "resnet_tiny", filters=4), **{argument: 0})


def dense():
    """A model of images with 5000 x 5000 float32 weights, 100 MB."""
    widen = keras.layers.Dense(5000)
    pooled = keras.layers.GlobalAveragePooling2D()
    return keras.Sequential([keras.Input((8, 8, 3)), pooled, widen, keras.layers.Dense(5000)])


def test_memory_is_what_a_fresh_process_takes_for_the_model_and_not_what_this_one_holds():
    held = np.ones(50_000_000)  # 400 MB, more than the other process takes in all before the model
    found = measure(dense, 8, rounds=1)
    assert found.seconds > 0 and held[-1] == 1
    if found.kind == "resident" and found.memory is not None:
        assert found.memory > 100e6


def test_what_can_not_be_measured_says_why():
    with pytest.raises(ValueError, match="`build` must be a function of a module"):
        measure(lambda: None)
    with pytest.raises(ChildProcessError, match="`num_classes` must be a positive integer"):
        measure(functools.partial(keras_sanet.FCN, 0))
    with pytest.raises(ValueError, match="`rounds` must be a positive integer.*=0"):
        measure(keras_sanet.FCN, rounds=0)
