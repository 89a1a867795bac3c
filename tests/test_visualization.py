"""Colours of masks, overlays and sheets."""

import numpy as np
import pytest

from keras_sanet.visualization import colour_mask, overlay, sheet

PALETTE = [(10, 20, 30), (200, 100, 0)]
MASK = np.array([[0, 1, 255]], "uint8")


def test_colour_mask_gives_the_colours_of_the_classes_and_void_black():
    coloured = colour_mask(MASK, PALETTE)
    assert coloured.dtype == "uint8"
    assert coloured.tolist() == [[[10, 20, 30], [200, 100, 0], [0, 0, 0]]]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_colour_mask_takes_any_integer(dtype):
    assert colour_mask(MASK.astype(dtype), PALETTE)[0, 1].tolist() == [200, 100, 0]


def test_overlay_mixes_by_alpha_and_leaves_void_as_it_is():
    image = np.full((1, 3, 3), 100, "uint8")
    mixed = overlay(image, MASK, PALETTE, alpha=0.25)
    # 0.75 x 100 + 0.25 x (10, 20, 30) = (77.5, 80, 82.5), halves to even; 75 + (50, 25, 0).
    assert mixed.dtype == "uint8"
    assert mixed.tolist() == [[[78, 80, 82], [125, 100, 75], [100, 100, 100]]]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 100), (1.0, 200)])
def test_overlay_runs_from_the_image_to_the_colour(alpha, expected):
    image = np.full((1, 3, 3), 100, "uint8")
    assert overlay(image, MASK, PALETTE, alpha)[0, 1, 0] == expected


def test_a_sheet_has_its_pictures_in_rows_above_a_legend():
    # 2 rows of 3 pictures of 20 x 40: 40 x 120, one line of legend below.
    pictures = [[np.full((20, 40, 3), 10 * (3 * r + c), "uint8") for c in range(3)] for r in (0, 1)]
    page = np.asarray(sheet(pictures, ["a", "b"], PALETTE))
    assert page.shape == (40 + 6 + 18 + 6, 120, 3)
    np.testing.assert_array_equal(page[20:40, 40:80], pictures[1][1])


def test_the_legend_of_a_sheet_shows_each_colour_and_ink_for_the_names():
    page = np.asarray(sheet([[np.full((20, 120, 3), 255, "uint8")]], ["a", "b"], PALETTE))
    legend = {tuple(colour) for colour in page[20:].reshape(-1, 3).tolist()}
    assert {*PALETTE, (0, 0, 0)} <= legend


def test_a_legend_wider_than_the_sheet_goes_on_in_the_next_line():
    picture = np.zeros((10, 60, 3), "uint8")
    names, palette = ["long name"] * 3, [(1, 1, 1)] * 3
    # Each entry is wider than half of the 60 pixels: one a line.
    assert sheet([[picture]], names, palette).height == 10 + 6 + 3 * 18 + 6
