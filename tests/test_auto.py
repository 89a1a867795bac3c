"""Which format a folder is in."""

import json

import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.datasets import auto

COCO = json.dumps({"images": [], "annotations": [], "categories": []})
LABELME = json.dumps({"shapes": [], "imagePath": "a.jpg"})
TASKS = json.dumps([{"id": 1, "annotations": [{"result": []}], "data": {"image": "a.jpg"}}])
MIN = json.dumps([{"id": 1, "annotation_id": 2, "image": "a.jpg", "brushlabels": []}])
FILES = {
    "folder": [
        {"classes.txt": "a", "images/a.jpg": "", "masks/a.png": ""},
        {"class_dict.csv": "name,r,g,b", "train/images/a.jpg": "", "train/masks/a.png": ""},
        {"train/_classes.csv": "h\n0, a", "train/a.jpg": "", "train/a_mask.png": ""},
        {"labelmap.txt": "a:::", "JPEGImages/a.jpg": "", "SegmentationClass/a.png": ""},
        {"classes.txt": "a", "a.jpg": "", "a.png": ""},
        {"images/a.jpg": "", "masks/a.png": ""},
        {"class_dict.csv": "name,r,g,b", "train/a.png": "", "train_labels/a_L.png": ""},
    ],
    "coco": [
        {"train/_annotations.coco.json": COCO, "train/a.jpg": ""},
        {"annotations/instances_default.json": COCO, "images/a.jpg": ""},
        {"result.json": COCO, "images/a.jpg": ""},
    ],
    "labelme": [{"a.json": LABELME, "a.jpg": ""}, {"train/a.json": LABELME, "labels.txt": "a"}],
    "cvat": [{"annotations.xml": "<annotations/>", "images/a.jpg": ""}],
    "label_studio": [{"project.json": TASKS, "images/a.jpg": ""}, {"min.json": MIN}],
    "supervisely": [{"meta.json": "{}", "ds/ann/a.jpg.json": "{}", "ds/img/a.jpg": ""}],
    "hf": [{"train/metadata.csv": "file_name,mask_file_name"}, {"data/train-0-of-1.parquet": ""}],
    "nyuv2": [{"nyu_depth_v2_labeled.mat": ""}],
    "sunrgbd": [{"image/train/a.jpg": "", "label37/train/a.png": ""}],
    "ade20k": [{"images/training/ADE_1.jpg": "", "annotations/training/ADE_1.png": ""}],
    "cityscapes": [{"leftImg8bit/val/x/a.png": "", "gtFine/val/x/a.png": ""}],
    "camvid": [
        {"train/0001TP_1.png": "", "trainannot/0001TP_1.png": ""},
        {"701_StillsRaw_full/0016E5_1.png": "", "LabeledApproved_full/0016E5_1_L.png": ""},
    ],
    "voc": [{"VOC2012/ImageSets/Segmentation/train.txt": "", "VOC2012/JPEGImages/2007_1.jpg": ""}],
}  # fmt: skip
CASES = [(name, files) for name, forms in FILES.items() for files in forms]


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("name", "files"), CASES)
def test_a_folder_is_of_the_format_whose_files_it_holds(tmp_path, name, files):
    assert auto.detect(write(tmp_path, files))[0] == name


def test_two_formats_that_fit_are_an_error_with_both_reasons(tmp_path):
    root = write(tmp_path, FILES["folder"][0] | FILES["coco"][2])
    with pytest.raises(ValueError, match=r"folder: it holds classes.txt and images; coco: result"):
        datasets.load("auto", root)


def test_a_folder_of_no_format_lists_what_was_looked_for_and_what_is_there(tmp_path):
    write(tmp_path, {"a.jpg": "", "notes.json": "[]"})
    with pytest.raises(FileNotFoundError, match=r"(?s)classes.txt.*annotations.xml.*a.jpg, notes"):
        datasets.load("auto", tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"train/images/a.png": "", "train/labels/a.png": ""},
        {"ImageSets/Segmentation/train.txt": "a", "JPEGImages/a.jpg": ""},
        {"images/training/a.jpg": "", "annotations/training/a.png": ""},
        {"RGB/a.png": "", "Label/a.png": ""},
    ],
)
def test_the_folders_of_a_public_data_set_without_its_names_are_none(tmp_path, files):
    with pytest.raises(FileNotFoundError, match="of no format that is known"):
        auto.detect(write(tmp_path, files))


def test_classes_beside_another_format_are_no_second_one(tmp_path):
    write(tmp_path, {"classes.txt": "a", "a.json": LABELME, "a.png": "", "b.png": ""})
    assert auto.detect(tmp_path)[0] == "labelme"
    (tmp_path / "metadata.csv").write_text("image,site\n")  # none of Hugging Face's
    assert auto.detect(tmp_path)[0] == "labelme"


def test_a_folder_above_the_data_names_it(tmp_path):
    write(tmp_path / "inner", FILES["cvat"][0])
    with pytest.raises(FileNotFoundError, match="inner may be the folder to give"):
        auto.detect(tmp_path)


def test_only_one_level_below_a_folder_is_looked_at(tmp_path, monkeypatch):
    write(tmp_path / "a/b/c/d", FILES["cvat"][0])
    looked, formats = [], auto._formats
    monkeypatch.setattr(auto, "_formats", lambda root: looked.append(root) or formats(root))
    with pytest.raises(FileNotFoundError, match="of no format that is known. Looked for"):
        auto.detect(tmp_path)
    assert looked == [tmp_path, tmp_path / "a"]


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(FileNotFoundError, match="a.zip is a file. Unpack it"):
        auto.detect(tmp_path / "a.zip")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        datasets.load("auto", tmp_path / "nowhere")


def test_the_data_set_says_how_it_was_taken(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / kind / "a.png")
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    dataset = datasets.load("auto", tmp_path)
    assert dataset.notes == ["read as 'folder', for it holds classes.txt and images."]


@pytest.mark.parametrize("name", sorted({*datasets.names()} - {"auto", "tfds", "scenes", "cvat"}))
def test_every_reader_names_the_format_that_a_folder_looks_like(tmp_path, name):
    write(tmp_path, {"annotations.xml": "<annotations/>"})
    with pytest.raises(FileNotFoundError, match="It looks like 'cvat': it holds annotations.xml"):
        datasets.load(name, tmp_path)


def test_a_folder_given_as_the_name_of_a_data_set_says_how_to_read_it(tmp_path):
    with pytest.raises(ValueError, match=r"To read a folder: load\('auto', "):
        datasets.load(str(tmp_path))
