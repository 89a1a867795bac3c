"""ADE20K: the folders of the challenge, their ids, and what is refused."""

import os

import numpy as np
import pytest
from PIL import Image
from support import SHARED

from keras_sanet.datasets import ade20k

SAMPLES = SHARED / "data/samples/ade20k"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make(root, folder, stems, mask=(0, 1, 150)):
    """Pairs of the image folder `training` or `validation`, 1 pixel high."""
    mask = np.array([mask], "uint8")
    for stem in stems:
        save(root / f"images/{folder}/{stem}.jpg", np.zeros((*mask.shape, 3), "uint8"))
        save(root / f"annotations/{folder}/{stem}.png", mask)
    return root


@pytest.fixture
def tree(tmp_path):
    """An `ADEChallengeData2016` of two training pairs and one for validation."""
    root = tmp_path / "ADEChallengeData2016"
    make(root, "training", ["ADE_train_00000001", "ADE_train_00000002"])
    return make(root, "validation", ["ADE_val_00000001"])


def stems(dataset):
    return {split: [s.image.stem for s in samples] for split, samples in dataset.splits.items()}


def test_there_are_150_classes_of_distinct_names():
    names = list(ade20k.INFO.classes)
    assert len(names) == 150
    assert (names[0], names[12], names[149]) == ("wall", "person", "flag")


def test_road_and_skyscraper_alone_share_a_colour():
    colours = list(ade20k.INFO.classes.values())
    assert len(set(colours)) == 149
    assert ade20k.INFO.classes["road"] == ade20k.INFO.classes["skyscraper"]


@pytest.mark.parametrize("parent", [False, True], ids=["itself", "its parent"])
def test_the_root_is_the_tree_or_its_parent(tree, parent):
    assert stems(ade20k.load(tree.parent if parent else tree)) == {
        "train": ["ADE_train_00000001", "ADE_train_00000002"],
        "val": ["ADE_val_00000001"],
    }


def test_0_is_void_and_1_to_150_are_the_classes_0_to_149(tree):
    dataset = ade20k.load(tree)
    assert dataset.read(dataset.samples("val")[0])[1].tolist() == [[255, 0, 149]]


def test_the_official_counts_are_found(tmp_path):
    first = make(tmp_path, "training", ["first"])
    for folder, count in (("training", 20210), ("validation", 2000)):
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            target = tmp_path / kind / folder
            target.mkdir(exist_ok=True)
            source = os.path.join(first, kind, "training", f"first.{suffix}")
            for i in range(count):  # hard links; one file holds 65000 at most
                os.link(source, f"{target}/{i:08}.{suffix}")
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / f"{kind}/training/first.{suffix}").unlink()
    found = ade20k.load(tmp_path).splits
    assert {split: len(samples) for split, samples in found.items()} == ade20k.INFO.counts


def test_images_for_testing_have_no_masks(tree):
    save(tree / "images/testing/ADE_test_00000001.jpg", np.zeros((1, 3, 3), "uint8"))
    dataset = ade20k.load(tree)
    (sample,) = dataset.samples("test")
    assert sample.image.stem == "ADE_test_00000001"
    assert dataset.read(sample)[1] is None


def test_a_set_of_one_split_has_that_one(tmp_path):
    make(tmp_path, "validation", ["a"])
    assert stems(ade20k.load(tmp_path)) == {"val": ["a"]}


def test_a_wrong_folder_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="ADE20K.*images/training.*ADEChallengeData2016.zip"
    ):
        ade20k.load(tmp_path)


def test_a_missing_mask_is_named(tree):
    (tree / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 images.*ADE_train_00000002.png"):
        ade20k.load(tree)


def test_a_mask_without_an_image_is_named(tree):
    (tree / "images/training/ADE_train_00000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 masks.*no image.*ADE_train_00000001.png"):
        ade20k.load(tree)


def test_masks_without_a_folder_of_images_are_named(tree):
    (tree / "images/training").rename(tree / "elsewhere")
    with pytest.raises(FileNotFoundError, match="no folder .*images/training"):
        ade20k.load(tree)


def test_an_id_above_150_is_refused_with_the_file(tree):
    make(tree, "validation", ["ADE_val_00000001"], mask=(151, 1, 0))
    dataset = ade20k.load(tree)
    with pytest.raises(ValueError, match=r"ADE_val_00000001.png.*\[151\].*0\.\.150"):
        dataset.read(dataset.samples("val")[0])


def test_a_truncated_mask_is_named(tree):
    path = tree / "annotations/validation/ADE_val_00000001.png"
    path.write_bytes(path.read_bytes()[:45])
    dataset = ade20k.load(tree)
    with pytest.raises(ValueError, match="ADE_val_00000001.png can't be read as an image"):
        dataset.read(dataset.samples("val")[0])


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"ADE20K's samples are not there: {SAMPLES}")
def test_a_mask_of_the_release_is_its_ids_less_one():
    dataset = ade20k.load(SAMPLES)
    for split in ("train", "val"):
        (sample,) = dataset.samples(split)
        ids, mask = np.array(Image.open(sample.mask)), dataset.read(sample)[1]
        np.testing.assert_array_equal(mask, np.where(ids == 0, 255, ids.astype(int) - 1))
