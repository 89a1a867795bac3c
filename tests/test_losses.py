"""Lovász-softmax against its authors' code and hand-computed cases, and its sum with
cross-entropy against NumPy."""

import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from support import SHARED, maps

from keras_sanet.losses import LovaszSoftmax, SegmentationLoss, lovasz_softmax

VOID = 255
GOLDEN = SHARED / "data/golden_lovasz.npz"
BACKEND = keras.backend.backend()

both_forms = pytest.mark.parametrize("num_bins", [None, 1024])
both_losses = pytest.mark.parametrize("loss_class", [LovaszSoftmax, SegmentationLoss])


def value_and_gradient(loss, logits):
    """loss(logits) and its gradient with respect to the logits, as NumPy float32."""
    return values_and_gradients([loss], logits)[0]


def values_and_gradients(losses, logits):
    """`value_and_gradient` of each loss; on JAX one graph, as compiling takes the time."""
    if BACKEND == "jax":
        import jax

        functions = [jax.value_and_grad(loss) for loss in losses]
        compute = jax.jit(
            lambda logits: [function(logits) for function in functions],
            compiler_options={"xla_backend_optimization_level": 0},  # compiles in half the time
        )
        results = compute(ops.convert_to_tensor(logits))
    else:
        results = [_value_and_gradient(loss, ops.convert_to_tensor(logits)) for loss in losses]
    return [
        (float(value), ops.convert_to_numpy(ops.cast(gradient, "float32")))
        for value, gradient in results
    ]


def _value_and_gradient(loss, logits):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits)
        return value, tape.gradient(value, logits)
    import torch

    logits = logits.detach().requires_grad_(True)
    value = loss(logits)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def jit(function):
    """The function compiled by XLA; eager on PyTorch."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def off(actual, expected):
    """Relative difference in norm."""
    expected = np.asarray(expected, "float64")
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def pixel_cross_entropy(labels, logits):
    """-log softmax at the label, 0 at void pixels; (batch, height, width)."""
    ids = np.where(labels == VOID, 0, labels).astype("int64")
    values = -np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]
    return np.where(labels == VOID, 0.0, values)


# --- Lovász-softmax


def lovasz_by_definition(labels, logits, classes, per_image):
    """The Lovász extension of the Jaccard loss by its definition (Berman et al., 2018, Eq. 9), with
    the loss of a set of mispredicted pixels counted set by set, in float64."""
    if per_image:
        images = zip(labels[:, None], logits[:, None])
        return np.mean([lovasz_by_definition(*image, classes, False) for image in images])
    valid = labels != VOID
    truth, probabilities = labels[valid], np.exp(log_softmax(logits))[valid]
    losses = []
    for label in range(logits.shape[-1]):
        own = truth == label
        if classes == "present" and not own.any():
            continue
        errors = np.where(own, 1 - probabilities[:, label], probabilities[:, label])
        total, before, wrong = 0.0, 0.0, np.zeros(len(truth), bool)
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            jaccard = 1 - (own & ~wrong).sum() / (own | wrong).sum()
            total, before = total + errors[pixel] * (jaccard - before), jaccard
        losses.append(total)
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "image"])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_softmax_is_the_extension_by_its_definition(rng, classes, per_image):
    labels, logits = maps(rng)
    value = lovasz_softmax(labels, logits, classes=classes, per_image=per_image, num_bins=None)
    expected = lovasz_by_definition(labels, logits, classes, per_image)
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.is_file():
        pytest.skip(f"{GOLDEN} is not there")
    with np.load(GOLDEN) as file:
        return dict(file)


SETTINGS = [(classes, group) for classes in ("present", "all") for group in ("batch", "image")]


def golden_differences(golden, case, num_bins):
    """Relative differences of value and gradient, the largest of the case's four settings."""
    losses = [
        lambda logits, classes=classes, group=group: lovasz_softmax(
            golden[f"{case}_labels"],
            logits,
            classes=classes,
            per_image=group == "image",
            num_bins=num_bins,
        )
        for classes, group in SETTINGS
    ]
    values, gradients = [], []
    results = values_and_gradients(losses, golden[f"{case}_logits"])
    for (classes, group), (value, gradient) in zip(SETTINGS, results):
        values.append(off(value, golden[f"{case}_{classes}_{group}_value"]))
        gradients.append(off(gradient, golden[f"{case}_{classes}_{group}_grad"]))
    assert len(values) == 4
    return max(values), max(gradients)


@pytest.mark.parametrize("case", range(12))
def test_exact_loss_equals_the_authors_code(golden, case):
    value, gradient = golden_differences(golden, case, num_bins=None)
    assert value < 1e-5
    assert gradient < 1e-5


@pytest.mark.parametrize("case", range(12))
def test_1024_bins_are_near_the_authors_code_on_few_pixels(golden, case):
    value, gradient = golden_differences(golden, case, num_bins=1024)
    assert value < 2e-2
    assert gradient < 1e-2


# Four pixels, two classes and a void pixel; truth 1 1 0 0, p_1 = .9 .3 .6 .2, p_0 = 1 - p_1.
# Errors of both classes: .1 .7 .6 .2, in falling order the pixels 1 2 3 0.
#   class 1 (pixels 0, 1): mistaking 1, 2, 3, 4 of them gives IoU 1/2 1/3 1/4 0/4, so
#     differences of 1 - IoU 1/2 1/6 1/12 1/4: .7/2 + .6/6 + .2/12 + .1/4 = .491667
#   class 0 (pixels 2, 3): IoU 2/3 1/3 0/3 0/4, differences 1/3 1/3 1/3 0:
#     (.7 + .6 + .2) / 3 = .5
# Mean .495833. Its gradient: the differences, minus at the class's own pixels, halved.
HAND_LABELS = np.array([[[1, 1, 0, 0, VOID]]], "uint8")
HAND_PROBABILITIES = np.array(
    [[[[0.1, 0.9], [0.7, 0.3], [0.4, 0.6], [0.8, 0.2], [0.5, 0.5]]]], "float32"
)
HAND_VALUE = 0.495833
HAND_GRADIENT = [[0, -1 / 8], [1 / 6, -1 / 4], [-1 / 6, 1 / 12], [-1 / 6, 1 / 24], [0, 0]]


@both_forms
def test_hand_computed_value_and_gradient_of_probabilities(num_bins):
    value, gradient = value_and_gradient(
        lambda p: lovasz_softmax(HAND_LABELS, p, from_logits=False, num_bins=num_bins),
        HAND_PROBABILITIES,
    )
    assert value == pytest.approx(HAND_VALUE, rel=1e-5)
    np.testing.assert_allclose(gradient[0, 0], HAND_GRADIENT, atol=1e-6)


@both_forms
def test_logits_are_taken_through_softmax(num_bins):
    # softmax(log p) = p
    logits = np.log(HAND_PROBABILITIES)
    value = lovasz_softmax(HAND_LABELS, logits, num_bins=num_bins)
    assert float(value) == pytest.approx(HAND_VALUE, rel=1e-5)


def test_1024_bins_equal_the_exact_loss_on_a_large_map(rng):
    # 320 x 640 = 204,800 pixels, a tenth of them void; logits that lean to the truth
    labels = rng.integers(0, 3, (1, 320, 640))
    logits = 2 * rng.standard_normal((1, 320, 640, 3)) + 1.5 * np.eye(3)[labels]
    labels[rng.random(labels.shape) < 0.1] = VOID
    exact, binned = (
        value_and_gradient(
            lambda x, num_bins=num_bins: lovasz_softmax(labels, x, num_bins=num_bins),
            logits.astype("float32"),
        )
        for num_bins in (None, 1024)
    )
    assert off(binned[0], exact[0]) < 1e-5
    assert off(binned[1], exact[1]) < 2e-3


# Two pixels of classes 0 and 1, class 2 absent. Largest errors first:
#   class 0: .3 (its pixel) makes IoU 0, so .3 x 1 + .1 x 0. Class 1: .4 x 1 + .2 x 0.
#   class 2: its largest error, .3.
ABSENT_LABELS = np.array([[[0, 1]]], "uint8")
ABSENT_PROBABILITIES = np.array([[[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]]], "float32")


@both_forms
@pytest.mark.parametrize(
    "classes, expected",
    [
        ("present", (0.3 + 0.4) / 2),
        ("all", (0.3 + 0.4 + 0.3) / 3),
        ([0, 2], (0.3 + 0.3) / 2),
        ([2], 0.3),
    ],
)
def test_classes_says_over_which_classes_the_mean_goes(classes, expected, num_bins):
    value = lovasz_softmax(
        ABSENT_LABELS, ABSENT_PROBABILITIES, from_logits=False, classes=classes, num_bins=num_bins
    )
    assert float(value) == pytest.approx(expected, rel=1e-6)


@both_forms
def test_absent_class_has_gradient_one_over_classes_at_its_largest_error(num_bins):
    _, gradient = value_and_gradient(
        lambda p: lovasz_softmax(
            ABSENT_LABELS, p, from_logits=False, classes="all", num_bins=num_bins
        ),
        ABSENT_PROBABILITIES,
    )
    # class 2 (absent): 1 at the error .3 and 0 at .1, by 3 classes
    np.testing.assert_allclose(gradient[0, 0, :, 2], [0, 1 / 3], atol=1e-6)
    # classes 0 and 1: -1 at their own pixel
    np.testing.assert_allclose(gradient[0, 0, :, :2], [[-1 / 3, 0], [0, -1 / 3]], atol=1e-6)


@both_forms
def test_nothing_but_void_gives_0_and_no_gradient(rng, num_bins):
    labels, logits = maps(rng)
    settings = [(c, i) for c in ("present", "all", [0, 2]) for i in (False, True)]
    losses = [
        lambda x, classes=classes, per_image=per_image: lovasz_softmax(
            np.full_like(labels, VOID),
            x,
            classes=classes,
            per_image=per_image,
            num_bins=num_bins,
        )
        for classes, per_image in settings
    ]
    for setting, (value, gradient) in zip(settings, values_and_gradients(losses, logits)):
        assert value == 0.0, setting
        np.testing.assert_array_equal(gradient, np.zeros_like(logits), err_msg=str(setting))


@both_forms
def test_per_image_is_the_mean_of_single_images(rng, num_bins):
    labels, logits = maps(rng)
    labels[1, :3] = VOID
    together = lovasz_softmax(labels, logits, per_image=True, num_bins=num_bins)
    single = [
        float(lovasz_softmax(labels[i : i + 1], logits[i : i + 1], num_bins=num_bins))
        for i in range(2)
    ]
    assert float(together) == pytest.approx(np.mean(single), rel=1e-6)
    # and not the loss of the batch
    assert abs(float(lovasz_softmax(labels, logits, num_bins=num_bins)) - float(together)) > 1e-4


@both_forms
def test_compiled_value_equals_the_eager_one(rng, num_bins):
    labels, logits = maps(rng)
    loss = LovaszSoftmax(num_bins=num_bins)
    compiled = jit(lambda labels, logits: loss(labels, logits))
    value = compiled(ops.convert_to_tensor(labels), ops.convert_to_tensor(logits))
    assert float(value) == pytest.approx(float(loss(labels, logits)), rel=1e-6)


@both_forms
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_logits_are_computed_in_float32(rng, dtype, num_bins):
    labels, logits = maps(rng)
    logits = ops.cast(8 * logits, dtype)

    def loss(logits):
        return lovasz_softmax(labels, logits, num_bins=num_bins)

    value, gradient = value_and_gradient(loss, logits)
    expected, expected_gradient = value_and_gradient(loss, ops.cast(logits, "float32"))
    assert value == pytest.approx(expected, rel=1e-6)
    assert keras.backend.standardize_dtype(loss(logits).dtype) == "float32"
    # the gradient itself is rounded to 11 or 8 bits, and below 6e-8 to 0 in float16
    rounding = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    np.testing.assert_allclose(gradient, expected_gradient, rtol=rounding, atol=6e-8)


# --- the rules of both losses


@both_forms
@both_losses
def test_sample_weight_of_0_and_1_is_a_void_mask(rng, loss_class, num_bins):
    labels, logits = maps(rng)
    counts = rng.integers(0, 2, labels.shape)
    loss = loss_class(num_bins=num_bins)
    masked = loss(labels, logits, sample_weight=counts.astype("float32"))
    labelled = loss(np.where(counts == 1, labels, VOID), logits)
    assert float(masked) == pytest.approx(float(labelled), rel=1e-6)
    with_channel = loss(labels, logits, sample_weight=counts[..., None])
    assert float(with_channel) == float(masked)


@both_losses
def test_sample_weight_of_a_half_raises(rng, loss_class):
    labels, logits = maps(rng)
    with pytest.raises(ValueError, match="void mask: 0 = void, 1 = counts"):
        loss_class()(labels, logits, np.full(labels.shape, 0.5, "float32"))


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs eagerly and raises")
@both_losses
def test_sample_weight_of_a_half_gives_nan_in_compiled_code(rng, loss_class):
    labels, logits = maps(rng)
    loss = loss_class()
    compiled = jit(lambda labels, logits, weights: loss(labels, logits, weights))
    for weight, is_nan in ((0.5, True), (1.0, False)):
        weights = np.full(labels.shape, weight, "float32")
        value = compiled(*(ops.convert_to_tensor(x) for x in (labels, logits, weights)))
        assert math.isnan(float(value)) == is_nan


@both_losses
def test_labels_with_and_without_a_channel_axis_agree(rng, loss_class):
    labels, logits = maps(rng)
    value = float(loss_class()(labels, logits))
    assert value > 0
    assert float(loss_class()(labels[..., None], logits)) == value
    assert float(loss_class()(labels.astype("int32"), logits)) == value


@both_losses
def test_labels_of_wrong_rank_raise_with_both_shapes(rng, loss_class):
    _, logits = maps(rng)
    shapes = r"labels \(2, 5\), predictions \(2, 5, 7, 4\)"
    with pytest.raises(ValueError, match=shapes):
        loss_class()(np.zeros((2, 5), "uint8"), logits)


@pytest.mark.parametrize("classes", ["some", [0, 4], [-1], [], [1.5], None])
@both_losses
def test_unknown_classes_raise_with_the_value(rng, loss_class, classes):
    labels, logits = maps(rng)
    with pytest.raises(ValueError, match=r"ids in 0\.\.3") as error:
        loss_class(classes=classes)(labels, logits)
    assert f"classes={classes!r}" in str(error.value)


@pytest.mark.parametrize("num_bins", [0, -1, 2.5, "many"])
@both_losses
def test_bad_num_bins_raise_with_the_value(rng, loss_class, num_bins):
    labels, logits = maps(rng)
    with pytest.raises(ValueError, match=f"`num_bins` must be .* Received: num_bins={num_bins!r}"):
        loss_class(num_bins=num_bins)(labels, logits)


LOSSES = {
    "lovasz": LovaszSoftmax(
        from_logits=False,
        ignore_class=3,
        classes=[0, 2],
        per_image=True,
        num_bins=64,
        name="mine",
        reduction="sum",
    ),
    "segmentation": SegmentationLoss(
        cross_entropy_weight=0.5,
        lovasz_weight=2.0,
        ignore_class=3,
        class_weights=[1, 2, 3],
        classes="all",
        num_bins=64,
        name="mine",
        reduction="sum",
    ),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_serialisation_keeps_every_argument(loss):
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    for argument, value in vars(loss).items():
        if argument != "_dtype_policy" and not argument.startswith("_"):
            assert getattr(again, argument) == value


def small_model():
    return keras.Sequential([keras.Input((5, 7, 3)), keras.layers.Conv2D(4, 1)])


@pytest.mark.parametrize(
    "loss",
    [
        LovaszSoftmax(classes="all", num_bins=64),
        SegmentationLoss(0.5, 2.0, class_weights=[1, 2, 3, 4]),
    ],
    ids=LOSSES,
)
def test_compiled_model_trains_and_comes_back_from_its_file(rng, tmp_path, loss):
    labels, _ = maps(rng)
    images = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    model = small_model()
    model.compile(keras.optimizers.SGD(0.1), loss)
    first, last = model.fit(images, labels, epochs=2, batch_size=2, verbose=0).history["loss"]
    assert last < first
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == loss.get_config()
    expected = float(loss(labels, model.predict(images, verbose=0)))
    assert loaded.evaluate(images, labels, verbose=0) == pytest.approx(expected, rel=1e-5)


# --- cross-entropy and its sum with Lovász-softmax


def test_cross_entropy_is_the_mean_over_valid_pixels(rng):
    labels, logits = maps(rng)
    expected = pixel_cross_entropy(labels, logits).sum() / (labels != VOID).sum()
    loss = SegmentationLoss(lovasz_weight=0.0)
    assert float(loss(labels, logits)) == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_equals_the_one_of_keras(rng):
    labels, logits = maps(rng)
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID)
    ours = value_and_gradient(lambda x: SegmentationLoss(lovasz_weight=0.0)(labels, x), logits)
    theirs = value_and_gradient(lambda x: stock(labels, x), logits)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert off(ours[1], theirs[1]) < 1e-6


# Logits (0, 0): p = 1/2, cross-entropy ln 2. Logits (ln 3, 0): p = 3/4, 1/4, so ln(4/3), ln 4.
EVEN, SURE = (0.0, 0.0), (math.log(3), 0.0)


def test_class_and_pixel_weights_multiply():
    # pixels: class 0 of ln(4/3), class 1 of ln 4, class 1 of ln 2, void
    # class weights 2, 3; pixel weights 1, 1/2, 2, 7: w = 2, 3/2, 6, 0
    # (2 ln(4/3) + 3/2 ln 4 + 6 ln 2) / 9.5 = 0.717230
    loss = SegmentationLoss(lovasz_weight=0.0, class_weights=[2, 3])
    value = loss(
        np.array([[[0, 1, 1, VOID]]], "uint8"),
        np.array([[[SURE, SURE, EVEN, EVEN]]], "float32"),
        np.array([[[1.0, 0.5, 2.0, 7.0]]], "float32"),
    )
    assert float(value) == pytest.approx(0.717230, rel=1e-5)


def test_class_weights_do_not_scale_the_loss():
    # sum w ce / sum w: (2 ln(4/3) + 3 ln 4) / 5 = 0.946849, and the same with 20 and 30
    for weights in ([2, 3], [20, 30]):
        loss = SegmentationLoss(lovasz_weight=0.0, class_weights=weights)
        value = loss(np.array([[[0, 1]]]), np.array([[[SURE, SURE]]], "float32"))
        assert float(value) == pytest.approx(0.946849, rel=1e-5)


def test_loss_is_the_weighted_sum_of_both_terms(rng):
    labels, logits = maps(rng)
    cross_entropy = float(SegmentationLoss(lovasz_weight=0.0)(labels, logits))
    lovasz = float(lovasz_softmax(labels, logits))
    value = float(SegmentationLoss(0.5, 2.0)(labels, logits))
    assert value == pytest.approx(0.5 * cross_entropy + 2.0 * lovasz, rel=1e-6)
    alone = SegmentationLoss(cross_entropy_weight=0.0)(labels, logits)
    assert float(alone) == pytest.approx(lovasz, rel=1e-6)


def test_segmentation_loss_of_nothing_but_void_is_0_without_gradient(rng):
    labels, logits = maps(rng)
    void = np.full_like(labels, VOID)
    loss = SegmentationLoss(class_weights=[1, 2, 3, 4])
    value, gradient = value_and_gradient(lambda x: loss(void, x), logits)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(logits))


def test_class_weights_of_wrong_length_raise_with_their_number(rng):
    labels, logits = maps(rng)
    with pytest.raises(ValueError, match="one entry a class, 4. Received: 3 entries"):
        SegmentationLoss(class_weights=[1, 2, 3])(labels, logits)


@both_losses
def test_weights_that_are_not_one_a_pixel_raise_and_name_class_weights(rng, loss_class):
    labels, logits = maps(rng)
    with pytest.raises(ValueError, match=r"\(2, 5\).*`fit\(class_weight=\)`.*class_weights"):
        loss_class()(labels, logits, np.ones((2, 5), "float32"))


def test_class_weight_of_fit_raises_on_masks(rng):
    # Keras itself looks up each label as one number: a TypeError
    labels, _ = maps(rng)
    model = small_model()
    model.compile("sgd", SegmentationLoss())
    with pytest.raises((TypeError, ValueError)):
        model.fit(
            np.zeros((2, 5, 7, 3)), labels, class_weight={0: 1.0, 1: 2.0, 255: 0.0}, verbose=0
        )


def test_class_weight_of_fit_on_tf_data_raises_and_names_class_weights(rng):
    tf = pytest.importorskip("tensorflow")
    labels, _ = maps(rng)
    data = tf.data.Dataset.from_tensors((np.zeros((2, 5, 7, 3), "float32"), labels))
    model = small_model()
    model.compile("sgd", SegmentationLoss())
    with pytest.raises(ValueError, match="class_weights"):
        weights = {0: 1.0, 1: 2.0, 2: 1.0, 3: 1.0, 255: 0.0}
        model.fit(data, class_weight=weights, shuffle=False, verbose=0)


REPLICAS = """
import json

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])

import keras
import numpy as np

from keras_sanet.losses import SegmentationLoss

rng = np.random.default_rng(0)
labels = rng.integers(0, 4, (4, 3, 5)).astype("int32")
labels[:, 0] = 255  # of each image as many
images = rng.standard_normal((4, 3, 5, 3)).astype("float32")
kernel = rng.standard_normal((1, 1, 3, 4)).astype("float32")


def step():
    model = keras.Sequential([keras.Input((3, 5, 3)), keras.layers.Conv2D(4, 1)])
    model.set_weights([kernel, np.zeros(4)])
    loss = SegmentationLoss(lovasz_weight=0.0)
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=False)
    history = model.fit(images, labels, batch_size=4, verbose=0, shuffle=False).history
    return {"loss": history["loss"][0], "weights": [w.tolist() for w in model.get_weights()]}


one = step()
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    two = step()
print(json.dumps({
    "replicas": strategy.num_replicas_in_sync,
    "start": kernel.tolist(),
    "one": one,
    "two": two,
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute needs the TensorFlow backend")
def test_two_replicas_report_the_loss_and_take_the_step_of_one_device():
    run = subprocess.run(  # a fresh process, where the CPU can be split in two devices
        [sys.executable, "-c", REPLICAS],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout.splitlines()[-1])
    one, two = result["one"], result["two"]
    assert result["replicas"] == 2
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert off(np.array(one["weights"][0]), result["start"]) > 1e-2  # the step moved them
    for single, mirrored in zip(one["weights"], two["weights"]):
        assert off(np.array(mirrored), single) < 1e-5
