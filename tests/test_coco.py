"""COCO JSON: layouts, categories, polygons and run lengths, and the way back."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from keras_sanet.datasets import coco

CATEGORIES = [
    {"id": 1, "name": "window", "supercategory": ""},
    {"id": 4, "name": "door", "supercategory": ""},
]
SQUARE = [[3, 3, 10, 3, 10, 8, 3, 8]]  # pycocotools: rows 3..7, columns 3..9


def image(number=1, name="a.png", size=(12, 10)):
    return {"id": number, "file_name": name, "width": size[0], "height": size[1]}


def annotation(segmentation=SQUARE, category=1, picture=1, **others):
    return {
        "id": 7,
        "image_id": picture,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": 0,
        **others,
    }


def save(root, annotations, images=None, categories=CATEGORIES, json_at="labels.json", beside=""):
    """A JSON file and its pictures, in the folder `beside` of the root."""
    images = [image()] if images is None else images
    for entry in images:
        name = entry["file_name"].replace("\\", "/").replace("%20", " ")
        path = root / beside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (entry.get("width") or 12, entry.get("height") or 10)).save(path)
    path = root / json_at
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(document), "utf-8")
    return path


def samples(dataset):
    return [sample for found in dataset.splits.values() for sample in found]


def masks(dataset):
    return {sample.mask.stem: dataset.read(sample)[1] for sample in samples(dataset)}


def square(value=1, rest=0):
    mask = np.full((10, 12), rest)
    mask[3:8, 3:10] = value
    return mask.tolist()


def only_mask(root, **options):
    (mask,) = masks(coco.load(root, **options)).values()
    return mask.tolist()


def test_a_polygon_has_the_pixels_that_pycocotools_gives_it(tmp_path):
    save(tmp_path, [annotation([[2, 1, 9, 3, 4, 7.5]])])
    drawn = """
        ............
        ..##........
        ..#####.....
        ...#####....
        ...####.....
        ...###......
        ....#.......
        ............
        ............
        ............
    """
    assert only_mask(tmp_path) == [[char == "#" for char in row] for row in drawn.split()]


def test_parts_of_a_polygon_are_joined(tmp_path):
    save(tmp_path, [annotation([*SQUARE, [0, 0, 2, 0, 2, 1, 0, 1]])])
    mask = square()
    mask[0][:2] = [1, 1]
    assert only_mask(tmp_path) == mask


@pytest.mark.parametrize("counts", [[6, 2, 3, 2, 3, 2, 1, 1], "623000NO"], ids=["list", "string"])
def test_run_lengths_go_down_the_columns_and_begin_with_background(tmp_path, counts):
    size = [5, 4]
    save(tmp_path, [annotation({"size": size, "counts": counts}, iscrowd=1)], [image(size=(4, 5))])
    drawn = [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert only_mask(tmp_path) == drawn


@pytest.mark.parametrize(
    "background, names, ids",
    [("other", ["other", "window", "door"], (1, 0)), (None, ["window", "door"], (0, 255)),
     ("void", ["window", "door"], (0, 255)), ("door", ["window", "door"], (0, 1))],
)  # fmt: skip
def test_the_rest_of_a_picture_is_the_background(tmp_path, background, names, ids):
    save(tmp_path, [annotation()])
    assert coco.load(tmp_path, background=background).class_names == names
    assert only_mask(tmp_path, background=background) == square(*ids)


@pytest.mark.parametrize("overlap, value", [("smaller", 1), ("later", 2), ("void", 255)])
def test_the_overlap_is_chosen_and_the_smaller_shape_wins_by_default(tmp_path, overlap, value):
    whole = annotation([[0, 0, 12, 0, 12, 10, 0, 10]], category=4)
    save(tmp_path, [annotation(), whole])
    assert only_mask(tmp_path, overlap=overlap) == square(value, 2)
    assert only_mask(tmp_path) == square(1, 2)


def roboflow(root):
    above = {"id": 0, "name": "house", "supercategory": "none"}
    categories = [above, *({**c, "supercategory": "house"} for c in CATEGORIES)]
    for split in ("train", "valid", "test"):
        at = f"{split}/_annotations.coco.json"
        save(root, [annotation()], [image(name=f"{split}.jpg")], categories, at, split)


def cvat(root):
    for split in ("Train", "Validation"):
        at = f"annotations/instances_{split}.json"
        save(
            root, [annotation()], [image(name=f"{split}.jpg")], json_at=at, beside=f"images/{split}"
        )


def official(root):
    for split in ("train2017", "val2017"):
        at = f"annotations/instances_{split}.json"
        save(root, [annotation()], [image(name=f"{split}.jpg")], json_at=at, beside=split)
    (root / "annotations/captions_val2017.json").write_text("{}")


def whole(root):
    at = "annotations/instances_default.json"
    images = [image(number, f"{number}.jpg") for number in range(1, 11)]
    save(root, [annotation()], images, json_at=at, beside="images/default")


def label_studio(root):
    images = [image(1, "images\\a b.jpg"), image(2, "images/a%20c.jpg"), image(3, "images/d.jpg")]
    save(root, [annotation()], images, json_at="result.json")
    (root / "package.json").write_text("{}")


def plain(root):
    save(root, [annotation()], [image(1, "sub/a.jpg"), image(2, "sub/deep/a.jpg")], beside="images")


@pytest.mark.parametrize(
    "tool, splits",
    [
        (roboflow, {"train": ["train"], "val": ["valid"], "test": ["test"]}),
        (cvat, {"train": ["Train"], "val": ["Validation"]}),
        (official, {"train": ["train2017"], "val": ["val2017"]}),
        (whole, {"train": list("12346789"), "val": ["5", "10"]}),
        (label_studio, {"train": ["a b", "a c", "d"], "val": []}),
        (plain, {"train": ["sub/a.jpg", "sub/deep/a.jpg"], "val": []}),
    ],
)
def test_the_folders_of_the_tools_are_read(tmp_path, tool, splits):
    tool(tmp_path)
    dataset = coco.load(tmp_path)
    found = {name: [s.mask.stem for s in samples] for name, samples in dataset.splits.items()}
    assert found == splits
    assert dataset.class_names == ["other", "window", "door"]
    assert dataset.left_out == {}
    assert square() in [mask.tolist() for mask in masks(dataset).values()]


def test_a_picture_may_be_named_with_the_folder_that_it_lies_in(tmp_path):
    save(tmp_path, [annotation()], [image(name="images/a.png")])
    (tmp_path / "images/a.png").rename(tmp_path / "a.png")
    assert only_mask(tmp_path) == square()


def test_a_super_category_without_annotations_is_no_class_and_one_name_is_one_class(tmp_path):
    categories = [
        {"id": 0, "name": "facade", "supercategory": "none"},
        {"id": 1, "name": "window", "supercategory": "facade"},
        {"id": 3, "name": "facade", "supercategory": "facade"},
        {"id": 5, "name": "car", "supercategory": "facade"},
        {"id": 6, "name": "window", "supercategory": "facade"},
        {"id": 7, "name": "cat", "supercategory": "cat"},
    ]
    save(tmp_path, [annotation(category=3), annotation(category=6)], categories=categories)
    names = coco.load(tmp_path).class_names
    assert names == ["other", "window", "facade", "car", "cat"]


def test_an_annotated_super_category_is_a_class_and_ids_may_start_at_0(tmp_path):
    categories = [{"id": 9, "name": "b", "supercategory": "a"}, {"id": 0, "name": "a"}]
    save(tmp_path, [annotation(category=0)], categories=categories)
    assert coco.load(tmp_path).class_names == ["other", "a", "b"]


def test_the_classes_of_all_splits_are_joined_by_name(tmp_path):
    at, categories = (
        "{}/_annotations.coco.json",
        [{"id": 1, "name": "door"}, {"id": 2, "name": "x"}],
    )
    save(tmp_path, [annotation()], json_at=at.format("train"), beside="train")
    save(tmp_path, [annotation()], None, categories, at.format("valid"), "valid")
    dataset = coco.load(tmp_path)
    assert dataset.class_names == ["other", "window", "door", "x"]
    assert dataset.read(dataset.samples("val")[0])[1].tolist() == square(2)


def test_class_names_give_the_order_and_an_unknown_category_is_named(tmp_path):
    save(tmp_path, [annotation()])
    dataset = coco.load(tmp_path, background=None, class_names=["door", "roof", "window"])
    assert dataset.class_names == ["door", "roof", "window"]
    assert masks(dataset)["a"].tolist() == square(2, 255)
    with pytest.raises(ValueError, match=r"labels.json: .* \['window'\], which are not in"):
        coco.load(tmp_path, class_names=["door"])


def test_a_category_void_is_void(tmp_path):
    save(tmp_path, [annotation()], categories=[{"id": 1, "name": "void"}, {"id": 2, "name": "a"}])
    assert only_mask(tmp_path) == square(255)
    assert only_mask(tmp_path, class_names=["a"]) == square(255)


def test_a_category_called_background_is_the_background(tmp_path):
    categories = [{"id": 0, "name": "background"}, {"id": 1, "name": "door"}]
    save(tmp_path, [annotation()], categories=categories)
    assert coco.load(tmp_path).class_names == ["background", "door"]
    assert only_mask(tmp_path) == square()


def test_whole_floats_are_sizes(tmp_path):
    save(tmp_path, [annotation()], images=[image()])
    text = (tmp_path / "labels.json").read_text()
    (tmp_path / "labels.json").write_text(text.replace('"width": 12', '"width": 12.0'))
    assert only_mask(tmp_path) == square()


def test_pictures_without_annotations_are_all_background(tmp_path):
    save(tmp_path, [])
    assert only_mask(tmp_path) == square(0)


def test_a_picture_without_a_size_has_that_of_its_file(tmp_path):
    save(tmp_path, [annotation()], [{"id": 1, "file_name": "a.png"}])
    assert only_mask(tmp_path) == square()


def test_what_is_not_read_is_reported(tmp_path):
    boxes = [annotation(None, bbox=[1, 2, 3, 4]), annotation([], category=4), annotation()]
    del boxes[2]["segmentation"]
    save(tmp_path, [*boxes, annotation([[1, 1, 2, 2], *SQUARE]), annotation([[]])])
    Image.new("RGB", (3, 3)).save(tmp_path / "b.png")
    dataset = coco.load(tmp_path)
    assert masks(dataset)["a"].tolist() == square()
    at = "labels.json: annotations[{}] ({} of a.png)".format
    assert dataset.left_out == {
        "boxes without a segmentation": [at(0, "window"), at(1, "door"), at(2, "window")],
        "shapes of fewer than three points": [at(3, "window"), at(4, "window")],
        "pictures that no annotation names": [tmp_path / "b.png"],
    }


@pytest.mark.parametrize(
    "segmentation, said",
    [
        ([[0, 0, 1, 1, 2]], "pairs of numbers"),
        ([[0, 0, 1, float("nan"), 2, 2]], "finite"),
        ([[0, 0, 1, 10**400, 2, 2]], "pairs of numbers"),
        ([1, 2, 3, 4, 5, 6], "pairs of numbers"),
        ([[20, 20, 30, 20, 30, 30]], "outside of its picture of 12 x 10 .* x 20 to 30"),
        ("x", "list of polygons, or run lengths. It is: 'x'"),
        ({"size": [12, 10], "counts": [120]}, r"picture's, \[10, 12\]. It is: \[12, 10\]"),
        ({"counts": [120]}, "It is: None"),
        ({"size": [10, 12], "counts": [-1, 121]}, "list of integers from 0"),
        ({"size": [10, 12]}, "`counts` must be"),
    ],
)
def test_a_broken_segmentation_is_named_with_its_place(tmp_path, segmentation, said):
    save(tmp_path, [annotation(), annotation(segmentation)])
    with pytest.raises(
        ValueError, match=rf"labels.json: annotations\[1\] \(window of a.png\): .*{said}"
    ):
        coco.load(tmp_path)


@pytest.mark.parametrize("counts", [[119], [100, 21], "P", "d3 ", "\u20ac", "o" * 40])
def test_broken_run_lengths_are_named_when_they_are_drawn(tmp_path, counts):
    save(tmp_path, [annotation({"size": [10, 12], "counts": counts})])
    with pytest.raises(ValueError, match=r"labels.json \[a\].* annotations\[0\]: run lengths"):
        only_mask(tmp_path)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: d["annotations"][0].update(image_id=5), "no image has the id 5"),
        (lambda d: d["annotations"][0].update(category_id=5), "no category has .* 5"),
        (lambda d: d["annotations"][0].update(image_id=[]), "`image_id` must be an integer"),
        (lambda d: d["images"].append(image()), r"images\[1\]: the id 1 is that of images\[0\]"),
        (lambda d: d["images"].append(image(2)), r"images\[1\]: .*a.png is that of images\[0\]"),
        (lambda d: d["images"][0].update(width=10**9), "more than .*`PIL.Image.MAX_IMAGE_PIXELS`"),
        (lambda d: d["images"][0].update(width=0), "`width` must be"),
        (lambda d: d["images"][0].update(file_name="../a.png"), "relative"),
        (lambda d: d["images"][0].update(file_name="%2e%2e/a.png"), "relative"),
        (lambda d: d["images"][0].update(file_name="/a.png"), "relative"),
        (lambda d: d["images"][0].update(file_name="C:\\a.png"), "relative"),
        (lambda d: d["images"][0].update(file_name="a\0.png"), "relative"),
        (lambda d: d["categories"].append(CATEGORIES[0]), r"categories\[2\]: the id 1 is another"),
        (lambda d: d.update(categories=[], annotations=[]), "name no class"),
        (lambda d: d.update(images=[]), "no image has the id|no picture"),
        (lambda d: d.pop("annotations"), "`annotations` must be a list of dicts"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path, change, said):
    path = save(tmp_path, [annotation()])
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(ValueError, match=f"labels.json: .*{said}"):
        coco.load(tmp_path)


def test_a_missing_picture_is_named_with_where_it_was_looked_for(tmp_path):
    save(tmp_path, [annotation()])
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 pictures .*'a.png'. Looked in: .*Export"):
        coco.load(tmp_path)


def test_a_picture_of_another_size_is_named_with_both(tmp_path):
    save(tmp_path, [annotation()])
    Image.new("RGB", (10, 12)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png .*differ in size .*\(10, 12\) and \(12, 10\)"):
        only_mask(tmp_path)


def test_a_folder_without_coco_json_or_with_several_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no COCO JSON. Looked for: .*Roboflow"):
        coco.load(tmp_path)
    one = save(tmp_path, [annotation()])
    save(tmp_path, [annotation()], json_at="two.json")
    with pytest.raises(ValueError, match="several .*: labels.json, two.json. Give the path"):
        coco.load(tmp_path)
    assert only_mask(one) == square()


def test_two_files_of_one_split_are_refused(tmp_path):
    for year in (2014, 2017):
        save(tmp_path, [], json_at=f"annotations/instances_train{year}.json", beside="images")
    with pytest.raises(ValueError, match="are both 'train'"):
        coco.load(tmp_path)


VALUES = [None, -1, 0, 1e308, float("nan"), 10**400, "x", "", [], {}, True, [[[[[]]]]], [[1] * 7]]


def nodes(value, found=None):
    """Containers in JSON with the keys of their entries."""
    found = [] if found is None else found
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            nodes(value[key], found)
    return found


def mutated(text, chance):
    """The text of a JSON file with a mistake or two in it."""
    kind = chance.random()
    data = bytearray(text.encode())
    if kind < 0.15:
        return bytes(data[: chance.randrange(len(data))])
    if kind < 0.4:
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data)
    document = json.loads(text)
    for _ in range(chance.randint(1, 2)):
        container, key = chance.choice(nodes(document))
        if kind < 0.55:
            del container[key]
        elif kind < 0.6:
            deep = []
            for _ in range(chance.choice([40, 400])):
                deep = [deep]
            container[key] = deep
        else:
            container[key] = chance.choice(VALUES)
    return json.dumps(document).encode()


def fuzz(root, count, seed):
    """Reads so many mutations; returns how many were read and how many refused."""
    chance, outcomes = random.Random(seed), {"read": 0, "refused": 0}
    shapes = [
        annotation(),
        annotation({"size": [10, 12], "counts": [6, 2, 112]}, 4),
        annotation({"size": [10, 12], "counts": "<460000000000000k0M"}, 4, picture="two"),
        annotation([*SQUARE, [0, 0, 5.5, 2, 1, 4]], picture="two"),
    ]
    path = save(root, shapes, [image(), image("two", "sub/b.png")])
    text = path.read_text("utf-8")
    for _ in range(count):
        path.write_bytes(mutated(text, chance))
        try:
            masks(coco.load(root))
            outcomes["read"] += 1
        except (ValueError, FileNotFoundError) as error:
            assert "labels.json" in str(error)
            outcomes["refused"] += 1
    return outcomes


def test_damaged_files_are_read_or_refused(tmp_path):
    outcomes = fuzz(tmp_path, 200, seed=0)
    assert min(outcomes.values()) > 20
