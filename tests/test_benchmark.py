"""The benchmark of one's own model."""

import pytest

import keras_sanet
from keras_sanet.benchmark import Benchmark

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


def test_the_parts_add_up_to_the_training_step(small):
    lines = str(small).splitlines()
    whole = float(lines[3].split()[-2])
    parts = [float(line.split()[-3]) for line in lines[4:9]]
    assert sum(parts) == pytest.approx(whole, abs=0.1 * len(parts))


def test_a_model_without_some_parts_has_the_others():
    model = keras_sanet.FCN(3, "resnet_tiny", filters=4)
    found = Benchmark(model, 32, rounds=1).seconds
    assert list(found) == ["prediction", "backbone", "head", *STEPS[4:]]


@pytest.mark.parametrize("argument", ["batch_size", "rounds"])
def test_counts_are_positive(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be a positive integer.*=0"):
        Benchmark(keras_sanet.FCN(3, "resnet_tiny", filters=4), **{argument: 0})
