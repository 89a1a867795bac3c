"""Prediction in one piece, at several scales, mirrored, and by windows."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_sanet
from keras_sanet.inference import _starts, predict_mask, predict_probabilities

MODES = {
    "whole": {},
    "scales": {"scales": (0.5, 1.75)},
    "flip": {"flip": True},
    "window": {"window": 8},
    "small windows": {"window": (3, 5)},
    "all": {"scales": (0.6, 1.5), "flip": True, "window": (9, 7)},
}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def convolution(kernel, bias):
    """A model of one convolution: images to logits."""
    kernel = np.asarray(kernel, "float32")
    inputs = keras.Input((None, None, 3))
    layer = keras.layers.Conv2D(kernel.shape[-1], kernel.shape[:2], padding="same", name="logits")
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([kernel, np.asarray(bias, "float32")])
    return model


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def noise(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), dtype="uint8")


@pytest.fixture(scope="module")
def constant():
    """Logits 0, 1, 2 whatever the image."""
    return convolution(np.zeros((1, 1, 3, 3)), [0, 1, 2])


@pytest.fixture(scope="module")
def pixelwise():
    """Logits from each pixel alone: its colours over 64."""
    return convolution(np.eye(3)[None, None] / 64, [0.3, 0, -0.3])


@pytest.fixture(scope="module")
def shifted():
    """Logits from the red of the pixel to the right: its share of 64, and 0."""
    kernel = np.zeros((1, 3, 3, 2))
    kernel[0, 2, 0, 0] = 1 / 64
    return convolution(kernel, [-1, 0])


@pytest.fixture(scope="module")
def sanet():
    return keras_sanet.SANet(4, "resnet_tiny", aggregator_filters=8, pyramid_filters=8)


@each_mode
def test_a_constant_model_gives_its_constant_in_every_mode(constant, rng, mode):
    found = predict_probabilities(constant, noise(rng, 13, 21), **mode)
    # softmax(0, 1, 2) = (1, e, e^2) / (1 + e + e^2) = (0.090031, 0.244728, 0.665241)
    expected = np.broadcast_to([0.09003057, 0.24472847, 0.66524096], (13, 21, 3))
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 30)], ids=str)
def test_a_constant_model_gives_its_constant_at_small_sizes(constant, rng, size):
    found = predict_probabilities(constant, noise(rng, *size), **MODES["all"])
    expected = np.broadcast_to([0.09003057, 0.24472847, 0.66524096], (*size, 3))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@each_mode
def test_a_mask_has_the_size_of_an_odd_image(pixelwise, rng, mode):
    mask = predict_mask(pixelwise, noise(rng, 13, 21), **mode)
    assert (mask.shape, mask.dtype) == ((13, 21), "uint8")


def test_sanet_predicts_a_mask_of_the_size_of_an_odd_image(sanet, rng):
    image = noise(rng, 23, 31)
    probabilities = predict_probabilities(sanet, image)
    assert probabilities.shape == (23, 31, 4)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(predict_mask(sanet, image), probabilities.argmax(axis=-1))


def test_probabilities_are_the_softmax_of_the_logits(pixelwise, rng):
    image = noise(rng, 6, 9)
    expected = softmax(image / 64 + np.array([0.3, 0, -0.3]))
    found = predict_probabilities(pixelwise, image)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [4, 7, (3, 10), (13, 21), (40, 5), (50, 60)], ids=str)
def test_windows_of_a_pixelwise_model_give_what_the_whole_image_does(pixelwise, rng, window):
    image = noise(rng, 13, 21)
    np.testing.assert_allclose(
        predict_probabilities(pixelwise, image, window=window),
        predict_probabilities(pixelwise, image),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("window", [1, 2, 3, 8, 20])
def test_windows_cover_every_pixel_and_stay_inside(window):
    for size in range(window, 70):
        starts = _starts(size, window)
        covered = {pixel for start in starts for pixel in range(start, start + window)}
        assert covered == set(range(size))


def test_windows_step_by_two_thirds_and_the_last_is_shifted_inside():
    # Two thirds of 8, rounded up: 6. 0 and 6 fit in 15; 12 would end at 20, so 15 - 8 = 7.
    assert _starts(15, 8) == [0, 6, 7]
    assert _starts(8, 8) == [0]


def test_overlapping_windows_are_averaged(shifted):
    # A row of 4, windows of 3 with stride 2: pixels 0-2, and 1-3 (2-4 shifted inside).
    image = np.full((1, 4, 3), 64, "uint8")
    found = predict_probabilities(shifted, image, window=(1, 3))[0, :, 0]
    # The pixel to the right is 64 -> logit 0, or outside of the window -> logit -1.
    inside, edge = 0.5, 1 / (1 + np.e)
    # Pixel 2 is the last of the first window and the second of the other.
    expected = [inside, inside, (edge + inside) / 2, edge]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_an_image_smaller_than_the_window_is_reflected(shifted):
    # Rows of 64, 0 in a window of 4 are 64, 0, 64, 0.
    image = np.zeros((2, 2, 3), "uint8")
    image[:, 0] = 64
    found = predict_probabilities(shifted, image, window=(2, 4))[0, :, 0]
    # The pixels to the right are 0 (logit -1) and, reflected, 64 (logit 0).
    np.testing.assert_allclose(found, [1 / (1 + np.e), 0.5], rtol=0, atol=1e-6)


def test_flip_makes_the_prediction_of_a_symmetric_image_symmetric(shifted, rng):
    half = noise(rng, 4, 5)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    plain = predict_probabilities(shifted, image)
    assert np.abs(plain - plain[:, ::-1]).max() > 0.1
    found = predict_probabilities(shifted, image, flip=True)
    np.testing.assert_allclose(found, found[:, ::-1], rtol=0, atol=1e-6)


def test_flip_is_the_mean_with_the_mirror_images_mirrored_prediction(shifted, rng):
    image = noise(rng, 4, 7)
    mirrored = predict_probabilities(shifted, image[:, ::-1])[:, ::-1]
    expected = (predict_probabilities(shifted, image) + mirrored) / 2
    found = predict_probabilities(shifted, image, flip=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_half_the_scale_predicts_from_the_means_of_2_by_2(pixelwise, rng):
    image = noise(rng, 2, 2)
    # One pixel is left, the mean of four, and its probabilities are those of all.
    expected = softmax(image.mean(axis=(0, 1)) / 64 + np.array([0.3, 0, -0.3]))
    found = predict_probabilities(pixelwise, image, scales=(0.5,))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (2, 2, 3)), rtol=0, atol=1e-6)


def test_scales_are_averaged(pixelwise, rng):
    image = noise(rng, 6, 8)
    alone = [predict_probabilities(pixelwise, image, scales=(scale,)) for scale in (0.5, 1.5)]
    found = predict_probabilities(pixelwise, image, scales=(0.5, 1.5))
    np.testing.assert_allclose(found, np.mean(alone, axis=0), rtol=0, atol=1e-6)


def test_a_tiny_scale_leaves_at_least_a_pixel(constant, rng):
    assert predict_mask(constant, noise(rng, 3, 200), scales=(0.01,)).shape == (3, 200)


@pytest.mark.parametrize("make", [str, lambda path: path], ids=["str", "Path"])
def test_a_path_is_read(pixelwise, rng, tmp_path, make):
    image = noise(rng, 5, 8)
    Image.fromarray(image).save(tmp_path / "a.png")
    found = predict_mask(pixelwise, make(tmp_path / "a.png"))
    np.testing.assert_array_equal(found, predict_mask(pixelwise, image))


def test_a_path_that_is_not_there_is_named(pixelwise, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.png"):
        predict_mask(pixelwise, tmp_path / "gone.png")


def test_a_model_with_a_dict_of_outputs_is_used_by_its_logits(rng):
    inputs = keras.Input((None, None, 3))
    main = keras.layers.Conv2D(2, 1, bias_initializer=keras.initializers.Constant(1.0))
    other = keras.layers.Conv2D(5, 1)
    model = keras.Model(inputs, {"auxiliary": other(inputs), "logits": main(inputs)})
    assert predict_probabilities(model, noise(rng, 4, 4)).shape == (4, 4, 2)


def test_a_float_image_is_predicted_like_a_uint8_one(pixelwise, rng):
    image = noise(rng, 4, 6)
    np.testing.assert_allclose(
        predict_probabilities(pixelwise, image.astype("float32")),
        predict_probabilities(pixelwise, image),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("window", [0, (8, -1)])
def test_windows_must_be_above_0(constant, window):
    with pytest.raises(ValueError, match="`window` must be at least 1 pixel"):
        predict_mask(constant, np.zeros((4, 4, 3), "uint8"), window=window)


@pytest.mark.parametrize("scales", [(), (0,), (1.0, -0.5)])
def test_scales_must_be_above_0_and_not_empty(constant, scales):
    with pytest.raises(ValueError, match="`scales` must be numbers above 0"):
        predict_mask(constant, np.zeros((4, 4, 3), "uint8"), scales=scales)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4, 3), (4, 4, 1), (0, 4, 3)], ids=str)
def test_an_image_must_be_height_width_3(constant, shape):
    with pytest.raises(ValueError, match=r"`image` must be \(height, width, 3\)"):
        predict_mask(constant, np.zeros(shape, "uint8"))
