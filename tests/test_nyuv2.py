"""NYU Depth v2: the official file, the exports, the split, the classes and what is refused."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from PIL import Image
from support import SHARED

from keras_sanet.datasets import nyuv2
from keras_sanet.datasets.hdf5 import hdf5_handle
from keras_sanet.datasets.info import color

SAMPLE = SHARED / "data/samples/nyuv2"
MAT = "nyu_depth_v2_labeled.mat"
PAGE = "cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"


def write_mat(root, images=(), labels=(), kinds=()):
    """The official file: arrays of 1449 frames, all zeros but for the given ones.

    Args: images, labels: dicts from the index of a frame to its pixels, (height, width, ...).
        kinds: dict from the name of an array to a shape and dtype other than the official ones, or
        to None to leave it out.
    """
    official = {"images": ((1449, 3, 640, 480), "uint8"), "labels": ((1449, 640, 480), "uint16")}
    with h5py.File(root / MAT, "w", userblock_size=512) as file:
        for name, kind in (official | dict(kinds)).items():
            if kind is not None:
                chunks = (1, *kind[0][1:])
                file.create_dataset(name, *kind, chunks=chunks, compression="gzip")
        for name, frames in (("images", images), ("labels", labels)):
            for index in frames:
                file[name][index] = frames[index].T
    return root / MAT


def write_export(root, names, value=1, folders=("RGB", "Label")):
    """An export of 6 x 4 frames, all of one label."""
    for folder, array in zip(folders, (np.zeros((4, 6, 3), "uint8"), np.full((4, 6), value))):
        (root / folder).mkdir(parents=True)
        Image.fromarray(array.astype("uint8")).save(root / "any.png")
        content = (root / "any.png").read_bytes()
        for name in names:
            (root / folder / f"{name}.png").write_bytes(content)
    return root


def save_mask(path, array):
    Image.fromarray(array).save(path)


def stems(dataset):
    return {split: [s.image.stem for s in samples] for split, samples in dataset.splits.items()}


def counts(dataset):
    return {split: len(samples) for split, samples in dataset.splits.items()}


def read_first(dataset, split="test"):
    return dataset.read(dataset.samples(split)[0])


def frame(rng):
    return rng.integers(0, 256, (480, 640, 3), dtype="uint8")


# Classes and split


def test_there_are_40_classes_of_distinct_colours_none_black():
    assert len(nyuv2.INFO.classes) == len({*nyuv2.INFO.classes.values(), (0, 0, 0)}) - 1 == 40


def test_a_colour_has_the_bits_of_its_id():
    # 1 is the highest bit of red; 11 = 0b001_011 is those of red and green, and the next of red.
    assert [color(i) for i in (0, 1, 11)] == [(0, 0, 0), (128, 0, 0), (192, 128, 0)]


def test_the_official_split_has_795_frames_for_training_and_654_for_testing(tmp_path):
    write_mat(tmp_path)
    assert counts(nyuv2.load(tmp_path)) == nyuv2.INFO.counts == {"train": 795, "test": 654}


def test_the_official_split_starts_and_ends_as_the_authors(tmp_path):
    write_mat(tmp_path)
    found = stems(nyuv2.load(tmp_path))
    # Counted from 1, as in splits.mat.
    assert found["train"][:8] == [f"{i:04}" for i in (3, 4, 5, 6, 7, 8, 10, 11)]
    assert found["test"][:5] == [f"{i:04}" for i in (1, 2, 9, 14, 15)]
    assert found["test"][-1] == "1449"
    assert sorted(found["train"] + found["test"]) == [f"{i:04}" for i in range(1, 1450)]


# The official file


RAW = {0: 255, 5: 4, 11: 1, 21: 0, 28: 7, 59: 8, 894: 39}  # void chair floor wall door window prop


def test_raw_ids_become_the_40_classes(tmp_path):
    labels = np.resize(np.array(list(RAW), "uint16"), (480, 640))
    write_mat(tmp_path, labels={0: labels})
    dataset = nyuv2.load(tmp_path)
    expected = np.resize(np.array(list(RAW.values()), "uint8"), (480, 640))
    np.testing.assert_array_equal(read_first(dataset)[1], expected)
    names = [dataset.class_names[i] for i in list(RAW.values())[1:]]
    assert names == ["chair", "floor", "wall", "door", "window", "otherprop"]


def test_raw_ids_become_the_13_classes(tmp_path):
    labels = np.resize(np.array(list(RAW), "uint16"), (480, 640))
    write_mat(tmp_path, labels={0: labels})
    dataset = nyuv2.load(tmp_path, num_classes=13)
    ids = read_first(dataset)[1].ravel()[: len(RAW)].tolist()
    assert ids[0] == 255
    # The 13 have no doors, they are wall.
    names = [dataset.class_names[i] for i in ids[1:]]
    assert names == ["chair", "floor", "wall", "wall", "window", "objects"]


def test_every_raw_id_has_a_class(tmp_path):
    write_mat(tmp_path)
    for num_classes in (40, 13):
        ids = nyuv2.load(tmp_path, num_classes=num_classes).class_ids
        assert list(ids) == list(range(895))
        assert set(ids.values()) == {*range(num_classes), 255}


def test_a_frame_of_the_official_file_is_turned_upright(tmp_path, rng):
    image = frame(rng)
    labels = rng.integers(0, 895, (480, 640), dtype="uint16")
    write_mat(tmp_path, {1448: image}, {1448: labels})  # frame 1449, the last for testing
    dataset = nyuv2.load(tmp_path)
    read, mask = dataset.read(dataset.samples("test")[-1])
    np.testing.assert_array_equal(read, image)
    expected = np.vectorize(dataset.class_ids.get)(labels)
    np.testing.assert_array_equal(mask, expected)


def test_the_official_file_may_be_the_root(tmp_path):
    assert counts(nyuv2.load(write_mat(tmp_path)))["train"] == 795


def test_frames_are_read_from_several_threads(tmp_path):
    frames = {i: np.full((480, 640, 3), 10 * i, "uint8") for i in range(8)}
    write_mat(tmp_path, frames)
    dataset = nyuv2.load(tmp_path)
    samples = sorted((s for split in dataset.splits.values() for s in split), key=str)[:8]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda sample: dataset.read(sample)[0][0, 0, 0], samples * 4))
    assert read == [10 * i for i in range(8)] * 4


def test_a_file_is_opened_once(tmp_path):
    path = write_mat(tmp_path)
    assert hdf5_handle(path) is hdf5_handle(path)


def test_samples_and_data_set_survive_pickling(tmp_path):
    write_mat(tmp_path, {0: np.full((480, 640, 3), 7, "uint8")})
    dataset = pickle.loads(pickle.dumps(nyuv2.load(tmp_path, crop_border=True)))
    assert read_first(dataset)[0].max() == 7


def test_sizes_of_frames_are_height_and_width(tmp_path):
    write_mat(tmp_path)
    whole = nyuv2.load(tmp_path)
    whole.splits["test"] = whole.samples("test")[:1]
    assert whole.sizes("test") == [(480, 640)]


# The border


def test_the_border_of_a_frame_of_the_official_file_is_cropped(tmp_path, rng):
    image, labels = frame(rng), np.zeros((480, 640), "uint16")
    labels[44:471, 40:601] = 21  # wall; rows 45..471 and columns 41..601 counted from 1
    write_mat(tmp_path, {0: image}, {0: labels})
    read, mask = read_first(nyuv2.load(tmp_path, crop_border=True))
    np.testing.assert_array_equal(read, image[44:471, 40:601])
    assert mask.shape == (427, 561) and not mask.any()


def test_the_border_of_a_frame_of_an_export_is_cropped(tmp_path, rng):
    image, labels = frame(rng), np.zeros((480, 640), "uint8")
    labels[44:471, 40:601] = 1
    write_export(tmp_path, ["0"])
    save_mask(tmp_path / "RGB/0.png", image)
    save_mask(tmp_path / "Label/0.png", labels)
    dataset = nyuv2.load(tmp_path, crop_border=True)
    read, mask = read_first(dataset)
    np.testing.assert_array_equal(read, image[44:471, 40:601])
    assert mask.shape == (427, 561) and not mask.any()
    assert dataset.sizes("test") == [(427, 561)]


def test_a_cropped_frame_keeps_its_name(tmp_path):
    write_export(tmp_path, ["0"])
    assert stems(nyuv2.load(tmp_path, crop_border=True)) == {"test": ["0"]}


def test_the_name_says_how_it_was_loaded(tmp_path):
    write_export(tmp_path, ["0"])
    names = [
        nyuv2.load(tmp_path, num_classes=num_classes, crop_border=crop_border).name
        for num_classes in (40, 13)
        for crop_border in (False, True)
    ]
    assert names == [
        "nyuv2",
        "nyuv2, border cropped",
        "nyuv2, 13 classes",
        "nyuv2, 13 classes, border cropped",
    ]


def test_a_frame_of_another_size_is_not_cropped_but_refused(tmp_path):
    write_export(tmp_path, ["0"])
    with pytest.raises(ValueError, match=r"RGB/0.png is 6 x 4.*crop_border=False"):
        read_first(nyuv2.load(tmp_path, crop_border=True))


# A broken official file


def test_swapped_axes_are_refused(tmp_path):
    write_mat(tmp_path, kinds={"labels": ((480, 640, 1449), "uint16")})
    with pytest.raises(ValueError, match=rf"{MAT}: 'labels'.*\(1449, 640, 480\).*\(480, 640, 1449"):
        nyuv2.load(tmp_path)


def test_another_dtype_is_refused(tmp_path):
    write_mat(tmp_path, kinds={"images": ((1449, 3, 640, 480), "float32")})
    with pytest.raises(ValueError, match=rf"{MAT}: 'images' must be uint8.*is float32.*{PAGE}"):
        nyuv2.load(tmp_path)


def test_an_array_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_mat(tmp_path, kinds={"labels": None})
    with pytest.raises(ValueError, match=rf"{MAT} has no array 'labels'. It holds: images.*{PAGE}"):
        nyuv2.load(tmp_path)


def test_a_matlab_file_of_version_5_is_named(tmp_path):
    scipy_io = pytest.importorskip("scipy.io", reason="SciPy is not there to write a .mat file")
    scipy_io.savemat(tmp_path / MAT, {"labels": np.zeros((2, 2), "uint16")})
    with pytest.raises(ValueError, match=rf"{MAT} is a MATLAB file of version 5.*7\.3.*{PAGE}"):
        nyuv2.load(tmp_path)


def test_a_truncated_file_is_named(tmp_path, rng):
    path = write_mat(tmp_path, {0: frame(rng)})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"{MAT} can't be read as HDF5.*{PAGE}"):
        nyuv2.load(tmp_path)


def test_a_damaged_frame_is_named(tmp_path, rng):
    path = write_mat(tmp_path, {0: frame(rng)})
    with h5py.File(path, "r") as file:
        chunk = file["images"].id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    start = chunk.byte_offset
    damaged[start : start + chunk.size] = bytes(chunk.size)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{MAT} \[0001\] can't be read as an image"):
        read_first(nyuv2.load(tmp_path))


# Exports


@pytest.mark.parametrize("folders", [("RGB", "Label"), ("images", "labels")])
def test_an_export_is_read_with_0_as_void(tmp_path, folders):
    write_export(tmp_path, ["0"], folders=folders)
    save_mask(tmp_path / folders[1] / "0.png", np.resize(np.uint8([0, 1, 40]), (4, 6)))
    assert read_first(nyuv2.load(tmp_path))[1][0].tolist() == [255, 0, 39] * 2


def test_an_export_becomes_13_classes(tmp_path):
    write_export(tmp_path, ["0"], value=8)  # door
    dataset = nyuv2.load(tmp_path, num_classes=13)
    assert dataset.class_names[read_first(dataset)[1][0, 0]] == "wall"


def test_an_image_may_be_a_jpeg(tmp_path):
    write_export(tmp_path, ["0"])
    (tmp_path / "RGB/0.png").unlink()
    Image.new("RGB", (6, 4)).save(tmp_path / "RGB/0.jpg")
    assert nyuv2.load(tmp_path).samples("test")[0].image == tmp_path / "RGB/0.jpg"


def test_lists_split_an_export(tmp_path):
    write_export(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "train.txt").write_text("RGB/c.jpg Label/c.png\n\nRGB/a.jpg Label/a.png\n")
    (tmp_path / "test.txt").write_text("b\n")
    assert stems(nyuv2.load(tmp_path)) == {"train": ["c", "a"], "test": ["b"]}


def test_a_listed_frame_that_is_not_there_is_named(tmp_path):
    write_export(tmp_path, ["a"])
    (tmp_path / "train.txt").write_text("a\nb.png\n")
    with pytest.raises(FileNotFoundError, match="train.txt lists 'b.png'.*RGB"):
        nyuv2.load(tmp_path)


def test_a_frame_in_both_lists_is_refused(tmp_path):
    write_export(tmp_path, ["a"])
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("a\n")
    with pytest.raises(ValueError, match="test.txt lists 'a'.*before, in .*train.txt"):
        nyuv2.load(tmp_path)


@pytest.mark.parametrize(("first", "form"), [(0, "{}"), (1, "{:04}")])
def test_an_export_of_all_frames_is_split_by_number_from_0_or_1(tmp_path, first, form):
    names = [form.format(i + first) for i in range(1449)]
    write_export(tmp_path, names)
    dataset = nyuv2.load(tmp_path)
    assert counts(dataset) == nyuv2.INFO.counts
    # The first frames for training are the third to the eighth.
    assert stems(dataset)["train"][:6] == names[2:8]


def test_some_frames_are_split_by_number_if_0_is_one_of_them(tmp_path):
    write_export(tmp_path, ["10", "0", "2", "9"])
    # From 1 they are 11, 1, 3, 10; 1 is for testing.
    assert stems(nyuv2.load(tmp_path)) == {"train": ["2", "9", "10"], "test": ["0"]}


def test_some_frames_are_split_by_number_if_1449_is_one_of_them(tmp_path):
    write_export(tmp_path, ["1449", "3"])
    assert stems(nyuv2.load(tmp_path)) == {"train": ["3"], "test": ["1449"]}


@pytest.mark.parametrize("names", [["1", "2"], ["0", "1449"], ["0", "1450"]])
def test_numbers_that_do_not_show_where_the_count_begins_are_refused(tmp_path, names):
    write_export(tmp_path, names)
    with pytest.raises(ValueError, match=rf"0\.\.1448.*2 frames, {names[0]} to {names[1]}.*lists"):
        nyuv2.load(tmp_path)


def test_names_that_are_no_numbers_need_lists(tmp_path):
    write_export(tmp_path, ["0", "kitchen"])
    with pytest.raises(ValueError, match=r"train.txt and test.txt.*kitchen.png. Add the lists"):
        nyuv2.load(tmp_path)


def test_a_number_that_occurs_twice_is_refused(tmp_path):
    write_export(tmp_path, ["0", "00"])
    with pytest.raises(ValueError, match=r"RGB/0.png and .*RGB/00.png are the same frame, 0"):
        nyuv2.load(tmp_path)


def test_a_missing_mask_is_named(tmp_path):
    write_export(tmp_path, ["0", "1"])
    (tmp_path / "Label/1.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 images.*Label/1.png"):
        nyuv2.load(tmp_path)


def test_a_truncated_mask_is_named(tmp_path, rng):
    write_export(tmp_path, ["0"])
    path = tmp_path / "Label/0.png"
    save_mask(path, rng.integers(0, 41, (64, 64), dtype="uint8"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="Label/0.png can't be read as an image"):
        read_first(nyuv2.load(tmp_path))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_id_above_40_is_refused(tmp_path, dtype):
    write_export(tmp_path, ["0"])
    save_mask(tmp_path / "Label/0.png", np.full((4, 6), 41, dtype))
    with pytest.raises(ValueError, match=r"Label/0.png.*\[41\].*0\.\.40"):
        read_first(nyuv2.load(tmp_path))


def test_a_wrong_folder_is_refused_with_what_was_looked_for_and_where_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{MAT}.*RGB with Label.*{PAGE}"):
        nyuv2.load(tmp_path)


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`num_classes`.*40 or 13, got 37"):
        nyuv2.load(tmp_path, num_classes=37)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"The NYU Depth v2 sample is not there: {SAMPLE}")
@pytest.mark.parametrize("crop_border", [False, True])
def test_a_real_kitchen_has_a_ceiling_above_its_floor(crop_border):
    dataset = nyuv2.load(SAMPLE, crop_border=crop_border)
    image, mask = read_first(dataset)
    assert image.shape[:2] == ((427, 561) if crop_border else (480, 640))
    rows = {
        n: np.argwhere(mask == dataset.class_names.index(n))[:, 0] for n in ("ceiling", "floor")
    }
    assert rows["ceiling"].max() < rows["floor"].min()


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"The NYU Depth v2 sample is not there: {SAMPLE}")
def test_the_border_of_a_real_frame_is_white_and_void():
    image, mask = read_first(nyuv2.load(SAMPLE))
    for edge in (np.s_[:5], np.s_[-4:], np.s_[:, :6], np.s_[:, -5:]):
        assert (mask[edge] == 255).all()
        assert image[edge].mean() > 250


@pytest.mark.parametrize("crop_border", [False, True])
def test_a_header_has_the_mode_and_the_size_of_the_picture(tmp_path, crop_border):
    write_mat(tmp_path)
    (sample, *_) = nyuv2.load(tmp_path, crop_border=crop_border).samples("test")
    for picture in (sample.image, sample.mask):
        header, opened = picture.header(), picture.open()
        assert (header.mode, header.size) == (opened.mode, opened.size)


@pytest.mark.parametrize("signature", [b"HEAP", b"TREE", b"SNOD"])
def test_a_mat_file_damaged_inside_is_named(tmp_path, signature):
    path = write_mat(tmp_path)
    path.write_bytes(path.read_bytes().replace(signature, b"XXXX", 1))
    with pytest.raises(ValueError, match=f"{MAT} "):
        nyuv2.load(tmp_path)
