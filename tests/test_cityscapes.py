"""Cityscapes: fine and coarse labels, both kinds of ids, and what is refused."""

import dataclasses
import os
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from support import SHARED

from keras_sanet import datasets
from keras_sanet.datasets import cityscapes
from keras_sanet.evaluation import evaluate, load

SAMPLES = SHARED / "data/samples/cityscapes"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def add_image(root, split, frame):
    """A frame's image of one row and four columns; "ulm_000_001" is of the city ulm."""
    city = frame.partition("_")[0]
    path = root / f"leftImg8bit/{split}/{city}/{frame}_leftImg8bit.png"
    return save(path, np.zeros((1, 4, 3), "uint8"))


def add_mask(root, split, frame, ids=(7, 33, 0, 23), kind="gtFine_labelIds"):
    path = root / kind.partition("_")[0] / split / frame.partition("_")[0] / f"{frame}_{kind}.png"
    return save(path, np.array([ids], "uint16" if max(ids) > 255 else "uint8"))


@pytest.fixture
def tree(tmp_path):
    """Two training frames of two cities, and one for validation."""
    for split, frame in (("train", "ulm_0_1"), ("train", "bonn_0_9"), ("val", "lindau_0_0")):
        add_image(tmp_path, split, frame)
        add_mask(tmp_path, split, frame)
    return tmp_path


def frames(dataset):
    return {
        split: [sample.image.name.removesuffix("_leftImg8bit.png") for sample in samples]
        for split, samples in dataset.splits.items()
    }


def read_val(dataset):
    return dataset.read(dataset.samples("val")[0])[1].tolist()


# Tables


def test_19_of_the_34_label_ids_are_trained_and_the_others_void():
    trained = {i: t for i, t in cityscapes.TRAIN_IDS.items() if t != 255}
    assert list(trained.values()) == list(range(19))
    assert (trained[7], trained[11], trained[26], trained[33]) == (0, 2, 13, 18)
    # caravan 29 and trailer 30 are vehicles that are not trained
    assert all(cityscapes.TRAIN_IDS[i] == 255 for i in (*range(7), 29, 30))
    assert set(range(34)) < set(cityscapes.TRAIN_IDS)


def test_the_7_categories_share_out_the_19_classes():
    names = list(cityscapes.INFO.classes)
    assert [len(ids) for ids in cityscapes.CATEGORIES.values()] == [2, 3, 3, 2, 1, 2, 6]
    assert sorted(sum(cityscapes.CATEGORIES.values(), [])) == list(range(19))
    assert [names[i] for i in cityscapes.CATEGORIES["human"]] == ["person", "rider"]


# The tree


def test_frames_are_paired_with_their_labels_city_by_city(tree):
    dataset = cityscapes.load(tree)
    assert frames(dataset) == {"train": ["bonn_0_9", "ulm_0_1"], "val": ["lindau_0_0"]}
    assert all(
        sample.mask.name == sample.image.name.replace("leftImg8bit", "gtFine_labelIds")
        for sample in dataset.samples("train")
    )


def test_label_ids_become_training_ids(tree):
    # 7 road, 33 bicycle, 0 unlabelled, 23 sky
    assert read_val(cityscapes.load(tree)) == [[0, 18, 255, 10]]


@pytest.mark.parametrize("plate", [255, 65535], ids=["8 bits", "16 bits"])
def test_the_license_plate_minus_1_is_void(tree, plate):
    add_mask(tree, "val", "lindau_0_0", (plate, 7, 7, 7))
    assert read_val(cityscapes.load(tree)) == [[255, 0, 0, 0]]


def test_training_ids_are_read_as_they_are(tree):
    for split, frame in (("train", "ulm_0_1"), ("train", "bonn_0_9"), ("val", "lindau_0_0")):
        add_mask(tree, split, frame, (0, 18, 255, 10), kind="gtFine_labelTrainIds")
    assert read_val(cityscapes.load(tree, labels="labelTrainIds")) == [[0, 18, 255, 10]]


def test_a_label_id_among_training_ids_is_refused(tree):
    add_mask(tree, "val", "lindau_0_0", (33, 0, 0, 0), kind="gtFine_labelTrainIds")
    shutil.rmtree(tree / "leftImg8bit/train")
    shutil.rmtree(tree / "gtFine/train")
    with pytest.raises(ValueError, match=r"lindau_0_0_gtFine_labelTrainIds.png.*\[33\]"):
        read_val(cityscapes.load(tree, labels="labelTrainIds"))


def test_the_official_counts_are_found(tmp_path):
    image = add_image(tmp_path, "train", "ulm_0_0")
    mask = add_mask(tmp_path, "train", "ulm_0_0")
    for split, count in cityscapes.INFO.counts.items():
        cities = [tmp_path / kind / split / "ulm" for kind in ("leftImg8bit", "gtFine")]
        for city in cities:
            city.mkdir(parents=True, exist_ok=True)
        for i in range(1, count + 1 - (split == "train")):
            os.link(image, f"{cities[0]}/ulm_0_{i}_leftImg8bit.png")
            os.link(mask, f"{cities[1]}/ulm_0_{i}_gtFine_labelIds.png")
    found = cityscapes.load(tmp_path).splits
    assert {split: len(samples) for split, samples in found.items()} == cityscapes.INFO.counts


def test_the_test_split_has_no_masks_though_its_void_labels_are_there(tree):
    add_image(tree, "test", "berlin_0_0")
    add_mask(tree, "test", "berlin_0_0", (0, 0, 0, 0))
    (sample,) = cityscapes.load(tree).samples("test")
    assert sample.mask is None


# Coarse labels


@pytest.fixture
def coarse(tmp_path):
    for split, frame in (("train", "ulm_0_1"), ("train_extra", "bayreuth_0_0")):
        add_image(tmp_path, split, frame)
        add_mask(tmp_path, split, frame, kind="gtCoarse_labelIds")
    return tmp_path


def test_coarse_labels_alone_are_refused_with_the_way_out(coarse):
    with pytest.raises(FileNotFoundError, match="gtCoarse but no gtFine.*coarse=True"):
        cityscapes.load(coarse)


def test_coarse_labels_add_train_extra(coarse):
    assert frames(cityscapes.load(coarse, coarse=True)) == {
        "train": ["ulm_0_1"],
        "train_extra": ["bayreuth_0_0"],
    }


# What is refused


def test_a_wrong_folder_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="leftImg8bit/<split>.*www.cityscapes-dataset.com"):
        cityscapes.load(tmp_path)


def test_a_split_without_folders_of_cities_is_refused(tree):
    (tree / "leftImg8bit/train").rename(tree / "away")
    (tree / "gtFine/train").rename(tree / "away too")
    save(tree / "leftImg8bit/train/a_leftImg8bit.png", np.zeros((1, 4, 3), "uint8"))
    with pytest.raises(FileNotFoundError, match="leftImg8bit/train holds no Cityscapes.*<city>"):
        cityscapes.load(tree)


def test_images_without_labels_are_counted_and_named(tree):
    for i in range(5):
        add_image(tree, "train", f"ulm_1_{i}")
    with pytest.raises(FileNotFoundError, match="5 images.*ulm/ulm_1_0, ulm/ulm_1_1, ulm/ulm_1_2"):
        cityscapes.load(tree)


def test_labels_without_images_are_counted_and_named(tree):
    add_mask(tree, "val", "lindau_0_1")
    with pytest.raises(FileNotFoundError, match="1 .*labelIds.png.*no image.*lindau/lindau_0_1"):
        cityscapes.load(tree)


def test_the_other_kind_of_label_is_pointed_to(tree):
    with pytest.raises(FileNotFoundError, match='There are 2 .*labelIds.png: .*labels="labelIds"'):
        cityscapes.load(tree, labels="labelTrainIds")


def test_an_unknown_kind_of_label_is_refused(tree):
    with pytest.raises(ValueError, match="labelIds.*labelTrainIds.*'instanceIds'"):
        cityscapes.load(tree, labels="instanceIds")


def test_a_truncated_label_is_named(tree):
    path = tree / "gtFine/val/lindau/lindau_0_0_gtFine_labelIds.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(ValueError, match="lindau_0_0_gtFine_labelIds.png can't be read"):
        read_val(cityscapes.load(tree))


# The release


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"Cityscapes's sample is not there: {SAMPLES}")
def test_both_kinds_of_label_of_the_release_give_one_mask():
    # This copy is reduced, each file by itself: 77 of 32768 pixels, along edges, differ.
    masks = []
    for labels in ("labelIds", "labelTrainIds"):
        dataset = cityscapes.load(SAMPLES, labels=labels)
        masks.append(dataset.read(dataset.samples("val")[0])[1])
    assert masks[0].shape == (128, 256)
    assert np.sum(masks[0] != masks[1]) < 100


# The official evaluation


class Red(keras.Model):
    """Says that a pixel is of the class whose id is its red."""

    def __init__(self):
        super().__init__()
        self.built = True

    def predict_on_batch(self, images):
        return 9 * np.eye(19, dtype="float32")[images[..., 0].astype(int)]


@pytest.fixture
def official(monkeypatch):
    """`cityscapesscripts`' pixel-level evaluation."""
    # Its instance-level part calls a function by a name that NumPy 2.4 no longer has.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    return pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="cityscapesscripts is not installed",
    )


def draw_frames(root, rng, count=3, size=(24, 40)):
    """Frames of random labels in blocks, with instances, groups and void; images
    that make `Red` predict two thirds of them right."""
    things = [i for i, _, _, mean in cityscapes._TABLE.values() if mean]
    for index in range(count):
        blocks = rng.integers(0, 34, (6, 10)).astype("uint16")
        instances = blocks.copy()
        for place in np.ndindex(blocks.shape):
            if rng.random() < 0.5:
                blocks[place] = instances[place] = rng.choice([*things, 29, 30])
                if rng.random() < 0.8:  # else a group
                    instances[place] = 1000 * blocks[place] + rng.integers(0, 4)
        grow = np.ones((size[0] // 6, size[1] // 10), "uint16")
        labels = np.kron(blocks, grow).astype("uint8")
        instances = np.kron(instances, grow)
        train_ids = np.array([cityscapes.TRAIN_IDS[i] for i in range(34)])[labels]
        other = rng.integers(0, 19, size)
        wrong = (rng.random(size) < 1 / 3) | (train_ids == 255)
        image = np.zeros((*size, 3), "uint8")
        image[..., 0] = np.where(wrong, other, train_ids)
        frame = f"val/bonn/bonn_000000_{index:06}"
        save(root / f"leftImg8bit/{frame}_leftImg8bit.png", image)
        save(root / f"gtFine/{frame}_gtFine_labelIds.png", labels)
        save(root / f"gtFine/{frame}_gtFine_instanceIds.png", instances)


def official_scores(official, root, dataset, predict):
    """Writes masks of the 34 ids, and evaluates them as Cityscapes' server does."""
    predictions, truths = [], []
    for sample in dataset.samples("val"):
        mask = predict(dataset.read(sample)[0])
        name = f"{sample.image.stem}_mask.png"
        predictions.append(str(save(root / "results" / name, cityscapes.label_ids(mask))))
        truths.append(str(sample.mask).replace("labelTrainIds", "labelIds"))
    official.args.quiet, official.args.JSONOutput = True, False
    return official.evaluateImgLists(predictions, truths, official.args)


def assert_scores_are_equal(found, scores):
    classes = [scores["classScores"][name] for name in found.class_names]
    of_instances = [scores["classInstScores"][name] for name in found.class_names]
    categories = [scores["categoryScores"][name] for name in found.categories]
    of_both = [scores["categoryInstScores"][name] for name in found.categories]
    np.testing.assert_allclose(found.iou_per_class, classes, rtol=1e-12)
    np.testing.assert_allclose(found.instance_iou_per_class, of_instances, rtol=1e-12)
    np.testing.assert_allclose(found.iou_per_category, categories, rtol=1e-12)
    np.testing.assert_allclose(found.instance_iou_per_category, of_both, rtol=1e-12)
    saved = found.as_dict()
    for ours, theirs in (
        ("mean_iou", "averageScoreClasses"),
        ("mean_instance_iou", "averageScoreInstClasses"),
        ("mean_category_iou", "averageScoreCategories"),
        ("mean_category_instance_iou", "averageScoreInstCategories"),
    ):
        assert saved[ours] == pytest.approx(scores[theirs], rel=1e-12)


@pytest.mark.parametrize("cached", [False, True])
def test_the_four_figures_are_those_of_the_official_evaluation(official, rng, tmp_path, cached):
    draw_frames(tmp_path, rng)
    dataset = datasets.load("cityscapes", tmp_path, cache=tmp_path / "cache" if cached else None)
    found = evaluate(Red(), dataset, "val")
    scores = official_scores(official, tmp_path, dataset, lambda image: image[..., 0])
    assert 0.2 < scores["averageScoreInstClasses"] < 0.9
    assert_scores_are_equal(found, scores)


def test_a_thing_that_is_only_predicted_has_an_instance_iou_of_0(official, rng, tmp_path):
    save(tmp_path / "leftImg8bit/val/a/a_0_0_leftImg8bit.png", np.full((2, 3, 3), 13, "uint8"))
    save(tmp_path / "gtFine/val/a/a_0_0_gtFine_labelIds.png", np.full((2, 3), 7, "uint8"))
    save(tmp_path / "gtFine/val/a/a_0_0_gtFine_instanceIds.png", np.full((2, 3), 7, "uint16"))
    dataset = datasets.load("cityscapes", tmp_path)
    found = evaluate(Red(), dataset, "val")
    # All road is taken for cars; no other thing is anywhere.
    assert found.instance_iou_per_class[13] == 0
    assert np.isnan(found.instance_iou_per_class).sum() == 18
    scores = official_scores(official, tmp_path, dataset, lambda image: image[..., 0])
    assert_scores_are_equal(found, scores)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"Cityscapes's sample is not there: {SAMPLES}")
def test_the_real_frame_has_the_official_figures(official, rng, tmp_path):
    dataset = datasets.load("cityscapes", SAMPLES)
    sample = dataset.samples("val")[0]
    truth = dataset.read(sample)[1]
    predicted = np.where(rng.random(truth.shape) < 0.4, rng.integers(0, 19, truth.shape), truth)
    predicted[truth == 255] = 2
    dataset.splits["val"] = [dataclasses.replace(sample, image=tmp_path / "a_0_0_leftImg8bit.png")]
    save(tmp_path / "a_0_0_leftImg8bit.png", np.stack([predicted] * 3, axis=-1).astype("uint8"))
    found = evaluate(Red(), dataset, "val")
    scores = official_scores(official, tmp_path, dataset, lambda image: image[..., 0])
    assert_scores_are_equal(found, scores)


def test_without_instance_files_there_is_no_instance_figure(tree):
    dataset = cityscapes.load(tree)
    assert dataset.count_instances is None
    assert dataset.categories == cityscapes.CATEGORIES


def test_a_missing_instance_file_is_named(rng, tmp_path):
    draw_frames(tmp_path, rng, count=2)
    (tmp_path / "gtFine/val/bonn/bonn_000000_000001_gtFine_instanceIds.png").unlink()
    dataset = datasets.load("cityscapes", tmp_path)
    with pytest.raises(FileNotFoundError, match="000001_gtFine_instanceIds.png"):
        evaluate(Red(), dataset, "val")


def test_an_instance_file_of_another_size_is_named(rng, tmp_path):
    draw_frames(tmp_path, rng, count=1)
    path = tmp_path / "gtFine/val/bonn/bonn_000000_000000_gtFine_instanceIds.png"
    save(path, np.zeros((5, 5), "uint16"))
    with pytest.raises(ValueError, match=r"instanceIds.png .*\(5, 5\) and \(24, 40\)"):
        evaluate(Red(), datasets.load("cityscapes", tmp_path), "val")


def test_an_instance_id_past_16_bits_is_named(rng, tmp_path):
    draw_frames(tmp_path, rng, count=1)
    path = tmp_path / "gtFine/val/bonn/bonn_000000_000000_gtFine_instanceIds.png"
    Image.fromarray(np.full((24, 40), 70000, "int32")).save(path, "TIFF")
    with pytest.raises(ValueError, match="instanceIds.png must hold instance ids .* 70000"):
        evaluate(Red(), datasets.load("cityscapes", tmp_path), "val")


def test_a_kept_evaluation_keeps_its_instances(rng, tmp_path):
    draw_frames(tmp_path, rng)
    dataset = datasets.load("cityscapes", tmp_path)
    found = evaluate(Red(), dataset, "val", folder=tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").instances, found.instances)
    assert "iIoU" in str(found) and "mean of categories" in str(found)


def test_label_ids_are_those_of_the_official_labels(official):
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    trained = {label.trainId: label.id for label in labels if 0 <= label.trainId < 19}
    masks = cityscapes.label_ids(np.arange(19, dtype="uint8")[None])
    assert masks.dtype == "uint8"
    assert masks[0].tolist() == [trained[i] for i in range(19)]
