"""What holds for whatever goes in: losses, metrics, layers and the pipeline on drawn inputs.

Hypothesis draws shapes, void patterns and types; the numbers come from NumPy by a drawn seed. On
JAX every new shape is compiled, so that a few sizes serve there.
"""

import importlib.util

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from keras_sanet import _backend, layers, losses, metrics
from keras_sanet.datasets import Dataset, Sample
from keras_sanet.pipeline import make_dataset
from keras_sanet.pipeline.pillow import augment
from keras_sanet.pipeline.sampling import Augmentation, Draw

HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1")  # one class
JAX = keras.backend.backend() == "jax"
VOID = 255
seeds = st.integers(0, 2**32 - 1)
if JAX:
    shapes = st.sampled_from([(1, 1, 1, 2), (2, 3, 5, 1), (3, 1, 7, 4), (2, 4, 3, 20)])
    maps = st.sampled_from([(1, 1), (1, 5), (6, 3)])
else:
    side = st.integers(1, 9)
    shapes = st.tuples(st.integers(1, 4), side, side, st.sampled_from([1, 2, 3, 7, 150]))
    maps = st.tuples(side, side)


def times(count):
    return settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=count,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def problems(draw):
    """Labels (batch, height, width) with void, logits (batch, height, width, classes)."""
    *size, classes = draw(shapes)
    rng = np.random.default_rng(draw(seeds))
    labels = rng.integers(0, classes, size)
    void = draw(st.sampled_from(["none", "all", "some", "rows", "images", "but one"]))
    if void == "all":
        labels[:] = VOID
    elif void == "some":
        labels[rng.random(size) < 0.5] = VOID
    elif void == "rows":
        labels[:, rng.random(size[1]) < 0.5] = VOID
    elif void == "images":
        labels[rng.random(size[0]) < 0.5] = VOID
    elif void == "but one":
        labels.flat[1:] = VOID
    scale = draw(st.sampled_from([0.0, 0.1, 3.0, 50.0]))
    return labels, (scale * rng.standard_normal((*size, classes))).astype("float32")


def by_class(logits):
    """Of one channel, z, the logits of background and foreground, (0, z)."""
    zeros = np.zeros_like(logits)
    return np.concatenate([zeros, logits], -1) if logits.shape[-1] == 1 else logits


def number(x):
    return float(np.squeeze(ops.convert_to_numpy(x)))


# Losses

LOSSES = {
    "cross_entropy": losses.SegmentationLoss(lovasz_weight=0.0),
    "lovasz": losses.LovaszSoftmax(num_bins=None),
    "all": losses.LovaszSoftmax(classes="all", num_bins=None),
    "per_image": losses.LovaszSoftmax(per_image=True, num_bins=None),
    "binned": losses.LovaszSoftmax(num_bins=64),
    "sum": losses.SegmentationLoss(num_bins=64),
}
_QUICK = {name: _backend.jit()(loss) for name, loss in LOSSES.items()}
each_loss = pytest.mark.parametrize("loss", LOSSES)


def loss_of(loss, labels, logits):
    return number(
        _QUICK[loss](ops.convert_to_tensor(labels, "int32"), ops.convert_to_tensor(logits))
    )


@times(30)
@given(problems())
def test_cross_entropy_is_numpys(problem):
    labels, logits = problem
    logits = by_class(logits)
    shifted = logits.astype("float64") - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    valid = labels != VOID
    values = -np.take_along_axis(logs, np.where(valid, labels, 0)[..., None], -1)[valid]
    expected = values.sum() / max(1, values.size)
    found = loss_of("cross_entropy", labels, problem[1])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@each_loss
@times(20)
@given(problems(), seeds)
def test_logits_of_void_pixels_do_not_count(loss, problem, seed):
    labels, logits = problem
    others = np.random.default_rng(seed).normal(0, 100, logits.shape)
    changed = np.where((labels == VOID)[..., None], others, logits).astype("float32")
    found = loss_of(loss, labels, changed)
    np.testing.assert_allclose(found, loss_of(loss, labels, logits), rtol=1e-5, atol=1e-6)


@each_loss
@times(20)
@given(problems(), seeds)
def test_the_order_of_pixels_does_not_count(loss, problem, seed):
    labels, logits = problem
    order = np.random.default_rng(seed).permutation(labels[0].size)
    if loss != "per_image":
        order = np.random.default_rng(seed).permutation(labels.size)
        flat = labels.reshape(-1), logits.reshape(-1, logits.shape[-1])
        moved = flat[0][order].reshape(labels.shape), flat[1][order].reshape(logits.shape)
    else:
        moved = (
            labels.reshape(len(labels), -1)[:, order].reshape(labels.shape),
            logits.reshape(len(labels), order.size, -1)[:, order].reshape(logits.shape),
        )
    np.testing.assert_allclose(
        loss_of(loss, *moved), loss_of(loss, labels, logits), rtol=1e-5, atol=1e-6
    )


@each_loss
@times(20)
@given(problems(), seeds)
def test_the_order_of_classes_does_not_count(loss, problem, seed):
    labels, logits = problem
    order = np.random.default_rng(seed).permutation(logits.shape[-1])
    renamed = np.where(labels == VOID, VOID, np.argsort(order)[labels % logits.shape[-1]])
    np.testing.assert_allclose(
        loss_of(loss, renamed, logits[..., order]),
        loss_of(loss, labels, logits),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("loss", ["lovasz", "all", "per_image", "binned"])
@times(20)
@given(problems())
def test_lovasz_is_within_0_and_1(loss, problem):
    assert -1e-6 <= loss_of(loss, *problem) <= 1 + 1e-5


@times(40)
@given(problems())
def test_bins_change_lovasz_by_the_width_of_one_at_most(problem):
    # Within a bin an error moves by 1/64, and the weights of a class add up to 1.
    assert abs(loss_of("binned", *problem) - loss_of("lovasz", *problem)) <= 1 / 64 + 1e-5


@times(20)
@given(problems())
def test_cross_entropy_of_a_batch_is_the_mean_of_its_images_by_valid_pixels(problem):
    labels, logits = problem
    valid = (labels != VOID).sum((1, 2))
    # The same shapes, which are compiled once: an image alone has the others void.
    alone = [np.where(np.arange(len(labels))[:, None, None] == i, labels, VOID)
             for i in range(len(labels))]  # fmt: skip
    parts = [loss_of("cross_entropy", one, logits) for one in alone]
    expected = np.dot(parts, valid) / max(1, valid.sum())
    found = loss_of("cross_entropy", labels, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "lovasz", "binned"])
@times(12)
@given(
    problems(),
    st.sampled_from(["uint8", "int32", "int64", "float32"]),
    st.sampled_from(["float32", "float16", "bfloat16"]),
    st.booleans(),
)
def test_types_of_labels_and_logits_do_not_count(loss, problem, of_labels, of_logits, channel):
    labels, logits = problem
    rounded = ops.cast(ops.convert_to_tensor(logits), of_logits)
    given_labels = labels.astype(of_labels)[..., None] if channel else labels.astype(of_labels)
    found = LOSSES[loss](given_labels, rounded)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected = loss_of(loss, labels, ops.convert_to_numpy(ops.cast(rounded, "float32")))
    np.testing.assert_allclose(number(found), expected, rtol=1e-5, atol=1e-6)


# Metrics


@st.composite
def predictions(draw):
    """Number of classes, labels and ids of pixels, some of the labels void, and batches."""
    classes = draw(st.sampled_from([2, 3, 5, 19]))
    rng = np.random.default_rng(draw(seeds))
    labels, predicted = rng.integers(0, classes, (2, 24))
    labels[rng.random(24) < 0.2] = VOID
    cuts = draw(st.sampled_from([(), (12,), (6, 12, 18)]))
    return classes, labels, predicted, cuts


def confusion(classes, labels, predicted):
    """NumPy's."""
    counts = labels != VOID
    cells = labels[counts] * classes + predicted[counts]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def counted(metric, labels, predicted, cuts, dtype="int32"):
    metric.reset_state()
    for batch in zip(np.split(labels, cuts), np.split(predicted, cuts)):
        metric.update_state(*(part.astype(dtype).reshape(1, 2, -1) for part in batch))
    return metric.confusion_matrix()


@times(30)
@given(predictions(), seeds, st.sampled_from(["int32", "int64"]))
def test_counts_are_numpys_however_pixels_are_split_and_ordered(case, seed, dtype):
    classes, labels, predicted, cuts = case
    expected = confusion(classes, labels, predicted)
    metric = metrics.MeanIoU(classes, sparse_y_pred=True)
    assert np.array_equal(counted(metric, labels, predicted, cuts, dtype), expected)
    order = np.random.default_rng(seed).permutation(labels.size)
    moved = counted(metric, labels[order], predicted[order], cuts, dtype)
    assert np.array_equal(moved, expected)


@times(30)
@given(predictions())
def test_figures_are_those_of_the_counts(case):
    classes, labels, predicted, cuts = case
    counts = confusion(classes, labels, predicted).astype("float64")
    hits, truth, found = np.diag(counts), counts.sum(1), counts.sum(0)
    union = truth + found - hits
    for metric, expected in (
        (metrics.MeanIoU, np.mean(hits[union > 0] / union[union > 0]) if union.any() else 0),
        (metrics.MeanAccuracy, np.mean(hits[truth > 0] / truth[truth > 0]) if truth.any() else 0),
        (metrics.PixelAccuracy, hits.sum() / max(1, counts.sum())),
    ):
        metric = metric(classes, sparse_y_pred=True)
        counted(metric, labels, predicted, cuts)
        np.testing.assert_allclose(number(metric.result()), expected, rtol=1e-5, atol=1e-7)


@times(20)
@given(problems(), st.sampled_from(["uint8", "int32", "int64"]))
def test_logits_count_as_their_largest_class(problem, dtype):
    labels, logits = problem
    metric = metrics.PixelAccuracy(logits.shape[-1])
    metric.update_state(labels.astype(dtype), logits)
    logits = by_class(logits)
    expected = confusion(logits.shape[-1], labels.ravel(), logits.argmax(-1).ravel())
    assert np.array_equal(metric.confusion_matrix(), expected)


# Layers

_LAYERS = {
    "adapter": (lambda: layers.FeatureAdapter(3), 4),
    "adapter without filters": (lambda: layers.FeatureAdapter(), 4),
    "aggregator": (lambda: layers.ConvLSTMAggregator(3), 2),
    "sequences": (lambda: layers.ConvLSTMAggregator(2, 5, return_sequences=True), 2),
    "pyramid": (lambda: layers.PyramidPooling(4, (1, 2, 3, 6)), 3),
    "no pyramid": (lambda: layers.PyramidPooling(2, None), 9),
    "grouped": (lambda: layers.Conv2D(8, 3, groups=4, padding="same"), 8),
    "dilated": (lambda: layers.Conv2D(4, 3, dilation_rate=4, groups=2, padding="same"), 4),
    "normalization": (lambda: layers.BatchNormalization(), 5),
    "output": (lambda: layers.SegmentationOutput(["a", "b"]), 2),
}
_BUILT = {}


def built(name, compiled):
    """A layer, and its function of (maps, maps of the target's size)."""
    if name not in _BUILT:
        make, channels = _LAYERS[name]
        layer = make()
        if name in ("aggregator", "sequences"):
            function = compiled(layer)
            layer.build([(None, 5, 5, channels)] * 3)
            call = lambda x, y: function([x, 2 * x, -x])  # noqa: E731
        elif name in ("adapter", "adapter without filters", "output"):
            function = compiled(layer)
            layer.build((None, 5, 5, channels), (None, 7, 7, 3))
            call = function
        else:
            function = compiled(layer)
            layer.build((None, 5, 5, channels))
            call = lambda x, y: function(x)  # noqa: E731
        _BUILT[name] = (
            layer,
            channels,
            lambda *maps: ops.convert_to_numpy(call(*(ops.convert_to_tensor(x) for x in maps))),
        )
    return _BUILT[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", _LAYERS)
@times(3 if JAX else 12)
@given(size=maps, target=maps, seed=seeds, scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_images_of_a_batch_do_not_see_each_other(name, compiled, size, target, seed, scale):
    _, channels, function = built(name, compiled)
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((3, *size, channels))).astype("float32")
    y = rng.standard_normal((3, *target, 3)).astype("float32")
    together = function(x, y)
    alone = np.concatenate([function(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5 * scale)
    grid = target if name in ("adapter", "adapter without filters", "output") else size
    assert together.shape[-3:-1] == grid


@pytest.mark.parametrize("name", _LAYERS)
def test_a_config_makes_the_same_layer(name):
    layer = _LAYERS[name][0]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


# Pipeline

SOURCES = [(1, 1), (1, 9), (15, 1), (12, 16), (5, 5), (13, 3), (2, 2)]
scales = st.sampled_from([(1.0, 1.0), (0.1, 0.3), (0.5, 2.0), (3.0, 5.0), (1.3, 1.3)])
turns = st.sampled_from([(0.0, 0.0), (-30.0, 30.0), (100.0, 170.0)])
sides = st.integers(1, 20)


def located(size):
    """An image that says where its pixels are, red 16 times the column and green the row, blue 255
    (padding has 0), and a mask of the ids 16 row + column."""
    row, column = np.mgrid[: size[0], : size[1]].astype("uint8")
    image = np.stack([16 * column, 16 * row, np.full_like(row, 255)], -1)
    return Image.fromarray(image), 16 * row + column


def assert_aligned(image, mask):
    """Each pixel of the mask is the nearest one to where the image was sampled, or padding."""
    inside = mask != VOID
    assert np.array_equal(image[..., 2], np.where(inside, 255, 0))
    assert not image[~inside].any()
    row, column = np.divmod(mask[inside].astype(int), 16)
    # Half a pixel, and a level of 16, for Pillow rounds down.
    for channel, place in ((0, column), (1, row)):
        assert (abs(image[inside][:, channel] / 16 - place) <= 0.5 + 1 / 16 + 1e-3).all()


@times(100)
@given(
    st.tuples(st.integers(1, 15), st.integers(1, 15)), st.none() | st.tuples(sides, sides),
    scales, turns, seeds,
)  # fmt: skip
def test_image_and_mask_stay_aligned_and_no_id_is_new(size, crop, scale, turn, seed):
    image, mask = located(size)
    augmentation = Augmentation(crop, scale, flip=True, rotation_range=turn)
    (draw,) = augmentation.draws(seed, 0, 1)
    window = augmentation.window(size, draw)
    for (start, length, place, resized), n, whole in zip(window[:2], size, window[2]):
        assert 0 <= start < start + length <= n
        assert 0 <= place < place + resized <= whole
    found, labels = augment(image, mask, window, draw)
    assert (found.dtype, labels.dtype) == ("uint8", "uint8")
    assert found.shape == (*labels.shape, 3) == (*window[2], 3)
    assert crop is None or labels.shape == crop
    assert set(np.unique(labels)) <= {*mask.ravel(), VOID}
    assert_aligned(found, labels)
    if not Draw(*draw).rotation:
        assert (labels != VOID).sum() == window[0][3] * window[1][3]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """A data set of an image of each of `SOURCES`."""
    root = tmp_path_factory.mktemp("sizes")
    samples = []
    for index, size in enumerate(SOURCES):
        image, mask = located(size)
        for kind, picture in (("image", image), ("mask", Image.fromarray(mask))):
            picture.save(root / f"{kind}{index}.png")
        samples.append(Sample(root / f"image{index}.png", root / f"mask{index}.png"))
    ids = {i: i for i in range(255)}
    return Dataset(
        "sizes", [str(i) for i in ids], [(i, 0, 0) for i in ids], {"train": samples}, ids
    )


def batches(dataset, loader):
    if loader == "pillow":
        return [dataset[i] for i in range(len(dataset))]
    return [tuple(part.numpy() for part in batch) for batch in dataset]


@pytest.mark.slow
@times(20)
@given(
    st.tuples(sides, sides), st.integers(1, 8), scales, turns, st.booleans(),
    st.sampled_from([None, 0.3]), st.integers(0, 2**31), st.integers(0, 3),
)  # fmt: skip
def test_both_loaders_give_the_same_pairs_each_time(
    sizes, crop, batch_size, scale, turn, training, limit, seed, epoch
):
    def load(loader):
        dataset = make_dataset(
            sizes, "train", crop_size=crop, batch_size=batch_size, training=training, seed=seed,
            scale_range=scale, rotation_range=turn,
            saturation_range=(0.5, 1.5), hue_range=(-0.1, 0.1), blur_range=(0.0, 1.0),
            class_limit=limit, drop_remainder=False, loader=loader,
        )  # fmt: skip
        dataset.set_epoch(epoch)
        return batches(dataset, loader)

    found = load("pillow")
    assert [len(images) for images, _ in found] == [
        min(batch_size, 7 - start) for start in range(0, 7, batch_size)
    ]
    for loader in ["pillow"] + ["tf.data"] * HAS_TENSORFLOW:
        again = load(loader)
        for one, other in zip(found, again, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other))


@times(15)
@given(st.integers(1, 9), st.integers(0, 2**31), st.integers(0, 5))
def test_every_sample_comes_once_an_epoch(sizes, batch_size, seed, epoch):
    dataset = make_dataset(
        sizes, "train", crop_size=(15, 16), batch_size=batch_size, seed=seed,
        scale_range=(1.0, 1.0), contrast_range=(1.0, 1.0), drop_remainder=False, loader="pillow",
    )  # fmt: skip
    dataset.set_epoch(epoch)
    masks = [mask for _, batch in batches(dataset, "pillow") for mask in batch]
    # All sizes differ, and nothing is cut off.
    found = sorted(int((mask != VOID).sum()) for mask in masks)
    assert found == sorted(rows * columns for rows, columns in SOURCES)
