"""Crops and frames of one photograph in several splits."""

import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet._duplicates import alike, same_names, thumbnail
from keras_sanet.inspection import Inspection


def photo(rng):
    """A picture whose large shapes differ from others'."""
    coarse = rng.integers(0, 256, (4, 4, 3), "uint8")
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


def test_a_picture_looks_like_its_jpeg_brighter_and_smaller_and_like_no_other(rng):
    pictures = [photo(rng) for _ in range(30)]
    changed = [image.resize((50, 40)).point(lambda v: min(255, v * 0.9 + 10)) for image in pictures]
    first, second = (np.array(list(map(thumbnail, group))) for group in (pictures, changed))
    assert sorted(alike(first, second)) == [(i, i) for i in range(30)]


def test_images_of_one_color_look_like_none():
    flat = np.array([thumbnail(Image.new("RGB", (9, 9), (n, n, n))) for n in (0, 200)])
    assert alike(flat, flat) == []


@pytest.mark.parametrize(
    ("train", "val", "found"),
    [
        (["a_R_0", "b_R_0"], ["a_R_1", "c_R_0"], {"a_R": ["train", "val"]}),
        (["a_jpg.rf.0f3b"], ["a_jpg.rf.99aa"], {"a": ["train", "val"]}),
        ([f"{i:06}" for i in range(50)], [f"{i:06}" for i in range(50, 99)], {}),
        ([f"frame_{i}" for i in range(50)], [f"frame_{i}" for i in range(50, 99)], {}),
    ],
)
def test_photographs_are_told_by_their_names(train, val, found):
    assert same_names({"train": train, "val": val}) == found


def test_inspection_names_what_two_splits_share(tmp_path, rng):
    for part, names in (("train", ["a_0", "b_0"]), ("val", ["a_1", "c_0"])):
        for kind in ("images", "masks"):
            (tmp_path / kind / part).mkdir(parents=True)
        for name in names:
            photo(rng).save(tmp_path / f"images/{part}/{name}.png")
            Image.new("L", (64, 48), 1).save(tmp_path / f"masks/{part}/{name}.png")
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    image = Image.open(tmp_path / "images/train/b_0.png")
    image.point(lambda v: v // 2).save(tmp_path / "images/val/c_0.png")
    notes = Inspection(datasets.load("folder", tmp_path), verbose=False).notes
    assert any("parts of 1 photographs, by their names: a." in note for note in notes)
    assert any("1 images of val look like one of train: b_0.png and c_0.png." in n for n in notes)
