"""One rule for labels, weights and shapes in all losses and metrics, and models of two classes that
have one channel."""

import keras
import numpy as np
import pytest

from keras_sanet import _labels
from keras_sanet.losses import LovaszSoftmax, SegmentationLoss, lovasz_softmax
from keras_sanet.metrics import CrossEntropy, MeanAccuracy, MeanIoU, PixelAccuracy

VOID = 255
BACKEND = keras.backend.backend()


def of_metric(metric):
    """A function of labels, predictions and weights that gives the metric's figure."""

    def figure(*arguments):
        metric.reset_state()
        metric.update_state(*arguments)
        return metric.result()

    return figure


READERS = {
    "cross-entropy": lambda **rule: SegmentationLoss(lovasz_weight=0.0, **rule),
    "class weights": lambda **rule: SegmentationLoss(1, 0, class_weights=[1, 2, 3], **rule),
    "exact Lovász": lambda **rule: LovaszSoftmax(num_bins=None, **rule),
    "binned Lovász": lambda **rule: LovaszSoftmax(num_bins=8, **rule),
    "CrossEntropy": lambda **rule: of_metric(CrossEntropy(**rule)),
    "MeanIoU": lambda **rule: of_metric(MeanIoU(3, **rule)),
}
each = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


@pytest.fixture
def truth(rng):
    """Labels of three classes without void, (2, 4, 5)."""
    return rng.integers(0, 3, (2, 4, 5)).astype("int32")


@pytest.fixture
def logits(rng):
    return rng.standard_normal((2, 4, 5, 3)).astype("float32")


# What is a label


@each
@pytest.mark.parametrize("strange", [-1, 3, 200])
def test_a_label_that_is_no_class_is_an_error_with_the_way_out(reader, strange, truth, logits):
    truth[0, 0] = strange
    message = rf"class ids, 0 to 2, or `ignore_class`, 255. Received: labels {strange}\. .*`ignore"
    with pytest.raises(ValueError, match=message):
        reader()(truth, logits)


@each
def test_labels_of_wide_integers_are_not_cut_to_32_bits(reader, truth, logits):
    wide = truth.astype("int64")
    wide[0, 0, 0] = 2**32  # whose lower bits are 0
    with pytest.raises(ValueError, match="Received: labels"):
        reader()(wide, logits)


@each
@pytest.mark.parametrize("weights", ["pixels", "image"])
def test_a_pixel_of_weight_0_may_have_any_label(reader, weights, truth, logits):
    weight = np.ones(truth.shape, "float32")
    weight[0] = 0
    strange = np.where(weight == 0, 77, truth)
    expected = float(reader()(np.where(weight == 0, VOID, truth), logits))
    weight = weight if weights == "pixels" else weight[:, 0, 0]
    assert float(reader()(strange, logits, weight)) == pytest.approx(expected, rel=1e-6)


@each
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float32", "float64", "list"])
def test_labels_of_every_dtype_are_read_alike(reader, dtype, truth, logits):
    truth[0, 0] = VOID
    given = truth.tolist() if dtype == "list" else truth.astype(dtype)
    assert float(reader()(given, logits)) == float(reader()(truth, logits))


@each
def test_bool_is_0_and_1(reader, truth, logits):
    assert float(reader()(truth > 0, logits)) == float(
        reader()((truth > 0).astype("int32"), logits)
    )


@each
@pytest.mark.parametrize("scale", [1 / 255, 1 / 2, np.nan])
def test_labels_that_are_no_whole_numbers_are_an_error(reader, scale, truth, logits):
    with pytest.raises(ValueError, match="Ids are whole numbers"):
        reader()((truth * scale).astype("float32"), logits)


@each
@pytest.mark.parametrize("void", [-1, 0, 254, None])
def test_void_may_have_any_label(reader, void, truth, logits):
    if void is not None:
        truth[truth == 0] = void
    expected = float(reader()(np.where(truth == void, VOID, truth), logits))
    assert float(reader(ignore_class=void)(truth, logits)) == pytest.approx(expected, rel=1e-6)
    if void == -1:  # which no uint8 can be
        with pytest.raises(ValueError, match="labels 255"):
            reader(ignore_class=void)(truth.astype("uint8"), logits)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs eagerly and raises")
@pytest.mark.parametrize("name", ["class weights", "binned Lovász"])
def test_what_is_an_error_elsewhere_is_nan_in_compiled_code(name, truth, logits):
    loss = READERS[name]()
    if BACKEND == "jax":
        import jax

        compiled = jax.jit(loss)
    else:
        import tensorflow as tf

        compiled = tf.function(loss)
    strange = truth.copy()
    strange[0, 0, 0] = 3
    assert np.isfinite(float(compiled(truth, logits)))
    assert np.isnan(float(compiled(strange, logits)))
    assert np.isnan(float(compiled((truth / 2).astype("float32"), logits)))
    assert np.isfinite(float(compiled(strange, logits, (strange != 3).astype("float32"))))


def one_convolution(classes=3):
    image = keras.Input((4, 5, 3))
    return keras.Model(image, keras.layers.Conv2D(classes, 1)(image))


def all_metrics(classes=3, **rule):
    kinds = (MeanIoU, MeanAccuracy, PixelAccuracy)
    return [*(kind(classes, **rule) for kind in kinds), CrossEntropy(**rule)]


def test_fit_with_a_strange_label_raises_or_reports_nan_until_the_next_epoch(truth, logits):
    model = one_convolution()
    model.compile(keras.optimizers.SGD(0.0), SegmentationLoss(), metrics=all_metrics())
    strange = truth.copy()
    strange[1, 0, 0] = 7
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="labels 7"):
            model.fit(logits, strange, verbose=0)
    else:
        found = model.fit(logits, strange, batch_size=1, verbose=0).history
        assert len(found) == 5 and all(np.isnan(value) for (value,) in found.values())
    found = model.evaluate(logits, truth, verbose=0, return_dict=True)
    assert np.isfinite([*found.values()]).all()


@pytest.mark.parametrize("metric", all_metrics(), ids=lambda metric: metric.name)
@pytest.mark.parametrize("where", [np.s_[0, 0, 0, 1], np.s_[1]], ids=["a logit", "an image"])
def test_nan_predictions_make_figures_nan_and_no_class(metric, where, truth, logits):
    logits[where] = np.nan
    assert np.isnan(float(of_metric(metric)(truth, logits)))
    assert np.isfinite(float(of_metric(metric)(truth, np.nan_to_num(logits))))


# Shapes


SHAPES = {
    "swapped axes": lambda y: y.transpose(0, 2, 1),
    "half the size": lambda y: y[:, ::2, ::2],
    "flat": lambda y: y.reshape(2, -1),
    "another batch": lambda y: y[:1],
    "an image alone": lambda y: y[0],
    "channels first": lambda y: y[:, None],
}


@each
@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
def test_labels_of_another_shape_are_refused_with_both_shapes(reader, change, truth, logits):
    shape = ", ".join(map(str, change(truth).shape))
    with pytest.raises(ValueError, match=rf"labels \({shape}\), predictions \(2, 4, 5, 3\)"):
        reader()(change(truth), logits)


@each
def test_one_hot_labels_are_refused_with_the_way_out(reader, truth, logits):
    with pytest.raises(ValueError, match="one-hot.*argmax.*CategoricalCrossentropy"):
        reader()(np.eye(3, dtype="float32")[truth], logits)


@each
def test_logits_of_one_image_are_refused(reader, truth, logits):
    with pytest.raises(ValueError, match=r"must be of shape \(batch, height, width, classes\)"):
        reader()(truth[0], logits[0])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="other backends know all sizes")
@pytest.mark.parametrize("name", ["exact Lovász", "binned Lovász"])  # others fail inside
def test_sizes_that_only_the_running_graph_knows_are_compared(name, truth, logits):
    import tensorflow as tf

    shapes = [tf.TensorSpec((None,) * 3, "int32"), tf.TensorSpec((None, None, None, 3))]
    compiled = tf.function(READERS[name](), shapes, autograph=False)
    assert np.isfinite(float(compiled(truth, logits)))
    assert np.isnan(float(compiled(truth.transpose(0, 2, 1).copy(), logits)))


# Weights


@each
@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 1, 1), (2, 1, 1, 1), (2, 4, 5, 1)], ids=str)
def test_weights_of_images_are_those_of_their_pixels(reader, shape, truth, logits):
    weight = np.zeros(shape, "float32")
    weight[1] = 1
    expected = float(reader()(np.where([[[True]], [[False]]], VOID, truth), logits))
    assert float(reader()(truth, logits, weight)) == pytest.approx(expected, rel=1e-6)


@each
@pytest.mark.parametrize("shape", [(), (3,), (2, 4), (4, 5), (1, 4, 5), (2, 5, 4)], ids=str)
def test_other_weights_are_refused_by_their_shape(reader, shape, truth, logits):
    with pytest.raises(ValueError, match="`sample_weight` must hold a weight an image"):
        reader()(truth, logits, np.ones(shape, "float32"))


def test_fit_hands_weights_of_samples_to_loss_and_weighted_metrics(truth, logits):
    # weights 3 and 1 of two images of 20 pixels: (3 x 20 a + 20 b) / 80, a and b their figures
    model = one_convolution()
    loss = SegmentationLoss(lovasz_weight=0.0)
    model.compile("sgd", loss, weighted_metrics=[PixelAccuracy(3), CrossEntropy()])
    weighted = model.evaluate(
        logits, truth, sample_weight=np.array([3.0, 1.0]), verbose=0, return_dict=True
    )
    alone = [
        model.evaluate(logits[i : i + 1], truth[i : i + 1], verbose=0, return_dict=True)
        for i in range(2)
    ]
    for name, value in weighted.items():
        assert value == pytest.approx((3 * alone[0][name] + alone[1][name]) / 4, rel=1e-5), name


def test_the_mask_of_a_masking_layer_does_not_scale_the_loss(truth, logits):
    image = keras.Input((4, 5, 3))
    x = keras.layers.Dense(3)(keras.layers.Masking(mask_value=0.0)(image))
    model = keras.Model(image, x)
    loss = SegmentationLoss(reduction="sum")
    model.compile("sgd", loss)
    expected = float(loss(truth, model.predict(logits, verbose=0)))
    assert model.evaluate(logits, truth, verbose=0) == pytest.approx(expected, rel=1e-5)


# One channel


@pytest.fixture
def binary(rng):
    """Labels 0, 1 and void, and one logit a pixel."""
    y = rng.choice([0, 1, VOID], (2, 4, 5), p=[0.5, 0.4, 0.1]).astype("uint8")
    return y, rng.standard_normal((2, 4, 5, 1)).astype("float32")


def two_logits(z):
    return np.concatenate([np.zeros_like(z), z], axis=-1)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


BINARY = {
    "cross-entropy": lambda **rule: SegmentationLoss(1, 0, class_weights=[1, 3], **rule),
    "exact Lovász": lambda **rule: LovaszSoftmax(num_bins=None, **rule),
    "binned Lovász": lambda **rule: LovaszSoftmax(num_bins=8, classes=[1], **rule),
    "both": lambda **rule: SegmentationLoss(num_bins=None, **rule),
    "CrossEntropy": lambda **rule: of_metric(CrossEntropy(**rule)),
    "MeanIoU(1)": lambda **rule: of_metric(MeanIoU(1, **rule)),
    "MeanIoU(2)": lambda **rule: of_metric(MeanIoU(2, **rule)),
    "MeanAccuracy(1)": lambda **rule: of_metric(MeanAccuracy(1, **rule)),
}
each_binary = pytest.mark.parametrize("reader", BINARY.values(), ids=BINARY)


@each_binary
def test_one_logit_is_the_logits_0_and_z(reader, binary):
    y, z = binary
    expected = float(reader()(y, two_logits(z)))
    assert expected > 0
    assert float(reader()(y, z)) == pytest.approx(expected, rel=1e-6)
    assert float(reader()(y[..., None], z)) == pytest.approx(expected, rel=1e-6)


@each_binary
def test_one_probability_is_its_logit(reader, binary):
    y, z = binary
    assert float(reader(from_logits=False)(y, sigmoid(z))) == pytest.approx(
        float(reader()(y, z)), rel=1e-5
    )


def test_binary_cross_entropy_is_that_of_keras(binary):
    y, z = binary
    y[y == VOID] = 1
    expected = keras.losses.BinaryCrossentropy(from_logits=True)(y[..., None].astype("float32"), z)
    assert float(SegmentationLoss(lovasz_weight=0.0)(y, z)) == pytest.approx(float(expected), 1e-6)


def test_figures_of_one_logit_count_background_and_foreground():
    # truth 0 0 1 1 void, logits -1 2 3 0.0 5: predicted 0 1 1 0, IoU 1/3 of both
    metric = MeanIoU(1, class_names=["background", "lane"])
    z = np.array([-1, 2, 3, 0, 5], "float32").reshape(1, 1, 5, 1)
    metric.update_state(np.array([[[0, 0, 1, 1, VOID]]]), z)
    np.testing.assert_array_equal(metric.confusion_matrix(), [[1, 1], [1, 1]])
    assert metric.per_class() == pytest.approx({"background": 1 / 3, "lane": 1 / 3})


def test_ids_of_one_channel_are_of_two_classes():
    metric = PixelAccuracy(1, sparse_y_pred=True)
    metric.update_state(np.array([[[0, 1, 1]]]), np.array([[[[0], [1], [0]]]]))
    np.testing.assert_array_equal(metric.confusion_matrix(), [[1, 0], [1, 1]])


def test_one_channel_is_not_of_three_classes(binary):
    with pytest.raises(ValueError, match=r"`y_pred` must have 3 classes.*\(2, 4, 5, 1\)"):
        MeanIoU(3).update_state(*binary)


def test_one_channel_has_two_names_and_class_weights(binary):
    with pytest.raises(ValueError, match="one entry a class, 2. Received: 1 entries"):
        MeanIoU(1, class_names=["lane"])
    with pytest.raises(ValueError, match="one entry a class, 2. Received: 1 entries"):
        SegmentationLoss(class_weights=[1])(*binary)


# Probabilities


def softmax(x):
    powers = np.exp(x)
    return powers / powers.sum(axis=-1, keepdims=True)


@each
def test_probabilities_give_what_their_logits_give(reader, truth, logits):
    truth[0, 0] = VOID
    found = reader(from_logits=False)(truth, softmax(logits))
    assert float(found) == pytest.approx(float(reader()(truth, logits)), rel=1e-5)


@pytest.mark.parametrize("name", ["cross-entropy", "exact Lovász", "CrossEntropy"])
def test_logits_are_refused_where_probabilities_are_announced(name, truth, logits):
    with pytest.raises(ValueError, match="from_logits=True"):
        READERS[name](from_logits=False)(truth, logits)


def test_a_right_class_of_probability_0_costs_a_finite_loss():
    # log of Keras's epsilon, 1e-7: -log(1e-7 / (1 + 1e-7)) = 16.118
    loss = SegmentationLoss(lovasz_weight=0.0, from_logits=False)
    value = loss(np.array([[[0]]]), np.array([[[[0.0, 1.0]]]], "float32"))
    assert float(value) == pytest.approx(-np.log(1e-7), rel=1e-5)


@pytest.mark.parametrize("kind", [SegmentationLoss, CrossEntropy, lambda **x: MeanIoU(2, **x)])
def test_from_logits_is_kept_in_the_config(kind):
    config = keras.saving.serialize_keras_object(kind(from_logits=False))
    assert keras.saving.deserialize_keras_object(config).from_logits is False


def test_the_function_follows_the_same_rules(truth, logits):
    truth[0, 0] = 3
    with pytest.raises(ValueError, match="labels 3"):
        lovasz_softmax(truth, logits)


def test_an_empty_share_of_a_batch_is_no_error(truth, logits):
    ids, _, wrong = _labels.read(truth[:0], logits[:0], 3)
    assert tuple(ids.shape) == (0, 4, 5) and not bool(wrong)
