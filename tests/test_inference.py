"""Prediction in one piece, at several scales, mirrored, and by windows."""

import math

import keras
import numpy as np
import pytest
from PIL import Image

import keras_sanet
from keras_sanet import datasets, visualization
from keras_sanet.inference import (
    LABELS,
    WRITABLE,
    _starts,
    complete,
    gives_probabilities,
    predict_files,
    predict_mask,
    predict_probabilities,
)

MODES = {
    "whole": {},
    "bucket": {"bucket": 8},
    "scales": {"scales": (0.5, 1.75)},
    "flip": {"flip": True},
    "window": {"window": 8},
    "small windows": {"window": (3, 5)},
    "batches": {"window": 6, "batch_size": 4},
    "all": {"scales": (0.6, 1.5), "flip": True, "window": (9, 7), "batch_size": 3},
    "scaled bucket": {"scales": (0.6, 1.5), "flip": True, "bucket": 16},
}
BLUR = np.random.default_rng(1).normal(scale=0.01, size=(3, 3, 3, 2)).astype("float32")
BIAS = np.array([0.3, -0.2], "float32")
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


def slow_resize(array, size):
    """Bilinear at half-pixel centres, pixel by pixel in float64."""
    height, width = array.shape[:2]
    found = np.zeros((*size, array.shape[2]))
    for y, x in np.ndindex(*size):
        v = min(max((y + 0.5) * height / size[0] - 0.5, 0), height - 1)
        u = min(max((x + 0.5) * width / size[1] - 0.5, 0), width - 1)
        for row in range(height):
            for column in range(width):
                weight = max(0, 1 - abs(v - row)) * max(0, 1 - abs(u - column))
                if weight:
                    found[y, x] += weight * array[row, column]
    return found


def slow_windows(network, image, window):
    """Sum of the windows' probabilities over their number, pixel by pixel, in float64."""
    height, width = image.shape[:2]
    big = [max(n, w) for n, w in zip((height, width), window)]
    rows, columns = (
        [min(i % max(1, 2 * n - 2), -i % max(1, 2 * n - 2)) for i in range(length)]
        for n, length in zip((height, width), big)
    )  # 0 1 2 1 0 1 2 ...
    padded = image[rows][:, columns]
    total, count = 0, 0
    tops, lefts = (
        {
            min(k * math.ceil(2 * w / 3), n - w)
            for k in range(math.ceil((n - w) / math.ceil(2 * w / 3)) + 1)
        }
        for n, w in zip(big, window)
    )
    for top in tops:
        for left in lefts:
            part = np.zeros((*big, 1))
            part[top : top + window[0], left : left + window[1]] = 1
            inner = network(padded[top : top + window[0], left : left + window[1]])
            place = np.zeros((*big, inner.shape[2]))
            place[top : top + window[0], left : left + window[1]] = inner
            total, count = total + place, count + part
    return (total / count)[:height, :width]


def slow(network, image, scales=(1.0,), flip=False, window=None, bucket=None, batch_size=None):
    """The protocols of `keras_sanet.inference`, written out."""
    image, size = image.astype("float64"), image.shape[:2]
    found = []
    for scale in scales:
        scaled = slow_resize(image, [max(1, round(n * scale)) for n in size])
        for mirror in (1, -1) if flip else (1,):
            view = scaled[:, ::mirror]
            if window is not None:
                window = (window, window) if isinstance(window, int) else window
                probabilities = slow_windows(network, view, window)
            else:
                more = [0 if bucket is None else -n % bucket for n in view.shape[:2]]
                padded = np.tile([123.675, 116.28, 103.53], (*np.add(view.shape[:2], more), 1))
                padded[: view.shape[0], : view.shape[1]] = view
                probabilities = network(padded)[: view.shape[0], : view.shape[1]]
            found.append(slow_resize(probabilities[:, ::mirror], size))
    return np.mean(found, axis=0)


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
def blurred():
    """Logits from the pixels around: random ones, so that windows and borders tell."""
    return convolution(BLUR, BIAS)


class Counted(keras.layers.Layer):
    """Counts how often it is traced (or, on PyTorch, run)."""

    count = 0

    def call(self, x):
        Counted.count += 1
        return 2 * x


def traces(sizes, **mode):
    """How often a model is traced for images of these sizes."""
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, Counted(name="logits")(inputs))
    Counted.count = 0
    for size in sizes:
        predict_probabilities(model, np.zeros((*size, 3), "uint8"), **mode)
    return Counted.count


@pytest.fixture(scope="module")
def sanet():
    return keras_sanet.SANet(4, "resnet_tiny", aggregator_filters=8, pyramid_filters=8)


@each_mode
@pytest.mark.parametrize("size", [(13, 21), (5, 7), (1, 1), (2, 30)], ids=str)
def test_a_constant_model_gives_exactly_its_constant_in_every_mode(constant, rng, size, mode):
    found = predict_probabilities(constant, noise(rng, *size), **mode)
    assert (found.shape, found.dtype) == ((*size, 3), "float32")
    # softmax(0, 1, 2) = (1, e, e^2) / (1 + e + e^2) = (0.090031, 0.244728, 0.665241)
    np.testing.assert_allclose(found[0, 0], [0.09003057, 0.24472847, 0.66524096], rtol=1e-6)
    np.testing.assert_array_equal(found, np.broadcast_to(found[0, 0], found.shape))
    alone = predict_probabilities(constant, np.zeros((1, 1, 3), "uint8"))
    np.testing.assert_array_equal(found[0, 0], alone[0, 0])


SIZES = [(1, 19), (14, 1), (7, 5), (21, 13), (9, 16)]  # a pixel wide, small, portrait, not of 8


@each_mode
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_mode_equals_the_protocol_written_out_slowly(blurred, rng, size, mode):
    image = noise(rng, *size)

    def network(image):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        logits = np.zeros((*image.shape[:2], 2)) + BIAS
        for dy, dx in np.ndindex(3, 3):
            logits += padded[dy : dy + len(image), dx : dx + len(image[0])] @ BLUR[dy, dx]
        return softmax(logits)

    found = predict_probabilities(blurred, image, **mode)
    np.testing.assert_allclose(found, slow(network, image, **mode), rtol=0, atol=2e-6)


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
    with pytest.raises(ValueError, match="`window` must be one or two positive integers"):
        predict_mask(constant, np.zeros((4, 4, 3), "uint8"), window=window)


@pytest.mark.parametrize("scales", [(), (0,), (1.0, -0.5)])
def test_scales_must_be_above_0_and_not_empty(constant, scales):
    with pytest.raises(ValueError, match="`scales` must be numbers above 0"):
        predict_mask(constant, np.zeros((4, 4, 3), "uint8"), scales=scales)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("mode", [{}, {"bucket": 8}, {"window": 4, "flip": True}], ids=str)
def test_images_have_the_channels_of_the_model(mode, channels, rng):
    inputs = keras.Input((None, None, channels))
    layer = keras.layers.Conv2D(2, 1, kernel_initializer="random_normal")
    model = keras.Model(inputs, layer(inputs))
    image = rng.integers(0, 256, (5, 6, channels), dtype="uint8")
    found = predict_probabilities(model, image, **mode)
    # A 1x1 convolution sees no padding: in every mode softmax(image W + b) of each pixel.
    kernel, bias = (np.asarray(value) for value in layer.get_weights())
    np.testing.assert_allclose(found, softmax(image @ kernel[0, 0] + bias), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=rf"\(height, width, {channels}\) for this model"):
        predict_mask(model, image[..., [0, 0]], **mode)


def test_padding_of_an_image_that_is_not_rgb_is_its_mean_grey():
    inputs = keras.Input((None, None, 1))
    layer = keras.layers.Conv2D(2, (1, 3), padding="same")
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.full((1, 3, 1, 2), [0.01, 0], "float32"), np.zeros(2, "float32")])
    found = predict_probabilities(model, np.zeros((1, 1, 1), "uint8"), bucket=2)[0, 0, 0]
    # Beside the one pixel, 0, is the padding: 255 (0.485 + 0.456 + 0.406) / 3 = 114.495. So the
    # logits are 1.14495 and 0, and the first probability is 1 / (1 + exp(-1.14495)).
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-1.14495)), rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(4, 4), (1, 1, 4, 4, 3), (4, 4, 1), (0, 4, 3), (0, 4, 4, 3)], ids=str
)
def test_an_image_must_be_height_width_3(constant, shape):
    with pytest.raises(ValueError, match=r"`image` must be \(height, width, 3\)"):
        predict_mask(constant, np.zeros(shape, "uint8"))


compiles = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch does not compile models"
)
ODD_SIZES = [(9, 13), (20, 31), (31, 20), (8, 8), (40, 17), (1, 50)]


@compiles
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_are_compiled_once_whatever_the_images_and_scales(batch_size):
    mode = {"window": 8, "scales": (0.5, 1.0, 1.75), "flip": True, "batch_size": batch_size}
    # TensorFlow once more, with an open number of windows, at the first batch that is not full.
    once_more = keras.backend.backend() == "tensorflow" and batch_size > 1
    assert traces(ODD_SIZES, **mode) == 1 + once_more


@compiles
def test_whole_images_are_compiled_once_a_size_on_jax_and_once_more_on_tensorflow():
    # TensorFlow leaves a side open when it meets a second length of it; here both at once.
    expected = 6 if keras.backend.backend() == "jax" else 2
    assert traces([*ODD_SIZES, *ODD_SIZES], flip=True) == expected


@compiles
def test_buckets_are_compiled_once_a_multiple():
    # Padded to 32 x 32, 32 x 32, 32 x 32, 32 x 32, 64 x 32, 32 x 64
    assert traces(ODD_SIZES, bucket=32) == 3


def test_a_uint8_image_and_a_float_one_are_compiled_once():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, Counted(name="logits")(inputs))
    Counted.count = 0
    for dtype in ("uint8", "float32", "int64", "float64"):
        predict_probabilities(model, np.zeros((4, 4, 3), dtype))
    assert Counted.count == (4 if keras.backend.backend() == "torch" else 1)


def test_a_batch_holds_no_more_windows_than_asked_for():
    seen = []

    class Recorded(keras.Model):
        def predict_on_batch(self, x):
            seen.append(x.shape)
            return x

    # 4 windows of 3 x 3 cover 5 x 5, and 4 its mirror image: 8 in batches of 3; on JAX the last is
    # filled up.
    predict_probabilities(Recorded(), np.zeros((5, 5, 3)), window=3, flip=True, batch_size=3)
    last = 3 if keras.backend.backend() == "jax" else 2
    assert [shape[0] for shape in seen] == [3, 3, last]


def test_a_model_of_one_size_says_which_window_to_use():
    inputs = keras.Input((8, 12, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="logits")(inputs))
    with pytest.raises(ValueError, match=r"8 x 12 .*window=\(8, 12\).*Received: 9 x 12"):
        predict_mask(model, np.zeros((9, 12, 3), "uint8"))
    assert predict_mask(model, np.zeros((9, 12, 3), "uint8"), window=(8, 12)).shape == (9, 12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error_that_names_the_image(tmp_path, bad):
    model = convolution(np.zeros((1, 1, 3, 2)), [0, bad])
    Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png: .* logits are NaN or infinite"):
        predict_mask(model, tmp_path / "a.png")


def test_a_mask_of_more_than_255_classes_is_uint16():
    model = convolution(np.zeros((1, 1, 3, 300)), np.arange(300))
    mask = predict_mask(model, np.zeros((2, 2, 3), "uint8"))
    assert (mask.dtype, mask.max()) == ("uint16", 299)


# Several pictures


def test_a_list_of_pictures_of_any_kind_gives_a_list(pixelwise, rng, tmp_path):
    images = [noise(rng, 3, 4), noise(rng, 5, 2), noise(rng, 2, 2)]
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    given = [tmp_path / "a.png", Image.fromarray(images[1]), images[2]]
    for predict in (predict_mask, predict_probabilities):
        found = predict(pixelwise, given, flip=True)
        assert isinstance(found, list)
        for one, image in zip(found, images, strict=True):
            np.testing.assert_array_equal(one, predict(pixelwise, image, flip=True))


def test_a_batch_gives_a_batch(pixelwise, rng):
    batch = np.stack([noise(rng, 3, 4) for _ in range(3)])
    found = predict_mask(pixelwise, batch)
    assert found.shape == (3, 3, 4)
    np.testing.assert_array_equal(found[2], predict_mask(pixelwise, batch[2]))


def test_a_tensor_is_a_picture(pixelwise, rng):
    image = noise(rng, 3, 4)
    found = predict_mask(pixelwise, keras.ops.convert_to_tensor(image))
    np.testing.assert_array_equal(found, predict_mask(pixelwise, image))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_a_pillow_image_of_another_mode_is_read_as_rgb(pixelwise, rng, mode):
    image = Image.fromarray(noise(rng, 3, 4)).convert(mode)
    found = predict_mask(pixelwise, image)
    np.testing.assert_array_equal(found, predict_mask(pixelwise, np.array(image.convert("RGB"))))


def test_an_image_of_a_list_that_cannot_be_predicted_is_named(pixelwise, rng, tmp_path):
    Image.fromarray(noise(rng, 3, 4)).save(tmp_path / "a.png")
    broken = convolution(np.zeros((1, 1, 3, 2)), [0, np.nan])
    with pytest.raises(ValueError, match="a.png: .* NaN or infinite"):
        predict_mask(broken, [tmp_path / "a.png"])


def test_files_are_written_in_order_of_the_numbers(pixelwise, rng, tmp_path):
    images = {f"frame{i}": noise(rng, 3, 4) for i in (10, 2, 1)}
    (tmp_path / "in").mkdir()
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / f"in/{name}.png")
    paths = predict_files(pixelwise, tmp_path / "in", tmp_path / "out", write=["mask"], flip=True)
    assert [path.name for path in paths] == [f"frame{i}_mask.png" for i in (1, 2, 10)]
    for name, image in images.items():
        mask = np.array(Image.open(tmp_path / f"out/{name}_mask.png"))
        np.testing.assert_array_equal(mask, predict_mask(pixelwise, image, flip=True))


def test_files_of_every_kind_are_written(pixelwise, rng, tmp_path):
    image = noise(rng, 3, 4)
    Image.fromarray(image).save(tmp_path / "a.png")
    paths = predict_files(pixelwise, [tmp_path / "a.png"], tmp_path, write=WRITABLE)
    mask = predict_mask(pixelwise, image)
    colors = visualization.palette(pixelwise.output.shape[-1])  # the model has none
    expected = {
        "a_mask.png": mask,
        "a_color.png": visualization.color_mask(mask, colors),
        "a_overlay.png": visualization.overlay(image, mask, colors),
    }
    assert [path.name for path in paths] == [*expected, "a_probabilities.npz"]
    for name, picture in expected.items():
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / name)), picture)
    with np.load(tmp_path / "a_probabilities.npz") as saved:
        np.testing.assert_array_equal(
            saved["probabilities"], predict_probabilities(pixelwise, image)
        )


def test_masks_are_written_with_other_ids(pixelwise, rng, tmp_path):
    Image.fromarray(noise(rng, 3, 4)).save(tmp_path / "a.png")
    (path,) = predict_files(
        pixelwise, [tmp_path / "a.png"], tmp_path, write=["mask"], label_ids=lambda mask: mask + 100
    )
    found = np.array(Image.open(path))
    np.testing.assert_array_equal(found, predict_mask(pixelwise, tmp_path / "a.png") + 100)


@pytest.mark.parametrize("format", LABELS)
def test_masks_are_written_as_labels_of_a_tool_and_read_again(rng, tmp_path, format):
    model = keras_sanet.FCN(3, "resnet_tiny", filters=4, class_names=["road", "sky", "car"])
    for i in range(2):
        Image.fromarray(noise(rng, 33, 40)).save(tmp_path / f"{i}.png")
    predict_files(model, tmp_path, tmp_path, write=[format])
    dataset = datasets.load(format, tmp_path, background=None)
    assert dataset.class_names == ["road", "sky", "car"]
    for sample in [sample for group in dataset.splits.values() for sample in group]:
        np.testing.assert_array_equal(dataset.read(sample)[1], predict_mask(model, sample.image))


def test_labels_need_class_names(pixelwise, tmp_path):
    with pytest.raises(ValueError, match="coco, which needs .* `class_names`. Class names: None"):
        predict_files(pixelwise, [], tmp_path, write=["coco"])


def test_images_of_one_name_are_not_written_over_each_other(pixelwise, tmp_path):
    with pytest.raises(ValueError, match="overwrite each other's results: a"):
        predict_files(pixelwise, [tmp_path / "a.png", tmp_path / "b/a.jpg"], tmp_path / "out")


def test_unknown_kinds_of_files_are_refused_with_the_known_ones(pixelwise, tmp_path):
    with pytest.raises(ValueError, match=r"mask, color, overlay, probabilities.*\['masks'\]"):
        predict_files(pixelwise, [], tmp_path / "out", write=["masks"])


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ({"bucket": 0}, "`bucket` must be a positive integer. Received: bucket=0"),
        ({"bucket": 8.0}, "`bucket` must be a positive integer. Received: bucket=8.0"),
        ({"window": 4, "batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"window": "44"}, "`window` must be"),
        ({"window": ()}, "`window` must be"),
        ({"window": (4.0, 4.0)}, "`window` must be"),
        ({"window": (4, None)}, "`window` must be"),
        ({"scales": (1.0, float("nan"))}, "`scales` must be numbers above 0"),
        ({"scales": (float("inf"),)}, "`scales` must be numbers above 0"),
        ({"scales": "big"}, "`scales` must be numbers above 0"),
        ({"window": 4, "bucket": 8}, "`bucket` is for whole images"),
        ({"window": (4, 4, 4)}, "`window` must be one or two"),
        ({"scales": (float("nan"),)}, "`scales` must be numbers above 0"),
    ],
)
def test_other_modes_are_refused(constant, mode, message):
    with pytest.raises(ValueError, match=message):
        predict_mask(constant, np.zeros((4, 4, 3), "uint8"), **mode)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"scales": 0.5}, {"scales": (0.5,)}),
        ({"scales": np.array([0.5, 1])}, {"scales": (0.5, 1.0)}),
        ({"scales": (scale for scale in (0.5, 1))}, {"scales": (0.5, 1.0)}),
        ({"window": np.int64(4)}, {"window": (4, 4)}),
        ({"window": [4, 6]}, {"window": (4, 6)}),
    ],
    ids=["number", "array", "generator", "numpy integer", "list"],
)
def test_what_can_only_mean_one_thing_is_taken(given, plain):
    assert {name: complete(**given)[name] for name in plain} == plain


def test_an_unknown_argument_is_refused_with_the_known_ones():
    with pytest.raises(TypeError, match="windows. Known: scales, flip, window"):
        complete(windows=4)


def test_an_image_that_holds_no_numbers_is_refused(pixelwise):
    image = np.zeros((4, 4, 3))
    image[1, 2] = np.nan
    with pytest.raises(ValueError, match="`image` must hold numbers"):
        predict_mask(pixelwise, image)


@pytest.mark.parametrize(
    "outputs",
    [
        lambda x: keras.layers.MaxPooling2D(2)(x),
        lambda x: [x, x],
        lambda x: {"masks": x},
    ],
    ids=["smaller", "list", "dict without logits"],
)
@pytest.mark.parametrize("window", [None, 4])
def test_outputs_that_are_no_logits_of_the_images_size_are_refused(outputs, window):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, outputs(keras.layers.Conv2D(2, 1)(inputs)))
    with pytest.raises(ValueError, match="must give logits of the image's size"):
        predict_mask(model, np.zeros((6, 6, 3)), window=window)


def test_a_model_of_one_height_advises_a_window_as_wide_as_the_image():
    inputs = keras.Input((8, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="logits")(inputs))
    with pytest.raises(ValueError, match=r"Pass window=\(8, 12\)"):
        predict_mask(model, np.zeros((9, 12, 3), "uint8"))


# Logits or probabilities


def ending(*layers):
    """A model of one convolution and what follows."""
    image = keras.Input((None, None, 3))
    x = image
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x)


def conv(classes=2, **kwargs):
    return keras.layers.Conv2D(classes, 1, **kwargs)


def whole(model):
    """The model inside of another one."""
    image = keras.Input((None, None, 3))
    return keras.Model(image, {"logits": model(image)})


def ensemble(*models):
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Average()([model(image) for model in models]))


def sequential():
    return keras.Sequential([keras.Input((None, None, 3)), conv(), keras.layers.Softmax()])


class OfOnesOwn(keras.layers.Layer):
    def call(self, x):
        return keras.ops.softmax(x)


class Subclass(keras.Model):
    def __init__(self, activation, classes=3):
        super().__init__()
        self.conv = conv(classes, activation=activation)

    def call(self, x):
        return self.conv(x)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: ending(conv()), False),
        (lambda: ending(conv(activation="relu")), False),
        (lambda: ending(conv(activation="log_softmax")), False),
        (lambda: ending(conv(activation="softmax")), True),
        (lambda: ending(conv(1, activation="sigmoid")), True),
        (lambda: ending(conv(), keras.layers.Activation("softmax", dtype="float32")), True),
        (lambda: ending(conv(activation="softmax"), keras.layers.Activation("linear")), True),
        (lambda: ending(conv(), keras.layers.Activation("linear")), False),
        (lambda: ending(conv(), keras.layers.Activation(keras.layers.Softmax())), True),
        (lambda: ending(conv(), keras.layers.Softmax(axis=1)), None),
        (lambda: ending(conv(), keras.ops.sigmoid, lambda x: keras.ops.cast(x, "float32")), True),
        (lambda: ending(conv(), keras.ops.softmax, keras.layers.UpSampling2D()), True),
        (lambda: ending(conv(), keras.layers.UpSampling2D()), False),
        (lambda: ending(conv(), keras.ops.softmax, lambda x: 2 * x), None),
        (lambda: ending(conv(), OfOnesOwn()), None),
        (lambda: whole(whole(ending(conv(activation="softmax"))).layers[-1]), True),
        (lambda: whole(ending(conv())), False),
        (lambda: whole(sequential()), True),
        (lambda: ending(conv(), keras.ops.softmax, keras.Sequential([keras.layers.Identity()])),
         True),
        (lambda: ensemble(ending(conv(activation="softmax")), sequential()), True),
        (lambda: ensemble(ending(conv(activation="softmax")), ending(conv())), None),
        (lambda: keras.Sequential([conv(activation="softmax")]), None),
        (lambda: Subclass("softmax"), None),
    ],
)  # fmt: skip
def test_the_end_of_a_model_tells_whether_it_gives_probabilities(make, expected):
    assert gives_probabilities(make()) is expected


def test_our_models_give_logits(sanet):
    assert gives_probabilities(sanet) is False


@pytest.mark.parametrize("mode", [{}, {"from_logits": False}], ids=str)
def test_a_softmax_model_predicts_its_own_probabilities(rng, mode):
    model, image = ending(conv(3, activation="softmax")), noise(rng, 5, 7)
    own = model.predict(image[None].astype("float32"), verbose=0)[0]
    np.testing.assert_array_equal(predict_probabilities(model, image, **mode), own)


def test_probabilities_are_averaged_over_views_as_those_of_logits_are(pixelwise, rng):
    model, image = ending(pixelwise, keras.layers.Softmax()), noise(rng, 9, 6)
    mode = {"scales": (0.5, 1.0), "flip": True, "window": 5}
    found = predict_probabilities(model, image, **mode)
    np.testing.assert_allclose(found, predict_probabilities(pixelwise, image, **mode), atol=1e-6)


@pytest.mark.parametrize(("activation", "classes"), [("softmax", 3), ("sigmoid", 1)])
def test_numbers_that_may_be_probabilities_are_asked_about(rng, activation, classes):
    model, image = Subclass(activation, classes), noise(rng, 3, 4)
    with pytest.raises(ValueError, match="from_logits=False for probabilities"):
        predict_probabilities(model, image)
    own = model.predict(image[None].astype("float32"), verbose=0)[0]
    found = predict_probabilities(model, image, from_logits=False)
    np.testing.assert_array_equal(found, own)


def test_other_numbers_of_a_model_that_does_not_tell_are_logits(rng):
    model, image = Subclass(None), noise(rng, 3, 4)
    own = model.predict(image[None].astype("float32"), verbose=0)[0]
    np.testing.assert_allclose(predict_probabilities(model, image), softmax(own), atol=1e-6)


def test_logits_that_are_announced_as_probabilities_are_refused(pixelwise, rng):
    with pytest.raises(ValueError, match="probabilities, 0 to 1, for from_logits=False"):
        predict_probabilities(pixelwise, noise(rng, 3, 4), from_logits=False)


def test_from_logits_is_true_false_or_none():
    with pytest.raises(ValueError, match="`from_logits` must be .* Received: from_logits='no'"):
        complete(from_logits="no")


# One channel


def test_one_logit_gives_its_sigmoid_and_a_mask_of_two_classes():
    # red - 128 is the logit: -128, 0, 1, 127
    model = convolution([[[[1], [0], [0]]]], [-128])
    image = np.array([[[0, 9, 9], [128, 9, 9], [129, 9, 9], [255, 9, 9]]], "uint8")
    found = predict_probabilities(model, image)
    assert (found.shape, found.dtype) == ((1, 4, 1), "float32")
    np.testing.assert_allclose(found[0, :, 0], [0, 0.5, 1 / (1 + math.exp(-1)), 1], atol=1e-6)
    mask = predict_mask(model, image)
    assert mask.dtype == "uint8"
    np.testing.assert_array_equal(mask, [[0, 0, 1, 1]])


@each_mode
def test_a_sigmoid_model_has_the_masks_of_its_logits(rng, mode):
    logit = convolution(BLUR[..., :1], BIAS[:1])
    image = noise(rng, 13, 9)
    found = predict_mask(ending(logit, keras.layers.Activation("sigmoid")), image, **mode)
    np.testing.assert_array_equal(found, predict_mask(logit, image, **mode))
    assert 0 < found.mean() < 1


def test_an_infinite_logit_of_one_channel_is_an_error():
    with pytest.raises(ValueError, match="NaN or infinite"):
        predict_mask(convolution(np.zeros((1, 1, 3, 1)), [np.inf]), np.zeros((1, 2, 3), "uint8"))


# Images of 0..1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bool"])
def test_an_image_of_0_to_1_is_refused(pixelwise, rng, dtype):
    image = (noise(rng, 3, 4) / 255).astype(dtype)
    with pytest.raises(ValueError, match=r"`image` must be of 0\.\.255.*Multiply them by 255"):
        predict_mask(pixelwise, image)


def test_a_batch_of_0_to_1_is_refused(pixelwise, rng):
    with pytest.raises(ValueError, match=r"`image` must be of 0\.\.255"):
        predict_mask(pixelwise, noise(rng, 3, 4)[None] / 255)


@pytest.mark.parametrize(
    "image",
    [
        np.ones((2, 2, 3), "uint8"),
        np.zeros((2, 2, 3), "float32"),
        np.zeros((2, 2, 3), bool),
        np.full((2, 2, 3), 1.5),
        np.eye(2)[..., None].repeat(3, axis=-1),
    ],
    ids=["dark uint8", "black", "black bool", "dark floats", "0 and 1 alone"],
)
def test_dark_images_are_images(pixelwise, image):
    assert predict_mask(pixelwise, image).shape == (2, 2)
