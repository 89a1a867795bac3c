"""Masks drawn from shapes: which pixels a polygon has, run lengths, overlaps."""

import numpy as np
import pytest

from keras_sanet.datasets.drawn import (
    Bitmap,
    DrawnMask,
    Polygon,
    ShapeError,
    coco_counts,
    label_ids,
    points_of,
    runs_to_mask,
)

SQUARE = np.array([(3, 3), (10, 3), (10, 8), (3, 8)], "float64")


def fill(points, width, height, rule="coco", holes=()):
    left, top, drawn = Polygon(0, [points], holes, rule).draw(width, height)
    mask = np.zeros((height, width), bool)
    mask[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return mask


def draw(*shapes, overlap="later", background=0, size=(12, 12)):
    mask = DrawnMask("a.json", "a", size, list(shapes), background, overlap).open()
    return np.asarray(mask), mask.info["overlapped"]


@pytest.mark.parametrize(
    ("rule", "rows", "columns"),
    [("coco", slice(3, 8), slice(3, 10)), ("pillow", slice(3, 9), slice(3, 11))],
)
def test_a_square_has_35_pixels_by_cocos_rule_and_48_with_its_outline(rule, rows, columns):
    expected = np.zeros((12, 20), bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(fill(SQUARE, 20, 12, rule), expected)


def test_a_polygon_is_cut_at_the_edges_of_its_picture():
    points = np.array([(1.5, 0.5), (8.25, 3.75), (4, 9)])
    whole, moved = fill(points + 20, 60, 60), fill(points - (5, 2), 60, 60)
    np.testing.assert_array_equal(moved[:38, :35], whole[22:, 25:])


@pytest.mark.parametrize("seed", range(100))
def test_cocos_pixels_are_pycocotools(seed):
    tools = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 80, 2).tolist()
    points = rng.uniform(-20, 100, (rng.integers(3, 12), 2)).round(seed % 3)
    runs = tools.frPyObjects([points.ravel().tolist()], height, width)
    expected = tools.decode(tools.merge(runs)).astype(bool)
    np.testing.assert_array_equal(fill(points, width, height), expected)
    counts = coco_counts(runs[0]["counts"].decode())
    np.testing.assert_array_equal(runs_to_mask(counts, height, width), expected)


def test_a_far_point_costs_no_memory():
    points = np.array([(-1e6, -1e6), (1e6, -1e6), (1e6, 1e6), (-1e6, 1e6)])
    assert fill(points, 7, 5).all()


def test_a_hole_is_no_part_of_its_polygon():
    mask = fill(SQUARE, 20, 12, holes=[np.array([(5, 4), (7, 4), (7, 6), (5, 6)])])
    assert mask.sum() == 35 - 4 and not mask[4:6, 5:7].any()


@pytest.mark.parametrize(
    ("overlap", "inner", "outer"), [("later", 1, 1), ("smaller", 2, 1), ("void", 255, 1)]
)
def test_a_pixel_of_two_shapes_is_of_the_later_the_smaller_or_none(overlap, inner, outer):
    small, large = Polygon(2, [SQUARE / 2]), Polygon(1, [SQUARE])
    mask, overlapped = draw(small, large, overlap=overlap)
    both = fill(SQUARE / 2, 12, 12) & fill(SQUARE, 12, 12)
    assert overlapped == both.sum() > 0
    assert set(mask[both]) == {inner} and set(mask[fill(SQUARE, 12, 12) & ~both]) == {outer}


def test_a_bitmap_is_cut_at_the_edges_of_its_picture():
    bitmap = Bitmap(1, -1, 2, lambda: np.ones((3, 3), bool))
    mask, _ = draw(bitmap, size=(4, 4))
    assert mask.tolist() == [[0] * 4, [0] * 4, [1, 1, 0, 0], [1, 1, 0, 0]]


def test_run_lengths_go_down_the_columns_or_along_the_rows():
    down = runs_to_mask([1, 2, 3], 2, 3)
    assert down.tolist() == [[False, True, False], [True, False, False]]
    along = runs_to_mask([1, 2, 3], 2, 3, order="C")
    assert along.tolist() == [[False, True, True], [False, False, False]]


@pytest.mark.parametrize(
    ("counts", "message"),
    [([1, 2], "add up to 3 pixels, not to 3 x 2: cut off"), ([7, -1], "integers"), ([1.5], "int")],
)
def test_run_lengths_of_another_picture_are_refused(counts, message):
    with pytest.raises(ShapeError, match=message):
        runs_to_mask(counts, 2, 3)


@pytest.mark.parametrize("text", ["\x7f", "o", "oooooooooooooo0", "é"])
def test_a_damaged_string_of_run_lengths_is_refused(text):
    with pytest.raises(ShapeError, match="damaged"):
        coco_counts(text)


@pytest.mark.parametrize(
    "numbers", [[1, 2, 3], [[1, 2, 3]], ["3", 1], [True, 1], None, [10**400, 1], [[]]]
)
def test_points_are_pairs_of_numbers(numbers):
    with pytest.raises(ShapeError, match="the points must be pairs"):
        points_of(numbers, "the points")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 2e6])
def test_points_are_finite(number):
    with pytest.raises(ShapeError, match="finite numbers, 1,000,000 at most"):
        points_of([0, number], "the points")


def test_labels_get_ids_and_the_background_comes_first():
    labels = ["road", "__ignore__", "sky"]
    assert label_ids(labels, "other") == (
        ["other", "road", "sky"],
        {"other": 0, "road": 1, "sky": 2, "__ignore__": 255},
        0,
    )
    assert label_ids(labels, "sky")[2] == 1
    assert label_ids(labels, None)[2] == label_ids(labels, "void")[2] == 255
