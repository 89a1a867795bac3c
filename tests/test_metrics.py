"""Figures of the confusion matrix and the pixel-weighted cross-entropy, against NumPy."""

import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from support import maps

from keras_sanet.metrics import CrossEntropy, MeanAccuracy, MeanIoU, PixelAccuracy

CLASSES, VOID = 4, 255
CONFUSION_METRICS = (MeanIoU, MeanAccuracy, PixelAccuracy)


def confusion_of(labels, ids, classes=CLASSES):
    valid = labels != VOID
    cells = labels[valid].astype("int64") * classes + ids[valid]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def figures_of(confusion):
    """By metric class; all classes present."""
    right = np.diag(confusion)
    truth, predicted = confusion.sum(1), confusion.sum(0)
    return {
        MeanIoU: np.mean(right / (truth + predicted - right)),
        MeanAccuracy: np.mean(right / truth),
        PixelAccuracy: right.sum() / truth.sum(),
    }


def small_model():
    return keras.Sequential([keras.Input((5, 7, 3)), keras.layers.Conv2D(CLASSES, 1)])


@pytest.mark.parametrize("metric_class", CONFUSION_METRICS)
def test_logits_of_two_batches_give_the_figure_of_numpy(rng, metric_class):
    metric = metric_class(CLASSES)
    confusion = np.zeros((CLASSES, CLASSES), "int64")
    for _ in range(2):
        labels, logits = maps(rng)
        metric.update_state(labels, logits)
        confusion += confusion_of(labels, logits.argmax(-1))
    np.testing.assert_array_equal(metric.confusion_matrix(), confusion)
    assert float(metric.result()) == pytest.approx(figures_of(confusion)[metric_class], rel=1e-6)


@pytest.mark.parametrize("metric_class", CONFUSION_METRICS)
def test_sparse_ids_give_the_figure_of_numpy(rng, metric_class):
    labels, logits = maps(rng)
    ids = logits.argmax(-1).astype("int32")
    metric = metric_class(CLASSES, sparse_y_pred=True)
    metric.update_state(labels[..., None], ids[..., None])
    expected = figures_of(confusion_of(labels, ids))[metric_class]
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)


def test_first_of_equal_logits_is_predicted_also_of_two_zeros():
    # argmax of (1, 1), (0, 1), (-0.0, 0.0): 0, 1, 0
    metric = MeanIoU(2)
    metric.update_state([[[0, 0, 0]]], np.array([[[[1, 1], [0, 1], [-0.0, 0.0]]]], "float32"))
    np.testing.assert_array_equal(metric.confusion_matrix(), [[2, 1], [0, 0]])


def test_logits_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"`y_pred` must have 3 classes.*\(1, 2, 2, 5\)"):
        MeanIoU(3).update_state(np.zeros((1, 2, 2), "int32"), np.zeros((1, 2, 2, 5), "float32"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_logits_count(dtype):
    metric = PixelAccuracy(2)
    logits = keras.ops.convert_to_tensor([[[[1.0, 2.0], [2.0, 1.0]]]], dtype)
    metric.update_state(np.array([[[1, 1]]]), logits)
    np.testing.assert_array_equal(metric.confusion_matrix(), [[0, 0], [1, 1]])


def test_class_in_neither_truth_nor_prediction_is_left_out():
    # truth 0 0 1, prediction 0 1 1; class 2 nowhere
    # IoU 1/2, 1/2: mean 1/2 (with class 2 as 0: 1/3). Accuracy 1/2, 1: mean 3/4. Pixels 2/3.
    expected = {MeanIoU: 1 / 2, MeanAccuracy: 3 / 4, PixelAccuracy: 2 / 3}
    for metric_class, value in expected.items():
        metric = metric_class(3, sparse_y_pred=True)
        metric.update_state(np.array([[[0, 0, 1]]]), np.array([[[0, 1, 1]]]))
        assert float(metric.result()) == pytest.approx(value, rel=1e-6)


def test_class_only_predicted_is_0_in_mean_iou_and_left_out_of_mean_accuracy():
    # truth 0 0, prediction 0 1: IoU 1/2, 0: mean 1/4. Accuracy 1/2 of class 0 alone.
    for metric_class, value in ((MeanIoU, 1 / 4), (MeanAccuracy, 1 / 2)):
        metric = metric_class(2, sparse_y_pred=True)
        metric.update_state(np.array([[[0, 0]]]), np.array([[[0, 1]]]))
        assert float(metric.result()) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("metric_class", CONFUSION_METRICS)
def test_nothing_but_void_gives_0(rng, metric_class):
    labels, logits = maps(rng)
    metric = metric_class(CLASSES)
    metric.update_state(np.full_like(labels, VOID), logits)
    assert float(metric.result()) == 0.0
    assert metric.confusion_matrix().sum() == 0


def test_predicted_ids_outside_the_classes_are_refused_where_labels_count():
    # ids 2 and -1 are no class of two; at a void pixel nobody asks
    metric = MeanIoU(2, sparse_y_pred=True)
    with pytest.raises(ValueError, match=r"Predicted ids .* 0 to 1.*from -1 to 2"):
        metric.update_state(np.array([[[0, 0, 0]]]), np.array([[[0, 2, -1]]]))
    metric.reset_state()
    metric.update_state(np.array([[[0, VOID, VOID]]]), np.array([[[0, 2, -1]]]))
    np.testing.assert_array_equal(metric.confusion_matrix(), [[1, 0], [0, 0]])


def test_counts_stay_exact_past_2_to_24_and_2_to_31():
    # 2^24 + 1 is no float32, 2^31 + 5 no int32; the update adds one to each cell but one
    counts = np.array([[2**24 + 1, 3], [0, 2**31 + 5]])
    metric = MeanIoU(2, sparse_y_pred=True)
    metric.low.assign(counts % 2**12)
    metric.high.assign(counts // 2**12)
    metric.update_state(np.array([[[0, 0, 1]]]), np.array([[[0, 1, 1]]]))
    np.testing.assert_array_equal(metric.confusion_matrix(), counts + [[1, 1], [0, 1]])
    assert metric.confusion_matrix().dtype == np.int64
    # IoU 16777218 / 16777222 and 2147483654 / 2147483658
    expected = (16777218 / 16777222 + 2147483654 / 2147483658) / 2
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)


def test_per_class_gives_names_and_nan_for_an_absent_class():
    # road: 3 of 4 right, none wrongly road: IoU 3/4. car: 2 right, 1 wrongly car: 2/3. sky: none.
    truth, predicted = np.array([[[0, 0, 0, 0, 1, 1]]]), np.array([[[0, 0, 0, 1, 1, 1]]])
    metric = MeanIoU(3, class_names=["road", "car", "sky"], sparse_y_pred=True)
    metric.update_state(truth, predicted)
    values = metric.per_class()
    assert list(values) == ["road", "car", "sky"]
    assert values["road"] == pytest.approx(3 / 4)
    assert values["car"] == pytest.approx(2 / 3)
    assert math.isnan(values["sky"])
    # accuracy: 3/4 of road, 2/2 of car; by id without names
    accuracy = PixelAccuracy(3, sparse_y_pred=True)
    accuracy.update_state(truth, predicted)
    assert accuracy.per_class() == pytest.approx({0: 3 / 4, 1: 1.0, 2: math.nan}, nan_ok=True)


def test_sample_weight_weighs_pixels():
    # truth 0 0 1 1, prediction 0 1 1 0, weights 1/2 1 2 0:
    # confusion [[1/2, 1], [0, 2]], IoU (1/2) / (3/2) = 1/3 and 2 / 3, mean 1/2
    metric = MeanIoU(2, sparse_y_pred=True)
    weights = np.array([[[0.5, 1.0, 2.0, 0.0]]], "float32")
    metric.update_state(np.array([[[0, 0, 1, 1]]]), np.array([[[0, 1, 1, 0]]]), weights)
    np.testing.assert_array_equal(metric.confusion_matrix(), [[0.5, 1.0], [0.0, 2.0]])
    assert float(metric.result()) == pytest.approx(1 / 2, rel=1e-6)


@pytest.mark.parametrize("metric_class", (*CONFUSION_METRICS, CrossEntropy))
def test_reset_state_forgets_all_pixels(rng, metric_class):
    labels, logits = maps(rng)
    metric = CrossEntropy() if metric_class is CrossEntropy else metric_class(CLASSES)
    metric.update_state(labels, logits)
    metric.update_state(labels, logits, np.ones(labels.shape, "float32"))
    metric.reset_state()
    assert float(metric.result()) == 0.0
    assert all(not keras.ops.convert_to_numpy(v).any() for v in metric.variables)


def test_num_classes_below_one_raises_with_the_value():
    with pytest.raises(ValueError, match="`num_classes` must be a positive.*num_classes=0"):
        MeanIoU(0)


def test_all_but_the_number_of_classes_is_given_by_name():
    with pytest.raises(TypeError, match="positional argument"):
        MeanIoU(19, 255)


def test_class_names_of_wrong_length_raise_with_their_number():
    with pytest.raises(ValueError, match="one entry a class, 3. Received: 2 entries"):
        MeanIoU(3, class_names=["a", "b"])


# Logits (0, 0): p = 1/2, cross-entropy ln 2. Logits (ln 3, 0): p = 3/4 for class 0, ln(4/3).
EVEN, SURE = (0.0, 0.0), (math.log(3), 0.0)


def test_cross_entropy_weighs_pixels_not_batches():
    # batch 1: one valid pixel of ln 2; batch 2: three of ln(4/3)
    # (ln 2 + 3 ln(4/3)) / 4 = 0.389048; the mean of the batches' means would be 0.490415
    metric = CrossEntropy()
    metric.update_state(np.array([[[0, VOID, VOID]]]), np.array([[[EVEN, EVEN, SURE]]], "float32"))
    metric.update_state(np.array([[[0, 0, 0]]]), np.array([[[SURE, SURE, SURE]]], "float32"))
    assert float(metric.result()) == pytest.approx(0.389048, rel=1e-5)


def test_cross_entropy_takes_pixel_weights():
    # (2 ln 2 + 1/2 ln(4/3)) / (2 + 1/2) = 0.612054
    metric = CrossEntropy()
    metric.update_state(
        np.array([[[0, 0, 0]]]),
        np.array([[[EVEN, SURE, SURE]]], "float32"),
        np.array([[[2.0, 0.5, 0.0]]], "float32"),
    )
    assert float(metric.result()) == pytest.approx(0.612054, rel=1e-5)


def test_cross_entropy_of_nothing_but_void_is_0():
    metric = CrossEntropy(ignore_class=9)
    metric.update_state(np.array([[[9, 9]]]), np.array([[[EVEN, SURE]]], "float32"))
    assert float(metric.result()) == 0.0


@pytest.mark.parametrize("metric_class", CONFUSION_METRICS)
def test_config_round_trip_of_confusion_metrics(metric_class):
    metric = metric_class(
        2, ignore_class=7, sparse_y_pred=True, class_names=["a", "b"], name="figure"
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is metric_class
    assert again.get_config() == metric.get_config()
    assert (again.name, again.ignore_class, again.sparse_y_pred) == ("figure", 7, True)
    assert again.class_names == ["a", "b"]


def test_config_round_trip_of_cross_entropy():
    metric = CrossEntropy(ignore_class=7, name="figure")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is CrossEntropy
    assert (again.name, again.ignore_class) == ("figure", 7)


def compiled_metrics():
    return [
        MeanIoU(CLASSES),
        MeanAccuracy(CLASSES),
        PixelAccuracy(CLASSES),
        CrossEntropy(),
    ]


@pytest.mark.slow
def test_results_of_compiled_fit_equal_the_standalone_ones(rng):
    labels, _ = maps(rng, (4, 5, 7))
    images = rng.standard_normal((4, 5, 7, 3)).astype("float32")
    model = small_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID)
    model.compile(
        keras.optimizers.SGD(0.0),  # the weights stay
        loss,
        metrics=compiled_metrics(),
        jit_compile=keras.backend.backend() != "torch",
    )
    history = model.fit(images, labels, batch_size=2, verbose=0).history
    logits = model.predict(images, batch_size=2, verbose=0)
    for metric in compiled_metrics():
        metric.update_state(labels, logits)
        assert history[metric.name] == [pytest.approx(float(metric.result()), rel=1e-6)]


@pytest.mark.slow
def test_saved_model_keeps_its_metrics(rng, tmp_path):
    labels, _ = maps(rng)
    images = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    model = small_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID)
    model.compile("sgd", loss, metrics=compiled_metrics())
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    figures = loaded.evaluate(images, labels, verbose=0, return_dict=True)
    assert {"mean_iou", "mean_accuracy", "pixel_accuracy", "cross_entropy"} <= set(figures)
    assert figures == pytest.approx(expected, rel=1e-6)


REPLICAS = """
import json

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])

import keras
import numpy as np

from keras_sanet.losses import SegmentationLoss
from keras_sanet.metrics import MeanIoU, assign_sum

rng = np.random.default_rng(0)
labels = rng.integers(0, 4, (4, 3, 5)).astype("int32")
labels[0, 0] = 255
images = rng.standard_normal((4, 3, 5, 3)).astype("float32")
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([keras.Input((3, 5, 3)), keras.layers.Conv2D(4, 1)])
    metric = MeanIoU(4)
    restored = MeanIoU(2)
    counts = np.array([[7, 1], [0, 2**31 + 5]])
    assign_sum(restored.low, (counts % 2**12).astype("int32"))
    assign_sum(restored.high, (counts // 2**12).astype("int32"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile("sgd", loss, metrics=[metric], jit_compile=False)
reported = model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)["mean_iou"]
counted = metric.confusion_matrix().tolist()
strange = labels.copy()
strange[3, 2, 4] = 9  # on one replica
model.compile("sgd", SegmentationLoss(lovasz_weight=0.0), metrics=[metric], jit_compile=False)
strange = model.evaluate(images, strange, batch_size=4, verbose=0, return_dict=True)
print(json.dumps({
    "replicas": strategy.num_replicas_in_sync,
    "restored": restored.confusion_matrix().tolist(),
    "figure": float(restored.result()),
    "counted": counted,
    "strange": strange,
    "reported": reported,
    "labels": labels.tolist(),
    "ids": model.predict(images, verbose=0).argmax(-1).tolist(),
}))
"""


@pytest.fixture(scope="module")
def replicas():
    """What the metrics of two replicas hold; in a fresh process, where devices can be split."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute needs the TensorFlow backend")
    run = subprocess.run(
        [sys.executable, "-c", REPLICAS],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    held = json.loads(run.stdout.splitlines()[-1])
    assert held["replicas"] == 2
    return held


@pytest.mark.slow
def test_restored_odd_counts_survive_two_replicas(replicas):
    assert replicas["restored"] == [[7, 1], [0, 2**31 + 5]]
    # IoU 7 / 8 and 2147483653 / 2147483654: mean 0.9375
    assert replicas["figure"] == pytest.approx(0.9375, rel=1e-6)


@pytest.mark.slow
def test_mean_iou_of_two_replicas_counts_every_pixel_once(replicas):
    expected = confusion_of(np.array(replicas["labels"]), np.array(replicas["ids"]))
    # 4 maps of 3 x 5 pixels without a row of void: 60 - 5
    assert expected.sum() == 55
    assert replicas["counted"] == expected.tolist()
    assert replicas["reported"] == pytest.approx(figures_of(expected)[MeanIoU], rel=1e-6)


@pytest.mark.slow
def test_a_label_that_is_no_class_on_one_replica_makes_loss_and_figure_nan(replicas):
    assert set(replicas["strange"]) == {"loss", "mean_iou"}
    assert all(math.isnan(value) for value in replicas["strange"].values())
