"""Figures of a split against counts by hand."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.evaluation import Evaluation, evaluate
from keras_sanet.inference import predict_mask

NAMES = ["road", "sky", "tree"]


def brightest(classes):
    """A model that says which of the first colours of a pixel is the brightest."""
    inputs = keras.Input((None, None, 3))
    layer = keras.layers.Conv2D(classes, 1, name="logits")
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.eye(3, classes, dtype="float32")[None, None] / 255, np.zeros(classes)])
    return model


def write(root, pairs):
    """A data set of (predicted ids, true ids) pairs; the colours make `brightest` predict so."""
    for part in ("images", "masks"):
        (root / part / "val").mkdir(parents=True)
    for i, (predicted, truth) in enumerate(pairs):
        colours = (255 * np.eye(3, dtype="uint8"))[np.array(predicted)]
        Image.fromarray(colours).save(root / f"images/val/{i}.png")
        Image.fromarray(np.array(truth, "uint8")).save(root / f"masks/val/{i}.png")
    (root / "classes.txt").write_text("\n".join(NAMES), "utf-8")
    return datasets.load("folder", root)


@pytest.fixture(scope="module")
def model():
    return brightest(3)


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    pairs = [
        ([[0, 0, 1], [1, 2, 2]], [[0, 0, 0], [1, 1, 255]]),
        ([[1, 1, 1, 0]], [[1, 255, 1, 255]]),
    ]
    return evaluate(model, write(tmp_path_factory.mktemp("hand"), pairs), "val")


def test_the_confusion_matrix_has_the_truth_in_rows_and_leaves_void_out(found):
    # Of road 2 right and 1 taken for sky; of sky 1 + 2 right and 1 taken for tree; 3 void.
    assert found.confusion.tolist() == [[2, 1, 0], [0, 3, 1], [0, 0, 0]]
    assert found.confusion.dtype == "int64"
    assert found.images == 2


def test_iou_is_right_over_the_union(found):
    # road 2 / 3; sky 3 / (4 + 1); tree 0 / 1: never true, once predicted
    assert found.iou_per_class.tolist() == pytest.approx([2 / 3, 3 / 5, 0])
    assert found.mean_iou == pytest.approx((2 / 3 + 3 / 5) / 3)


def test_accuracy_is_right_over_true_and_its_mean_skips_classes_that_are_not_there(found):
    # road 2 / 3, sky 3 / 4, no tree
    assert found.accuracy_per_class.tolist() == pytest.approx([2 / 3, 3 / 4, np.nan], nan_ok=True)
    assert found.mean_accuracy == pytest.approx((2 / 3 + 3 / 4) / 2)


def test_pixel_accuracy_is_all_that_is_right(found):
    assert found.pixel_accuracy == pytest.approx(5 / 7)


def test_the_table_has_a_line_a_class_in_percent(found):
    rows = [line.split() for line in str(found).splitlines()]
    # pixels 3 / 7 and 4 / 7; accuracy and IoU as above
    assert ["road", "42.86", "66.67", "66.67"] in rows
    assert ["sky", "57.14", "75.00", "60.00"] in rows
    assert ["tree", "0.00", "nan", "0.00"] in rows
    # means (66.67 + 75) / 2 and (66.67 + 60 + 0) / 3; 5 / 7
    assert ["mean", "70.83", "42.22"] in rows
    assert ["pixel", "accuracy", "71.43"] in rows
    last = str(found).splitlines()[-1]
    assert last.startswith("2 images of ") and ", val; percent" in last


def test_void_never_counts(model, tmp_path):
    pairs = [([[0, 1, 2]], [[255, 255, 255]])]
    found = evaluate(model, write(tmp_path, pairs), "val")
    assert found.confusion.sum() == 0
    assert str(found)  # no division by zero


def test_a_large_count_is_exact_in_the_matrix():
    # 2^24 + 1 is no float32; figures are ratios.
    report = Evaluation(np.array([[2**24 + 1, 0], [0, 2**40]]), ["a", "b"], 1, "two")
    assert report.confusion.sum() == 2**24 + 1 + 2**40
    assert report.mean_iou == report.pixel_accuracy == 1.0


@pytest.mark.parametrize(
    "mode",
    [{}, {"scales": (0.5, 1.5), "flip": True}, {"window": 6}],
    ids=["whole", "scales", "win"],
)
def test_counts_are_those_of_the_predicted_masks(model, tmp_path, rng, mode):
    ids = np.array([0, 1, 2, 255])
    pairs = [
        (rng.integers(0, 3, size), ids[rng.integers(0, 4, size)]) for size in ((9, 13), (8, 5))
    ]
    dataset = write(tmp_path, pairs)
    expected = np.zeros((3, 3), int)
    for sample in dataset.samples("val"):
        image, truth = dataset.read(sample)
        for t, p in zip(truth.ravel(), predict_mask(model, image, **mode).ravel()):
            if t != 255:
                expected[t, p] += 1
    np.testing.assert_array_equal(evaluate(model, dataset, "val", **mode).confusion, expected)


def test_track_is_put_around_the_samples(model, tmp_path):
    dataset, seen = write(tmp_path, [([[0]], [[0]]), ([[1]], [[1]])]), []

    def track(samples):
        for sample in samples:
            seen.append(sample)
            yield sample

    evaluate(model, dataset, "val", track=track)
    assert seen == dataset.samples("val")


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="The model has 4 classes, the data set .* 3"):
        evaluate(brightest(4), write(tmp_path, [([[0]], [[0]])]), "val")


def test_a_split_without_masks_is_refused(model, tmp_path):
    dataset = write(tmp_path, [([[0]], [[0]])])
    dataset.splits["test"] = [datasets.Sample(dataset.samples("val")[0].image)]
    with pytest.raises(ValueError, match="0.png has no mask; the split 'test'"):
        evaluate(model, dataset, "test")
