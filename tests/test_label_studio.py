"""Label Studio: its exports, and its brush strokes packed by an encoder of our own."""

import copy
import json
import random
import warnings

import numpy as np
import pytest
from PIL import Image

from keras_sanet.datasets import label_studio
from keras_sanet.datasets.files import FileError

WIDTH, HEIGHT = 20, 10


def pack(values, runs=True):
    """thi.ng's rle-pack as text of bits: a run of equal bytes, or up to eight of them as they
    are."""
    text = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    start = 0
    while start < len(values):
        end = start + 1
        while runs and end < len(values) and values[end] == values[start] and end - start < 60_000:
            end += 1
        if end - start > 1:
            length, parts, flag = end - start, [values[start]], "1"
        else:
            parts = values[start : start + 8] if not runs else [values[start]]
            length, flag = len(parts), "0"
        index = next(i for i, size in enumerate((3, 4, 8, 16)) if length <= 1 << size)
        size = (3, 4, 8, 16)[index]
        text += f"{flag}{index:02b}{length - 1:0{size}b}" + "".join(f"{p:08b}" for p in parts)
        start += length
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def rgba(alpha):
    """Bytes of a stroke, whose color is noise."""
    pixels = np.random.default_rng(1).integers(0, 3, (*alpha.shape, 4), "uint8")
    pixels[..., 3] = alpha
    return pixels.ravel().tolist()


def result(kind, label, size=(WIDTH, HEIGHT), turn=0, **value):
    return {
        "id": "x1",
        "type": kind,
        "from_name": "tag",
        "to_name": "image",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": turn,
        "value": {kind: [label], **value},
    }


def rectangle(label, x, y, width, height, rotation=0, **others):
    return result(
        "rectanglelabels", label, x=x, y=y, width=width, height=height, rotation=rotation, **others
    )


def task(number, image, *results, **annotation):
    return {
        "id": number,
        "data": {"image": image},
        "annotations": [
            {
                "id": 100 + number,
                "result": list(results),
                "was_cancelled": False,
                "updated_at": "2026-01-02T03:04:05.678901Z",
                **annotation,
            }
        ],
        "predictions": [],
    }


def add_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def write(root, *tasks, pictures=("street.png",), name="project-1.json"):
    root.mkdir(exist_ok=True)
    for picture in pictures:
        add_picture(root / picture)
    (root / name).write_text(json.dumps(tasks), "utf-8")
    return root


def masks(dataset):
    samples = [sample for samples in dataset.splits.values() for sample in samples]
    return {sample.image.name: dataset.read(sample)[1] for sample in samples}


def mask_of(root, *results, **options):
    """The mask of a picture with these results."""
    write(root, task(1, "/data/upload/1/street.png", *results))
    return masks(label_studio.load(root, **options))["street.png"]


def expect(*boxes):
    """A mask of (id, rows, columns)."""
    mask = np.zeros((HEIGHT, WIDTH), "uint8")
    for class_id, rows, columns in boxes:
        mask[rows, columns] = class_id
    return mask


@pytest.mark.parametrize("runs", [True, False])
def test_brush_strokes_are_the_pixels_of_alpha_from_128(tmp_path, runs):
    alpha = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), "uint8")
    alpha[2:5] = 255
    stroke = result("brushlabels", "road", format="rle", rle=pack(rgba(alpha), runs))
    assert np.array_equal(mask_of(tmp_path, stroke), alpha >= 128)


def test_a_long_run_of_a_brush_stroke_is_read(tmp_path):
    alpha = np.zeros((300, 400), "uint8")
    alpha[100:200] = 255
    packed = bytes(pack([a for a in alpha.ravel().tolist() for a in (a, a, a, a)]))
    assert np.array_equal(label_studio._unpack(packed, 400, 300), alpha > 0)


def test_polygons_are_percents_and_have_the_pixels_whose_centers_lie_inside(tmp_path):
    points = np.array([(8.5, 12.0), (91.0, 33.0), (71.3, 88.0), (30.2, 57.0), (11.1, 94.0)])
    mask = mask_of(tmp_path, result("polygonlabels", "road", points=points.tolist()))
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    inside, apart = np.zeros(x.shape, bool), np.full(x.shape, np.inf)
    corners = points * (WIDTH, HEIGHT) / 100
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0)):
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        along = np.clip(
            ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1
        )
        apart = np.minimum(apart, np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)))
    sure = apart > 0.2  # corners are rounded to a fifth of a pixel
    assert sure.mean() > 0.8
    assert np.array_equal(mask[sure], inside[sure])


def test_a_rectangle_has_its_pixels(tmp_path):
    mask = mask_of(tmp_path, rectangle("car", 10, 20, 25, 30))
    assert np.array_equal(mask, expect((1, slice(2, 5), slice(2, 7))))


def test_a_rectangle_turns_clockwise_about_its_upper_left_corner(tmp_path):
    # 6 x 3 pixels at (10, 2), turned by a right angle: 3 columns to the left, 6 rows down.
    mask = mask_of(tmp_path, rectangle("car", 50, 20, 30, 30, rotation=90))
    assert np.array_equal(mask, expect((1, slice(2, 8), slice(7, 10))))


@pytest.mark.parametrize("rotation", [0, 90])
def test_an_ellipse_has_a_center_and_radii_and_turns_about_its_center(tmp_path, rotation):
    shape = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 20, "rotation": rotation}
    mask = mask_of(tmp_path, result("ellipselabels", "car", **shape))
    x, y = np.meshgrid(np.arange(WIDTH) - 9.5, np.arange(HEIGHT) - 4.5)
    radii = (4, 2) if rotation == 0 else (2, 4)
    distance = (x / radii[0]) ** 2 + (y / radii[1]) ** 2
    assert (mask[distance < 0.85] == 1).all()
    assert (mask[distance > 1.15] == 0).all()


def test_later_results_cover_those_before(tmp_path):
    mask = mask_of(tmp_path, rectangle("car", 0, 0, 50, 50), rectangle("bus", 25, 0, 50, 50))
    bus, car = 1, 2
    assert np.array_equal(mask, expect((car, slice(5), slice(10)), (bus, slice(5), slice(5, 15))))


def test_a_shape_partly_outside_is_cut(tmp_path):
    mask = mask_of(tmp_path, rectangle("car", 90, -10, 30, 30))
    assert np.array_equal(mask, expect((1, slice(2), slice(18, 20))))


def test_classes_are_the_labels_found_or_those_given(tmp_path):
    write(tmp_path, task(1, "street.png", rectangle("car", 0, 0, 50, 50)))
    assert label_studio.load(tmp_path).class_names == ["background", "car"]
    assert label_studio.load(tmp_path, class_names=["car", "void", "background"]).class_names == [
        "car",
        "background",
    ]
    dataset = label_studio.load(tmp_path, background=None)
    assert dataset.class_names == ["car"]
    assert set(np.unique(masks(dataset)["street.png"])) == {0, 255}
    with pytest.raises(FileError, match=r"street.png, result 0 \(rect.*, car\).*none of.*bus"):
        label_studio.load(tmp_path, class_names=["bus"])


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/1/ab12cd34-my%20street.png",
        "/data/local-files/?d=pictures/my%20street.png",
        "/data/local-files/?d=pictures\\my street.png",
        "s3://bucket/folder/my street.png",
        "https://example.com/a/my%20street.png?X-Amz-Date=2026&x=/y",
    ],
)
@pytest.mark.parametrize("folder", ["", "images/"])
def test_pictures_are_found_by_the_name_in_a_url_or_path(tmp_path, image, folder):
    write(tmp_path, task(1, image), pictures=[f"{folder}my street.png"])
    assert list(masks(label_studio.load(tmp_path))) == ["my street.png"]


def test_a_name_with_its_prefix_goes_before_one_without(tmp_path):
    names = ["ab12cd34-street.png", "street.png"]
    write(tmp_path, task(1, "/data/upload/1/ab12cd34-street.png"), pictures=names)
    dataset = label_studio.load(tmp_path)
    assert list(masks(dataset)) == names[:1]
    assert dataset.left_out["pictures that no annotation names"] == [tmp_path / "street.png"]


def test_pictures_may_lie_elsewhere(tmp_path):
    add_picture(tmp_path / "elsewhere/street.png")
    write(tmp_path / "export", task(1, "street.png"), pictures=[])
    dataset = label_studio.load(tmp_path / "export", images=tmp_path / "elsewhere")
    assert dataset.samples("train")[0].image == tmp_path / "elsewhere/street.png"
    with pytest.raises(FileNotFoundError, match="comes without pictures"):
        label_studio.load(tmp_path / "export")


def test_json_min_is_read_as_json(tmp_path):
    shapes = [rectangle("car", 10, 20, 25, 30), result("brushlabels", "road", rle=pack(rgba(
        np.eye(HEIGHT, WIDTH, dtype="uint8") * 255)), format="rle")]  # fmt: skip
    full = write(tmp_path / "full", task(1, "/data/upload/1/street.png", *shapes))
    tags = [{**s["value"], "original_width": WIDTH, "original_height": HEIGHT} for s in shapes]
    flat = {
        "image": "/data/upload/1/street.png",
        "id": 1,
        "box": tags[:1],
        "brush": tags[1:],
        "annotator": 1,
        "annotation_id": 101,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
        "lead_time": 4.2,
    }
    newer = {**flat, "annotation_id": 102, "updated_at": "2026-01-03T03:04:05Z"}
    older = {**flat, "box": [], "annotation_id": 100, "updated_at": "2026-01-01T03:04:05Z"}
    least = write(tmp_path / "min", flat, newer, older)
    found, dataset = masks(label_studio.load(full)), label_studio.load(least)
    assert np.array_equal(found["street.png"], masks(dataset)["street.png"])
    assert dataset.left_out == {"older annotations of a picture": ["project-1.json: street.png"]}


def test_the_newest_annotation_is_taken(tmp_path):
    entry = task(1, "street.png", rectangle("car", 0, 0, 50, 50))
    old = {**entry["annotations"][0], "result": [], "updated_at": "2025-01-01T00:00:00Z"}
    entry["annotations"].append(old)
    dataset = label_studio.load(write(tmp_path, entry))
    assert masks(dataset)["street.png"].any()
    assert "older annotations of a picture" in dataset.left_out
    old["updated_at"] = None  # then the last
    assert not masks(label_studio.load(write(tmp_path, entry)))["street.png"].any()


def test_canceled_annotations_and_predictions_are_no_truth(tmp_path):
    skipped = task(1, "skipped.png", rectangle("car", 0, 0, 50, 50), was_cancelled=True)
    waiting = {**task(2, "waiting.png"), "annotations": [], "predictions": [{"result": []}]}
    done = task(3, "done.png", rectangle("bus", 0, 0, 50, 50))
    names = ["skipped.png", "waiting.png", "done.png"]
    dataset = label_studio.load(write(tmp_path, skipped, waiting, done, pictures=names))
    assert list(masks(dataset)) == ["done.png"]
    assert dataset.class_names == ["background", "bus"]
    assert dataset.left_out == {
        "canceled annotations": ["project-1.json: skipped.png"],
        "predictions, which are no truth": ["project-1.json: waiting.png"],
        "pictures that nobody annotated": [
            "project-1.json: skipped.png",
            "project-1.json: waiting.png",
        ],
    }


def test_an_annotation_without_results_is_all_background(tmp_path):
    dataset = label_studio.load(write(tmp_path, task(1, "street.png")))
    assert not masks(dataset)["street.png"].any()
    assert dataset.left_out == {}


def test_other_results_are_left_out_by_kind(tmp_path):
    others = [
        result("keypointlabels", "eye", x=1, y=1),
        result("choices", "day"),
        result("polygonlabels", "line", points=[[1, 1], [50, 50]]),
        rectangle("thin", 1, 1, 0, 10),
        {**rectangle("car", 0, 0, 50, 50), "value": {"x": 0}},
    ]
    write(tmp_path, task(1, "street.png", *others))
    (tmp_path / "config.json").write_text("{}", "utf-8")
    assert label_studio.load(tmp_path).left_out == {
        "JSON files without tasks of Label Studio": [tmp_path / "config.json"],
        "results of the type keypointlabels": ["project-1.json: street.png"],
        "results of the type choices": ["project-1.json: street.png"],
        "shapes of fewer than three points": [
            "project-1.json: street.png, result 2 (polygonlabels, line)"
        ],
        "shapes without an area": ["project-1.json: street.png, result 3 (rectanglelabels, thin)"],
        "shapes without a label": ["project-1.json: street.png, result 4 (rectanglelabels)"],
    }


BROKEN = {
    "outside": (rectangle("car", 101, 0, 5, 5), "lies outside of its picture of 20 x 10"),
    "not a number": (
        rectangle("car", float("nan"), 0, 5, 5),
        "x, y, width, height and rotation must be finite",
    ),
    "a number of 400 digits": (
        rectangle("car", 10**400, 0, 5, 5),
        "x, y, width, height and rotation must be pairs of numbers",
    ),
    "turned": (
        {**rectangle("car", 0, 0, 5, 5), "image_rotation": 90},
        "turned by 90 degrees .* Turn it back",
    ),
    "without a size": (
        {**rectangle("car", 0, 0, 5, 5), "original_width": None},
        "original_width and original_height",
    ),
    "absurd": (
        {**rectangle("car", 0, 0, 5, 5), "original_width": 2**40},
        "too large to be decoded",
    ),
    "points": (result("polygonlabels", "car", points=[[1, 2], [3]]), "`points` must be pairs"),
    "two labels": (
        {**rectangle("car", 0, 0, 5, 5), "value": {"rectanglelabels": ["car", "bus"]}},
        "the labels car, bus, and a pixel has one class",
    ),
    "strokes": (result("brushlabels", "car", rle=[256], format="rle"), "bytes as `rle`"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_results_are_named_with_their_picture(tmp_path, case):
    broken, text = BROKEN[case]
    write(tmp_path, task(1, "street.png", rectangle("car", 0, 0, 5, 5), broken))
    with pytest.raises(FileError, match=rf"project-1.json: street.png, result 1 \(.*{text}"):
        label_studio.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rle: rle[:-20], "cut off"),
        (lambda rle: [0, 0, 0, 9, *rle[4:]], "9 values of 8 bits, not of the 800"),
        (lambda rle: [*rle[:4], 0xFF, *rle[5:]], "values of 32 bits"),
        (lambda rle: rle[:3], "cut off"),
    ],
)
def test_damaged_strokes_are_named_when_the_mask_is_opened(tmp_path, change, text):
    alpha = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), "uint8")
    rle = change(pack(rgba(alpha)))
    write(tmp_path, task(1, "street.png", result("brushlabels", "car", rle=rle)))
    with pytest.raises(FileError, match=f"street.png, result 0 .brushlabels, car.*{text}"):
        masks(label_studio.load(tmp_path))


def test_a_picture_that_is_not_there_is_named(tmp_path):
    write(tmp_path, task(7, "/data/upload/1/ab12cd34-road.png"))
    with pytest.raises(FileNotFoundError, match="project-1.json: task 7.*ab12cd34-road.png"):
        label_studio.load(tmp_path)


@pytest.mark.parametrize("image", ["../../etc/passwd", "/etc/passwd", "C:\\x.png", "a\0.png"])
def test_no_path_leads_out_of_the_folder_of_the_pictures(tmp_path, image):
    write(tmp_path, task(1, image))
    with pytest.raises(FileNotFoundError, match="names no picture that is there"):
        label_studio.load(tmp_path)


def test_a_picture_of_two_tasks_is_refused(tmp_path):
    write(tmp_path, task(1, "street.png"), task(2, "street.png"))
    with pytest.raises(FileError, match="task 2 has the picture street.png, as has .*task 1"):
        label_studio.load(tmp_path)


def test_a_picture_that_is_there_twice_is_refused(tmp_path):
    write(tmp_path, task(1, "street.png"), pictures=["street.png", "images/street.png"])
    with pytest.raises(FileError, match="several pictures: .*street.png, .*images"):
        label_studio.load(tmp_path)


def test_another_size_than_the_picture_s_is_refused(tmp_path):
    write(tmp_path, task(1, "street.png", result("choices", "x"), {
        **rectangle("car", 0, 0, 5, 5), "original_width": 21}))  # fmt: skip
    with pytest.raises(ValueError, match=r"differ in size.*\(20, 10\) and \(21, 10\)"):
        masks(label_studio.load(tmp_path))


def test_a_folder_without_an_export_is_refused(tmp_path):
    add_picture(tmp_path / "street.png")
    with pytest.raises(FileNotFoundError, match="holds no picture that was annotated"):
        label_studio.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        label_studio.load(tmp_path / "nowhere")


def test_deep_json_is_refused(tmp_path):
    add_picture(tmp_path / "street.png")
    (tmp_path / "project.json").write_text("[" * 100_000, "utf-8")
    with pytest.raises(ValueError, match="project.json is damaged"):
        label_studio.load(tmp_path)


STRANGE = (None, -1, 1e308, "x", [], {}, [[[[[[1]]]]]], True, float("nan"), 10**30, "\0", 0)


def mutate(rng, export):
    """An export as bytes, one thing of which is changed."""
    if rng.random() < 0.3:
        data = bytearray(json.dumps(export).encode())
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
    export = copy.deepcopy(export)
    places, queue = [], [export]
    while queue:
        parent = queue.pop()
        keys = parent if isinstance(parent, dict) else range(min(len(parent), 60))
        for key in list(keys):
            places.append((parent, key))
            if isinstance(parent[key], (dict, list)):
                queue.append(parent[key])
    parent, key = rng.choice(places)
    if isinstance(parent, dict) and rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice(STRANGE)
    return json.dumps(export).encode()


def test_mutations_give_a_result_or_an_error_of_the_file(tmp_path, count=200):
    alpha = np.zeros((HEIGHT, WIDTH), "uint8")
    alpha[3:6, 4:9] = 255
    export = [
        task(1, "/data/upload/1/ab12cd34-street.png",
             result("brushlabels", "road", format="rle", rle=pack(rgba(alpha))),
             result("polygonlabels", "car", points=[[1, 1], [50, 20], [40, 90]]),
             rectangle("car", 10, 20, 25, 30, rotation=30),
             result("ellipselabels", "bus", x=50, y=50, radiusX=20, radiusY=20, rotation=10)),
        {"id": 2, "annotation_id": 3, "image": "b.png", "updated_at": "2026",
         "tag": [rectangle("bus", 1, 1, 9, 9)["value"] | {
             "original_width": WIDTH, "original_height": HEIGHT}]},
    ]  # fmt: skip
    write(tmp_path, *export, pictures=["street.png", "b.png"])
    assert len(masks(label_studio.load(tmp_path))) == 2
    rng = random.Random(0)
    for _ in range(count):
        (tmp_path / "project-1.json").write_bytes(mutate(rng, export))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                masks(label_studio.load(tmp_path))
            except (ValueError, FileNotFoundError) as error:
                assert "street" in str(error) or "json" in str(error) or "b.png" in str(error)
