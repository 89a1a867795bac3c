"""Which files of a folder make samples, and that what is left out is said."""

import warnings

import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.datasets import cityscapes
from keras_sanet.datasets.listing import LeftOutWarning, find_images, pair
from keras_sanet.inspection import Inspection


def touch(folder, *names):
    """Files of these names; pairs are made of names alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def draw(folder, *names, mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new(mode, (6, 4), i).save(folder / name)
    return folder


def pairs(tmp_path, images, masks):
    """Dict from the name of an image to its mask's, and what was left out."""
    left_out = {}
    folders = touch(tmp_path / "images", *images), touch(tmp_path / "masks", *masks)
    samples = pair(*folders, left_out)
    names = {reason: [path.name for path in paths] for reason, paths in left_out.items()}
    return {sample.image.name: sample.mask.name for sample in samples}, names


@pytest.fixture
def folder(tmp_path):
    """A folder data set of three pairs."""
    draw(tmp_path / "images", "a.png", "b.png", "c.png")
    draw(tmp_path / "masks", "a.png", "b.png", "c.png", mode="L")
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n", "utf-8")
    return tmp_path


# Names of masks


@pytest.mark.parametrize(
    "form",
    [
        "{}.png", "{}.PNG", "{}.tif", "{}.TIFF", "{}.bmp", "{}.gif", "{}.pgm", "{}.jpg.png",
        "{}_mask.png", "{}_masks.png", "{}-mask.png", "{}.mask.png", "{} mask.png", "{}_Mask.PNG",
        "{}_L.png", "{}_label.png", "{}_labels.png", "{}_labelIds.png", "{}_gtFine_labelIds.png",
        "{}_gtFine_labelTrainIds.png", "{}_gt.png", "{}_seg.png", "{}_segmentation.tif",
        "{}.jpg_mask.png", "mask_{}.png", "Mask-{}.png", "gt_{}.png", "seg_{}.bmp",
    ],
)  # fmt: skip
def test_a_mask_is_found_by_what_tools_make_of_the_name(tmp_path, form):
    found, left_out = pairs(tmp_path, ["x1.jpg", "x2.jpg"], [form.format("x1"), form.format("x2")])
    assert found == {"x1.jpg": form.format("x1"), "x2.jpg": form.format("x2")}
    assert left_out == {}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Street.JPG", "street.png"),
        ("image_001.jpg", "mask_001.png"),
        ("img001.jpg", "label001.png"),
        ("12_sat.jpg", "12_mask.png"),
        ("ulm_1_leftImg8bit.png", "ulm_1_gtFine_labelIds.png"),
        ("a_jpg.rf.0f3b.jpg", "a_jpg.rf.0f3b_mask.png"),
        ("road_L.jpg", "road_L.png"),
        ("mask.jpg", "mask.png"),
        ("caf\u00e9.jpg", "cafe\u0301.png"),  # as Windows and macOS write it
    ],
)
def test_names_that_tools_change_on_both_sides_fit(tmp_path, image, mask):
    assert pairs(tmp_path, [image, "z.jpg"], [mask, "z.png"])[0] == {image: mask, "z.jpg": "z.png"}


def test_the_exact_name_comes_first_and_the_others_are_said(tmp_path):
    found, left_out = pairs(tmp_path, ["x.jpg"], ["x.png", "x_mask.png", "x.tif"])
    assert found == {"x.jpg": "x.png"}
    assert left_out == {"masks without an image": ["x.tif", "x_mask.png"]}


def test_a_mask_of_a_whole_file_name_tells_two_images_apart(tmp_path):
    found, _ = pairs(tmp_path, ["x.jpg", "x.png"], ["x.jpg.png", "x.png.png"])
    assert found == {"x.jpg": "x.jpg.png", "x.png": "x.png.png"}


def test_of_left_and_right_each_has_its_own(tmp_path):
    masks = ["a_mask.png", "a_L_mask.png", "a_R_mask.png"]
    found, _ = pairs(tmp_path, ["a.jpg", "a_L.jpg", "a_R.jpg"], masks)
    assert found == {"a.jpg": masks[0], "a_L.jpg": masks[1], "a_R.jpg": masks[2]}


@pytest.mark.parametrize(
    "masks",
    [
        ["x_mask.png", "x_gt.png"],
        ["x.tif", "x.bmp"],
        ["x_labelIds.png", "x_gtFine_labelTrainIds.png"],
    ],
)
def test_several_masks_of_an_image_are_an_error_that_lists_them(tmp_path, masks):
    with pytest.raises(ValueError, match=r"images/x\.jpg has several masks") as raised:
        pairs(tmp_path, ["x.jpg"], masks)
    assert all(mask in str(raised.value) for mask in masks)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["x.jpg", "x.png"], ["x.png"]),
        (["x.jpg", "X.JPG"], ["x.png"]),
        (["x.jpg", "x.jpeg"], ["x_mask.png"]),
        (["image_1.jpg", "img_1.jpg"], ["mask_1.png"]),
        (["a.jpg", "a_L.jpg"], ["a_L.png"]),
    ],
)
def test_two_images_that_would_share_a_mask_are_both_named(tmp_path, images, masks):
    with pytest.raises(ValueError, match=f"would share the mask .*{masks[0]}") as raised:
        pairs(tmp_path, images, masks)
    assert all(image in str(raised.value) for image in images)


def test_masks_in_jpeg_are_refused_with_the_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.jpg and other .* lossy .*as PNG"):
        pairs(tmp_path, ["x.jpg"], ["x.jpg"])


def test_a_png_beside_a_jpeg_of_the_mask_is_taken(tmp_path):
    found, left_out = pairs(tmp_path, ["x.jpg"], ["x.jpg", "x.png"])
    assert found == {"x.jpg": "x.png"}
    assert left_out == {"files of kinds that are not read": ["x.jpg"]}


def test_an_image_without_a_mask_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images.*The first: y\.jpg"):
        pairs(tmp_path, ["x.jpg", "y.jpg"], ["x.png", "z.png"])


# What is left out


def test_what_a_folder_data_set_leaves_out_is_kept_by_reason(folder):
    touch(folder / "images", "d.psd", "e.mp4", "f.heic", ".hidden.png", "Thumbs.db")
    draw(folder / "masks", "g.png", mode="L")
    with pytest.warns(LeftOutWarning, match="Left out of .*1 masks without an image: masks/g.png"):
        left_out = datasets.load("folder", folder).left_out
    names = {reason.split(",")[0]: [p.name for p in paths] for reason, paths in left_out.items()}
    assert names == {
        "files of kinds that are not read": ["d.psd"],
        "videos": ["e.mp4"],
        "pictures in HEIC": ["f.heic"],
        "masks without an image": ["g.png"],
    }


def test_pictures_outside_of_the_split_folders_are_said(tmp_path):
    for part in ("train", "val"):
        draw(tmp_path / "images" / part, f"{part}.png")
        draw(tmp_path / "masks" / part, f"{part}.png", mode="L")
    draw(tmp_path / "images", "lone.jpg")
    draw(tmp_path / "images/train/deeper", "deep.jpg")
    draw(tmp_path / "masks/test", "t.png", mode="L")
    (tmp_path / "classes.txt").write_text("road\nsky\n", "utf-8")
    with pytest.warns(LeftOutWarning) as caught:
        datasets.load("folder", tmp_path)
    (text,) = {str(warning.message) for warning in caught}
    assert "2 files or folders beside train, val: images/lone.jpg, masks/test" in text
    assert "1 folders, which are not searched: train/deeper" in text


def test_a_folder_of_which_all_is_read_warns_of_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.load("folder", folder).left_out == {}


def test_the_first_names_and_the_count_are_said(folder):
    touch(folder / "images", *(f"n{i}.json" for i in range(12)))
    with pytest.warns(
        LeftOutWarning, match=r"12 files .*: images/n0.json, images/n1.json, images/n2.json, \.\.\."
    ):
        datasets.load("folder", folder)


def test_inspection_notes_what_is_left_out(folder):
    draw(folder / "masks", "g.png", mode="L")
    with pytest.warns(LeftOutWarning):
        dataset = datasets.load("folder", folder, cache=folder / "cache")
    notes = Inspection(dataset).notes
    assert "left out: 1 masks without an image: masks/g.png." in notes


def test_camvid_says_masks_without_an_image(tmp_path):
    draw(tmp_path / "train", "a.png")
    draw(tmp_path / "trainannot", "a.png", "b.png", mode="L")
    with pytest.warns(LeftOutWarning, match="1 masks without an image: trainannot/b.png"):
        datasets.load("camvid", tmp_path)


def test_ade20k_says_files_of_other_kinds(tmp_path):
    draw(tmp_path / "images/training", "a.jpg")
    touch(tmp_path / "images/training", "b.psd")
    draw(tmp_path / "annotations/training", "a.png", mode="L")
    with pytest.warns(LeftOutWarning, match="training/b.psd"):
        datasets.load("ade20k", tmp_path)


def test_cityscapes_says_images_of_other_names(tmp_path):
    draw(tmp_path / "leftImg8bit/val/ulm", "u_leftImg8bit.png", "u_leftImg8bit.jpg")
    draw(tmp_path / "leftImg8bit/val", "beside_leftImg8bit.png")
    draw(tmp_path / "gtFine/val/ulm", "u_gtFine_labelIds.png", mode="L")
    (paths,) = cityscapes.load(tmp_path).left_out.values()
    assert {path.name for path in paths} == {"u_leftImg8bit.jpg", "beside_leftImg8bit.png"}


def test_nyuv2_says_frames_that_no_list_names(tmp_path):
    draw(tmp_path / "RGB", "a.png", "b.png")
    draw(tmp_path / "Label", "a.png", "b.png", mode="L")
    (tmp_path / "train.txt").write_text("a\n", "utf-8")
    with pytest.warns(LeftOutWarning, match=r"1 images that no list names .*train.txt.*RGB/b.png"):
        datasets.load("nyuv2", tmp_path)


def test_sunrgbd_says_files_of_other_kinds(tmp_path):
    draw(tmp_path / "image/train", "img-000001.jpg")
    touch(tmp_path / "image/train", "img-000002.psd")
    draw(tmp_path / "label37/train", "00000001.png", mode="L")
    with pytest.warns(LeftOutWarning, match="train/img-000002.psd"):
        datasets.load("sunrgbd", tmp_path)


def test_find_images_warns_of_what_it_leaves_out(tmp_path):
    touch(tmp_path, "a.png", "clip.MOV", "notes.txt")
    with pytest.warns(LeftOutWarning, match="1 videos, .*clip.MOV.*1 files .*notes.txt"):
        assert [path.name for path in find_images(tmp_path)] == ["a.png"]


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    touch(tmp_path, "a.heic", "b.mp4")
    with pytest.raises(FileNotFoundError, match=r"holds no image \(.*1 pictures in HEIC.*1 videos"):
        find_images(tmp_path)


def test_a_link_to_nothing_is_not_left_out(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert [path.name for path in find_images(tmp_path)] == ["a.png"]


def test_masks_of_every_form_are_read_as_ids(folder):
    ids = np.array([[0, 1, 2]] * 2, "uint8")
    Image.new("RGB", (3, 2)).save(folder / "images/d.jpg")
    Image.fromarray(ids).save(folder / "masks/d_gtFine_labelIds.TIF", "TIFF")
    dataset = datasets.load("folder", folder)
    (sample,) = [s for s in dataset.samples("train") if s.image.stem == "d"]
    np.testing.assert_array_equal(dataset.read(sample)[1], ids)
