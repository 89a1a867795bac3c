"""Poly decay: learning_rate * (1 - step / decay_steps) ** power."""

import keras
import pytest

from keras_sanet.schedules import poly_decay


def test_first_step_has_the_learning_rate():
    # 1e-5 * (1 - 0 / 10) ** 0.9 = 1e-5
    assert float(poly_decay(1e-5, 10)(0)) == pytest.approx(1e-5, rel=1e-6)


def test_half_way_is_half_to_the_power():
    # 1e-5 * (1 - 5 / 10) ** 0.9 = 1e-5 * 0.5358867 = 5.358867e-6
    assert float(poly_decay(1e-5, 10)(5)) == pytest.approx(5.358867e-6, rel=1e-6)
    # power 2: 1e-5 * 0.5 ** 2 = 2.5e-6
    assert float(poly_decay(1e-5, 10, power=2.0)(5)) == pytest.approx(2.5e-6, rel=1e-6)


def test_rate_is_zero_at_the_end_and_after():
    schedule = poly_decay(1e-5, 10)
    # step 9: 1e-5 * 0.1 ** 0.9 = 1e-5 * 0.1258925
    assert float(schedule(9)) == pytest.approx(1.258925e-6, rel=1e-5)
    assert [float(schedule(step)) for step in (10, 11, 1000)] == [0.0, 0.0, 0.0]


def test_decay_steps_below_one_raises_with_the_value():
    with pytest.raises(ValueError, match="`decay_steps` must be at least 1.*decay_steps=0"):
        poly_decay(1e-5, 0)


def test_round_trip_keeps_the_rates():
    schedule = poly_decay(1e-3, 8, power=0.5)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert again.get_config() == schedule.get_config()
    # 1e-3 * (1 - 6 / 8) ** 0.5 = 1e-3 * 0.5
    assert float(again(6)) == pytest.approx(5e-4, rel=1e-6)
