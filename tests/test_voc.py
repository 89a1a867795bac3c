"""Pascal VOC: its lists, palette masks and colours."""

import os

import numpy as np
import pytest
from PIL import Image

from keras_sanet.datasets import voc
from keras_sanet.datasets.info import color


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def add(root, name, ids=(0, 20, 255)):
    """An image and its palette mask, 1 pixel high."""
    save(root / f"JPEGImages/{name}.jpg", Image.new("RGB", (len(ids), 1)))
    mask = Image.fromarray(np.array([ids], "uint8")).convert("P")
    mask.putdata(ids)
    mask.putpalette(np.array([color(index) for index in range(256)], "uint8").tobytes())
    return save(root / f"SegmentationClass/{name}.png", mask)


def add_list(root, split, names):
    path = root / f"ImageSets/Segmentation/{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), "utf-8")


@pytest.fixture
def tree(tmp_path):
    """A `VOCdevkit/VOC2012` of two training pairs and one for validation."""
    root = tmp_path / "VOCdevkit/VOC2012"
    for name in ("2007_000032", "2007_000039", "2007_000033"):
        add(root, name)
    add_list(root, "train", ["2007_000032", "2007_000039"])
    add_list(root, "val", ["2007_000033"])
    add_list(root, "trainval", ["2007_000032", "2007_000033", "2007_000039"])
    return root


def test_21_classes_have_the_colours_of_the_devkit():
    assert len(voc.INFO.classes) == 21
    # 1 = 001b: red's highest bit; 15 = 1111b: all three highest, red's next; 20 = 10100b: blue's
    # highest, green's next.
    assert voc.INFO.classes["background"] == (0, 0, 0)
    assert voc.INFO.classes["aeroplane"] == (128, 0, 0)
    assert voc.INFO.classes["person"] == (192, 128, 128)
    assert voc.INFO.classes["tvmonitor"] == (0, 64, 128)


def test_the_colours_of_256_ids_differ_and_end_with_that_of_void():
    colours = [color(index) for index in range(256)]
    assert len(set(colours)) == 256
    assert colours[255] == (224, 224, 192)


@pytest.mark.parametrize("up", [0, 1, 2], ids=["VOC2012", "VOCdevkit", "its parent"])
def test_the_root_is_the_tree_or_above_it(tree, up):
    root = [tree, *tree.parents][up]
    found = {split: [s.image.stem for s in ss] for split, ss in voc.load(root).splits.items()}
    assert found == {
        "train": ["2007_000032", "2007_000039"],
        "val": ["2007_000033"],
        "trainval": ["2007_000032", "2007_000033", "2007_000039"],
    }


def test_masks_are_the_indexes_of_their_palette_and_255_is_void(tree):
    dataset = voc.load(tree)
    sample = dataset.samples("val")[0]
    assert Image.open(sample.mask).mode == "P"
    assert dataset.read(sample)[1].tolist() == [[0, 20, 255]]


def test_the_official_counts_are_found(tmp_path):
    mask = add(tmp_path, "first")
    for split, count in voc.INFO.counts.items():
        names = [f"{split}_{i}" for i in range(count)]
        for name in names:
            os.link(tmp_path / "JPEGImages/first.jpg", tmp_path / f"JPEGImages/{name}.jpg")
            os.link(mask, tmp_path / f"SegmentationClass/{name}.png")
        add_list(tmp_path, split, names)
    found = voc.load(tmp_path).splits
    assert {split: len(samples) for split, samples in found.items()} == voc.INFO.counts


def test_the_test_split_has_no_masks(tree):
    save(tree / "JPEGImages/2008_000006.jpg", Image.new("RGB", (3, 1)))
    add_list(tree, "test", ["2008_000006"])
    (sample,) = voc.load(tree).samples("test")
    assert sample.mask is None


def test_a_wrong_folder_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="ImageSets/Segmentation.*host.robots.ox.ac.uk"):
        voc.load(tmp_path)


@pytest.mark.parametrize("kind", ["JPEGImages", "SegmentationClass"])
def test_a_listed_file_that_is_not_there_is_named(tree, kind):
    for path in (tree / kind).glob("2007_000039.*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 2 .*train.txt.*{kind}: 2007_000039"):
        voc.load(tree)


def test_an_empty_list_is_refused(tree):
    add_list(tree, "val", [])
    with pytest.raises(ValueError, match="val.txt lists no image"):
        voc.load(tree)


def test_a_truncated_mask_is_named(tree):
    path = tree / "SegmentationClass/2007_000033.png"
    path.write_bytes(path.read_bytes()[:-30])
    dataset = voc.load(tree)
    with pytest.raises(ValueError, match="2007_000033.png can't be read as an image"):
        dataset.read(dataset.samples("val")[0])
