"""Decoded pictures on disk."""

import hashlib
import os
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.pipeline import make_dataset


@pytest.fixture
def root(tmp_path, rng):
    """One pair, with a 16-bit mask."""
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    image = rng.integers(0, 256, (6, 8, 3), dtype="uint8")
    Image.fromarray(image).save(tmp_path / "data/images/a.png")
    Image.fromarray(rng.integers(0, 2, (6, 8)).astype("uint16")).save(tmp_path / "data/masks/a.png")
    (tmp_path / "data/classes.txt").write_text("sky\nroad\n", "utf-8")
    return tmp_path


def load(root, cache=True):
    cache = root / "cache" if cache else None
    dataset = datasets.load("folder", root / "data", cache=cache)
    (sample,) = dataset.samples("train")
    return dataset, sample


def stored(root):
    return sorted((root / "cache").rglob("*.npy"))


def test_a_cached_sample_is_the_sample_at_first_and_again(root):
    plain, sample = load(root, cache=False)
    expected = plain.read(sample)
    for _ in range(2):
        dataset, sample = load(root)
        for found, part in zip(dataset.read(sample), expected):
            assert found.dtype == part.dtype
            np.testing.assert_array_equal(found, part)
    assert len(stored(root)) == 2


def test_nothing_is_decoded_before_it_is_read(root):
    dataset, _ = load(root)
    assert dataset.sizes("train") == [(6, 8)] and stored(root) == []


def test_what_is_stored_is_what_is_read(root):
    dataset, sample = load(root)
    dataset.read(sample)
    for path in stored(root):
        np.save(path, np.zeros_like(np.load(path)))
    image, mask = dataset.read(sample)
    assert not image.any() and not mask.any()


def test_a_changed_file_is_decoded_anew(root):
    dataset, sample = load(root)
    dataset.read(sample)
    Image.new("RGB", (8, 6), (1, 2, 3)).save(root / "data/images/a.png")
    image, _ = dataset.read(sample)
    assert image[0, 0].tolist() == [1, 2, 3] and len(stored(root)) == 3


def test_a_cut_off_file_is_written_again(root):
    dataset, sample = load(root)
    expected, _ = dataset.read(sample)
    for path in stored(root):
        os.truncate(path, 100)
    image, _ = dataset.read(sample)
    np.testing.assert_array_equal(image, expected)
    assert all(path.stat().st_size > 100 for path in stored(root))


def test_nothing_unfinished_is_left_behind(root):
    dataset, sample = load(root)
    dataset.read(sample)
    assert [p for p in (root / "cache").rglob("*") if p.is_file() and p.suffix != ".npy"] == []


def test_an_error_names_the_source(root):
    path = root / "data/masks/a.png"
    path.write_bytes(path.read_bytes()[:50])
    dataset, sample = load(root)
    with pytest.raises(ValueError, match="masks/a.png can't be read"):
        dataset.read(sample)
    assert len(stored(root)) == 1  # the image's


def test_frames_of_a_file_are_cached_until_it_changes(tmp_path):
    file = tmp_path / "nyu_depth_v2_labeled.mat"

    def write(value):
        with h5py.File(file, "w") as mat:
            arrays = ("images", (3, 640, 480), "uint8"), ("labels", (640, 480), "uint16")
            for name, shape, dtype in arrays:
                mat.create_dataset(name, (1449, *shape), dtype, chunks=(1, *shape), fillvalue=value)

    for value in (1, 2):
        file.unlink(missing_ok=True)
        write(value)
        dataset = datasets.load("nyuv2", tmp_path, cache=tmp_path / "cache")
        for _ in range(2):
            image, _ = dataset.read(dataset.samples("test")[0])
            assert (image == value).all()
        assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2 * value


def test_two_views_of_one_frame_have_a_file_each(tmp_path):
    arrays = ("images", (3, 640, 480), "uint8"), ("labels", (640, 480), "uint16")
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as mat:
        for name, shape, dtype in arrays:
            mat.create_dataset(name, (1449, *shape), dtype, chunks=(1, *shape))
    for crop_border, shape in ((False, (480, 640)), (True, (427, 561)), (False, (480, 640))):
        dataset = datasets.load(
            "nyuv2", tmp_path, cache=tmp_path / "cache", crop_border=crop_border
        )
        assert dataset.read(dataset.samples("test")[0])[1].shape == shape


def test_a_cache_of_pictures_that_were_not_turned_is_not_used(root):
    # What an earlier version stored for these bytes: the name hashed "1 image", the version.
    data = (root / "data/images/a.png").read_bytes()
    for version in (1, 2):
        digest = hashlib.blake2b(f"{version} image".encode() + data, digest_size=16).hexdigest()
        path = root / "cache" / digest[:2] / f"{digest}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((6, 8, 3), version, "uint8"))
    dataset, sample = load(root)
    assert (dataset.read(sample)[0] == 2).all()


def test_a_turned_image_is_stored_upright_and_turned_once(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(6 * 8 * 3).reshape(8, 6, 3).astype("uint8")
    Image.fromarray(pixels).save(root / "data/images/a.png", exif=exif)
    for _ in range(2):
        dataset, sample = load(root)
        assert dataset.sizes("train") == [(6, 8)]
        np.testing.assert_array_equal(dataset.read(sample)[0], np.rot90(pixels, -1))


def test_a_cache_that_cannot_be_written_is_no_unreadable_image(root):
    for i in range(20):
        for part in ("images", "masks"):
            shutil.copy(root / "data" / part / "a.png", root / "data" / part / f"b{i}.png")
    dataset = datasets.load("folder", root / "data", cache=root / "cache")
    batches = make_dataset(
        dataset, "train", crop_size=4, batch_size=1, loader="pillow", on_bad_image="skip"
    )
    shutil.rmtree(root / "cache")
    (root / "cache").write_bytes(b"a file, where a folder should be")
    with pytest.raises(ValueError, match="The cache .*cache can't be written"):
        batches[0]


def test_a_file_in_the_place_of_a_cache_is_named(root):
    (root / "cache").write_bytes(b"a file")
    with pytest.raises(ValueError, match="The cache .*cache can't be written"):
        load(root)


def test_a_cache_that_cannot_be_written_is_named(root):
    dataset, sample = load(root)
    for name in range(256):
        (root / "cache" / f"{name:02x}").write_bytes(b"a file, where a folder should be")
    with pytest.raises(ValueError, match="The cache .*cache can't be written"):
        dataset.read(sample)
