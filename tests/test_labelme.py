"""LabelMe: its files, its shapes drawn as it draws them, and masks written for it."""

import base64
import copy
import io
import json
import math
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from keras_sanet.datasets import labelme
from keras_sanet.datasets.dataset import Sample
from keras_sanet.datasets.files import Frame

SIZE = 40, 30


def shape(label, points, kind="polygon", **others):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {},
            **others}  # fmt: skip


SQUARE = shape("car", [[3, 3], [10, 3], [10, 8], [3, 8]])


def png(mask):
    file = io.BytesIO()
    Image.fromarray(np.asarray(mask, "uint8")).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture(size=SIZE):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), "uint8")
    return Image.fromarray(noise)


def add(root, name, shapes, size=SIZE, image=True, **others):
    """A picture and its JSON file, as LabelMe writes it."""
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if image:
        picture(size).save(root / f"{name}.png")
    annotation = {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.png",
        "imageData": None, "imageHeight": size[1], "imageWidth": size[0],
    }  # fmt: skip
    path.write_text(json.dumps(annotation | others), "utf-8")
    return path


def drawn(shapes, size=SIZE):
    """Class numbers as LabelMe's `shape_to_mask` gives them: a canvas of the whole picture."""
    ids = np.zeros(size[::-1], int)
    for number, (method, points, options) in enumerate(shapes, 1):
        canvas = Image.new("L", size)
        getattr(ImageDraw.Draw(canvas), method)([tuple(p) for p in points], fill=1, **options)
        ids[np.array(canvas) > 0] = number
    return ids


def only(dataset):
    """The mask of the one sample."""
    (sample,) = [s for samples in dataset.splits.values() for s in samples]
    return dataset.read(sample)[1]


def test_a_polygon_has_the_pixels_that_its_outline_touches(tmp_path):
    add(tmp_path, "a", [SQUARE])
    dataset = labelme.load(tmp_path)
    mask = only(dataset)
    assert dataset.class_names == ["background", "car"]
    assert mask[3:9, 3:11].all() and mask.sum() == 48


POINTS = [[5.5, 4.2], [33.7, 9.1], [30, 26], [8.3, 21.9]]
RADIUS = math.hypot(28.2, 4.9)


@pytest.mark.parametrize(
    "kind, points, method, corners, options",
    [
        ("polygon", POINTS, "polygon", POINTS, {"outline": 1}),
        (None, POINTS, "polygon", POINTS, {"outline": 1}),
        ("oriented_rectangle", POINTS, "polygon", POINTS, {"outline": 1}),
        ("rectangle", [[20.5, 3.2], [7.1, 19.8]], "rectangle", [[7.1, 3.2], [20.5, 19.8]],
         {"outline": 1}),
        ("circle", POINTS[:2], "ellipse",
         [[5.5 - RADIUS, 4.2 - RADIUS], [5.5 + RADIUS, 4.2 + RADIUS]], {"outline": 1}),
        ("line", POINTS[:2], "line", POINTS[:2], {"width": 10}),
        ("linestrip", POINTS, "line", POINTS, {"width": 10, "joint": "curve"}),
        ("point", [[30.6, 14.4]], "ellipse", [[25.6, 9.4], [35.6, 19.4]], {"outline": 1}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shift", [0, -9.3, 15])
def test_each_kind_of_shape_is_drawn_as_by_pillow(
    tmp_path, kind, points, method, corners, options, shift
):
    size = (64, 50) if shift >= 0 else SIZE
    moved = [[x + shift, y + shift / 2] for x, y in points]
    corners = [[x + shift, y + shift / 2] for x, y in corners]
    add(tmp_path, "a", [shape("car", moved, kind)], size)
    expected = drawn([(method, corners, options)], size)
    assert expected.any()
    assert np.array_equal(only(labelme.load(tmp_path)), expected)


def test_random_shapes_are_drawn_as_by_pillow(tmp_path):
    rng = np.random.default_rng(1)
    shapes, expected = [], []
    for number in range(60):
        points = (rng.uniform(-20, 60, (rng.integers(3, 8), 2))).round(2).tolist()
        points[0] = [20.0, 10.0]
        kind = ("polygon", "linestrip")[number % 2]
        shapes.append(shape(f"{number:02}", points, kind))
        options = [{"outline": 1}, {"width": 10, "joint": "curve"}][number % 2]
        expected.append((("polygon", "line")[number % 2], points, options))
    for number, (one, how) in enumerate(zip(shapes, expected)):
        add(tmp_path / f"{number}", "a", [one])
        assert np.array_equal(only(labelme.load(tmp_path / f"{number}")), drawn([how]))
    add(tmp_path / "all", "a", shapes)
    assert np.array_equal(only(labelme.load(tmp_path / "all")), drawn(expected))


def test_a_missing_shape_type_is_a_polygon(tmp_path):
    square = {key: value for key, value in SQUARE.items() if key != "shape_type"}
    add(tmp_path, "a", [square])
    assert only(labelme.load(tmp_path)).sum() == 48


def test_a_mask_lies_in_its_inclusive_box_and_is_cut_at_the_edges(tmp_path):
    part = np.random.default_rng(2).integers(0, 2, (6, 4))
    masks = [shape("car", [[37, 5], [40, 10]], "mask", mask=png(part))]
    add(tmp_path, "a", masks)
    expected = np.zeros(SIZE[::-1], int)
    expected[5:11, 37:40] = part[:, :3]
    assert np.array_equal(only(labelme.load(tmp_path)), expected)


def test_masks_of_values_of_1_and_of_255_are_the_same(tmp_path):
    for name, value in (("a", 1), ("b", 255)):
        mask = png(np.eye(3) * value)
        add(tmp_path, name, [shape("car", [[0, 0], [2, 2]], "mask", mask=mask)])
    dataset = labelme.load(tmp_path)
    a, b = (dataset.read(sample)[1] for sample in dataset.samples("train"))
    assert np.array_equal(a, b) and a.sum() == 3


def test_later_shapes_cover_earlier_ones(tmp_path):
    whole = shape("road", [[0, 0], [39, 29]], "rectangle")
    add(tmp_path / "1", "a", [whole, SQUARE])
    add(tmp_path / "2", "a", [SQUARE, whole])
    assert np.bincount(only(labelme.load(tmp_path / "1")).ravel()).tolist() == [0, 48, 1152]
    assert np.bincount(only(labelme.load(tmp_path / "2")).ravel()).tolist() == [0, 0, 1200]


def test_ignore_is_void_and_background_is_the_class_of_no_shape(tmp_path):
    all_of_it = [[0, 0], [39, 29]]
    add(tmp_path, "a", [
        shape("car", all_of_it, "rectangle"),
        shape("__ignore__", [[0, 0], [1, 1]], "rectangle"),
        shape("_background_", [[2, 0], [3, 1]], "rectangle"),
    ])  # fmt: skip
    dataset = labelme.load(tmp_path, background="other")
    assert dataset.class_names == ["other", "car"]
    assert only(dataset)[0, :5].tolist() == [255, 255, 0, 0, 1]
    dataset = labelme.load(tmp_path, background=None)
    assert dataset.class_names == ["car"]
    assert only(dataset)[0, :5].tolist() == [255, 255, 255, 255, 0]


@pytest.mark.parametrize("name", ["labels.txt", "classes.txt"])
def test_a_file_gives_the_order_of_the_classes(tmp_path, name):
    (tmp_path / name).write_text("__ignore__\n_background_\nsky\ncar\n", "utf-8")
    add(tmp_path, "a", [SQUARE])
    dataset = labelme.load(tmp_path)
    assert dataset.class_names == ["background", "sky", "car"]
    assert only(dataset).max() == 2


def test_class_names_take_the_place_of_the_file(tmp_path):
    (tmp_path / "labels.txt").write_text("sky\n", "utf-8")
    add(tmp_path, "a", [SQUARE])
    assert labelme.load(tmp_path, class_names=["car"]).class_names == ["background", "car"]


def test_a_label_that_is_no_class_is_named(tmp_path):
    add(tmp_path, "a", [SQUARE])
    with pytest.raises(ValueError, match=r"a\.json: shape 1 \('car'\) is none of the classes.*sky"):
        labelme.load(tmp_path, class_names=["sky"])


def test_folders_called_train_and_valid_are_splits(tmp_path):
    add(tmp_path / "train", "a", [SQUARE])
    add(tmp_path / "valid", "b", [])
    add(tmp_path, "c", [])
    dataset = labelme.load(tmp_path)
    found = {split: [s.image.stem for s in ss] for split, ss in dataset.splits.items()}
    assert found == {"train": ["a"], "val": ["b"]}
    assert dataset.left_out["JSON files beside the splits"] == [tmp_path / "c.json"]


def test_without_splits_every_fifth_picture_is_val(tmp_path):
    for number in range(12):
        add(tmp_path, f"{number}", [SQUARE])
    found = labelme.load(tmp_path).splits
    assert [s.image.stem for s in found["val"]] == ["4", "9"]
    assert len(found["train"]) == 10


def test_files_in_a_folder_of_their_own_lead_to_the_pictures_by_windows_paths(tmp_path):
    (tmp_path / "images").mkdir()
    picture().save(tmp_path / "images/a.png")
    add(tmp_path / "labels", "a", [SQUARE], image=False, imagePath="..\\images\\a.png")
    dataset = labelme.load(tmp_path)
    assert dataset.samples("train")[0].image == tmp_path / "images/a.png"
    assert only(dataset).sum() == 48 and not dataset.left_out


def test_an_absolute_path_below_the_root_is_followed(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")
    add(tmp_path / "labels", "a", [], image=False, imagePath=str(tmp_path / "a.png"))
    monkeypatch.chdir(tmp_path)
    dataset = labelme.load(".")
    assert str(dataset.samples("train")[0].image) == "a.png" and not dataset.left_out


def test_a_picture_that_is_not_there_is_decoded_from_the_json(tmp_path):
    file = io.BytesIO()
    picture().save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    add(tmp_path, "a", [SQUARE], image=False, imageData=data, imagePath="C:\\gone\\a.png")
    dataset = labelme.load(tmp_path)
    (sample,) = dataset.samples("train")
    image, mask = dataset.read(sample)
    assert isinstance(sample.image, Frame)
    assert np.array_equal(image, np.array(picture())) and mask.sum() == 48
    assert dataset.sizes("train") == [SIZE[::-1]]


def test_points_are_in_the_upright_frame_of_a_turned_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture((30, 40)).save(tmp_path / "a.jpg", exif=exif)  # upright it is 40 x 30
    add(tmp_path, "a", [SQUARE], image=False, imagePath="a.jpg")
    dataset = labelme.load(tmp_path)
    image, mask = dataset.read(dataset.samples("train")[0])
    assert image.shape == (30, 40, 3) and mask[3:9, 3:11].all() and mask.sum() == 48
    add(tmp_path, "a", [SQUARE], (30, 40), image=False, imagePath="a.jpg")
    dataset = labelme.load(tmp_path)
    with pytest.raises(ValueError, match="differ in size"):
        dataset.read(dataset.samples("train")[0])


def test_what_is_not_read_is_reported(tmp_path):
    add(tmp_path, "a", [SQUARE, shape("window", [[1, 1], [2, 2]]), shape("x", [], "circle")])
    picture().save(tmp_path / "b.png")
    (tmp_path / "settings.json").write_text('{"a": 1}', "utf-8")
    dataset = labelme.load(tmp_path)
    assert dataset.left_out == {
        "shapes of fewer than three points": ["a.json: window"],
        "shapes of fewer than the points of their kind": ["a.json: x"],
        "JSON files that are not LabelMe's": [tmp_path / "settings.json"],
        "pictures that no annotation names": [tmp_path / "b.png"],
    }
    assert dataset.class_names == ["background", "car"]


def test_without_a_size_it_is_that_of_the_picture(tmp_path):
    add(tmp_path, "a", [SQUARE], imageWidth=None, imageHeight=None)
    assert only(labelme.load(tmp_path)).shape == SIZE[::-1]


def test_a_folder_without_files_of_labelme_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no LabelMe file. Looked for"):
        labelme.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        labelme.load(tmp_path / "none")


@pytest.mark.parametrize(
    "shapes, said",
    [
        ([shape("car", [[50, 3], [60, 3], [60, 8]])], "shape 1 .'car'.: it lies outside"),
        ([shape("car", [[float("nan"), 3], [10, 3], [10, 8]])], "must be finite"),
        ([shape("car", [[1e308, 3], [10, 3], [10, 8]])], "finite"),
        ([shape("car", [[10**400, 3], [10, 3], [10, 8]])], "must be pairs of"),
        ([shape("car", [[1, 2, 3], [4, 5, 6], [7, 8, 9]])], "must be pairs of"),
        ([shape("car", [["1", "2"]] * 3)], "must be pairs of"),
        ([shape("car", {})], "must be pairs of"),
        ([shape("car", [[1, 1]] * 3, "circle")], "circle of 3 points"),
        ([shape("car", [[1, 1]] * 3, "cube")], "`shape_type` must be one of polygon"),
        ([shape(3, [[1, 1]] * 3)], "shape 1: it must be a dict with a `label`"),
        ([shape("car", [[1, 1], [3, 3]], "mask")], "`mask` must be a PNG"),
        ([shape("car", [[3, 3], [1, 1]], "mask", mask="")], "first and last pixel"),
        ([None], "shape 1: it must be a dict"),
        ("x", "`shapes` must be a list"),
    ],
)
def test_a_broken_shape_is_named(tmp_path, shapes, said):
    add(tmp_path, "street", shapes)
    with pytest.raises(ValueError, match=rf"street.json.*({said})"):
        labelme.load(tmp_path)


def test_a_circle_whose_rim_reaches_into_the_picture_is_cut(tmp_path):
    add(tmp_path, "a", [shape("car", [[-20, 3], [2, 3]], "circle")])
    expected = drawn([("ellipse", [[-42, -19], [2, 25]], {"outline": 1})])
    assert np.array_equal(only(labelme.load(tmp_path)), expected) and expected.any()


@pytest.mark.parametrize(
    "mask, said",
    [
        ("!", "can't be decoded"),
        (png(np.ones((3, 3)))[:60], "can't be decoded"),
        (png(np.ones((9, 9))), "its box"),
        (png(np.ones((2, 3))), "its box"),
        (png(np.ones((3, 3, 3))), "mode RGB"),
    ],
)
def test_a_broken_mask_is_named_when_it_is_opened(tmp_path, mask, said):
    add(tmp_path, "street", [shape("car", [[1, 1], [3, 3]], "mask", mask=mask)])
    dataset = labelme.load(tmp_path)
    with pytest.raises(ValueError, match=rf"street.json: shape 1 \('car'\): `mask`.*{said}"):
        only(dataset)


@pytest.mark.parametrize(
    "others, said",
    [
        ({"imagePath": None}, "`imagePath` must be"),
        ({"imageWidth": "40"}, "`imageWidth` must be"),
        ({"imageWidth": 10**6, "imageHeight": 10**6}, "1000000 x 1000000 pixels, more than"),
        ({"imageWidth": 2**60}, "`imageWidth` must be"),
        ({"imageHeight": 0}, "`imageHeight` must be"),
        ({"imagePath": "gone.png"}, "there is no picture 'gone.png'"),
        ({"imagePath": "../outside.png"}, "may not lead out"),
        ({"imagePath": "../sub/a\0.png"}, "there is no picture"),
        ({"imagePath": "x" * 5000}, "there is no picture"),
    ],
)
def test_a_broken_file_is_named(tmp_path, others, said):
    picture().save(tmp_path / "outside.png")
    add(tmp_path / "sub", "street", [SQUARE], **others)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"street.json.*{said}"):
        labelme.load(tmp_path / "sub")


def test_two_files_of_one_picture_are_refused(tmp_path):
    add(tmp_path, "a", [SQUARE])
    add(tmp_path, "b", [SQUARE], imagePath="a.png")
    with pytest.raises(ValueError, match="a.json and .*b.json are both of .*a.png"):
        labelme.load(tmp_path)


def test_json_that_is_too_deep_or_cut_off_is_named(tmp_path):
    for text in ("[" * 100_000, '{"shapes": ['):
        (tmp_path / "a.json").write_text(text, "utf-8")
        with pytest.raises(ValueError, match="a.json is damaged"):
            labelme.load(tmp_path)


VALUES = [None, -1, 0, 1e308, -1e9, 10**400, float("nan"), True, "x", "", [], {}, [[]], "../a.png"]


def nested(depth=200):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def mutate(value, rng):
    """JSON with one thing in it replaced, removed or repeated."""
    value = copy.deepcopy(value)
    places, queue = [], [value]
    for found in queue:
        keys = found.keys() if isinstance(found, dict) else range(len(found))
        places += [(found, key) for key in keys]
        queue += [found[key] for key in keys if isinstance(found[key], (dict, list))]
    holder, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.append(holder[key])
    elif how == 2:
        holder[key] = nested()
    elif how == 3 and isinstance(holder[key], str):
        text = holder[key]
        cut = rng.randrange(len(text) + 1)
        holder[key] = text[:cut] + rng.choice(["", "A", "\0", "é", "=="]) + text[cut + 1 :]
    else:
        holder[key] = rng.choice(VALUES)
    return value


def read_all(root):
    dataset = labelme.load(root)
    for samples in dataset.splits.values():
        for sample in samples:
            assert isinstance(sample, Sample)
            dataset.open(sample)


def test_damaged_files_give_a_result_or_an_error_that_names_them(tmp_path, count=200):
    rng = random.Random(4)
    file = io.BytesIO()
    picture().save(file, "PNG")
    shapes = [
        SQUARE, shape("car", [[5, 5], [9, 9]], "circle"), shape("b", [[5, 5]], "point"),
        shape("b", POINTS, "linestrip"), shape("c", POINTS[:2], "line"),
        shape("c", POINTS[:2], "rectangle"), shape("d", POINTS, "oriented_rectangle"),
        shape("d", [[1, 1], [3, 3]], "mask", mask=png(np.eye(3))),
    ]  # fmt: skip
    data = base64.b64encode(file.getvalue()).decode()
    held = json.loads(add(tmp_path, "a", shapes, imageData=data).read_text("utf-8"))
    refused = 0
    for number in range(count):
        annotation = held | {} if number % 2 else held | {"imageData": None}
        if number % 4 < 2:
            picture().save(tmp_path / "a.png")
        else:
            (tmp_path / "a.png").unlink(missing_ok=True)
        for _ in range(rng.randint(1, 3)):
            annotation = mutate(annotation, rng)
        content = bytearray(json.dumps(annotation).encode())
        if number % 5 == 0:
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(len(content))] = rng.randrange(256)
        if number % 17 == 0:
            content = content[: rng.randrange(len(content))]
        (tmp_path / "a.json").write_bytes(content)
        try:
            read_all(tmp_path)
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert "a.json" in str(error) or str(tmp_path) in str(error), error
    assert 0 < refused < count
