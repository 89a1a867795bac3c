"""Layers of SANet against plain references, on the backend that runs."""

import keras
import numpy as np
import pytest
from support import to_numpy

from keras_sanet.layers import (
    BatchNormalization,
    Conv2D,
    ConvLSTMAggregator,
    FeatureAdapter,
    PyramidPooling,
    SegmentationOutput,
)

# name: (makes the layer, calls it on maps x and t, whether the result has the grid of t, channels)
CASES = {
    "FeatureAdapter": (
        lambda: FeatureAdapter(6),
        lambda layer, x, t: layer(x, t),
        True,
        6,
    ),
    "FeatureAdapter with batch norm": (
        lambda: FeatureAdapter(6, normalize=True),
        lambda layer, x, t: layer(x, t),
        True,
        6,
    ),
    "ConvLSTMAggregator": (
        lambda: ConvLSTMAggregator(3, 5, dilation_rate=3, recurrent_dilation_rate=1),
        lambda layer, x, t: layer([x, -x]),
        False,
        3,
    ),
    "PyramidPooling": (
        lambda: PyramidPooling(5, bins=(1, 3)),
        lambda layer, x, t: layer(x),
        False,
        5,
    ),
    "Conv2D": (
        lambda: Conv2D(6, 3, groups=2, padding="same", dilation_rate=2),
        lambda layer, x, t: layer(x),
        False,
        6,
    ),
    "BatchNormalization": (
        lambda: BatchNormalization(),
        lambda layer, x, t: layer(x),
        False,
        4,
    ),
    "SegmentationOutput": (
        lambda: SegmentationOutput(["a", "b", "c", "d"], [[i, 2 * i, 255] for i in range(4)]),
        lambda layer, x, t: layer(x, t),
        True,
        4,
    ),
}
every_layer = pytest.mark.parametrize("name", CASES)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype("float32")


def torch_maps(x):
    """(batch, height, width, channels) array to (batch, channels, height, width) tensor."""
    import torch

    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def keras_maps(x):
    return x.permute(0, 2, 3, 1).numpy()


def randomize(layer, rng):
    """Positive values suit variances too; kernels get either sign."""
    for variable in layer.variables:
        low = 0.5 if "variance" in variable.name else -0.5
        variable.assign(rng.uniform(low, 1.0, variable.shape).astype("float32"))


# Every layer


def model_of(name, layer):
    """Maps x (4 channels) and t (2 channels) of any size, to what the layer makes of them."""
    _, call, grid_of_t, _ = CASES[name]
    x, t = keras.Input((None, None, 4)), keras.Input((None, None, 2))
    y = call(layer, x, t)
    if not grid_of_t:  # Keras before 3.13 wants every input connected
        y = y + keras.ops.cast(0 * keras.ops.sum(t), y.dtype)
    return keras.Model([x, t], y)


@every_layer
def test_symbolic_and_real_output_shapes_agree_for_two_sizes_of_one_model(name, compiled, rng):
    make, _, grid_of_t, channels = CASES[name]
    model = model_of(name, make())
    run = compiled(model)
    assert model.output_shape == (None, None, None, channels)
    for size, target in (((6, 9), (4, 5)), ((7, 4), (9, 3))):
        y = run([normal(rng, 2, *size, 4), normal(rng, 2, *target, 2)])
        assert tuple(y.shape) == (2, *(target if grid_of_t else size), channels)


@every_layer
def test_layer_is_rebuilt_from_its_config(name, compiled, rng):
    make, *_ = CASES[name]
    layer = make()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    model, rebuilt = model_of(name, layer), model_of(name, again)
    again.set_weights(layer.get_weights())
    maps = [normal(rng, 2, 6, 5, 4), normal(rng, 2, 3, 4, 2)]
    np.testing.assert_array_equal(
        to_numpy(compiled(rebuilt)(maps)), to_numpy(compiled(model)(maps))
    )


@every_layer
def test_mixed_bfloat16_gives_finite_values(name, compiled, rng):
    make, *_ = CASES[name]
    keras.config.set_dtype_policy("mixed_bfloat16")
    y = compiled(model_of(name, make()))([normal(rng, 2, 6, 5, 4), normal(rng, 2, 9, 4, 2)])
    expected = "float32" if name == "SegmentationOutput" else "bfloat16"
    assert keras.backend.standardize_dtype(y.dtype) == expected
    assert np.isfinite(to_numpy(y)).all()


# FeatureAdapter


@pytest.mark.parametrize("target", [(3, 4), (14, 25), (5, 20), (7, 10)])
def test_eq1_adapter_is_bilinear_resizing_and_a_1x1_convolution(target, rng):
    torch = pytest.importorskip("torch")
    x, layer = normal(rng, 2, 7, 10, 3), FeatureAdapter(4)
    y = to_numpy(layer(x, np.zeros((2, *target, 1), "float32")))
    resized = torch.nn.functional.interpolate(
        torch_maps(x), target, mode="bilinear", align_corners=False, antialias=False
    )
    kernel = to_numpy(layer.kernel)[0, 0]
    np.testing.assert_allclose(y, keras_maps(resized) @ kernel, rtol=0, atol=1e-5)


def test_adapter_resizes_a_ramp_by_half_pixel_centres():
    # Two cells 0, 1 onto four: centres (n + 0.5) / 2 - 0.5 = -0.25, 0.25, 0.75, 1.25, clipped.
    x = np.array([0.0, 1.0], "float32").reshape(1, 1, 2, 1)
    y = FeatureAdapter()(x, np.zeros((1, 1, 4, 1), "float32"))
    np.testing.assert_array_equal(to_numpy(y)[0, 0, :, 0], [0, 0.25, 0.75, 1])


def test_adapter_without_filters_leaves_channels_and_has_no_weights(rng):
    layer = FeatureAdapter()
    y = layer(normal(rng, 1, 4, 4, 3), normal(rng, 1, 2, 5, 7))
    assert tuple(y.shape) == (1, 2, 5, 3)
    assert layer.weights == []


def test_a_normalizing_adapter_ends_with_a_batch_norm(rng):
    layer, x, target = (
        FeatureAdapter(normalize=True),
        normal(rng, 2, 4, 5, 3),
        np.zeros((2, 4, 5, 1)),
    )
    y = to_numpy(layer(x, target.astype("float32"), training=True))
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("filters", [0, -2, 1.5, "8", True])
def test_adapter_names_bad_filters(filters):
    with pytest.raises(ValueError, match=f"`filters` must be a positive.*filters={filters!r}"):
        FeatureAdapter(filters)


# ConvLSTMAggregator


def dilated_convolution(x, kernel, rate):
    """'same' convolution with zeros outside, position by position of the kernel."""
    size, (_, height, width, _) = len(kernel), x.shape
    margin = rate * (size - 1) // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    return sum(
        padded[:, rate * p : rate * p + height, rate * q : rate * q + width] @ kernel[p, q]
        for p in range(size)
        for q in range(size)
    )


def equations_2_to_8(maps, kernel, recurrent_kernel, bias, rate):
    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    w_ix, w_fx, w_gx, w_ox = np.split(kernel, 4, axis=-1)
    w_ih, w_fh, w_gh, w_oh = np.split(recurrent_kernel, 4, axis=-1)
    b_i, b_f, b_g, b_o = np.split(bias, 4)
    h = c = np.zeros((*maps[0].shape[:-1], len(b_i)))
    states = []
    for x in maps:

        def gate(w_x, w_h, b, x=x, h=h):
            return dilated_convolution(x, w_x, rate) + dilated_convolution(h, w_h, rate) + b

        i = sigmoid(gate(w_ix, w_ih, b_i))  # 2
        f = sigmoid(gate(w_fx, w_fh, b_f))  # 3
        o = sigmoid(gate(w_ox, w_oh, b_o))  # 4
        g = np.tanh(gate(w_gx, w_gh, b_g))  # 5
        c = f * c + i * g  # 6
        h = o * np.tanh(c)  # 7
        states.append(h)
    return np.mean(states, axis=0)  # 8


def aggregator_weights(rng, channels, filters, size=3):
    return [
        0.3 * normal(rng, size, size, channels, 4 * filters),
        0.3 * normal(rng, size, size, filters, 4 * filters),
        normal(rng, 4 * filters),
    ]


@pytest.mark.parametrize("taps", [1, 3, 5])
def test_eqs_2_to_8_are_computed_with_both_convolutions_dilated(taps, compiled, rng):
    maps = [normal(rng, 2, 7, 6, 3) for _ in range(taps)]
    weights = aggregator_weights(rng, 3, 4)
    layer = ConvLSTMAggregator(4, dilation_rate=2)
    layer.build([x.shape for x in maps])
    layer.set_weights(weights)
    expected = equations_2_to_8(maps, *weights, rate=2)
    np.testing.assert_allclose(to_numpy(compiled(layer)(maps)), expected, rtol=0, atol=1e-5)


def test_undilated_recurrence_equals_the_mean_of_the_stock_conv_lstm(compiled, rng):
    maps = [normal(rng, 2, 6, 5, 3) for _ in range(3)]
    stock = keras.layers.ConvLSTM2D(
        4, 3, padding="same", dilation_rate=2, return_sequences=True, data_format="channels_last"
    )
    stock.build((2, 3, 6, 5, 3))
    stock.set_weights(aggregator_weights(rng, 3, 4))
    layer = ConvLSTMAggregator(4, 3, dilation_rate=2, recurrent_dilation_rate=1)
    layer.build([x.shape for x in maps])
    layer.set_weights(stock.get_weights())
    expected = to_numpy(compiled(stock)(np.stack(maps, axis=1))).mean(axis=1)
    np.testing.assert_allclose(to_numpy(compiled(layer)(maps)), expected, rtol=0, atol=1e-5)


def test_eq8_output_is_the_mean_of_the_sequence(rng):
    maps = [normal(rng, 2, 4, 5, 3) for _ in range(3)]
    sequence, mean = ConvLSTMAggregator(4, return_sequences=True), ConvLSTMAggregator(4)
    states = sequence(maps)
    assert tuple(states.shape) == (2, 3, 4, 5, 4)
    assert sequence.compute_output_shape([x.shape for x in maps]) == (2, 3, 4, 5, 4)
    mean(maps)
    mean.set_weights(sequence.get_weights())
    np.testing.assert_allclose(
        to_numpy(mean(maps)), to_numpy(states).mean(axis=1), rtol=0, atol=1e-6
    )


def test_eqs_6_and_7_join_the_gates_of_a_single_map(rng):
    x, layer = normal(rng, 2, 4, 5, 3), ConvLSTMAggregator(4)
    gates = {name: to_numpy(gate) for name, gate in layer.gates([x]).items()}
    # c_0 = 0: c = i g, h = o tanh(c), and the mean of one is h itself.
    expected = gates["output"] * np.tanh(gates["input"] * gates["candidate"])
    np.testing.assert_allclose(to_numpy(layer([x])), expected[:, 0], rtol=0, atol=1e-6)


def test_gates_are_four_sequences_within_their_ranges(rng):
    layer = ConvLSTMAggregator(4)
    gates = layer.gates([normal(rng, 2, 4, 5, 3) for _ in range(3)])
    assert list(gates) == ["input", "forget", "output", "candidate"]
    for name, gate in gates.items():
        gate = to_numpy(gate)
        assert gate.shape == (2, 3, 4, 5, 4)
        assert gate.min() > (-1 if name == "candidate" else 0)
        assert gate.max() < 1
    assert to_numpy(gates["candidate"]).min() < 0


def test_gates_of_mixed_precision_have_the_dtype_of_the_maps(rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = ConvLSTMAggregator(4)
    gates = layer.gates([keras.ops.cast(normal(rng, 2, 4, 5, 3), "bfloat16") for _ in range(3)])
    assert [keras.backend.standardize_dtype(g.dtype) for g in gates.values()] == ["bfloat16"] * 4
    assert all(np.isfinite(to_numpy(gate)).all() for gate in gates.values())


def test_forget_bias_is_one_at_first_and_the_others_zero():
    layer = ConvLSTMAggregator(2)
    layer.build([(1, 4, 4, 3)])
    # stored as i, f, c, o
    np.testing.assert_array_equal(to_numpy(layer.bias), [0, 0, 1, 1, 0, 0, 0, 0])


def test_aggregator_shows_the_shapes_that_differ():
    maps = [np.zeros((1, 4, 4, 3), "float32"), np.zeros((1, 4, 5, 3), "float32")]
    with pytest.raises(ValueError, match=r"(?s)one shape.*\(1, 4, 4, 3\), \(1, 4, 5, 3\)"):
        ConvLSTMAggregator(2)(maps)


def test_aggregator_wants_a_list_and_not_a_tensor():
    with pytest.raises(ValueError, match=r"(?s)list of maps.*\(1, 4, 4, 3\)"):
        ConvLSTMAggregator(2)(np.zeros((1, 4, 4, 3), "float32"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "`kernel_size` must be odd.*kernel_size=4"),
        ({"filters": 0}, "`filters` must be a positive integer.*filters=0"),
        ({"dilation_rate": 0}, "`dilation_rate` must be a positive integer.*dilation_rate=0"),
        ({"recurrent_dilation_rate": 0}, "`recurrent_dilation_rate` must be.*rate=0"),
    ],
)
def test_aggregator_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvLSTMAggregator(**{"filters": 2, **arguments})


# PyramidPooling


def pyramid_that_really_pools(layer, x):
    """Pools, convolves, normalises, resizes, concatenates and fuses, one after the other."""
    import torch
    import torch.nn.functional as F

    def kernel(variable):
        return torch.tensor(to_numpy(variable)).permute(3, 2, 0, 1)

    def relu_of_normalized(x, bn):
        if bn is None:
            return F.relu(x)
        statistics = (bn.moving_mean, bn.moving_variance, bn.gamma, bn.beta)
        return F.relu(F.batch_norm(x, *(torch.tensor(to_numpy(v)) for v in statistics), eps=1e-5))

    x = torch_maps(x)
    maps = [x]
    for n, convolution, bn in zip(layer.bins or (), layer.convolutions, layer.normalizations):
        bias = None if bn else torch.tensor(to_numpy(convolution.bias))
        cells = F.conv2d(F.adaptive_avg_pool2d(x, n), kernel(convolution.kernel), bias)
        cells = relu_of_normalized(cells, bn)
        maps.append(F.interpolate(cells, x.shape[2:], mode="bilinear", align_corners=False))
    y = F.conv2d(torch.cat(maps, dim=1), kernel(layer.kernel), padding=1)
    return keras_maps(relu_of_normalized(y, layer.normalization))


@pytest.mark.parametrize(
    ("size", "bins"),
    [
        ((7, 10), (1, 2, 3, 4, 6)),
        ((9, 5), (3, 2)),
        ((2, 3), (1, 6)),  # a map smaller than a grid
        ((7, 10), None),  # the 3x3 alone
    ],
)
def test_pyramid_equals_one_that_really_pools(size, bins, compiled, rng):
    pytest.importorskip("torch")
    x = normal(rng, 2, *size, 3)
    layer = PyramidPooling(5, bins)
    layer.build(x.shape)
    randomize(layer, rng)
    y = to_numpy(compiled(layer)(x, training=False))
    assert y.max() > 0
    np.testing.assert_allclose(y, pyramid_that_really_pools(layer, x), rtol=0, atol=1e-4)


def test_branches_without_batch_norm_have_a_bias(compiled, rng):
    pytest.importorskip("torch")
    x = normal(rng, 2, 7, 10, 3)
    layer = PyramidPooling(5, (1, 3), normalize_branches=False)
    layer.build(x.shape)
    randomize(layer, rng)
    y = to_numpy(compiled(layer)(x, training=False))
    # Two branches of kernel and bias; the 3x3 over the map and both, and its batch norm.
    assert layer.count_params() == 2 * (3 * 5 + 5) + 9 * (3 + 2 * 5) * 5 + 4 * 5
    np.testing.assert_allclose(y, pyramid_that_really_pools(layer, x), rtol=0, atol=1e-4)


def test_no_bins_leave_the_3x3_and_its_batch_norm():
    layer = PyramidPooling(5, bins=None)
    layer.build((None, None, None, 3))
    assert [tuple(v.shape) for v in layer.weights] == [(3, 3, 3, 5), (5,), (5,), (5,), (5,)]


def test_pyramid_gradients_are_finite_for_all_its_weights(rng):
    x = keras.Input((7, 10, 3))
    layer = PyramidPooling(4, bins=(1, 2, 6))
    model = keras.Model(x, layer(x))
    # Plain descent with rate 1: before - after is the gradient.
    model.compile(
        keras.optimizers.SGD(1.0), loss="mse", jit_compile=keras.backend.backend() == "jax"
    )
    before = [to_numpy(v) for v in model.trainable_variables]
    model.train_on_batch(normal(rng, 2, 7, 10, 3), normal(rng, 2, 7, 10, 4))
    gradients = [b - to_numpy(v) for b, v in zip(before, model.trainable_variables)]
    # 3 branches of (convolution, gamma, beta); kernel, gamma, beta
    assert len(gradients) == 3 * 3 + 3
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_all_weights_of_the_pyramid_survive_a_keras_file(tmp_path, compiled, rng):
    x = keras.Input((None, None, 3))
    layer = PyramidPooling(4, bins=(1, 3))
    model = keras.Model(x, layer(x))
    randomize(layer, rng)
    model.save(tmp_path / "pyramid.keras")
    again = keras.saving.load_model(tmp_path / "pyramid.keras")
    # 2 branches of 1 kernel and 4 vectors, the fusing kernel and 4 vectors
    assert len(again.weights) == 2 * 5 + 5
    for saved, loaded in zip(model.weights, again.weights):
        np.testing.assert_array_equal(to_numpy(loaded), to_numpy(saved), err_msg=saved.path)
    image = normal(rng, 2, 5, 6, 3)
    np.testing.assert_array_equal(
        to_numpy(compiled(again)(image)), to_numpy(compiled(model)(image))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "`filters` must be a positive integer.*filters=0"),
        ({"bins": (1, 0)}, r"`bins` must be positive integers.*\(1, 0\)"),
    ],
)
def test_pyramid_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PyramidPooling(**{"filters": 2, **arguments})


def test_a_config_of_0_1_0_which_says_that_branches_have_the_filters_is_read():
    config = PyramidPooling(4, (1, 3)).get_config()
    again = PyramidPooling.from_config({**config, "branch_filters": None})
    assert again.get_config() == config


# SegmentationOutput


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_at_the_size_of_the_image(policy, rng):
    keras.config.set_dtype_policy(policy)
    logits = keras.ops.cast(normal(rng, 2, 3, 4, 5), policy.removeprefix("mixed_"))
    y = SegmentationOutput()(logits, normal(rng, 2, 9, 7, 3))
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    assert tuple(y.shape) == (2, 9, 7, 5)


@pytest.mark.parametrize(
    "arguments", [{"class_names": ["road", "sky"]}, {"palette": [[0, 0, 0], [1, 2, 3]]}], ids=str
)
def test_output_wants_one_name_and_one_colour_a_class(arguments, rng):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must have one entry a class, 3.*2 entries"):
        SegmentationOutput(**arguments)(normal(rng, 1, 2, 2, 3), normal(rng, 1, 4, 4, 3))


def test_class_names_and_palette_are_in_the_config_as_plain_lists():
    layer = SegmentationOutput(("road", "sky"), np.array([[128, 64, 128], [70, 130, 180]]))
    config = layer.get_config()
    assert config["class_names"] == ["road", "sky"]
    assert config["palette"] == [[128, 64, 128], [70, 130, 180]]
