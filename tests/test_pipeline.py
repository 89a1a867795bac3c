"""Draws, what they do to a pair, and both loaders."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.pipeline import make_dataset, pillow
from keras_sanet.pipeline.sampling import Augmentation, Draw, order

try:
    import tensorflow as tf
except ModuleNotFoundError:
    tf = None

needs_tensorflow = pytest.mark.skipif(tf is None, reason="TensorFlow is not installed")
each_loader = pytest.mark.parametrize(
    "loader", [pytest.param("tf.data", marks=needs_tensorflow), "pillow"]
)

# Images of 12 x 16 that say where their pixels are: red is 16 times the column, green 20 times the
# row, blue 255 (padding: 0), and the mask's id is 16 row + column, 0..191.
ROWS, COLUMNS = 12, 16
COUNT = 7
IDENTITY = (1.0, 1.0, 0.0, 0.5, 0.5)  # scale, contrast, flip, down, right


def positions():
    row, column = np.mgrid[:ROWS, :COLUMNS].astype("uint8")
    return np.stack([16 * column, 20 * row, np.full_like(row, 255)], -1), 16 * row + column


def write(root, count, image=None, mask=None, size=(24, 32)):
    """A data set of noise with 5 classes and void, or of copies of one pair; all in "train"."""
    rng = np.random.default_rng(0)
    ids = np.array([0, 1, 2, 3, 4, 255], "uint8")
    for part in ("images", "masks"):
        (root / part / "train").mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 256, (*size, 3), dtype="uint8") if image is None else image
        labels = ids[rng.integers(0, 6, size)] if mask is None else mask
        Image.fromarray(pixels).save(root / f"images/train/{i}.png")
        Image.fromarray(labels).save(root / f"masks/train/{i}.png")
    classes = 5 if mask is None else int(mask.max()) + 1
    (root / "classes.txt").write_text("c\n" * classes, "utf-8")
    return datasets.load("folder", root)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """7 pairs of 24 x 32."""
    return write(tmp_path_factory.mktemp("noise"), COUNT)


@pytest.fixture(scope="module")
def located(tmp_path_factory):
    """8 copies of `positions`."""
    return write(tmp_path_factory.mktemp("located"), 8, *positions())


def batches(dataset):
    """All batches of one epoch, as NumPy arrays."""
    if isinstance(dataset, keras.utils.PyDataset):
        return [dataset[i] for i in range(len(dataset))]
    return [tuple(np.asarray(part) for part in batch) for batch in dataset.as_numpy_iterator()]


def flat(found):
    """Images and masks of a list of batches."""
    return tuple(np.concatenate(part) for part in zip(*found))


def equal(found, expected):
    return len(found) == len(expected) and all(
        np.array_equal(a, b) for one, other in zip(found, expected) for a, b in zip(one, other)
    )


# Draws


RANGES = Augmentation((8, 8), (0.5, 2.0), (0.75, 1.5), True)


def test_a_longer_set_has_the_same_first_rows_of_draws():
    np.testing.assert_array_equal(RANGES.draws(3, 1, 20)[:7], RANGES.draws(3, 1, 7))


@pytest.mark.parametrize(("seed", "epoch"), [(4, 1), (3, 2), (1, 3)])
def test_another_seed_or_epoch_has_other_draws(seed, epoch):
    assert (RANGES.draws(seed, epoch, 7) != RANGES.draws(3, 1, 7))[:, [0, 1, 3, 4]].all()


def test_draws_are_in_their_ranges_and_fill_them():
    scale, contrast, flip, down, right = RANGES.draws(0, 0, 2000).T[:5]
    for values, low, high in ((scale, 0.5, 2), (contrast, 0.75, 1.5), (down, 0, 1), (right, 0, 1)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
    assert set(flip) == {0, 1}
    # 2000 fair coins: the standard deviation of the mean is 0.011, five of them 0.056.
    assert abs(flip.mean() - 0.5) < 0.056


def test_further_draws_are_in_their_ranges_and_fill_them():
    ranges = {"rotation": (-30, 10), "brightness": (0.5, 2), "hue": (-0.1, 0.2), "blur": (0, 3)}
    further = Augmentation((8, 8), **{f"{name}_range": limits for name, limits in ranges.items()})
    draws = Draw(*further.draws(0, 0, 2000).T)
    for name, (low, high) in ranges.items():
        values, room = getattr(draws, name), 0.01 * (high - low)
        assert low <= values.min() < low + room and high - room < values.max() <= high


def test_a_further_range_leaves_the_other_draws_as_they_are():
    further = dataclasses.replace(RANGES, rotation_range=(-10, 10), saturation_range=(0.5, 2))
    np.testing.assert_array_equal(further.draws(3, 1, 9)[:, :5], RANGES.draws(3, 1, 9)[:, :5])


def test_without_flip_nothing_is_mirrored():
    assert not Augmentation((8, 8)).draws(0, 0, 100)[:, 2].any()


def test_a_fixed_scale_still_crops_at_random_places():
    places = Augmentation((8, 8), (1.0, 1.0)).draws(0, 0, 100)[:, 3:5]
    assert len(np.unique(places)) == 200


def test_order_is_a_permutation_that_changes_with_seed_and_epoch():
    orders = [order(seed, epoch, 30).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(found) == list(range(30)) for found in orders)
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert order(0, 0, 30).tolist() == orders[0]


@each_loader
def test_a_sample_gets_its_draws_whatever_the_batch_size(noise, loader):
    one, three = (
        flat(batches(make_dataset(noise, "train", crop_size=8, batch_size=size, seed=0,
                                  loader=loader, drop_remainder=False)))
        for size in (1, 3)
    )  # fmt: skip
    assert equal([one], [three])


# Windows


@pytest.mark.parametrize("seed", range(5))
def test_windows_stay_inside_the_image_and_the_result(seed):
    rng = np.random.default_rng(seed)
    for draw in Augmentation((1, 1), (0.1, 4.0)).draws(seed, 0, 300):
        size, crop = rng.integers(1, 60, (2, 2)).tolist()
        rows, columns, result = Augmentation(tuple(crop)).window(size, draw)
        assert result == tuple(crop)
        for (start, length, at, resized), whole, cropped in zip((rows, columns), size, crop):
            assert length >= 1 and resized >= 1
            assert start >= 0 and start + length <= whole
            assert at >= 0 and at + resized <= cropped


def test_a_window_is_the_crop_divided_by_the_scale():
    # Crop 8 x 12 at scale 2: a box of 4 x 6 of the 20 x 30 pixels, from (20 - 4) / 4 and 24 / 2.
    rows, columns, _ = Augmentation((8, 12)).window((20, 30), (2.0, 1, 0, 0.25, 0.5))
    assert (rows, columns) == ((4, 4, 0, 8), (12, 6, 0, 12))


def test_an_image_smaller_than_the_crop_is_placed_in_it():
    # 4 x 30 at scale 0.5 is 2 x 15: above it 0.5 (8 - 2) = 3 rows of padding; of the 30 columns
    # 12 / 0.5 = 24 are used, from 0.5 (30 - 24) = 3.
    rows, columns, _ = Augmentation((8, 12)).window((4, 30), (0.5, 1, 0, 0.5, 0.5))
    assert (rows, columns) == ((0, 4, 3, 2), (3, 24, 0, 12))


def test_without_a_crop_the_window_is_the_whole_image():
    rows, columns, result = Augmentation().window((9, 13), (0.5, 1, 0, 0.3, 0.3))
    # round(4.5) = 4 and round(6.5) = 6, halves to even.
    assert (rows, columns, result) == ((0, 9, 0, 4), (0, 13, 0, 6), (4, 6))


# Masks


def resized_mask(mask, height, width):
    image = np.zeros((*mask.shape, 3), "uint8")
    return augment(image, mask, whole(mask, height, width), IDENTITY)[1]


def test_a_mask_is_resized_by_the_nearest_pixel():
    mask = np.array([[1, 2, 3]], "uint8")
    # 6 of 3: centres at 0.25, 0.75, 1.25, ...; 2 of 3: at 0.75 and 2.25.
    assert resized_mask(mask, 1, 6).tolist() == [[1, 1, 2, 2, 3, 3]]
    assert resized_mask(mask, 2, 2).tolist() == [[1, 3], [1, 3]]


@each_loader
def test_no_new_label_id_appears(tmp_path, loader):
    ids = np.array([0, 7, 200], "uint8")[np.random.default_rng(0).integers(0, 3, (24, 32))]
    dataset = write(tmp_path, 8, np.zeros((24, 32, 3), "uint8"), ids)
    found = make_dataset(dataset, "train", crop_size=(20, 20), batch_size=8, seed=0, loader=loader)
    assert set(np.unique(flat(batches(found))[1])) == {0, 7, 200, 255}


# Image operations


def augment(image, mask, window, draw):
    """Of arrays."""
    return pillow.augment(Image.fromarray(image), mask, window, draw)


def greys(*values):
    """One row of grey pixels."""
    return np.repeat(np.array([values], "uint8")[..., None], 3, axis=-1)


def whole(image, height, width):
    """The window of a whole image that fills the result."""
    rows, columns = image.shape[:2]
    return (0, rows, 0, height), (0, columns, 0, width), (height, width)


def test_the_identity_leaves_the_pixels(rng):
    image = rng.integers(0, 256, (5, 7, 3), dtype="uint8")
    mask = rng.integers(0, 256, (5, 7), dtype="uint8")
    assert equal([augment(image, mask, whole(image, 5, 7), IDENTITY)], [(image, mask)])


def test_contrast_is_127_plus_a_times_the_distance_clipped():
    image, mask = greys(0, 27, 127, 129, 227, 255), np.zeros((1, 6), "uint8")
    found, _ = augment(image, mask, whole(image, 1, 6), (1.0, 1.5, 0.0, 0.5, 0.5))
    # 127 + 1.5 (x - 127): -63.5 -> 0, -23 -> 0, 127, 130, 277 -> 255, 319 -> 255
    assert found[0, :, 0].tolist() == [0, 0, 127, 130, 255, 255]
    found, _ = augment(image, mask, whole(image, 1, 6), (1.0, 0.5, 0.0, 0.5, 0.5))
    # 63.5 and 127 + 0.5 x 2 = 128, 177, 191; 63.5 goes to the even 64
    assert found[0, :, 0].tolist() == [64, 77, 127, 128, 177, 191]


def test_a_box_is_cut_out_of_image_and_mask(rng):
    image = rng.integers(0, 256, (5, 7, 3), dtype="uint8")
    mask = rng.integers(0, 256, (5, 7), dtype="uint8")
    found = augment(image, mask, ((1, 3, 0, 3), (2, 4, 0, 4), (3, 4)), IDENTITY)
    assert equal([found], [(image[1:4, 2:6], mask[1:4, 2:6])])


def test_flip_mirrors_the_padding_too():
    image, mask = np.full((1, 2, 3), 9, "uint8"), np.full((1, 2), 3, "uint8")
    draw = (1.0, 1.0, 1.0, 0.5, 0.5)
    _, mask = augment(image, mask, ((0, 1, 0, 1), (0, 2, 0, 2), (1, 5)), draw)
    assert mask.tolist() == [[255, 255, 255, 3, 3]]


def test_flip_mirrors_image_and_mask(rng):
    image = rng.integers(0, 256, (5, 7, 3), dtype="uint8")
    mask = rng.integers(0, 256, (5, 7), dtype="uint8")
    found = augment(image, mask, whole(image, 5, 7), (1.0, 1.0, 1.0, 0.5, 0.5))
    assert equal([found], [(image[:, ::-1], mask[:, ::-1])])


def test_padding_is_0_in_the_image_and_255_in_the_mask():
    image, mask = np.full((1, 2, 3), 9, "uint8"), np.full((1, 2), 3, "uint8")
    # The 1 x 2 pixels stand at row 1 and column 2 of 3 x 5.
    image, mask = augment(image, mask, ((0, 1, 1, 1), (0, 2, 2, 2), (3, 5)), IDENTITY)
    assert mask.tolist() == [[255] * 5, [255, 255, 3, 3, 255], [255] * 5]
    np.testing.assert_array_equal(image, np.where(mask == 3, 9, 0)[..., None].repeat(3, -1))


def test_padding_stays_0_under_contrast():
    # Contrast makes of a black pixel 127 - 0.5 x 127 = 64; padding is no pixel.
    image, mask = np.zeros((1, 1, 3), "uint8"), np.zeros((1, 1), "uint8")
    image, _ = augment(image, mask, ((0, 1, 0, 1), (0, 1, 0, 1), (1, 2)), (1.0, 0.5, 0.0, 0.5, 0.5))
    assert image[0, :, 0].tolist() == [64, 0]


def test_images_grow_bilinearly_with_half_pixel_centres():
    # 2 to 4: positions -0.25 (the edge), 0.25, 0.75, 1.25 (the edge)
    image = greys(0, 200)
    found, _ = augment(image, np.zeros((1, 2), "uint8"), whole(image, 1, 4), IDENTITY)
    assert found[0, :, 0].tolist() == [0, 50, 150, 200]


def test_images_shrink_without_smoothing():
    # 6 to 2: positions 3 x 0.5 - 0.5 = 1 and 4, each one pixel; smoothing would mix three.
    image = greys(0, 90, 0, 0, 60, 0)
    found, _ = augment(image, np.zeros((1, 6), "uint8"), whole(image, 1, 2), IDENTITY)
    assert found[0, :, 0].tolist() == [90, 60]


def draw(**values):
    return Draw(**{"scale": 1.0, "contrast": 1.0, "flip": 0.0, "down": 0.5, "right": 0.5, **values})


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_quarter_turn_is_counter_clockwise_before_the_mirror(rng, flip):
    image = rng.integers(0, 256, (6, 6, 3), dtype="uint8")
    mask = rng.integers(0, 256, (6, 6), dtype="uint8")
    found = augment(image, mask, whole(image, 6, 6), draw(rotation=90.0, flip=flip))
    image, mask = (np.rot90(part)[:, :: -1 if flip else 1] for part in (image, mask))
    np.testing.assert_array_equal(found[1], mask)
    np.testing.assert_allclose(found[0].astype(int), image, atol=1)  # rounding


def test_a_turn_fills_the_corners_with_padding():
    image, mask = np.full((8, 8, 3), 9, "uint8"), np.zeros((8, 8), "uint8")
    image, mask = augment(image, mask, whole(image, 8, 8), draw(rotation=45.0, brightness=2.0))
    corners = mask[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [255] * 4 and set(np.unique(mask)) == {0, 255}
    assert (image[mask == 255] == 0).mean() > 0.5  # at the edges bilinear mixes in the image
    assert (image[3:5, 3:5] == 18).all()


def test_a_turn_shows_what_lies_outside_of_the_crop_before():
    # The crop is the middle 4 x 4 of 12 x 12; its corners turned by 45 degrees stay in the image.
    image, mask = np.zeros((12, 12, 3), "uint8"), np.zeros((12, 12), "uint8")
    window = ((4, 4, 0, 4), (4, 4, 0, 4), (4, 4))
    _, mask = augment(image, mask, window, draw(rotation=45.0))
    assert (mask == 0).all()


def test_brightness_is_a_factor_before_contrast():
    image, mask = greys(50, 200), np.zeros((1, 2), "uint8")
    found, _ = augment(image, mask, whole(image, 1, 2), draw(brightness=1.5, contrast=2.0))
    # 127 + 2 (75 - 127) = 23 and 127 + 2 (300 - 127) = 473
    assert found[0, :, 0].tolist() == [23, 255]


def test_without_saturation_all_is_grey():
    image = np.array([[[200, 100, 0]]], "uint8")
    found, _ = augment(image, np.zeros((1, 1), "uint8"), whole(image, 1, 1), draw(saturation=0.0))
    # 0.299 x 200 + 0.587 x 100 = 118.5
    assert np.abs(found - 118.5).max() <= 1


def test_a_third_of_the_hues_turns_red_into_green():
    image = np.array([[[255, 0, 0]]], "uint8")
    found, _ = augment(image, np.zeros((1, 1), "uint8"), whole(image, 1, 1), draw(hue=1 / 3))
    # 85 of 256 levels, a little less than a third
    assert found[0, 0, 1] == 255 and found[0, 0].max(initial=0, where=[1, 0, 1]) <= 5


def test_blur_spreads_the_image_and_not_the_mask():
    image, mask = np.zeros((9, 9, 3), "uint8"), np.zeros((9, 9), "uint8")
    image[4, 4], mask[4, 4] = 255, 1
    image, mask = augment(image, mask, whole(image, 9, 9), draw(blur=1.0))
    assert 0 < image[4, 5, 0] < image[4, 4, 0] < 255
    assert mask.sum() == mask[4, 4] == 1


def test_a_crop_of_one_class_is_drawn_again_under_a_limit():
    # 12 x 12, class 1 in a stripe of two columns: a crop of 4 without it has one class alone.
    mask = np.zeros((12, 12), "uint8")
    mask[:, 5:7] = 1
    limited = Augmentation((4, 4), class_limit=0.8)
    for row in limited.draws(0, 0, 20):
        (_, rows, *_), (x, columns, *_), _ = limited.choose_window(mask, row)
        counts = np.bincount(mask[:rows, x : x + columns].ravel())
        assert counts.max() <= 0.8 * counts.sum()


def test_a_crop_of_void_alone_is_not_under_the_limit():
    # Left half void; right half stripes of two classes: a crop with labels shows both.
    mask = np.full((12, 24), 255, "uint8")
    mask[:, 12::2], mask[:, 13::2] = 0, 1
    limited = Augmentation((4, 4), class_limit=0.8)
    for row in limited.draws(0, 0, 20):
        _, (x, columns, *_), _ = limited.choose_window(mask, row)
        assert x + columns > 12


def test_the_first_crop_is_kept_where_no_place_is_under_the_limit():
    limited = Augmentation((4, 4), class_limit=0.8)
    row = limited.draws(0, 0, 1)[0]
    mask = np.zeros((12, 12), "uint8")
    assert limited.choose_window(mask, row) == limited.window(mask.shape, row)


@each_loader
def test_all_augmentations_give_known_ids_and_the_same_pairs_again(noise, loader):
    arguments = {
        "rotation_range": (-20, 20),
        "brightness_range": (0.7, 1.4),
        "saturation_range": (0.5, 1.5),
        "hue_range": (-0.1, 0.1),
        "blur_range": (0, 2),
        "class_limit": 0.75,
        "seed": 3,
    }
    first, second = (
        batches(
            make_dataset(noise, "train", crop_size=(20, 24), batch_size=3, loader=name, **arguments)
        )
        for name in (loader, "pillow")
    )
    assert equal(first, second)
    assert set(np.unique(flat(first)[1])) <= {0, 1, 2, 3, 4, 255}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotation_range", (10, -10)),
        ("blur_range", (-1, 1)),
        ("hue_range", (0.1,)),
        ("contrast_range", 0.5),
        ("brightness_range", (0.5, float("inf"))),
        ("class_limit", 0),
    ],
)
def test_a_bad_range_is_refused_by_name(noise, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        make_dataset(noise, "train", crop_size=8, **{name: value})


# A function of the user's


def negative(image, mask):
    """Of an image, and the class 0 becomes 1."""
    return 255.0 - image, np.where(mask == 0, 1, mask)


@each_loader
@pytest.mark.parametrize("arguments", [{"crop_size": 16, "seed": 2}, {"training": False}])
def test_a_transform_changes_every_augmented_pair(noise, loader, arguments):
    plain, changed = (
        flat(
            batches(make_dataset(noise, "train", batch_size=3, loader=loader, **arguments, **more))
        )
        for more in ({}, {"transform": negative})
    )
    assert changed[0].dtype == changed[1].dtype == "uint8"
    np.testing.assert_array_equal(changed[0], 255 - plain[0])
    np.testing.assert_array_equal(changed[1], np.where(plain[1] == 0, 1, plain[1]))


@each_loader
@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image, mask: image, r"it must return \(image, mask\), and returned ndarray"),
        (lambda image, mask: (image[1:], mask), r"the image as numbers of shape \(8, 8, 3\)"),
        (lambda image, mask: (image, mask[..., None]), r"the mask as numbers of shape \(8, 8\)"),
        (lambda image, mask: (image, mask.astype(str)), "the mask as numbers"),
        (lambda image, mask: (image / 255, mask), r"in 0\.\.255, and returned 0\.\.1"),
        (
            lambda image, mask: (image, mask * 0 + 7),
            r"class ids below 5, or 255, and returned \[7\]",
        ),
        (lambda image, mask: 1 // 0, "division"),
    ],
    ids=["no_pair", "image_shape", "mask_shape", "dtype", "scale", "ids", "error"],
)
def test_a_transform_that_fails_is_an_error_that_names_the_file(noise, loader, transform, message):
    found = make_dataset(
        noise, "train", crop_size=8, loader=loader, batch_size=1, transform=transform
    )
    with pytest.raises(
        Exception, match=rf"`transform` failed for .*images/train/\d.png: .*{message}"
    ):
        batches(found)
    assert "`transform` failed" in str(found.plan.raised[0])


# Image and mask stay together


@each_loader
@pytest.mark.parametrize("crop", [(9, 11), (20, 30)], ids=["inside", "padded"])
def test_image_and_mask_stay_aligned(located, loader, crop):
    found = make_dataset(
        located,
        "train",
        crop_size=crop,
        batch_size=8,
        seed=0,
        contrast_range=(1.0, 1.0),
        loader=loader,
    )
    images, masks = flat([batch for _ in range(2) for batch in epoch_of(found)])
    image, mask = images.astype(float), masks.astype(int)
    valid = mask != 255
    np.testing.assert_array_equal(image[..., 2], np.where(valid, 255, 0))
    row, column = mask // 16, mask % 16
    # The nearest pixel is at most half a pixel from the place that is interpolated; a level of
    # rounding is 1/16 of a column or 1/20 of a row.
    assert np.abs(image[..., 0] / 16 - column)[valid].max() <= 0.5 + 1 / 16
    assert np.abs(image[..., 1] / 20 - row)[valid].max() <= 0.5 + 1 / 20
    # Both orientations occur among the pairs.
    turns = {
        np.sign(columns[ok][-1] - columns[ok][0])
        for columns, ok in ((c[r], v[r]) for c, v in zip(column, valid) for r in range(crop[0]))
        if ok.any()
    }
    assert {-1, 1} <= turns


def epoch_of(dataset):
    """The next epoch's batches."""
    found = batches(dataset)
    if isinstance(dataset, keras.utils.PyDataset):
        dataset.on_epoch_end()
    return found


# Both loaders


@needs_tensorflow
@pytest.mark.parametrize("crop", [(16, 20), (40, 50)], ids=["inside", "padded"])
def test_tf_data_and_pillow_give_the_same_pairs(noise, crop):
    by_tf, by_pillow = (
        make_dataset(noise, "train", crop_size=crop, batch_size=3, seed=1, loader=name)
        for name in ("tf.data", "pillow")
    )
    for _ in range(2):
        assert equal(epoch_of(by_tf), epoch_of(by_pillow))


@needs_tensorflow
def test_the_second_iteration_of_tf_data_is_epoch_1(noise):
    by_tf, by_pillow = (
        make_dataset(noise, "train", crop_size=16, batch_size=3, seed=1, loader=name)
        for name in ("tf.data", "pillow")
    )
    first = batches(by_tf)
    second = batches(by_tf)
    by_pillow.on_epoch_end()
    assert equal(second, batches(by_pillow))
    assert not equal(first, second)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@each_loader
def test_fit_gets_each_batch_of_each_epoch_in_its_turn(noise, loader):
    # The outputs are the images' means, and so is the loss; the log has its mean so far.
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.GlobalAveragePooling2D()])
    model.compile(loss=lambda masks, means: keras.ops.mean(means, axis=-1))
    seen = []
    train = make_dataset(noise, "train", crop_size=16, batch_size=2, seed=1, loader=loader)
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: train.set_epoch(epoch),
        on_train_batch_end=lambda batch, logs: seen.append(float(logs["loss"])),
    )
    model.fit(train, epochs=3, shuffle=False, verbose=0, callbacks=[callback])
    expected = []
    for epoch in range(3):
        train.set_epoch(epoch)
        means = [images.mean() for images, _ in batches(train)]
        expected += (np.cumsum(means) / np.arange(1, 4)).tolist()  # 7 // 2 batches
    assert seen == pytest.approx(expected, rel=1e-5)


@each_loader
def test_the_rest_of_an_epoch_is_what_follows_so_many_batches(noise, loader):
    train = make_dataset(noise, "train", crop_size=16, batch_size=2, seed=1, loader=loader)
    rest = train.rest(2)
    for data in (train, rest):
        data.set_epoch(5)
    assert len(rest) == 1
    assert equal(batches(rest), batches(train)[2:])


@each_loader
def test_each_output_of_a_model_gets_the_masks(noise, loader):
    train = make_dataset(noise, "train", crop_size=16, batch_size=2, seed=1, loader=loader)
    both = train.for_outputs(("logits", "auxiliary")).rest(1)
    for data in (train, both):
        data.set_epoch(5)
    _, targets = next(iter(both))
    expected = batches(train)[1][1]
    assert targets.keys() == {"logits", "auxiliary"}
    for masks in targets.values():
        np.testing.assert_array_equal(masks, expected)


@each_loader
def test_set_epoch_goes_where_iterating_would(noise, loader):
    counted, told = (
        make_dataset(noise, "train", crop_size=16, batch_size=3, seed=1, loader=loader)
        for _ in range(2)
    )
    epochs = [epoch_of(counted) for _ in range(4)]
    told.set_epoch(3)
    assert equal(batches(told), epochs[3])
    told.set_epoch(1)
    assert equal(batches(told), epochs[1])


@each_loader
def test_the_same_seed_gives_the_same_epoch_and_another_one_another(noise, loader):
    first, again, other = (
        batches(make_dataset(noise, "train", crop_size=16, batch_size=7, seed=seed, loader=loader))
        for seed in (5, 5, 6)
    )
    assert equal(first, again)
    assert not equal(first, other)


@each_loader
def test_without_a_seed_two_data_sets_differ(noise, loader):
    first, second = (
        batches(make_dataset(noise, "train", crop_size=16, batch_size=7, loader=loader))
        for _ in range(2)
    )
    assert not equal(first, second)


@each_loader
@pytest.mark.parametrize(
    ("drop", "sizes"), [(True, [3, 3]), (False, [3, 3, 1]), (None, [3, 3])]
)  # 7 = 3 + 3 + 1
def test_the_last_smaller_batch_is_dropped_in_training_unless_told(noise, loader, drop, sizes):
    found = make_dataset(
        noise, "train", crop_size=8, batch_size=3, drop_remainder=drop, loader=loader
    )
    assert len(found) == len(sizes)
    assert [len(images) for images, _ in batches(found)] == sizes


@each_loader
def test_the_last_smaller_batch_is_kept_in_evaluation(noise, loader):
    found = make_dataset(noise, "train", batch_size=3, training=False, loader=loader)
    assert [len(images) for images, _ in batches(found)] == [3, 3, 1]


@each_loader
def test_evaluation_gives_the_files_in_order_each_epoch(noise, loader):
    found = make_dataset(noise, "train", batch_size=2, training=False, loader=loader)
    expected = flat([[part[None] for part in noise.read(s)] for s in noise.samples("train")])
    for _ in range(2):
        assert equal([flat(epoch_of(found))], [expected])


@each_loader
def test_evaluation_crops_the_centre(located, loader):
    found = make_dataset(
        located, "train", crop_size=(4, 6), batch_size=8, training=False, loader=loader
    )
    image, mask = positions()
    # (12 - 4) / 2 = 4 and (16 - 6) / 2 = 5
    images, masks = flat(batches(found))
    np.testing.assert_array_equal(images, np.broadcast_to(image[4:8, 5:11], (8, 4, 6, 3)))
    np.testing.assert_array_equal(masks, np.broadcast_to(mask[4:8, 5:11], (8, 4, 6)))


@each_loader
def test_image_scale_of_a_half_is_the_mean_of_2_by_2(tmp_path, loader):
    # Multiples of 4, so that the means are whole; the centre of 2 x 2 lies between all four.
    image = 4 * np.random.default_rng(0).integers(0, 64, (6, 8, 3), dtype="uint8")
    dataset = write(tmp_path, 1, image, np.zeros((6, 8), "uint8"))
    found = make_dataset(
        dataset, "train", batch_size=1, training=False, image_scale=0.5, loader=loader
    )
    ((images, masks),) = batches(found)
    mean = image.reshape(3, 2, 4, 2, 3).astype(int).sum(axis=(1, 3)) // 4
    np.testing.assert_array_equal(images[0], mean)
    assert masks.shape == (1, 3, 4)


def test_image_scale_multiplies_the_random_scale(noise):
    # 24 x 32 at 0.5 x (1, 1) in a crop of 24 x 32: 12 x 16 pixels are no padding.
    found = make_dataset(
        noise,
        "train",
        crop_size=(24, 32),
        batch_size=7,
        scale_range=(1.0, 1.0),
        image_scale=0.5,
        loader="pillow",
    )
    images, _ = found[0]
    assert (images.any(axis=-1).sum(axis=(1, 2)) == 12 * 16).all()


@each_loader
def test_batches_are_uint8_of_the_crop_size(noise, loader):
    images, masks = batches(
        make_dataset(noise, "train", crop_size=10, batch_size=2, loader=loader)
    )[0]
    assert (images.shape, masks.shape) == ((2, 10, 10, 3), (2, 10, 10))
    assert images.dtype == masks.dtype == "uint8"


@needs_tensorflow
def test_tf_data_knows_its_shapes(noise):
    dataset = make_dataset(noise, "train", crop_size=(10, 12), batch_size=2, loader="tf.data")
    assert [tuple(spec.shape) for spec in dataset.element_spec] == [(2, 10, 12, 3), (2, 10, 12)]


def test_the_default_loader_is_tf_data_on_tensorflow_and_pillow_elsewhere(noise):
    found = make_dataset(noise, "train", crop_size=8, batch_size=2)
    assert isinstance(found, keras.utils.PyDataset) == (keras.backend.backend() != "tensorflow")


@each_loader
def test_fit_takes_it(noise, loader):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(5, 1)(inputs))
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
        jit_compile=False,
    )
    seen = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    train = make_dataset(noise, "train", crop_size=8, batch_size=3, loader=loader)
    val = make_dataset(noise, "train", batch_size=4, training=False, loader=loader)
    history = model.fit(
        train, validation_data=val, epochs=2, shuffle=False, verbose=0, callbacks=[count]
    )
    assert seen == [0, 1] * 2  # 7 // 3 steps, twice
    assert len(history.history["val_loss"]) == 2


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": None}, "`crop_size` must be given in training"),
        ({"crop_size": 0}, "`crop_size` must be one or two positive integers.*crop_size=0"),
        ({"crop_size": (8, 7.5)}, "`crop_size` must be one or two positive integers.*7.5"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer.*batch_size=0"),
        ({"batch_size": 2.0}, "`batch_size` must be a positive integer.*batch_size=2.0"),
        ({"batch_size": 8}, "7 samples, less than one batch of 8"),
        ({"scale_range": (0, 1)}, "`scale_range` must be"),
        ({"scale_range": (2, 1)}, "`scale_range` must be"),
        ({"image_scale": 0}, "`scale_range` must be.*image_scale=0"),
        ({"loader": "grain"}, "`loader` must be.*'grain'"),
        ({"transform": "flip"}, "`transform` must be a function.*'flip'"),
        ({"split": "test"}, "no split 'test'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_refused(noise, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(noise, **{"split": "train", "crop_size": 8, "batch_size": 2, **arguments})


@pytest.fixture
def mixed(tmp_path):
    """Two pairs of 24 x 32, and one of 10 x 10."""
    dataset = write(tmp_path, 3)
    Image.new("RGB", (10, 10)).save(tmp_path / "images/train/2.png")
    Image.new("L", (10, 10)).save(tmp_path / "masks/train/2.png")
    return dataset


def test_images_of_several_sizes_are_not_batched_whole(mixed):
    with pytest.raises(ValueError, match=r"2 sizes.*\(10, 10\), \(24, 32\).*batch_size=1"):
        make_dataset(mixed, "train", batch_size=2, training=False)


@each_loader
def test_images_of_several_sizes_come_one_by_one(mixed, loader):
    found = make_dataset(mixed, "train", batch_size=1, training=False, loader=loader)
    shapes = [images.shape[1:3] for images, _ in batches(found)]
    assert shapes == [(24, 32), (24, 32), (10, 10)]


def test_a_split_without_masks_is_for_prediction(noise):
    images = [datasets.Sample(sample.image) for sample in noise.samples("train")]
    dataset = datasets.Dataset("mine", ["c"], [(0, 0, 0)], {"test": images}, {0: 0})
    with pytest.raises(ValueError, match="'test' of 'mine' has no masks"):
        make_dataset(dataset, "test", crop_size=8)


def test_a_file_that_is_no_image_is_named_before_training(tmp_path):
    dataset = write(tmp_path, 2)
    (tmp_path / "images/train/1.png").write_text("no image")
    with pytest.raises(ValueError, match="images/train/1.png can't be read as an image"):
        make_dataset(dataset, "train", crop_size=8, batch_size=2)


@each_loader
def test_a_truncated_image_is_named_when_it_is_reached(tmp_path, loader):
    dataset = write(tmp_path, 2)
    path = tmp_path / "images/train/1.png"
    path.write_bytes(path.read_bytes()[:500])
    found = make_dataset(dataset, "train", crop_size=8, batch_size=2, loader=loader)
    error = ValueError if loader == "pillow" else tf.errors.InvalidArgumentError
    with pytest.raises(error, match="images/train/1.png can't be read as an image"):
        batches(found)


@each_loader
def test_an_id_that_is_no_class_is_named_when_it_is_reached(tmp_path, loader):
    dataset = write(tmp_path, 2)
    Image.new("L", (32, 24), 9).save(tmp_path / "masks/train/1.png")
    found = make_dataset(dataset, "train", crop_size=8, batch_size=2, loader=loader)
    error = ValueError if loader == "pillow" else tf.errors.InvalidArgumentError
    with pytest.raises(error, match=r"masks/train/1.png holds the label ids \[9\]"):
        batches(found)


def test_the_repr_of_batches_is_one_short_line(noise):
    found = repr(make_dataset(noise, "train", crop_size=8, batch_size=2, loader="pillow"))
    # 7 samples, the last of which no batch of two has.
    plan = f"<Plan of {noise.name!r}, train: 7 samples in 3 batches of 2, 8x8>"
    assert found == f"<PillowDataset of {plan}>"


def test_sizes_and_seeds_of_numpy_are_taken(noise):
    size = np.array([8, 12])
    found = make_dataset(
        noise, "train", crop_size=size, batch_size=np.int64(2), seed=np.uint64(3), loader="pillow"
    ).plan
    plain = make_dataset(
        noise, "train", crop_size=(8, 12), batch_size=2, seed=3, loader="pillow"
    ).plan
    assert found == plain and type(found.seed) is int
