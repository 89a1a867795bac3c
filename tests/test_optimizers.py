"""AdamW and SGD: each step against plain optimizers, PyTorch's and the arithmetic."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_sanet.optimizers import SGD, AdamW
from keras_sanet.schedules import poly_decay

STEPS = 4
RATE, DECAY = 0.1, 0.05
MULTIPLES = [1.0, 10.0, 1.0]


@pytest.fixture
def values(rng):
    """3 weights of 4 values each, and their gradients in each step."""
    return rng.standard_normal((3, 4)), rng.standard_normal((STEPS, 3, 4))


def variables(weights):
    return [keras.Variable(w.astype("float32"), name=f"w{i}") for i, w in enumerate(weights)]


def stepped(optimizer, weights, gradients):
    """The weights after a step for each row of gradients."""
    found = variables(weights)
    optimizer.build(found)
    for row in gradients.astype("float32"):
        optimizer.apply([ops.convert_to_tensor(g) for g in row], found)
    return np.array([ops.convert_to_numpy(v) for v in found])


def settings(rate=RATE):
    return {"learning_rate": poly_decay(rate, STEPS), "weight_decay": DECAY}


def test_multiples_are_plain_adamws_of_such_rates_on_each_group(values):
    weights, gradients = values
    slow, fast = (
        stepped(keras.optimizers.AdamW(**settings(rate)), weights, gradients)
        for rate in (RATE, 10 * RATE)
    )
    found = stepped(AdamW(rate_multiples=MULTIPLES, **settings()), weights, gradients)
    np.testing.assert_allclose(found, [slow[0], fast[1], slow[2]], rtol=1e-5, atol=1e-6)


def test_weight_decay_goes_with_the_rate_of_its_group(values):
    # Without gradients, w (1 - 0.1 m 0.05) of each m.
    weights, gradients = values
    found = stepped(AdamW(rate_multiples=MULTIPLES, **settings()), weights, 0 * gradients[:1])
    factors = 1 - RATE * DECAY * np.array(MULTIPLES)[:, None]
    np.testing.assert_allclose(found, factors * weights, rtol=1e-6)


def test_without_multiples_adamw_is_keras_own(values):
    found, expected = (
        stepped(kind(**settings()), *values) for kind in (AdamW, keras.optimizers.AdamW)
    )
    np.testing.assert_array_equal(found, expected)


def test_sgd_is_that_of_pytorch_by_hand(values):
    weights, gradients = values
    w, m = weights.copy(), 0
    for step, gradient in enumerate(gradients):
        m = 0.9 * m + gradient + DECAY * w
        w -= RATE * (1 - step / STEPS) ** 0.9 * np.array(MULTIPLES)[:, None] * m
    optimizer = SGD(momentum=0.9, rate_multiples=MULTIPLES, **settings())
    np.testing.assert_allclose(stepped(optimizer, weights, gradients), w, rtol=1e-5, atol=1e-6)


def test_sgd_is_that_of_pytorch(values):
    torch = pytest.importorskip("torch")
    weights, gradients = values
    theirs = [torch.tensor(w, device="cpu") for w in weights]
    groups = [{"params": [w], "lr": RATE * m} for w, m in zip(theirs, MULTIPLES)]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=DECAY)
    for step, row in enumerate(gradients):
        for group, w, gradient, multiple in zip(optimizer.param_groups, theirs, row, MULTIPLES):
            w.grad = torch.tensor(gradient, device="cpu")
            group["lr"] = RATE * multiple * (1 - step / STEPS) ** 0.9
        optimizer.step()
    ours = SGD(momentum=0.9, rate_multiples=MULTIPLES, **settings())
    expected = [w.numpy() for w in theirs]
    np.testing.assert_allclose(stepped(ours, weights, gradients), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_accumulated_gradients_are_one_step_on_their_mean(kind, values):
    # The rate of the second batch of four: 0.1 (1 - 1 / 4)^0.9 in both.
    weights, gradients = values
    arguments = {"weight_decay": DECAY, "rate_multiples": MULTIPLES}
    if kind is SGD:
        arguments["momentum"] = 0.9
    found = stepped(
        kind(poly_decay(RATE, STEPS), gradient_accumulation_steps=2, **arguments),
        weights,
        gradients[:2],
    )
    expected = stepped(
        kind(RATE * 0.75**0.9, **arguments), weights, gradients[:2].mean(axis=0, keepdims=True)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_the_first_of_accumulated_batches_leaves_the_weights_alone(kind, values):
    weights, gradients = values
    arguments = {"momentum": 0.9} if kind is SGD else {}
    optimizer = kind(gradient_accumulation_steps=2, **settings(), **arguments)
    found = stepped(optimizer, weights, gradients[:1])
    np.testing.assert_array_equal(found, weights.astype("float32"))


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_all_gradients_together_are_clipped_to_the_norm(kind, values):
    # g min(1, 0.5 / |g|) where |g| is over all three variables.
    weights, gradients = values
    arguments = {**settings(), "rate_multiples": MULTIPLES}
    if kind is SGD:
        arguments["momentum"] = 0.9
    found = stepped(kind(global_clipnorm=0.5, **arguments), weights, gradients)
    norms = np.sqrt((gradients**2).sum(axis=(1, 2), keepdims=True))
    assert (norms > 0.5).all()
    expected = stepped(kind(**arguments), weights, gradients * 0.5 / norms)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_a_copy_from_the_config_makes_the_same_steps(kind, values):
    arguments = {"momentum": 0.9} if kind is SGD else {}
    optimizer = kind(rate_multiples=MULTIPLES, **settings(), **arguments)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(copy) is type(optimizer)
    np.testing.assert_array_equal(stepped(copy, *values), stepped(optimizer, *values))


def test_the_weights_of_an_optimizer_resume_it(values):
    weights, gradients = values
    expected = stepped(AdamW(rate_multiples=MULTIPLES, **settings()), weights, gradients)
    first, second = (AdamW(rate_multiples=MULTIPLES, **settings()) for _ in range(2))
    found, store = variables(stepped(first, weights, gradients[:2])), {}
    first.save_own_variables(store)
    second.build(found)
    second.load_own_variables(store)
    for row in gradients[2:].astype("float32"):
        second.apply([ops.convert_to_tensor(g) for g in row], found)
    np.testing.assert_allclose(
        [ops.convert_to_numpy(v) for v in found], expected, rtol=1e-6, atol=1e-7
    )


def test_as_many_multiples_as_variables_are_asked_for(values):
    with pytest.raises(ValueError, match="Received: 2 numbers, 3 variables"):
        stepped(AdamW(rate_multiples=[1, 10]), *values)


@pytest.mark.parametrize("arguments", [{}, {"momentum": 0.9, "nesterov": True}])
def test_sgd_without_momentum_or_with_nesterovs_is_refused(arguments):
    with pytest.raises(ValueError, match="`momentum` must be above 0 and `nesterov` False"):
        SGD(**arguments)
