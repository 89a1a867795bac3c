"""Masks written as labels for annotation tools, and read again."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_sanet.datasets import coco, cvat, labelme, prelabels
from keras_sanet.datasets.drawn import coco_counts, coco_string, mask_to_runs
from keras_sanet.datasets.files import open_mask

SIZE = 40, 30
NAMES = ["sky", "background", "ärger & <b>"]
PALETTE = [(1, 2, 3), (0, 0, 0), (255, 128, 0)]
LOADERS = {"coco": coco.load, "labelme": labelme.load, "cvat": cvat.load}
TOOLS = pytest.mark.parametrize("tool", LOADERS)


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), "uint8")
    Image.fromarray(noise).save(path)
    return path


def example_masks():
    """Noise, parts of a picture, one class, void alone."""
    noise = np.random.default_rng(3).choice([0, 1, 2, 255], SIZE[::-1]).astype("uint8")
    coarse = noise[:6, :8].repeat(5, 0).repeat(5, 1)
    return [noise, coarse, *(np.full_like(noise, value) for value in (0, 2, 255))]


@TOOLS
def test_masks_that_are_written_are_read_as_they_were(tmp_path, tool):
    written = {}
    for number, mask in enumerate(example_masks()):
        folder = "images/park/" if number % 2 and tool != "labelme" else "images/"
        written[picture(tmp_path / f"{folder}{number}.png")] = mask
    prelabels.write(tool, tmp_path, written.items(), NAMES, PALETTE)
    dataset = LOADERS[tool](tmp_path, background=None)
    assert dataset.class_names == NAMES and not dataset.left_out
    assert tool != "cvat" or dataset.palette == PALETTE
    masks = {s.image: s.mask for samples in dataset.splits.values() for s in samples}
    assert masks.keys() == written.keys()
    assert all(np.array_equal(open_mask(masks[path]), mask) for path, mask in written.items())


@TOOLS
def test_the_paths_written_are_returned(tmp_path, tool):
    pictures = [(picture(tmp_path / "a.png"), example_masks()[0])]
    written = prelabels.write(tool, tmp_path / "out", pictures, NAMES, None)
    assert sorted(written) == sorted((tmp_path / "out").iterdir())


def test_coco_has_area_box_and_the_run_lengths_of_pycocotools(tmp_path):
    mask = np.full((5, 4), 255, "uint8")
    mask[1:3, 1:] = mask[4, 3] = 1
    mask[0, 0] = 0
    pictures = [(picture(tmp_path / "a.png", (4, 5)), mask)]
    prelabels.write_coco(tmp_path / "labels.json", pictures, ["hole", "wall"], PALETTE)
    document = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert [category["id"] for category in document["categories"]] == [1, 2]
    first, second = document["annotations"]
    assert (first["category_id"], first["area"], first["bbox"]) == (1, 1, [0, 0, 1, 1])
    assert (second["category_id"], second["area"], second["bbox"]) == (2, 7, [1, 1, 3, 4])
    assert second["segmentation"] == {"size": [5, 4], "counts": "623000NO"}
    assert first["iscrowd"] == second["iscrowd"] == 1


def test_coco_names_a_picture_by_its_path_below_the_file_or_by_its_name(tmp_path):
    mask = example_masks()[0]
    pictures = [(picture(tmp_path / f"{name}.png"), mask) for name in ("out/sub/a", "b")]
    prelabels.write_coco(tmp_path / "out/labels.json", pictures, NAMES, PALETTE)
    document = json.loads((tmp_path / "out/labels.json").read_text("utf-8"))
    assert [image["file_name"] for image in document["images"]] == ["sub/a.png", "b.png"]


@pytest.mark.parametrize("seed", range(20))
def test_the_compressed_string_is_undone(seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 10 ** generator.integers(1, 9), 30).tolist()
    assert coco_counts(coco_string(counts)) == counts


def test_the_compressed_string_is_that_of_pycocotools():
    reference = pytest.importorskip("pycocotools.mask")
    for mask in example_masks():
        pixels = mask == 2
        encoded = reference.encode(np.asfortranarray(pixels.astype("uint8")))["counts"].decode()
        assert coco_string(mask_to_runs(pixels)) == encoded


def test_a_labelme_file_is_as_labelme_writes_it(tmp_path):
    image = picture(tmp_path / "images/a.png", (4, 3))
    mask = np.zeros((3, 4), "uint8")
    mask[1:, 2:] = 1
    mask[0, 0] = 255
    prelabels.write_labelme(tmp_path / "json", [(image, mask)], ["road", "car"], PALETTE)
    found = json.loads((tmp_path / "json/a.json").read_text("utf-8"))
    assert (found["imagePath"], found["imageData"]) == ("../images/a.png", None)
    assert (found["imageWidth"], found["imageHeight"]) == (4, 3)
    assert [s["label"] for s in found["shapes"]] == ["road", "car", "__ignore__"]
    assert [s["shape_type"] for s in found["shapes"]] == ["mask"] * 3
    assert found["shapes"][1]["points"] == [[2.0, 1.0], [3.0, 2.0]]
    part = Image.open(io.BytesIO(base64.b64decode(found["shapes"][1]["mask"])))
    assert np.array_equal(part, np.ones((2, 2)))
    assert (tmp_path / "json/labels.txt").read_text("utf-8") == "__ignore__\nroad\ncar\n"
    dataset = labelme.load(tmp_path, class_names=["road", "car"], background=None)
    assert np.array_equal(open_mask(dataset.samples("train")[0].mask), mask)


def test_no_file_of_labelme_is_written_over(tmp_path):
    pictures = [(picture(tmp_path / "a.png"), np.zeros(SIZE[::-1], "uint8"))]
    prelabels.write_labelme(tmp_path, pictures, ["road"], PALETTE)
    with pytest.raises(FileExistsError, match="a.json is there already"):
        prelabels.write_labelme(tmp_path, pictures, ["road"], PALETTE)
    with pytest.raises(FileExistsError, match="labels.txt has other classes"):
        prelabels.write_labelme(tmp_path, [], ["car"], PALETTE)


def test_in_cvat_s_void_is_in_no_mask_and_runs_begin_with_background(tmp_path):
    pictures = [(picture(tmp_path / "a.png", (3, 2)), np.array([[255, 1, 1], [255, 255, 1]], "u1"))]
    prelabels.write_cvat(tmp_path / "out/annotations.xml", pictures, ["a", "b"], PALETTE)
    text = (tmp_path / "out/annotations.xml").read_text("utf-8")
    assert text.count("<mask") == 1
    assert '<image id="0" name="a.png" width="3" height="2">' in text
    assert 'rle="0, 2, 1, 1" left="1" top="0" width="2" height="2" z_order="0"' in text


@TOOLS
@pytest.mark.parametrize(
    "mask, names, said",
    [
        (np.zeros(SIZE[::-1], "int64"), ["x"], "must be uint8"),
        (np.zeros((*SIZE[::-1], 1), "uint8"), ["x"], "must be uint8"),
        (np.zeros(SIZE, "uint8"), ["x"], "must be uint8"),
        (np.full(SIZE[::-1], 3, "uint8"), ["x"], "a.png holds 3; the ids are below 1"),
        (np.zeros(SIZE[::-1], "uint8"), ["x", "x"], "distinct"),
        (np.zeros(SIZE[::-1], "uint8"), ["x", "void"], "no void"),
        (np.zeros(SIZE[::-1], "uint8"), None, "distinct"),
    ],
)
def test_what_would_not_come_back_is_not_written(tmp_path, tool, mask, names, said):
    pictures = [(picture(tmp_path / "a.png"), mask)]
    with pytest.raises(ValueError, match=said):
        prelabels.write(tool, tmp_path / "out", pictures, names, None)
    there = {path.name for path in (tmp_path / "out").glob("*")}
    assert there <= {"labels.txt"}


@pytest.mark.parametrize("tool", ["coco", "cvat"])
def test_two_images_of_one_name_are_refused(tmp_path, tool):
    mask = example_masks()[0]
    pictures = [(picture(tmp_path / f"{name}/a.png"), mask) for name in ("one", "two")]
    with pytest.raises(ValueError, match="two images a.png"):
        prelabels.write(tool, tmp_path / "out", pictures, NAMES, None)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", [" road", "road\nsky", "_background_"])
@pytest.mark.parametrize("tool", prelabels.WRITERS)
def test_names_that_tools_give_back_otherwise_are_refused(tmp_path, tool, name):
    with pytest.raises(ValueError, match="tools give other names back"):
        prelabels.write(tool, tmp_path, [], [name], None)
