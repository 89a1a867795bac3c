"""The original files of CamVid."""

import numpy as np
import pytest
from PIL import Image
from support import SHARED

from keras_sanet import datasets
from keras_sanet.datasets import camvid

FRAMES = {
    "train": ["0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_00390", "0016E5_08640"],
    "val": ["0016E5_07959", "0016E5_08159"],
    "test": ["0001TP_008550", "Seq05VD_f00000"],
}
COLORS = list(camvid._ORIGINAL.values())


@pytest.fixture
def original(tmp_path):
    """Frames of 8 x 4 pixels that show the 32 labels in turn."""
    mask = np.array([color for color, _ in COLORS], "uint8").reshape(4, 8, 3)
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (tmp_path / folder).mkdir()
    for stem in sum(FRAMES.values(), []):
        Image.new("RGB", (8, 4)).save(tmp_path / f"701_StillsRaw_full/{stem}.png")
        Image.fromarray(mask).save(tmp_path / f"LabeledApproved_full/{stem}_L.png")
    (tmp_path / "label_colors.txt").write_text("128 128 128\tSky\n")
    return tmp_path


def test_the_original_is_split_as_the_tutorials(original):
    splits = datasets.load("camvid", original).splits
    assert {split: [s.image.stem for s in samples] for split, samples in splits.items()} == FRAMES


@pytest.mark.skipif(not (SHARED / "data/camvid").is_dir(), reason=f"{SHARED} has no CamVid")
def test_every_frame_of_the_tutorial_is_in_its_split():
    for split, samples in datasets.load("camvid", SHARED / "data/camvid").splits.items():
        assert {camvid._split_of(sample.image.stem) for sample in samples} == {split}


def test_32_labels_make_the_11_classes_and_void(original):
    dataset = datasets.load("camvid", original)
    mask = dataset.read(dataset.samples("val")[0])[1].ravel().tolist()
    names = [*dataset.class_names, *[None] * 245]
    assert [names[i] for i in mask] == [name for _, name in COLORS]


def test_32_classes_are_the_labels_in_their_order(original):
    dataset = datasets.load("camvid", original, num_classes=32)
    assert dataset.num_classes == 32
    assert dataset.read(dataset.samples("val")[0])[1].ravel().tolist() == list(range(32))


def test_32_classes_need_the_original(tmp_path):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / folder / "a.png")
    with pytest.raises(ValueError, match="tutorial's 11 classes. For 32 get the original"):
        datasets.load("camvid", tmp_path, num_classes=32)
