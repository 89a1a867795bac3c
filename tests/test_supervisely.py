"""Supervisely: projects as they are downloaded."""

import base64
import copy
import io
import json
import random
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from keras_sanet.datasets import supervisely
from keras_sanet.datasets.files import FileError

WIDTH, HEIGHT = 20, 12
CLASSES = [
    {"title": "road", "shape": "any", "color": "#102030", "id": 1, "hotkey": ""},
    {"title": "car", "shape": "polygon", "color": "#FF00a0", "id": 2, "hotkey": ""},
]


def shape(title, kind, exterior=(), interior=(), **others):
    points = {"exterior": list(exterior), "interior": list(interior)}
    return {"id": 7, "classTitle": title, "geometryType": kind, "points": points, **others}


def bitmap(title, mask, origin, mode="palette", packed=True):
    """An object with a mask, encoded as Supervisely does (palette), or otherwise."""
    image = Image.fromarray(mask.astype("uint8") * (1 if mode == "palette" else 255))
    options = {}
    if mode == "palette":
        image.putpalette([0, 0, 0, 255, 255, 255])
        options = {"transparency": 0}
    elif mode == "alpha":
        image = Image.merge("RGBA", [Image.new("L", image.size, 9)] * 3 + [image])
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    data = zlib.compress(file.getvalue()) if packed else file.getvalue()
    return {
        "classTitle": title,
        "geometryType": "bitmap",
        "bitmap": {"data": base64.b64encode(data).decode(), "origin": list(origin)},
    }


def annotation(*objects, size=(WIDTH, HEIGHT)):
    return {
        "description": "",
        "tags": [],
        "size": {"width": size[0], "height": size[1]},
        "objects": list(objects),
    }


def add(root, name, *objects, folder="ds0", **options):
    for part in ("img", "ann"):
        (root / folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / folder / "img" / name)
    file = root / folder / "ann" / f"{name}.json"
    file.write_text(json.dumps(annotation(*objects, **options)), "utf-8")
    return file


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / "meta.json").write_text(json.dumps({"classes": CLASSES, "tags": []}), "utf-8")
    return root


def masks(dataset):
    samples = [sample for samples in dataset.splits.values() for sample in samples]
    return {sample.image.name: dataset.read(sample)[1] for sample in samples}


def mask_of(root, *objects, **options):
    add(root, "street.png", *objects)
    return masks(supervisely.load(root, **options))["street.png"]


def drawn(points):
    """Pillow's polygon with its outline."""
    image = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).polygon([tuple(point) for point in points], fill=1, outline=1)
    return np.asarray(image) == 1


def test_classes_and_colors_are_those_of_meta_json(project):
    add(project, "street.png")
    dataset = supervisely.load(project)
    assert dataset.class_names == ["background", "road", "car"]
    assert dataset.palette[1:] == [(16, 32, 48), (255, 0, 160)]
    assert supervisely.load(project, background=None).class_names == ["road", "car"]
    assert supervisely.load(project, background="road").class_names == ["road", "car"]


def test_the_project_may_lie_in_the_folder(project):
    add(project, "street.png")
    assert supervisely.load(project.parent).name == "project"
    (project.parent / "other").mkdir()
    (project.parent / "other/meta.json").write_text("{}", "utf-8")
    with pytest.raises(FileError, match="several projects, other, project"):
        supervisely.load(project.parent)


def test_a_polygon_has_the_pixels_of_its_outline_and_none_of_its_holes(project):
    outline = [(1, 1), (17, 2), (15, 10), (3, 11)]
    hole = [(6, 4), (11, 4), (11, 8), (6, 8)]
    mask = mask_of(project, shape("car", "polygon", outline, [hole]))
    assert np.array_equal(mask == 2, drawn(outline) & ~drawn(hole))
    assert mask[4, 6] == mask[8, 11] == 0
    assert mask[1, 1] == mask[2, 17] == 2


def test_a_rectangle_has_the_pixels_of_both_corners(project):
    mask = mask_of(project, shape("road", "rectangle", [(9, 8), (3, 2)]))
    found = np.zeros((HEIGHT, WIDTH), int)
    found[2:9, 3:10] = 1
    assert np.array_equal(mask, found)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("mode", ["palette", "alpha", "gray"])
def test_a_bitmap_has_the_pixels_of_its_png(project, mode, packed):
    pixels = np.random.default_rng(0).random((5, 7)) < 0.5
    mask = mask_of(project, bitmap("road", pixels, (4, 3), mode, packed))
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[3:8, 4:11] = pixels
    assert np.array_equal(mask == 1, found)


def test_later_objects_cover_those_before(project):
    first = shape("road", "rectangle", [(0, 0), (9, 9)])
    mask = mask_of(project, first, shape("car", "rectangle", [(5, 0), (12, 9)]))
    assert (mask[:10, :5] == 1).all()
    assert (mask[:10, 5:13] == 2).all()


def test_what_is_partly_outside_is_cut(project):
    objects = [
        shape("road", "rectangle", [(-5, -5), (1, 1)]),
        bitmap("car", np.ones((4, 6)), (17, 10)),
    ]
    mask = mask_of(project, *objects)
    assert np.argwhere(mask == 1).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (mask[10:, 17:] == 2).all()
    assert (mask == 2).sum() == 6


def test_a_shape_without_its_kind_has_that_of_its_class(project):
    entry = shape("car", "polygon", [(1, 1), (9, 1), (9, 9)])
    del entry["geometryType"]
    assert mask_of(project, entry).any()


def test_what_has_no_area_is_left_out(project):
    add(project, "empty.png")
    objects = [
        shape("car", "polygon", [(1, 1), (3, 3)]),
        shape("road", "point", [(1, 1)]),
        shape("road", "line", [(1, 1), (2, 2)]),
    ]
    mask = mask_of(project, *objects)
    Image.new("RGB", (3, 3)).save(project / "ds0/img/other.png")
    assert not mask.any()
    dataset = supervisely.load(project)
    assert dataset.left_out == {
        "pictures without a shape, which are read as background": [
            project / "ds0/ann/empty.png.json"
        ],
        "shapes of fewer than three points": ["street.png.json: object 0 (car)"],
        "shapes of the kind point": ["street.png.json: object 1 (road)"],
        "shapes of the kind line": ["street.png.json: object 2 (road)"],
        "pictures that no annotation names": [project / "ds0/img/other.png"],
    }


def test_data_sets_named_as_splits_are_splits(project):
    for folder in ("train", "valid", "test"):
        add(project, f"{folder}.png", folder=folder)
    found = supervisely.load(project).splits
    assert {split: [s.image.stem for s in ss] for split, ss in found.items()} == {
        "test": ["test"],
        "train": ["train"],
        "val": ["valid"],
    }
    add(project, "more.png", folder="more")
    with pytest.raises(FileError, match="the data sets more, test, train, valid, of which some"):
        supervisely.load(project)


def test_other_data_sets_and_nested_ones_are_joined_and_divided(project):
    for index in range(6):
        add(project, f"{index}.png", folder=("a", "b", "a/datasets/c")[index % 3])
    found = supervisely.load(project).splits
    assert {split: len(samples) for split, samples in found.items()} == {"train": 5, "val": 1}


BROKEN = {
    "unknown class": (shape("bus", "rectangle", [(0, 0), (1, 1)]), "'bus', which meta.json lacks"),
    "outside": (shape("car", "rectangle", [(20, 0), (25, 5)]), "lies outside of its picture of 20"),
    "bitmap outside": (bitmap("car", np.ones((2, 2)), (3, 12)), "lies outside"),
    "bitmap before": (bitmap("car", np.ones((2, 2)), (-2, 0)), "lies outside"),
    "bitmap too large": (bitmap("car", np.ones((2, 21)), (0, 0)), "larger than the picture"),
    "NaN": (shape("car", "polygon", [(0, 0), (1, float("nan")), (2, 5)]), "must be finite"),
    "400 digits": (shape("car", "polygon", [(0, 0), (1, 10**400), (2, 5)]), "pairs of numbers"),
    "three corners": (shape("car", "rectangle", [(0, 0), (1, 1), (2, 2)]), "two corners"),
    "kind": (shape("road", 5), "`geometryType`, not 5"),
    "no base64": (
        {**bitmap("car", np.ones((2, 2)), (0, 0)), "bitmap": {"data": "%", "origin": [0, 0]}},
        "can't be decoded",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_objects_are_named(project, case):
    broken, text = BROKEN[case]
    good = shape("car", "rectangle", [(0, 0), (1, 1)])
    with pytest.raises(FileError, match=rf"ds0/ann/street.png.json: object 1 \(.*{text}"):
        mask_of(project, good, broken)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data[:-9], "cut off"),
        (lambda data: data[:20] + b"xxxx" + data[24:], "can't be decoded|it is damaged"),
        (lambda data: zlib.compress(bytes(10**8)), "larger than the picture"),
        (lambda data: zlib.compress(b"x"), "damaged, or none of"),
        (lambda data: zlib.compress(zlib.decompress(data)[:-30]), "its bitmap"),
    ],
)
def test_damaged_bitmaps_are_named_when_the_mask_is_opened(project, change, text):
    entry = bitmap("car", np.random.default_rng(0).random((9, 9)) < 0.5, (0, 0))
    data = change(base64.b64decode(entry["bitmap"]["data"]))
    entry["bitmap"]["data"] = base64.b64encode(data).decode()
    add(project, "street.png", entry)
    dataset = supervisely.load(project)
    with pytest.raises(FileError, match=rf"street.png.json: object 0 \(car\).*({text})"):
        masks(dataset)


@pytest.mark.parametrize("size", [(2**40, 1), (0, 5), (-1, 5), (1.5, 5), (None, 5)])
def test_an_absurd_size_is_refused(project, size):
    add(project, "street.png", size=size)
    with pytest.raises(FileError if size[0] == 2**40 else ValueError, match="street.png.json"):
        supervisely.load(project)


def test_another_size_than_the_picture_s_is_refused(project):
    add(project, "street.png", size=(21, 12))
    with pytest.raises(ValueError, match=r"differ in size.*\(20, 12\) and \(21, 12\)"):
        masks(supervisely.load(project))


def test_a_picture_that_is_not_there_is_named(project):
    file = add(project, "street.png")
    add(project, "other.png")
    (project / "ds0/img/street.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"street.png, which {file} annotates"):
        supervisely.load(project)


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (None, "`classes` must be a list"),
        ([CLASSES[0], CLASSES[0]], "class 1: 'road' is there twice"),
        ([{"title": ""}], "`title` must be a name"),
        ([{"title": "a", "color": "red"}], "a color must be like #ff8000"),
    ],
)
def test_a_wrong_meta_json_is_named(project, classes, text):
    (project / "meta.json").write_text(json.dumps({"classes": classes}), "utf-8")
    with pytest.raises(ValueError, match=f"meta.json:.*{text}"):
        supervisely.load(project)


def test_a_folder_without_a_project_is_refused(tmp_path, project):
    with pytest.raises(FileNotFoundError, match="has no data set"):
        supervisely.load(project)
    (project / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match="Looked for: meta.json"):
        supervisely.load(project)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        supervisely.load(tmp_path / "nowhere")


STRANGE = (None, -1, 1e308, "x", [], {}, [[[[[[1]]]]]], True, float("nan"), 10**30, "\0", 0)


def mutate(rng, content):
    """A file of JSON as bytes, one thing of which is changed."""
    if rng.random() < 0.3:
        data = bytearray(json.dumps(content).encode())
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
    content = copy.deepcopy(content)
    places, queue = [], [content]
    while queue:
        parent = queue.pop()
        for key in list(parent if isinstance(parent, dict) else range(len(parent))):
            places.append((parent, key))
            if isinstance(parent[key], (dict, list)):
                queue.append(parent[key])
    parent, key = rng.choice(places)
    if isinstance(parent[key], str) and len(parent[key]) > 40:  # a bitmap
        data = bytearray(base64.b64decode(parent[key]))
        data = bytearray(zlib.decompress(data)) if rng.random() < 0.7 else data
        data[rng.randrange(len(data))] = rng.randrange(256)
        parent[key] = base64.b64encode(data).decode()
    elif isinstance(parent, dict) and rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice(STRANGE)
    return json.dumps(content).encode()


def test_mutations_give_a_result_or_an_error_of_the_file(tmp_path, count=200):
    meta = {"classes": CLASSES, "tags": []}
    objects = [
        shape("car", "polygon", [(1, 1), (17, 2), (15, 10)], [[(6, 4), (11, 4), (11, 8)]]),
        shape("road", "rectangle", [(3, 2), (9, 8)]),
        bitmap("road", np.eye(5), (4, 3)),
        bitmap("car", np.eye(5), (14, 3), "alpha"),
    ]
    file, content = add(tmp_path, "street.png", *objects), annotation(*objects)
    rng = random.Random(0)
    for _ in range(count):
        other = rng.random() < 0.2
        (tmp_path / "meta.json").write_bytes(
            mutate(rng, meta) if other else json.dumps(meta).encode()
        )
        file.write_bytes(json.dumps(content).encode() if other else mutate(rng, content))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                masks(supervisely.load(tmp_path))
            except (ValueError, FileNotFoundError) as error:
                assert ".json" in str(error)
