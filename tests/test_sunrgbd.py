"""SUN RGB-D: the official tree, both kinds of export, and what is refused."""

import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from support import SHARED

from keras_sanet.datasets import nyuv2, sunrgbd

SAMPLE = SHARED / "data/samples/sunrgbd37"
PAGE = "rgbd.cs.princeton.edu"
AUTHORS = "/n/fs/sun3d/data"
# The folders of three samples, and the splits they are in; two images have the same name.
FOLDERS = {
    "SUNRGBD/kv2/kinect2data/000065_one": "test",
    "SUNRGBD/kv1/NYUdata/NYU0003": "train",
    "SUNRGBD/xtion/sun3ddata/lab/000065_one": "train",
}
TOOLBOX = "SUNRGBDtoolbox"
META = "Metadata/SUNRGBDMeta.mat"
SEGMENTATION = "Metadata/SUNRGBD2Dseg.mat"
SPLIT = "traintestSUNRGBD/allsplit.mat"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def grey(value=1, size=(4, 6)):
    return np.full(size, value, "uint8")


def rgb(value=0, size=(4, 6)):
    return np.full((*size, 3), value, "uint8")


def cells(strings):
    """A cell array of strings, 1 x n."""
    array = np.empty((1, len(strings)), object)
    array[0] = strings
    return array


def write_split(root, train, test):
    import scipy.io

    folders = {"alltrain": train, "alltest": test}
    folders = {name: cells([f"{AUTHORS}/{f}" for f in paths]) for name, paths in folders.items()}
    scipy.io.savemat(root / TOOLBOX / SPLIT, folders)


def write_maps(root, maps):
    """The label maps, (height, width), as references to transposed arrays."""
    with h5py.File(root / TOOLBOX / SEGMENTATION, "w", userblock_size=512) as file:
        group = file.create_group("SUNRGBD2Dseg")
        references = group.create_dataset("seglabel", (len(maps), 1), h5py.ref_dtype)
        for index, array in enumerate(maps):
            if array is not None:
                references[index, 0] = file.create_dataset(f"#refs#/{index}", data=array.T).ref


@pytest.fixture
def official(tmp_path):
    """The official tree of three samples, whose images are grey 10, 20, 30 and whose maps are
    1, 2, 3, the first row 0."""
    scipy_io = pytest.importorskip("scipy.io", reason="SciPy is not there to write .mat files")
    maps = []
    for index, folder in enumerate(FOLDERS):
        save(tmp_path / folder / "image/0001.jpg", rgb(10 * (index + 1)))
        maps.append(grey(index + 1))
        maps[-1][0] = 0
    for file in (META, SPLIT):
        (tmp_path / TOOLBOX / file).parent.mkdir(parents=True)
    meta = np.empty((1, len(FOLDERS)), [("rgbpath", object), ("sensorType", object)])
    meta["rgbpath"] = cells([f"{AUTHORS}//{folder}/image/0001.jpg" for folder in FOLDERS])
    meta["sensorType"] = "kv1"
    scipy_io.savemat(tmp_path / TOOLBOX / META, {"SUNRGBDMeta": meta})
    write_split(tmp_path, *([f for f in FOLDERS if FOLDERS[f] == s] for s in ("train", "test")))
    write_maps(tmp_path, maps)
    return tmp_path


def write_export(root, images, masks, label="label37", value=1):
    for name in images:
        save(root / "image" / f"{name}.jpg", rgb())
    for name in masks:
        save(root / label / f"{name}.png", grey(value))
    return root


def stems(dataset):
    return {split: [s.image.stem for s in samples] for split, samples in dataset.splits.items()}


def read_first(dataset, split="test"):
    return dataset.read(dataset.samples(split)[0])


def test_the_classes_are_the_first_37_of_the_40_of_nyuv2():
    assert list(sunrgbd.INFO.classes) == list(nyuv2.INFO.classes)[:37]
    assert list(sunrgbd.INFO.classes)[-1] == "bag"


# The official tree


def test_the_official_tree_is_split_by_the_lists_of_folders(official):
    assert stems(sunrgbd.load(official)) == {
        "train": ["kv1_NYUdata_NYU0003", "xtion_sun3ddata_lab_000065_one"],
        "test": ["kv2_kinect2data_000065_one"],
    }


def test_an_image_of_the_official_tree_has_the_map_of_its_place(official):
    dataset = sunrgbd.load(official)
    for samples in dataset.splits.values():
        for sample in samples:
            image, mask = dataset.read(sample)
            index = image[0, 0, 0] // 10 - 1  # images are 10, 20, 30, their maps 1, 2, 3
            # The id 1 is class 0; the map's first row is void.
            assert mask.tolist() == [[255] * 6] + [[index] * 6] * 3


def test_a_map_is_turned_upright(official, rng):
    maps = [rng.integers(0, 38, (4, 6), dtype="uint8") for _ in FOLDERS]
    write_maps(official, maps)
    mask = read_first(sunrgbd.load(official))[1]
    np.testing.assert_array_equal(mask, np.where(maps[0] == 0, 255, maps[0] - 1))


def test_a_map_of_another_size_than_its_image_is_refused(official):
    write_maps(official, [grey().T] * 3)
    with pytest.raises(ValueError, match=r"0001.jpg.*SUNRGBD2Dseg.mat.*\(6, 4\) and \(4, 6\)"):
        read_first(sunrgbd.load(official))


def test_a_map_that_is_not_there_is_named(official):
    write_maps(official, [None, grey(), grey()])
    with pytest.raises(ValueError, match=r"SUNRGBD2Dseg.mat \[kv2_.*\] has no label map, entry 1"):
        read_first(sunrgbd.load(official))


def test_a_map_of_another_dtype_is_refused(official):
    write_maps(official, [grey().astype("float64")] * 3)
    with pytest.raises(ValueError, match=r"SUNRGBD2Dseg.mat \[kv2_.*\] must be a uint8 map.*float"):
        read_first(sunrgbd.load(official))


def test_another_number_of_maps_than_of_images_is_refused(official):
    write_maps(official, [grey()] * 2)
    with pytest.raises(ValueError, match=r"2 label maps for the 3 images of .*SUNRGBDMeta.mat"):
        sunrgbd.load(official)


def test_a_sample_in_neither_split_is_named(official):
    write_split(official, train=list(FOLDERS)[2:], test=list(FOLDERS)[:1])
    with pytest.raises(ValueError, match="SUNRGBDMeta.mat: entry 2, .*NYU0003.* in neither"):
        sunrgbd.load(official)


def test_a_sample_in_both_splits_is_named(official):
    write_split(official, train=list(FOLDERS), test=list(FOLDERS)[:1])
    with pytest.raises(ValueError, match="allsplit.mat: .*kv2.*in both alltrain and alltest"):
        sunrgbd.load(official)


def test_a_path_of_another_place_is_named(official):
    import scipy.io

    lists = {"alltrain": cells(["/home/SUNRGBD/kv1/a"]), "alltest": cells(["b"])}
    scipy.io.savemat(official / TOOLBOX / SPLIT, lists)
    with pytest.raises(ValueError, match=f"allsplit.mat: .*'/home/.*{AUTHORS}"):
        sunrgbd.load(official)


def test_a_missing_image_is_named(official):
    (official / "SUNRGBD/kv1/NYUdata/NYU0003/image/0001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="NYU0003/image must hold one .jpg, and holds 0"):
        sunrgbd.load(official)


def test_a_second_image_is_refused(official):
    save(official / "SUNRGBD/kv1/NYUdata/NYU0003/image/0002.jpg", rgb())
    with pytest.raises(FileNotFoundError, match="NYU0003/image must hold one .jpg, and holds 2"):
        sunrgbd.load(official)


@pytest.mark.parametrize("file", [META, SEGMENTATION, SPLIT])
def test_a_missing_file_of_the_toolbox_is_named(official, file):
    (official / TOOLBOX / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {TOOLBOX}/{file}\. .*SUNRGBDtoolbox.zip"):
        sunrgbd.load(official)


def test_images_without_the_toolbox_are_refused(official):
    shutil.rmtree(official / TOOLBOX)
    with pytest.raises(FileNotFoundError, match=rf"{META}.*{PAGE}"):
        sunrgbd.load(official)


def test_the_toolbox_without_images_is_refused(official):
    shutil.rmtree(official / "SUNRGBD")
    with pytest.raises(FileNotFoundError, match=rf"has no SUNRGBD\. .*{PAGE}"):
        sunrgbd.load(official)


def test_maps_in_a_matlab_file_of_version_5_are_refused(official):
    shutil.copy(official / TOOLBOX / META, official / TOOLBOX / SEGMENTATION)
    with pytest.raises(ValueError, match=r"SUNRGBD2Dseg.mat is a MATLAB file of version 5.*7\.3"):
        sunrgbd.load(official)


def test_maps_without_seglabel_are_refused(official):
    with h5py.File(official / TOOLBOX / SEGMENTATION, "w") as file:
        file["other"] = 1
    with pytest.raises(ValueError, match="SUNRGBD2Dseg.mat has no array .*seglabel.*other"):
        sunrgbd.load(official)


def test_swapped_axes_of_the_references_are_refused(official):
    with h5py.File(official / TOOLBOX / SEGMENTATION, "w") as file:
        file.create_dataset("SUNRGBD2Dseg/seglabel", (1, 3), h5py.ref_dtype)
    with pytest.raises(ValueError, match=r"SUNRGBD2Dseg.mat.*\(None, 1\).*\(1, 3\)"):
        sunrgbd.load(official)


def matlab_7_3(path):
    """The header of MATLAB's files of version 7.3, in front of an HDF5 file."""
    with h5py.File(path, "w", userblock_size=512):
        pass
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header + path.read_bytes()[len(header) :])


@pytest.mark.parametrize("file", [META, SPLIT])
def test_a_matlab_file_of_version_7_3_is_refused_where_5_is_meant(official, file):
    matlab_7_3(official / TOOLBOX / file)
    with pytest.raises(ValueError, match=rf"{file} is a MATLAB file of version 7\.3.*{PAGE}"):
        sunrgbd.load(official)


@pytest.mark.parametrize("file", [META, SPLIT])
def test_a_truncated_matlab_file_is_named(official, file):
    path = official / TOOLBOX / file
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ValueError, match=f"{file} can't be read as a MATLAB file.*{PAGE}"):
        sunrgbd.load(official)


def test_a_matlab_file_without_its_variable_is_named(official):
    shutil.copy(official / TOOLBOX / SPLIT, official / TOOLBOX / META)
    with pytest.raises(ValueError, match=r"SUNRGBDMeta.mat has no 'SUNRGBDMeta.rgbpath'"):
        sunrgbd.load(official)


def test_without_scipy_the_error_says_how_to_install_it(official, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r'allsplit.mat.*pip install "keras-sanet\[sunrgbd\]"'):
        sunrgbd.load(official)


def test_the_official_tree_has_no_other_first_id(official):
    with pytest.raises(ValueError, match="official tree.*leave out `first_id=0`"):
        sunrgbd.load(official, first_id=0)


# Exports


PER_SPLIT = (
    [f"{split}/img-00000{i}" for split in ("train", "test") for i in (1, 2)],
    [f"{split}/0000000{i}" for split in ("train", "test") for i in (1, 2)],
)


@pytest.mark.parametrize("label", ["label37", "semseg-label37"])
def test_an_export_numbered_per_split_is_matched_by_number(tmp_path, label):
    write_export(tmp_path, *PER_SPLIT, label)
    dataset = sunrgbd.load(tmp_path)
    assert stems(dataset) == {s: ["img-000001", "img-000002"] for s in ("train", "test")}
    sample = dataset.samples("test")[1]
    assert sample.mask == tmp_path / label / "test/00000002.png"


def test_an_export_may_have_one_split(tmp_path):
    write_export(tmp_path, PER_SPLIT[0][:2], PER_SPLIT[1][:2])
    assert list(sunrgbd.load(tmp_path).splits) == ["train"]


@pytest.mark.parametrize("form", ["img-{:06}", "{:08}"])
def test_in_one_running_numbering_testing_comes_first(tmp_path, form):
    numbers = [1, 5050, 5051, 10335]
    write_export(tmp_path, [f"img-{i:06}" for i in numbers], [form.format(i) for i in numbers])
    assert stems(sunrgbd.load(tmp_path)) == {
        "train": ["img-005051", "img-010335"],
        "test": ["img-000001", "img-005050"],
    }


@pytest.mark.parametrize("number", [0, 10336])
def test_a_number_past_the_running_numbering_is_refused(tmp_path, number):
    write_export(tmp_path, [f"img-{number:06}"], [f"{number:08}"])
    with pytest.raises(ValueError, match=rf"image must be .*1\.\.10335.*{number} to {number}"):
        sunrgbd.load(tmp_path)


def test_a_mixture_of_numberings_is_refused_with_what_was_found(tmp_path):
    write_export(tmp_path, [*PER_SPLIT[0], "img-000001"], [*PER_SPLIT[1], "00000001"])
    found = "image has test and train and files, .*label37 has test and train and files"
    with pytest.raises(ValueError, match=found):
        sunrgbd.load(tmp_path)


def test_images_per_split_with_masks_of_a_running_numbering_are_refused(tmp_path):
    write_export(tmp_path, PER_SPLIT[0], ["00000001"])
    with pytest.raises(ValueError, match="image has test and train, .*label37 has files"):
        sunrgbd.load(tmp_path)


def test_images_of_one_numbering_with_masks_of_the_other_are_refused(tmp_path):
    # Two images for training, numbered on their own, with the masks of a running numbering.
    write_export(tmp_path, ["img-000001", "img-000002"], ["00005051", "00005052"])
    with pytest.raises(FileNotFoundError, match="4 are in one.*1 is in .*image and not .*label37"):
        sunrgbd.load(tmp_path)


def test_a_split_of_another_name_is_refused(tmp_path):
    write_export(tmp_path, ["val/img-000001"], ["val/00000001"])
    with pytest.raises(ValueError, match="image has val"):
        sunrgbd.load(tmp_path)


@pytest.mark.parametrize("part", ["image/test/img-000002.jpg", "label37/test/00000002.png"])
def test_a_missing_image_or_mask_of_an_export_is_named(tmp_path, part):
    write_export(tmp_path, *PER_SPLIT)
    (tmp_path / part).unlink()
    with pytest.raises(FileNotFoundError, match=f"2 is in .* not in .*{Path(part).parent}"):
        sunrgbd.load(tmp_path)


def test_a_name_without_a_number_is_refused(tmp_path):
    write_export(tmp_path, ["kitchen"], ["kitchen"])
    with pytest.raises(ValueError, match="kitchen.jpg must be named by a number"):
        sunrgbd.load(tmp_path)


def test_a_number_that_occurs_twice_is_refused(tmp_path):
    write_export(tmp_path, ["img-000001", "00000001"], ["00000001"])
    with pytest.raises(ValueError, match="00000001.jpg and .*img-000001.jpg have the same number"):
        sunrgbd.load(tmp_path)


def test_two_folders_of_masks_are_refused(tmp_path):
    write_export(tmp_path, *PER_SPLIT)
    (tmp_path / "semseg-label37").mkdir()
    with pytest.raises(ValueError, match="one of label37 and semseg-label37, and has both"):
        sunrgbd.load(tmp_path)


@pytest.mark.parametrize(
    ("first_id", "ids", "expected"),
    [(1, [0, 1, 37], [255, 0, 36]), (0, [255, 0, 36], [255, 0, 36])],
)
def test_first_id_says_where_the_ids_of_an_export_start(tmp_path, first_id, ids, expected):
    write_export(tmp_path, ["img-000001"], ["00000001"])
    save(tmp_path / "label37/00000001.png", np.resize(np.uint8(ids), (4, 6)))
    mask = read_first(sunrgbd.load(tmp_path, first_id=first_id))[1]
    assert mask[0, :3].tolist() == expected


@pytest.mark.parametrize(("first_id", "value"), [(1, 255), (0, 37)])
def test_ids_of_the_other_start_are_refused_with_both(tmp_path, first_id, value):
    write_export(tmp_path, ["img-000001"], ["00000001"], value=value)
    with pytest.raises(ValueError, match=rf"00000001.png.*\[{value}\].*first_id=1.*first_id=0"):
        read_first(sunrgbd.load(tmp_path, first_id=first_id))


def test_another_first_id_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`first_id`.*0 or 1, got 2"):
        sunrgbd.load(tmp_path, first_id=2)


def test_a_truncated_mask_is_named(tmp_path, rng):
    write_export(tmp_path, ["img-000001"], ["00000001"])
    path = save(tmp_path / "label37/00000001.png", rng.integers(0, 38, (64, 64), dtype="uint8"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="00000001.png can't be read as an image"):
        read_first(sunrgbd.load(tmp_path))


def test_a_wrong_folder_is_refused_with_what_was_looked_for_and_where_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"SUNRGBDtoolbox; or image/train.*{PAGE}"):
        sunrgbd.load(tmp_path)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"The SUN RGB-D sample is not there: {SAMPLE}")
@pytest.mark.parametrize(("split", "names"), [("train", "table chair"), ("test", "bed dresser")])
def test_the_real_rooms_show_their_furniture(split, names):
    dataset = sunrgbd.load(SAMPLE, first_id=0)
    image, mask = read_first(dataset, split)
    assert image.shape == (530, 730, 3)
    for name in names.split():
        assert (mask == dataset.class_names.index(name)).mean() > 0.1


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"The SUN RGB-D sample is not there: {SAMPLE}")
def test_the_real_masks_are_not_read_from_1_without_an_error():
    with pytest.raises(ValueError, match=r"00000001.png.*\[255\].*`first_id=0`"):
        read_first(sunrgbd.load(SAMPLE))
