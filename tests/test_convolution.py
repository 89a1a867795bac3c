"""Convolutions and batch norm in their quick forms, against the stock ones, with gradients."""

import keras
import numpy as np
import pytest

from keras_sanet._backend import runs_on_cpu
from keras_sanet.layers import BatchNormalization, Conv2D, convolution
from keras_sanet.layers.convolution import convolve

BACKEND = keras.backend.backend()

# name: channels, filters, size, stride, dilation, groups, padding
FORMS = {
    "1x1": (24, 40, 1, 1, 1, 1, "same"),
    "1x1 stride 2": (24, 40, 1, 2, 1, 1, "valid"),
    "3x3": (24, 40, 3, 1, 1, 1, "same"),
    "3x3 dilated": (24, 40, 3, 1, 2, 1, "same"),
    "3x3 stride 2": (24, 40, 3, 2, 1, 1, "valid"),
    "3x3 unpadded": (24, 40, 3, 1, 1, 1, "valid"),
    "2x2": (24, 40, 2, 1, 1, 1, "same"),
    "wide": (40, 10, 3, 1, 1, 1, "same"),
    "wide dilated": (40, 10, 3, 1, 3, 1, "same"),
    "wide, dilated beyond the map": (40, 10, 3, 1, 12, 1, "same"),
    "gradient wide": (10, 40, 3, 1, 2, 1, "same"),
    "one chunk of groups": (32, 64, 3, 1, 1, 8, "same"),
    "three chunks of groups": (192, 96, 3, 1, 2, 24, "same"),
    "groups stride 2": (128, 128, 3, 2, 1, 32, "valid"),
}


def inputs_of(form, rng):
    """A map, and a kernel that keeps its scale."""
    channels, filters, size, *_, groups, _ = FORMS[form]
    x = rng.standard_normal((2, 9, 8, channels))
    kernel = rng.standard_normal((size, size, channels // groups, filters))
    return x.astype("float32"), (kernel / np.sqrt(kernel[..., 0].size)).astype("float32")


def with_gradients(function, *inputs):
    """y = function(*inputs), and the gradients of sum(sin(y)), as NumPy arrays."""
    inputs = [keras.ops.convert_to_tensor(x) for x in inputs]
    if BACKEND == "jax":
        import jax

        y, backward = jax.vjp(jax.jit(function), *inputs)
        results = [y, *backward(keras.ops.cos(y))]
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = tf.function(function)(*inputs)
            total = tf.reduce_sum(tf.sin(y))
        results = [y, *tape.gradient(total, inputs)]
    else:
        import torch

        inputs = [x.detach().requires_grad_() for x in inputs]
        y = function(*inputs)
        results = [y.detach(), *torch.autograd.grad(torch.sin(y).sum(), inputs)]
    return [keras.ops.convert_to_numpy(x) for x in results]


def assert_close(results, expected):
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=0, atol=3e-6 * np.abs(value).max())


@pytest.mark.parametrize("form", FORMS)
def test_convolution_and_its_gradients_are_the_stock_ones(form, rng):
    *_, stride, dilation, groups, padding = FORMS[form]
    x, kernel = inputs_of(form, rng)
    arguments = (stride, stride), padding, (dilation, dilation)

    def plain(x, kernel):
        parts = zip(keras.ops.split(x, groups, -1), keras.ops.split(kernel, groups, -1))
        strides, padding, dilation_rate = arguments
        return keras.ops.concatenate(
            [keras.ops.conv(*p, strides, padding, "channels_last", dilation_rate) for p in parts],
            axis=-1,
        )

    results = with_gradients(lambda x, k: convolve(x, k, *arguments, groups), x, kernel)
    assert_close(results, with_gradients(plain, x, kernel))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="is about TensorFlow without oneDNN")
@pytest.mark.parametrize("form", ["3x3 dilated", "three chunks of groups"])
def test_without_onednn_tensorflow_gives_the_same(form, rng, monkeypatch):
    *_, stride, dilation, groups, padding = FORMS[form]
    x, kernel = inputs_of(form, rng)

    def compute(x, kernel):
        return convolve(x, kernel, (stride, stride), padding, (dilation, dilation), groups)

    expected = with_gradients(compute, x, kernel)
    monkeypatch.setattr(convolution, "_has_onednn", lambda dtype: False)
    assert_close(with_gradients(compute, x, kernel), expected)


@pytest.mark.parametrize("form", ["3x3 dilated", "three chunks of groups"])
def test_gradients_in_half_precision_are_those_of_float32(form, rng):
    *_, stride, dilation, groups, padding = FORMS[form]

    def compute(x, kernel):
        return convolve(x, kernel, (stride, stride), padding, (dilation, dilation), groups)

    expected = with_gradients(compute, *inputs_of(form, np.random.default_rng(0)))
    found = with_gradients(compute, *(x.astype("float16") for x in inputs_of(form, rng)))
    for half, full in zip(found, expected):
        np.testing.assert_allclose(half, full, rtol=0, atol=0.01 * np.abs(full).max())


def test_chunks_divide_the_groups_and_are_wide_enough():
    assert convolution.chunk_count(24, 192) == 3
    assert convolution.chunk_count(32, 192) == 2  # three do not divide 32
    assert convolution.chunk_count(32, 48) == 1


def test_layer_takes_the_weights_of_the_stock_one(rng):
    arguments = {"filters": 12, "kernel_size": 3, "groups": 4, "padding": "same"}
    x = rng.standard_normal((1, 6, 5, 8)).astype("float32")
    stock, layer = keras.layers.Conv2D(**arguments), Conv2D(**arguments)
    stock.build(x.shape)
    layer.build(x.shape)
    layer.set_weights([rng.standard_normal(w.shape).astype("float32") for w in layer.weights])
    stock.set_weights(layer.get_weights())
    assert_close(with_gradients(layer, x), with_gradients(stock, x))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow's CPU is slower with XLA")
def test_compile_leaves_xla_off_on_the_cpu():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, Conv2D(2, 3)(image))
    model.compile("sgd", "mse")
    assert model.jit_compile is not runs_on_cpu()


# BatchNormalization


def normalizations(rng, channels, **arguments):
    """Ours and the stock layer with the same random weights."""
    layers = [
        layer(momentum=0.9, epsilon=1e-5, **arguments)
        for layer in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    for layer in layers:
        layer.build((None, None, None, channels))
    weights = [rng.uniform(0.5, 2, channels).astype("float32") for _ in layers[0].weights]
    for layer in layers:
        layer.set_weights(weights)
    return layers


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_batch_norm_and_its_gradients_are_the_stock_ones(training, trainable, rng):
    x = rng.normal(2, 3, (3, 7, 5, 6)).astype("float32")
    results = []
    for layer in normalizations(rng, 6, trainable=trainable):

        def normalize(x, gamma, beta, layer=layer):
            trained = [gamma, beta] if layer.trainable else []
            fixed = [v.value for v in layer.non_trainable_variables]
            outputs, _ = layer.stateless_call(trained, fixed, x, training=training)
            return outputs + 0 * (gamma + beta)

        gamma, beta = layer.get_weights()[:2]
        results.append(with_gradients(normalize, x, gamma, beta))
    assert_close(*results)


def test_batch_norm_moves_its_statistics_as_the_stock_layer(rng):
    x = rng.normal(2, 3, (2, 5, 4, 3)).astype("float32")
    ours, stock = normalizations(rng, 3)
    ours(x, training=True)
    stock(x, training=True)
    assert_close(ours.get_weights(), stock.get_weights())


def moved(mean, variance, value):
    """Moving statistics after a step that sees one value."""
    # E[(x - mean)^2] = 2 / (1 + 0.9) variance, where the mean is of a momentum of 0.9.
    return 0.9 * mean + 0.1 * value, 0.9 * variance + 0.1 * (1 + 0.9) / 2 * (value - mean) ** 2


def test_one_value_a_channel_is_normalized_by_the_moving_statistics(rng):
    x, (layer, _) = rng.normal(2, 3, (1, 1, 1, 3)).astype("float32"), normalizations(rng, 3)
    gamma, beta, mean, variance = layer.get_weights()
    y = keras.ops.convert_to_numpy(layer(x, training=True))
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    mean, variance = moved(mean, variance, x[0, 0, 0])
    assert_close(layer.get_weights(), [gamma, beta, mean, variance])


def test_gradients_of_one_value_a_channel_are_those_of_inference(rng):
    x, (layer, _) = rng.normal(2, 3, (1, 1, 1, 3)).astype("float32"), normalizations(rng, 3)
    results = []
    for training in (True, False):

        def normalize(x, gamma, beta, training=training):
            fixed = [v.value for v in layer.non_trainable_variables]
            return layer.stateless_call([gamma, beta], fixed, x, training=training)[0]

        results.append(with_gradients(normalize, x, *layer.get_weights()[:2]))
    assert_close(*results)


def test_the_moving_variance_of_single_values_is_their_variance_on_average(rng):
    layer = BatchNormalization()
    layer.build((None, 1, 1, 4096))
    for _ in range(60):
        layer(rng.normal(2, 3, (1, 1, 1, 4096)).astype("float32"), training=True)
    # 0.9^60 of what they began with is left.
    assert np.mean(keras.ops.convert_to_numpy(layer.moving_mean)) == pytest.approx(2, rel=0.02)
    assert np.mean(keras.ops.convert_to_numpy(layer.moving_variance)) == pytest.approx(9, rel=0.03)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("size", [1, None])
def test_a_last_batch_of_one_value_a_channel_moves_the_statistics_by_it(size, policy, rng):
    layer, x = BatchNormalization(dtype=policy), rng.integers(-4, 5, (3, 1, 1, 2)).astype("float32")
    image = keras.Input((size, size, 2))
    model = keras.Model(image, layer(image))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=BACKEND == "jax")
    model.fit(x, x, batch_size=2, shuffle=False, verbose=0)
    pair, last = x[:2, 0, 0], x[2, 0, 0]
    expected = moved(0.1 * pair.mean(0), 0.9 + 0.1 * pair.var(0), last)
    found = [keras.ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_value_that_a_mask_leaves_moves_the_statistics_by_it(rng):
    x, (layer, _) = rng.normal(2, 3, (1, 2, 2, 3)).astype("float32"), normalizations(rng, 3)
    mean, variance = layer.get_weights()[2:]
    layer(x, training=True, mask=np.array([[[False, False], [True, False]]]))
    assert_close(layer.get_weights()[2:], moved(mean, variance, x[0, 1, 0]))


def test_a_frozen_batch_norm_keeps_its_statistics_of_one_value(rng):
    layer, _ = normalizations(rng, 3, trainable=False)
    before = layer.get_weights()
    layer(rng.normal(2, 3, (1, 1, 1, 3)).astype("float32"), training=True)
    np.testing.assert_array_equal(layer.get_weights(), before)


def test_batch_norm_defaults_are_pytorchs():
    layer = BatchNormalization()
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
