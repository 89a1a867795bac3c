"""keras-cv's augmentation layers on the pipeline's pairs."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets, pipeline

if keras.backend.backend() != "tensorflow":
    pytest.skip("keras-cv's layers run in tf.data", allow_module_level=True)
keras_cv = pytest.importorskip("keras_cv", reason="keras-cv is not installed")

ROWS, COLUMNS = 12, 16
IDS = np.arange(ROWS * COLUMNS, dtype="uint8").reshape(ROWS, COLUMNS)  # each pixel its own class


@pytest.fixture
def data(tmp_path):
    """Four pairs, whose images show the mask's ids as gray."""
    for part, array in (("images", np.repeat(IDS[..., None], 3, -1)), ("masks", IDS)):
        (tmp_path / part / "train").mkdir(parents=True)
        for index in range(4):
            Image.fromarray(array).save(tmp_path / part / "train" / f"{index}.png")
    (tmp_path / "classes.txt").write_text("c\n" * 200, "utf-8")
    return datasets.load("folder", tmp_path)


def augmented(data, layer, loader="tf.data"):
    """As examples/guides/data.md shows it."""

    def transform(image, mask):
        pair = layer({"images": image, "segmentation_masks": mask[..., None]})
        return pair["images"], pair["segmentation_masks"][..., 0]

    pairs = pipeline.make_dataset(
        data, "train", batch_size=4, training=False, loader=loader, transform=transform
    )
    ((images, masks),) = pairs if loader == "pillow" else pairs.as_numpy_iterator()
    return images, masks


@pytest.mark.parametrize("loader", ["tf.data", "pillow"])
def test_a_flip_turns_image_and_mask_alike(data, loader):
    layer = keras_cv.layers.RandomFlip("horizontal_and_vertical", rate=1.0, seed=0)
    images, masks = augmented(data, layer, loader)
    np.testing.assert_array_equal(images[..., 0], masks)
    assert all((mask != IDS).any() for mask in masks)


def test_a_crop_takes_image_and_mask_from_one_place_and_makes_no_new_ids(data):
    layer = keras_cv.layers.RandomCropAndResize((ROWS, COLUMNS), (0.5, 0.6), (0.9, 1.1), seed=0)
    images, masks = augmented(data, layer)
    # Rows are 16 apart in gray: bilinear and nearest differ by less than a row and a column.
    assert np.abs(images[..., 0].astype(int) - masks).max() <= COLUMNS + 1
    assert set(np.unique(masks)) <= set(IDS.ravel())


def test_colors_change_and_masks_stay(data):
    layer = keras_cv.layers.RandomColorJitter((0, 255), 0.3, 0.3, 0.3, 0.1, seed=0)
    images, masks = augmented(data, layer)
    assert (images[..., 0] != IDS).any()
    np.testing.assert_array_equal(masks, np.broadcast_to(IDS, masks.shape))
