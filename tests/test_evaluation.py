"""Metrics of a split against counts by hand."""

import copy
import csv
import dataclasses
import json
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.evaluation import (
    METRICS,
    AbsentClasses,
    Evaluation,
    compare,
    evaluate,
    join,
    load,
    read_metrics,
)
from keras_sanet.inference import predict_mask
from keras_sanet.metrics import MeanAccuracy, MeanIoU, PixelAccuracy

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
    assert found.images == ["0", "1"]


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


def test_frequency_weighted_iou_weighs_classes_by_their_true_pixels(found):
    # 3 true pixels of road and 4 of sky: (3 x 2/3 + 4 x 3/5 + 0 x 0) / 7
    assert found.frequency_weighted_iou == pytest.approx((2 + 12 / 5) / 7)


def test_an_absent_class_is_left_out_or_counts_as_0(model, tmp_path):
    dataset = write(tmp_path, [([[0, 1]], [[0, 0]])])
    # road 1 / 2, sky 0 / 1; no tree in truth or prediction
    assert evaluate(model, dataset, "val").mean_iou == pytest.approx((1 / 2 + 0) / 2)
    with_zeros = evaluate(model, dataset, "val", absent_as_zero=True)
    assert with_zeros.mean_iou == pytest.approx((1 / 2 + 0 + 0) / 3)
    # Accuracy: road 1 / 2, and no other class is true.
    assert with_zeros.mean_accuracy == pytest.approx((1 / 2) / 3)


def random_evaluation(rng, images=6, classes=5, absent=()):
    """Confusion matrices of a few images."""
    result = Evaluation([f"c{i}" for i in range(classes)], [(i, i, i) for i in range(classes)], "x")
    for index in range(images):
        matrix = rng.integers(0, 50, (classes, classes))
        matrix[list(absent)] = 0
        matrix[:, list(absent)] = 0
        result.add(f"i{index}", matrix)
    return result


@pytest.mark.parametrize("absent", [(), (1, 3)], ids=["all classes", "two absent"])
def test_metrics_are_those_of_mmsegmentation(rng, absent):
    found = random_evaluation(rng, absent=absent)
    # Its definitions: areas of intersection, prediction and label by class; means without NaN.
    intersect = np.array([found.confusion[i, i] for i in range(5)], float)
    label, prediction = found.confusion.sum(1).astype(float), found.confusion.sum(0).astype(float)
    with np.errstate(invalid="ignore"):
        iou, accuracy = intersect / (prediction + label - intersect), intersect / label
    assert found.pixel_accuracy == pytest.approx(intersect.sum() / label.sum())
    assert found.mean_accuracy == pytest.approx(np.nanmean(accuracy))
    assert found.mean_iou == pytest.approx(np.nanmean(iou))
    np.testing.assert_allclose(found.iou_per_class, iou)


@pytest.mark.parametrize("absent", [(), (1, 3)], ids=["all classes", "two absent"])
def test_metrics_with_absent_classes_as_0_are_those_of_semseg(rng, absent):
    found = dataclasses.replace(random_evaluation(rng, absent=absent), absent_as_zero=True)
    # Its definitions: 1e-10 keeps what is absent at 0; means over all classes.
    intersection, target = found.confusion.diagonal(), found.confusion.sum(1)
    union = target + found.confusion.sum(0) - intersection
    assert found.mean_iou == pytest.approx(np.mean(intersection / (union + 1e-10)))
    assert found.mean_accuracy == pytest.approx(np.mean(intersection / (target + 1e-10)))
    assert found.pixel_accuracy == pytest.approx(intersection.sum() / (target.sum() + 1e-10))


def test_metrics_are_those_that_training_computes(rng):
    result = Evaluation(list("abc"), [(0, 0, 0)] * 3, "x")
    metrics = [kind(3, sparse_y_pred=True) for kind in (MeanIoU, MeanAccuracy, PixelAccuracy)]
    for index in range(3):
        truth, predicted = rng.integers(0, 3, (2, 1, 8, 9))
        cells = np.bincount((3 * truth + predicted).ravel(), minlength=9)
        result.add(str(index), cells.reshape(3, 3))
        for metric in metrics:
            metric.update_state(truth, predicted)
    expected = [float(metric.result()) for metric in metrics]
    found = [result.mean_iou, result.mean_accuracy, result.pixel_accuracy]
    assert found == pytest.approx(expected, rel=1e-6)


def test_an_interval_holds_the_share_of_resampled_sets(rng):
    found = random_evaluation(rng, images=12)
    low, high = found.interval("pixel_accuracy", level=0.8, samples=4000)
    draws = np.random.default_rng(1).integers(0, 12, (4000, 12))
    hits, truth = (np.array([c[i].sum() for c in found.counts]) for i in (0, 1))
    values = hits[draws].sum(axis=1) / truth[draws].sum(axis=1)
    assert np.mean((values >= low) & (values <= high)) == pytest.approx(0.8, abs=0.02)
    assert low < found.pixel_accuracy < high


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_of_one_image_is_its_metric(rng, metric):
    found = random_evaluation(rng, images=1)
    value = getattr(found, metric)
    assert found.interval(metric) == pytest.approx((value, value))


def test_intervals_repeat_by_seed(rng):
    found = random_evaluation(rng)
    assert found.interval() == found.interval()
    assert found.interval(seed=1) != found.interval()


def test_an_unknown_metric_is_refused_with_the_known_ones(rng):
    with pytest.raises(ValueError, match="'iou'. Known: pixel_accuracy, mean_accuracy"):
        random_evaluation(rng).interval("iou")


def test_a_comparison_is_paired(rng):
    # The second is right in 20 pixels more of every image: the difference is much surer than
    # either figure, which differ from image to image.
    first, second = (Evaluation(["a", "b"], [(0, 0, 0)] * 2, "x") for _ in range(2))
    for index in range(10):
        wrong = int(rng.integers(100, 900))
        first.add(str(index), np.array([[1000 - wrong, wrong], [0, 1000]]))
        second.add(str(index), np.array([[1020 - wrong, wrong - 20], [0, 1000]]))
    found = compare(first, second, metric="pixel_accuracy")
    # 20 of 2000 pixels an image
    assert found.difference == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))
    low, high = first.interval("pixel_accuracy")
    assert high - low > 0.05
    assert str(found).endswith("differ")


def test_a_model_compared_with_itself_may_be_equal(rng):
    found = random_evaluation(rng)
    result = compare(found, found)
    assert (result.difference, result.low, result.high) == (0, 0, 0)
    assert str(result).endswith("may be equal")


def test_evaluations_of_other_images_are_not_compared(rng):
    with pytest.raises(ValueError, match="not of the same images: 6 .* and 5 .*: i5"):
        compare(random_evaluation(rng), random_evaluation(rng, images=5))


def test_evaluations_of_other_classes_are_not_compared(rng):
    with pytest.raises(ValueError, match="different classes"):
        compare(random_evaluation(rng), random_evaluation(rng, classes=4))


def test_iou_per_image_is_that_of_each_alone(found):
    # Image 0: road 2/3, sky 1/3, tree 0/1; image 1: sky 2/2.
    assert found.iou_per_image.tolist() == pytest.approx([(2 / 3 + 1 / 3 + 0) / 3, 1])


def test_categories_merge_their_classes(model, tmp_path):
    dataset = write(tmp_path, [([[0, 1, 2, 0]], [[1, 0, 2, 2]])])
    dataset.categories = {"flat": [0, 1], "nature": [2]}
    # flat: 2 right, 1 of nature taken for it: 2 / 3; nature: 1 / 2
    assert evaluate(model, dataset, "val").iou_per_category.tolist() == pytest.approx([2 / 3, 0.5])


PAIRS = [([[0, 1, 2]], [[0, 1, 1]]), ([[1, 1, 0]], [[1, 255, 0]]), ([[2, 2, 2]], [[2, 0, 2]])]


class Stop(Exception):
    pass


def watched(dataset, before):
    """The data set, with a function that is called before each sample is read."""
    other = copy.copy(dataset)
    other.read = lambda sample: [before(sample), dataset.read(sample)][1]
    return other


def stopping(dataset, after):
    """The data set, which stops before the image of this number."""

    def stop(sample):
        if sample == dataset.samples("val")[after]:
            raise Stop

    return watched(dataset, stop)


def test_a_stopped_evaluation_goes_on_where_it_was(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    with pytest.raises(Stop):
        evaluate(model, stopping(dataset, 2), "val", folder=folder)
    left = []
    found = evaluate(model, watched(dataset, left.append), "val", folder=folder)
    assert left == dataset.samples("val")[2:]
    np.testing.assert_array_equal(found.confusion, evaluate(model, dataset, "val").confusion)
    assert found.images == ["0", "1", "2"]


def test_a_line_cut_off_by_a_kill_is_counted_again(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    expected = evaluate(model, dataset, "val", folder=folder).confusion
    journal = folder / "images.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    left = []
    found = evaluate(model, watched(dataset, left.append), "val", folder=folder)
    assert left == dataset.samples("val")[2:]
    np.testing.assert_array_equal(found.confusion, expected)


@pytest.mark.parametrize("cut", [0, 10])
def test_a_journal_cut_off_in_its_first_line_starts_anew(model, tmp_path, cut):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder)
    journal = folder / "images.jsonl"
    journal.write_bytes(journal.read_bytes()[:cut])
    assert len(evaluate(model, dataset, "val", folder=folder).images) == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [({"flip": True}, "mode"), ({"model": True}, "model"), ({"absent_as_zero": True}, "absent")],
    ids=["mode", "model", "rule"],
)
def test_a_folder_of_another_evaluation_is_refused(model, tmp_path, change, named):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder)
    if change.pop("model", None):
        weights = model.get_weights()
        model = brightest(3)
        model.set_weights([-weight for weight in weights])
    with pytest.raises(ValueError, match=f"run holds an evaluation of another {named}"):
        evaluate(model, dataset, "val", folder=folder, **change)


# Shards


@pytest.fixture
def shards(model, tmp_path):
    """A data set of 5 images, the folder of their evaluation, and those of 2 shards."""
    dataset = write(tmp_path / "data", [*PAIRS, *PAIRS][:5])
    evaluate(model, dataset, "val", folder=tmp_path / "all")
    folders = [tmp_path / "2", tmp_path / "1"]
    for folder in folders:
        evaluate(model, dataset, "val", folder=folder, shard=(int(folder.name), 2))
    return dataset, tmp_path / "all", folders


def test_joined_shards_are_the_evaluation_of_all_images(shards, tmp_path):
    _, whole, folders = shards
    joined, expected = join(folders, tmp_path / "joined"), load(whole)
    assert joined.images == expected.images
    assert joined.as_dict() == expected.as_dict()
    assert load(tmp_path / "joined").as_dict() == expected.as_dict()
    for name in ("images.jsonl", "evaluation.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (whole / name).read_bytes()


def test_a_shard_goes_on_where_it_was_stopped(shards, model):
    dataset, _, (folder, _) = shards
    journal = folder / "images.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: whole.rindex(b"{")])
    evaluate(model, dataset, "val", folder=folder, shard=(2, 2))
    assert journal.read_bytes() == whole


def test_a_folder_of_another_shard_is_refused(shards, model):
    dataset, whole, (folder, _) = shards
    for other, shard in ((folder, (1, 2)), (whole, (1, 2)), (folder, (1, 1))):
        with pytest.raises(ValueError, match="an evaluation of another shard"):
            evaluate(model, dataset, "val", folder=other, shard=shard)


def test_shards_that_are_not_all_or_not_of_one_are_refused(shards, model, tmp_path):
    dataset, whole, folders = shards
    with pytest.raises(ValueError, match="Missing: 1/2; given: 2/2"):
        join(folders[:1])
    with pytest.raises(ValueError, match="holds the shard 2/2, as a folder before"):
        join([folders[0], folders[0]])
    with pytest.raises(ValueError, match="Missing: 2/2; given: 1/1, 1/2"):
        join([whole, folders[1]])
    evaluate(model, dataset, "val", folder=tmp_path / "flip", shard=(1, 2), flip=True)
    with pytest.raises(ValueError, match="a shard of another evaluation"):
        join([folders[0], tmp_path / "flip"])


def test_more_shards_than_images_are_joined_too(model, tmp_path):
    dataset = write(tmp_path / "data", PAIRS[:2])
    folders = [tmp_path / f"{i}" for i in (1, 2, 3)]
    for i, folder in enumerate(folders, 1):
        evaluate(model, dataset, "val", folder=folder, shard=(i, 3))
    assert join(folders).as_dict() == evaluate(model, dataset, "val").as_dict()


def test_a_shard_says_that_it_is_one(shards):
    _, whole, (folder, _) = shards
    assert load(folder).source == f"{load(whole).source}, shard 2/2"
    assert "shard 2/2" in (folder / "evaluation.txt").read_text()


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1,), (1.0, 2), "12", 2])
def test_a_shard_is_one_of_n(shards, model, shard):
    with pytest.raises(ValueError, match="`shard` must be"):
        evaluate(model, shards[0], "val", shard=shard)


def test_a_folder_of_other_label_ids_is_refused(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder)
    other = dataclasses.replace(dataset, class_ids={**dataset.class_ids, 7: 0})
    with pytest.raises(ValueError, match="another class_ids"):
        evaluate(model, other, "val", folder=folder)


def test_a_folder_of_other_masks_is_refused(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder)
    samples = dataset.samples("val")
    coarse = [
        dataclasses.replace(s, mask=s.mask.rename(s.mask.with_name(f"coarse_{s.mask.name}")))
        for s in samples
    ]
    dataset.splits["val"] = coarse
    with pytest.raises(ValueError, match="another masks"):
        evaluate(model, dataset, "val", folder=folder)


def test_a_network_of_the_same_weights_but_other_strides_is_another(tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"

    def padded(padding):
        inputs = keras.Input((None, None, 3))
        x = keras.layers.ZeroPadding2D(padding)(inputs)
        x = keras.layers.Cropping2D(padding, name="cropping")(x)
        layer = keras.layers.Conv2D(3, 1, kernel_initializer="ones", name="logits")
        return keras.Model(inputs, layer(x), name="model")

    evaluate(padded(1), dataset, "val", folder=folder)
    with pytest.raises(ValueError, match="another model"):
        evaluate(padded(2), dataset, "val", folder=folder)


def test_a_model_from_a_file_goes_on_with_its_own_evaluation(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    model.save(tmp_path / "a.keras")
    for _ in range(2):
        loaded = keras.saving.load_model(tmp_path / "a.keras")
        assert len(evaluate(loaded, dataset, "val", folder=folder).images) == 3


def test_a_refused_argument_leaves_no_trace_in_the_folder(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    with pytest.raises(ValueError, match="`scales`"):
        evaluate(model, dataset, "val", folder=folder, scales=(0,))
    assert not folder.exists()


@pytest.mark.parametrize("lines", [[1, 1], [1, 1, 2], [2, 1], [1, 2, 3, 3]], ids=str)
def test_a_journal_that_two_runs_wrote_is_refused(model, tmp_path, lines):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder)
    journal = folder / "images.jsonl"
    written = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(written[line] for line in [0, *lines]))
    with pytest.raises(ValueError, match="images.jsonl is damaged: its images are not"):
        evaluate(model, dataset, "val", folder=folder)


def test_a_second_evaluation_into_the_folder_is_refused_while_one_runs(model, tmp_path):
    pytest.importorskip("fcntl", reason="Windows locks by another module")
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"

    def start_another(sample):
        with ThreadPoolExecutor(1) as other:
            second = other.submit(evaluate, model, dataset, "val", folder=folder)
            with pytest.raises(FileExistsError, match="Another process writes into .*run"):
                second.result()

    evaluate(model, watched(dataset, start_another), "val", folder=folder)
    assert load(folder).images == ["0", "1", "2"]


def test_a_journal_that_is_a_link_is_not_written_through(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    folder.mkdir()
    (folder / "images.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="images.jsonl is a link to .*elsewhere, out of its"):
        evaluate(model, dataset, "val", folder=folder)
    assert not (tmp_path / "elsewhere").exists()


def test_going_on_checks_the_journal_too(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    with pytest.raises(Stop):
        evaluate(model, stopping(dataset, 2), "val", folder=folder)
    journal = folder / "images.jsonl"
    written = journal.read_bytes().splitlines(keepends=True)
    line = {**json.loads(written[2]), "cells": [9], "pixels": [1]}
    journal.write_bytes(b"".join(written[:2]) + json.dumps(line).encode() + b"\n")
    with pytest.raises(ValueError, match="damaged: line 3: `cells` must be .* below 9"):
        evaluate(model, dataset, "val", folder=folder)


def test_colours_and_ids_of_numpy_are_kept(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    dataset.palette = np.array(dataset.palette)
    dataset.categories = {"all": np.arange(3)}
    evaluate(model, dataset, "val", folder=folder)
    assert load(folder).categories == {"all": [0, 1, 2]}


METRICS_WITH = {
    "nothing": ({}, "`source` must be text. It is: nothing"),
    "a list": (None, "it must be a dict"),
    "source": ({"source": 3}, "`source`"),
    "mode": ({"mode": "fast"}, "`mode`"),
    "images": ({"images": -1}, "`images`"),
    "images as text": ({"images": "many"}, "`images`"),
    "true images": ({"images": True}, "`images`"),
    "metric as text": ({"mean_iou": "0.5"}, "`mean_iou`"),
    "metric above 1": ({"mean_iou": 50.0}, "`mean_iou`"),
    "metric that is no number": ({"mean_iou": float("nan")}, "`mean_iou`"),
    "intervals as a list": ({"intervals_95": []}, "`intervals_95`"),
    "interval of one end": ({"intervals_95": dict.fromkeys(METRICS, [0.5])}, "`intervals_95`"),
    "interval of another": (
        {"intervals_95": dict.fromkeys([*METRICS, "other"], [0.1, 0.2])}, "`intervals_95`"
    ),
    "no classes": ({"classes": []}, "`classes`"),
    "classes as text": ({"classes": ["road"]}, "`classes`"),
    "class without a name": ({"classes": [{"pixels": 1, "iou": 0.5}]}, "`classes`"),
    "class with a list": ({"classes": [{"class": "a", "pixels": 1, "iou": []}]}, "`classes`"),
    "categories as a list": ({"iou_per_category": [0.5]}, "`iou_per_category`"),
    "mean of categories": ({"mean_category_iou": {}}, "`mean_category_iou`"),
}  # fmt: skip


@pytest.mark.parametrize("name", METRICS_WITH)
def test_crafted_metrics_are_named_with_the_file(rng, tmp_path, name):
    changes, said = METRICS_WITH[name]
    saved = {**random_evaluation(rng).as_dict(), **changes} if changes else {}
    (tmp_path / "evaluation.json").write_text(json.dumps([] if changes is None else saved))
    with pytest.raises(ValueError, match=f"evaluation.json is damaged: {said}.*Evaluate anew."):
        read_metrics(tmp_path / "evaluation.json")


def test_metrics_come_back_from_their_file_without_images_and_confusion(rng, tmp_path):
    found = random_evaluation(rng, absent=(1,))
    found.categories = {"flat": [0, 1], "nature": [2, 3, 4]}
    found.save(tmp_path)
    saved = found.as_dict()
    del saved["iou_per_image"], saved["confusion"]
    assert read_metrics(tmp_path / "evaluation.json") == saved


def test_numbers_of_numpy_are_kept_as_numbers(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder, scales=np.array([1.0, 2.0]), window=np.int64(2))
    assert load(folder).mode["scales"] == [1.0, 2.0]
    assert load(folder).mode["window"] == [2, 2]


def test_loading_changes_no_file(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder)
    journal = folder / "images.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"image": "half')
    before = journal.read_bytes()
    assert len(load(folder).images) == 3
    assert journal.read_bytes() == before


def test_a_journal_cut_off_in_its_first_line_holds_no_evaluation(tmp_path):
    (tmp_path / "images.jsonl").write_bytes(b'{"class')
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        load(tmp_path)


def test_a_model_without_weights_is_not_kept(tmp_path):
    class Empty(keras.Model):
        pass

    with pytest.raises(ValueError, match="has no weights yet"):
        evaluate(Empty(), write(tmp_path / "data", PAIRS), "val", folder=tmp_path / "run")


def test_evaluations_of_other_rules_are_not_compared(rng):
    found = random_evaluation(rng)
    with pytest.raises(ValueError, match="counts absent classes as 0"):
        compare(found, dataclasses.replace(found, absent_as_zero=True))


def test_an_evaluation_without_images_has_no_metrics():
    empty = Evaluation(["a", "b"], [(0, 0, 0)] * 2, "nothing")
    saved = empty.as_dict()
    assert [saved["mean_iou"], saved["pixel_accuracy"], saved["iou_per_image"]] == [None, None, []]
    assert "0 images of nothing" in str(empty)


def test_names_of_classes_are_no_markup():
    strange = Evaluation(["[/y]", "a[red]"], [(0, 0, 0)] * 2, "x")
    strange.add("i", np.eye(2, dtype="int64"))
    assert "[/y]" in str(strange) and "a[red]" in str(strange)


def test_images_of_one_name_are_all_in_the_json():
    result = Evaluation(["a"], [(0, 0, 0)], "x")
    for hits in (1, 2):
        result.add("same", np.array([[hits]]))
    assert [row["image"] for row in result.as_dict()["iou_per_image"]] == ["same", "same"]


def test_the_number_of_windows_computed_at_once_may_change(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder, window=2)
    assert len(evaluate(model, dataset, "val", folder=folder, window=2, batch_size=3).images) == 3


def test_a_damaged_journal_is_named(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder)
    journal = folder / "images.jsonl"
    journal.write_bytes(journal.read_bytes() + b"{nonsense\n")
    with pytest.raises(ValueError, match="images.jsonl is damaged"):
        evaluate(model, dataset, "val", folder=folder)


def test_a_kept_evaluation_is_loaded_as_it_was(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    dataset.categories = {"flat": [0, 1], "nature": [2]}
    kept = evaluate(model, dataset, "val", folder=folder, scales=(0.5, 1.0))
    assert json.dumps(load(folder).as_dict()) == json.dumps(kept.as_dict())


def test_a_stopped_evaluation_is_not_loaded(model, tmp_path):
    dataset, folder = write(tmp_path / "data", PAIRS), tmp_path / "run"
    with pytest.raises(Stop):
        evaluate(model, stopping(dataset, 1), "val", folder=folder)
    with pytest.raises(ValueError, match="holds 1 of the 3 images"):
        load(folder)


def test_a_folder_without_an_evaluation_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere holds no evaluation"):
        load(tmp_path / "nowhere")


def test_json_and_csv_hold_null_and_nothing_for_what_is_not_defined(model, tmp_path):
    dataset, folder = write(tmp_path / "data", [([[0, 1]], [[0, 0]])]), tmp_path / "run"
    evaluate(model, dataset, "val", folder=folder)
    saved = json.loads((folder / "evaluation.json").read_text("utf-8"))
    # road: 1 of 2 right; sky: taken once, never true; no tree
    assert [row["iou"] for row in saved["classes"]] == [0.5, 0.0, None]
    with open(folder / "classes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["iou"] for row in rows] == ["0.5", "0.0", ""]


@pytest.mark.parametrize("name", ["evaluation.txt", "classes.csv"])
def test_evaluation_json_is_the_last_file(found, tmp_path, name):
    (tmp_path / name).mkdir()  # can't be written
    with pytest.raises(OSError, match=name):
        found.save(tmp_path)
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.filterwarnings("ignore")  # pytest would keep them
def test_memory_does_not_grow_with_the_images(model, tmp_path, rng):
    pairs = [(rng.integers(0, 3, (64, 64)), rng.integers(0, 3, (64, 64))) for _ in range(40)]
    dataset = write(tmp_path, pairs)
    samples, peaks = dataset.samples("val"), []
    for count in (4, 40):
        dataset.splits["val"] = samples[:count]
        evaluate(model, dataset, "val", folder=tmp_path / str(count))  # what is loaded once
        tracemalloc.start()
        evaluate(model, dataset, "val", folder=tmp_path / f"run{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 36 more float images, let alone their probabilities, would be 36 x 64 x 64 x 3 x 4 = 1.8 MB;
    # names, counts and lines of JSON are far less.
    assert peaks[1] - peaks[0] < 36 * 64 * 64 * 3 * 4 / 4


def test_logits_that_are_no_numbers_name_the_image(tmp_path):
    broken = brightest(3)
    broken.set_weights([np.full((1, 1, 3, 3), np.nan), np.zeros(3)])
    with pytest.raises(ValueError, match="0.png: .* NaN or infinite"):
        evaluate(broken, write(tmp_path, [([[0]], [[0]])]), "val")


def test_a_mask_of_another_size_is_named(model, tmp_path):
    dataset = write(tmp_path, [([[0, 1]], [[0, 0]])])
    mask = dataset.samples("val")[0].mask
    Image.fromarray(np.zeros((3, 3), "uint8")).save(mask)
    with pytest.raises(ValueError, match="0.png differ in size"):
        evaluate(model, dataset, "val")


def test_an_unknown_way_of_prediction_is_refused_with_the_known_ones(model, tmp_path):
    with pytest.raises(TypeError, match="windows. Known: scales, flip, window"):
        evaluate(model, write(tmp_path, [([[0]], [[0]])]), "val", windows=3)


def test_the_table_has_a_line_a_class_in_percent(found):
    rows = [line.split() for line in str(found).splitlines()]
    # pixels 3 / 7 and 4 / 7; accuracy and IoU as above
    assert ["road", "42.86", "66.67", "66.67"] in rows
    assert ["sky", "57.14", "75.00", "60.00"] in rows
    assert ["tree", "0.00", "-", "0.00"] in rows
    # means (66.67 + 75) / 2 and (66.67 + 60 + 0) / 3; 5 / 7
    assert ["mean", "70.83", "42.22"] in rows
    assert ["pixel", "accuracy", "71.43"] in rows
    assert "2 images of " in str(found) and ", val; percent" in str(found)


def test_void_never_counts(model, tmp_path):
    pairs = [([[0, 1, 2]], [[255, 255, 255]])]
    found = evaluate(model, write(tmp_path, pairs), "val")
    assert found.confusion.sum() == 0
    assert str(found)  # no division by zero


def test_a_large_count_is_exact_in_the_matrix():
    # 2^24 + 1 is no float32; figures are ratios.
    report = Evaluation(["a", "b"], [(0, 0, 0)] * 2, "two")
    report.add("large", np.array([[2**24 + 1, 0], [0, 2**40]]))
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


def test_progress_is_shown_when_asked_for_alone(model, tmp_path, capsys, monkeypatch):
    dataset = write(tmp_path, [([[0]], [[0]])] * 4)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # after 2 + 1 images the rest is estimated
    for verbose in ("auto", False):
        evaluate(model, dataset, "val", verbose=verbose)
        assert capsys.readouterr().out == ""  # no terminal
    evaluate(model, dataset, "val", verbose=True)
    assert capsys.readouterr().out == "Evaluating 4 images: about 0 s to go.\n"


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="The model has 4 classes, the data set .* 3"):
        evaluate(brightest(4), write(tmp_path, [([[0]], [[0]])]), "val")


def test_a_split_without_masks_is_refused(model, tmp_path):
    dataset = write(tmp_path, [([[0]], [[0]])])
    dataset.splits["test"] = [datasets.Sample(dataset.samples("val")[0].image)]
    with pytest.raises(ValueError, match="0.png has no mask; the split 'test'"):
        evaluate(model, dataset, "test")


def test_the_repr_of_an_evaluation_is_one_line_of_metrics():
    result = Evaluation(["<a>", "b"], [[0, 0, 0]] * 2, "nothing, val")
    for index in range(500):
        result.add(f"image {index}", np.array([[3, 1], [0, 0]]))
    # 3 of 4 pixels are right; the class that is nowhere true is counted as predicted: 3/4 and 0.
    expected = "<Evaluation of nothing, val: 500 images, mean IoU 37.50 %, pixel accuracy 75.00 %>"
    assert repr(result) == expected


def test_a_notebook_shows_an_evaluation_as_a_table_of_escaped_names():
    result = Evaluation(["<b>", "road"], [[0, 0, 0]] * 2, "a & b, val")
    result.add("image", np.array([[3, 1], [0, 4]]))
    shown = result._repr_html_()
    assert shown.count("<table>") == 1 and "&lt;b&gt;" in shown and "<b>" not in shown
    # 3 of 4 and 4 of 4 pixels; IoU 3/4 and 4/5.
    numbers = [float(text) for text in re.findall(">([0-9.]+)</td>", shown)]
    assert numbers[:6] == [50, 75, 75, 50, 100, 80]
    assert "1 images of a &amp; b, val; percent" in shown


def test_a_notebook_shows_a_comparison_as_a_table(rng):
    result = random_evaluation(rng)
    shown = compare(result, result)._repr_html_()
    assert "mean IoU</td>" in shown and ">+0.00</td>" in shown and "may be equal" in shown


# Two classes


def of_two_classes(root, truths):
    """A data set of background and lane; image i is bright where `one_channel` says lane."""
    for part in ("images", "masks"):
        (root / part / "val").mkdir(parents=True)
    for i, (predicted, truth) in enumerate(truths):
        grey = np.repeat(255 * np.array(predicted, "uint8")[..., None], 3, axis=-1)
        Image.fromarray(grey).save(root / f"images/val/{i}.png")
        Image.fromarray(np.array(truth, "uint8")).save(root / f"masks/val/{i}.png")
    (root / "classes.txt").write_text("background\nlane\n", "utf-8")
    return datasets.load("folder", root)


def one_channel(activation):
    """A model of one logit, red / 255 - 1/2, or of its sigmoid."""
    inputs = keras.Input((None, None, 3))
    layer = keras.layers.Conv2D(1, 1, activation=activation)
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([1 / 255, 0, 0]).reshape(1, 1, 3, 1), np.array([-0.5])])
    return model


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_channel_counts_background_and_foreground(activation, tmp_path):
    dataset = of_two_classes(tmp_path, [([[0, 0, 1, 1]], [[0, 1, 1, 255]])])
    found = evaluate(one_channel(activation), dataset, "val")
    assert found.confusion.tolist() == [[1, 0], [1, 1]]
    assert found.mean_iou == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_one_class_is_no_data_set_to_evaluate_on(tmp_path):
    dataset = of_two_classes(tmp_path, [([[0]], [[0]])])
    one = {"class_names": ["lane"], "palette": [(1, 2, 3)], "class_ids": {0: 0, 255: 255}}
    dataset = dataclasses.replace(dataset, **one)
    with pytest.raises(ValueError, match="one class, 'lane'.*Name two, background and the class"):
        evaluate(one_channel(None), dataset, "val")


def test_one_channel_is_not_evaluated_on_three_classes(tmp_path):
    dataset = write(tmp_path, [([[0]], [[0]])])
    with pytest.raises(ValueError, match="The model has 2 classes, the data set .* 3"):
        evaluate(one_channel(None), dataset, "val")


def test_a_class_that_never_occurs_is_said(model, tmp_path):
    dataset = write(tmp_path, [([[0, 1]], [[0, 1]])])
    said = "1 of 3 classes never occur in the masks of .*, val: tree"
    with pytest.warns(AbsentClasses, match=said):
        found = evaluate(model, dataset, "val")
    assert re.search(said, str(found))


def test_masks_of_0_and_void_255_are_said_to_hold_one_class_alone(tmp_path):
    dataset = of_two_classes(tmp_path, [([[0, 0]], [[0, 255]])])
    dataset = dataclasses.replace(dataset, class_ids={0: 0, 1: 1, 255: 255})
    with pytest.warns(AbsentClasses, match="lane. Only background does.*255 is void"):
        found = evaluate(one_channel(None), dataset, "val")
    assert found.mean_iou == 1  # of background, with nothing of lane


@pytest.mark.filterwarnings("error::keras_sanet.evaluation.AbsentClasses")
def test_nothing_is_said_where_every_class_occurs(model, tmp_path):
    found = evaluate(model, write(tmp_path, [([[0, 1, 2]], [[0, 1, 2]])]), "val")
    assert found.doubt is None and "never" not in str(found)


def test_from_logits_is_kept_only_where_it_was_given(tmp_path):
    dataset = of_two_classes(tmp_path, [([[0, 1]], [[0, 1]])])
    sigmoid = one_channel("sigmoid")
    assert "from_logits" not in evaluate(sigmoid, dataset, "val").mode
    assert evaluate(sigmoid, dataset, "val", from_logits=False).mode["from_logits"] is False
