"""COCO JSON: polygons and run lengths, as COCO, Roboflow, CVAT and Label Studio write them.

| from | JSON | pictures |
|---|---|---|
| Roboflow | `{train,valid,test}/_annotations.coco.json` | beside it |
| CVAT | `annotations/instances_<subset>.json` | `images/<subset>/` or `images/` |
| COCO | `annotations/instances_train2017.json` | `train2017/` |
| Label Studio | `result.json` | `images/` |
| others | the one `*.json` with COCO's keys | beside it, in `images/` or in `data/` |

The year is no part of a split's name; `valid` is "val", and CVAT's `default` no split. A picture
may be named with a folder in front (`images/x.jpg`) and with URL escapes (`a%20b.jpg`).

Classes are the categories by name, those of all files joined: in order of the ids of the first
file, then what others add. Two categories of one name are one class. A category without an
annotation that another one names as its `supercategory` is no class.
"""

import collections
import dataclasses
import os
import re
import reprlib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np

from keras_sanet._files import check, is_dict, is_int, is_list, is_text, read_json
from keras_sanet.datasets import annotations
from keras_sanet.datasets.dataset import Sample
from keras_sanet.datasets.drawn import (
    DrawnMask,
    Polygon,
    Shape,
    ShapeError,
    check_overlap,
    coco_counts,
    cut_out,
    label_ids,
    points_of,
    runs_to_mask,
)
from keras_sanet.datasets.files import FileError, by_number
from keras_sanet.datasets.listing import find_split, split_name, visible_files

_ROBOFLOW = "_annotations.coco.json"
_ORDER = ("train", "val", "test")
_LARGEST = 1 << 30  # bytes of a JSON file
_WAY_OUT = "Mend it there, or export it again as COCO's instance segmentation."
_FORMS = (
    f"{{train,valid,test}}/{_ROBOFLOW} (Roboflow); annotations/instances_*.json (CVAT, COCO); "
    "result.json (Label Studio); or one *.json with the keys images, annotations and categories"
)

_DOCUMENT = dict.fromkeys(("images", "annotations", "categories"), annotations.DICTS)
_ID = ("an integer or a text", lambda value: type(value) in (int, str))
_NAME = ("a text", lambda value: is_text(value) and value.strip() != "")
_LENGTH = ("an integer from 1, or left out", lambda n: n is None or is_int(_whole(n), 1))
_PICTURE = {"id": _ID, "file_name": _NAME, "width": _LENGTH, "height": _LENGTH}
_CATEGORY = {"id": _ID, "name": _NAME}
_ANNOTATION = {"image_id": _ID, "category_id": _ID}


def load(root, *, background="other", overlap="smaller", class_names=None):
    """Reads a folder that the docstring of this module describes.

    Polygons are drawn as pycocotools does. `iscrowd` makes no difference: CVAT sets it for all
    that was painted with a brush. Pictures without annotations are all background.

    Args:
        root: the folder, or its JSON file.
        background: class of the pixels without annotation, which comes first if it is no category;
            None for void. "other" is a category "background", if there is one.
        overlap: which of several annotations has a pixel: "smaller", "later" in the file, or "void"
            for none; see `DrawnMask`.
        class_names: the categories in order of the ids that they get; None for the file's order.

    Returns:
        `Dataset`. Its `left_out` names annotations that are boxes only, shapes of fewer than three
        points, and pictures that the JSON doesn't name.

    Raises:
        ValueError: with the file, the place in it and the rule that is broken.
        FileNotFoundError: for what is not there.
    """
    check_overlap(overlap)
    if background is not None and not _NAME[1](background):
        raise ValueError(f"`background` must be a class's name or None. Received: {background!r}.")
    root, left_out = Path(root), collections.defaultdict(list)
    parts = _find(root)
    labels = _labels([(file, content) for _, file, content, _ in parts], class_names)
    if not label_ids(labels, None)[0]:
        raise _error(f"{parts[0][1]}: `categories`", "they name no class")
    if background == "other" and "other" not in labels and "background" in labels:
        background = "background"  # which the file itself has
    names, ids, rest = label_ids(labels, background)
    splits, used, folders = {}, set(), {}
    for split, file, content, places in parts:
        pictures = _pictures(file, content, places)
        _add_shapes(file, content, pictures, ids, left_out)
        stems = collections.Counter(picture.path.stem for picture in pictures.values())
        splits[split] = []
        for picture in sorted(pictures.values(), key=lambda picture: by_number(picture.name)):
            path = picture.path
            stem = path.stem if stems[path.stem] == 1 else picture.name
            mask = DrawnMask(file, stem, picture.size, picture.shapes, rest, overlap)
            splits[split].append(Sample(path, mask))
            used.add(path)
            folders[picture.folder] = None
    files = (path for folder in folders for path in visible_files(folder))
    annotations.add_unnamed(files, used, left_out)
    root = root.with_suffix("") if root.is_file() else root
    return annotations.make_dataset(root, names, splits, left_out)


class _Picture(NamedTuple):
    """A picture of a file: its name there without prefixes, its path, the folder of the pictures,
    (width, height), and what is drawn."""

    name: str
    path: Path
    folder: Path
    size: tuple
    shapes: list


@dataclasses.dataclass(frozen=True, eq=False)
class _Runs(Shape):
    """Run lengths, an array or COCO's string, of `annotations[index]`."""

    counts: object
    index: int

    def draw(self, width, height):
        try:
            counts = coco_counts(self.counts) if is_text(self.counts) else self.counts
            return cut_out(runs_to_mask(counts, height, width))
        except ShapeError as error:
            raise ShapeError(f"annotations[{self.index}]: {error}") from None


def _whole(number):
    """A float without a fraction as an integer: some tools write 640.0."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _find(root):
    """List of the split (None without splits), JSON file, content, and folders of pictures of each
    part."""
    files = [file for file in root.glob(f"*/{_ROBOFLOW}") if find_split([file.parent.name])]
    found = [(file.parent.name, file, [file.parent]) for file in files]
    for file in [] if found else sorted((root / "annotations").glob("instances_*.json")):
        name = file.stem.partition("_")[2]
        places = [root / "images" / name, root / name, root / "images", root]
        found.append((re.sub("_?[0-9]{4}$", "", name) or name, file, places))
    if not found:
        return [_find_one(root)]
    parts = {}
    for split, file, places in found:
        split = split_name(split)
        if split in parts:
            raise FileError(f"{file} and {parts[split][0]} are both {split!r}. Keep one of them.")
        parts[split] = file, read_json(file, _WAY_OUT, _LARGEST), places
    if [*parts] == ["default"]:  # as CVAT calls the part of what is not divided
        return [(None, *parts["default"])]
    splits = sorted(parts, key=lambda split: ([*_ORDER, split].index(split), split))
    return [(split, *parts[split]) for split in splits]


def _find_one(root):
    """As an entry of `_find`, of a folder with one file, or of that file."""
    files = sorted(file for file in root.glob("*.json") if not file.name.startswith("."))
    if root.is_file() or (root / "result.json").is_file():
        files = [root if root.is_file() else root / "result.json"]
    found = {file: read_json(file, _WAY_OUT, _LARGEST) for file in files}
    if len(found) > 1:
        found = {f: c for f, c in found.items() if is_dict(c) and _DOCUMENT.keys() <= c.keys()}
    if len(found) > 1:
        raise FileError(
            f"{root} holds several files of COCO's: {', '.join(file.name for file in found)}. Give "
            "the path of one of them."
        )
    if not found:
        raise annotations.not_found(root, "COCO JSON", _FORMS)
    ((file, content),) = found.items()
    return None, file, content, [file.parent / "images", file.parent / "data", file.parent]


def _labels(parts, class_names):
    """Checks the categories and annotations of (file, content) pairs.

    Returns:
        Names of the categories that are classes, in order, and those of void.
    """
    annotated, found = set(), []
    for file, content in parts:
        check(content, _DOCUMENT, f"{file}:", _WAY_OUT)
        categories, below = {}, collections.defaultdict(set)  # name -> ids of its sub-categories
        for index, category in enumerate(content["categories"]):
            place = f"{file}: categories[{index}]"
            check(category, _CATEGORY, f"{place}:", _WAY_OUT)
            key = category["id"]
            if key in categories:
                raise _error(place, f"the id {reprlib.repr(key)} is another's too")
            categories[key] = category["name"]
            if is_text(category.get("supercategory")):
                below[category["supercategory"]].add(key)
        for index, annotation in enumerate(content["annotations"]):
            place = f"{file}: annotations[{index}]"
            check(annotation, _ANNOTATION, f"{place}:", _WAY_OUT)
            key = annotation["category_id"]
            if key not in categories:
                raise _error(place, f"no category has the `category_id` {reprlib.repr(key)}")
            annotated.add((key, categories[key]))
        for key in sorted(categories, key=lambda key: (is_text(key), key)):
            name = categories[key]
            found.append((key, name, bool(below[name] - {key})))
    names = [name for key, name, above in found if (key, name) in annotated or not above]
    if class_names is None:
        return names
    class_names = annotations.check_names(class_names)
    others = {name for _, name in annotated} - {*class_names}
    if strange := label_ids(sorted(others), None)[0]:
        raise ValueError(
            f"{parts[0][0]}: annotations are of the categories {strange}, which are not in "
            f"`class_names`: {class_names}. Add them there."
        )
    return [*class_names, *others]


def _pictures(file, content, folders):
    """Dict from the id of a picture to its `_Picture`."""
    pictures, taken, missing = {}, {}, []
    folders = [folder for folder in folders if folder.is_dir()]
    for index, image in enumerate(content["images"]):
        where = f"images[{index}]"
        check(image, _PICTURE, f"{file}: {where}:", _WAY_OUT)
        with annotations.named(f"{file}: {where}", _WAY_OUT):
            found = _find_picture(folders, image["file_name"])
            if found is None:
                missing.append(image["file_name"])
                continue
            name, path, folder = found
            for what, key in (("id", image["id"]), ("picture", path)):
                if key in taken:
                    raise ShapeError(f"the {what} {key} is that of {taken[key]} too")
                taken[key] = where
            size = annotations.picture_size(
                tuple(_whole(image.get(n)) for n in ("width", "height")), path
            )
        pictures[image["id"]] = _Picture(name, path, folder, size, [])
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(content['images'])} pictures of {file} are not there: "
            f"{', '.join(map(reprlib.repr, missing[:3]))}. Looked in: "
            f"{', '.join(map(str, folders)) or 'no folder'}. Export with the pictures, or put them "
            "there; remove the JSON of a split that you don't have."
        )
    if not pictures:
        raise _error(f"{file}: `images`", "they name no picture")
    return pictures


def _find_picture(folders, said):
    """Name, path and folder of a picture, None where it is not there. Folders that lead to its own
    may stand before the name."""
    spellings = dict.fromkeys(annotations.path_parts(text) for text in (said, unquote(said)))
    for folder in folders:
        for parts in spellings:
            while parts:
                path = folder.joinpath(*parts)
                if os.path.isfile(path):
                    return "/".join(parts), path, folder
                above = parts[0] in ("images", folder.name, folder.parent.name)
                parts = parts[1:] if above else ()
    return None


def _add_shapes(file, content, pictures, ids, left_out):
    """Moves the segmentations to their pictures; those without a shape go to `left_out`."""
    labels = {category["id"]: category["name"] for category in content["categories"]}
    for index, annotation in enumerate(content["annotations"]):
        label, key = labels[annotation["category_id"]], annotation["image_id"]
        place = f"{file}: annotations[{index}] ({label}"
        if key not in pictures:
            raise _error(f"{place})", f"no image has the id {reprlib.repr(key)}")
        picture = pictures[key]
        place += f" of {picture.name})"
        segmentation = annotation.pop("segmentation", None)  # whose memory is free then
        if segmentation is None or segmentation == []:
            reason = "boxes without a segmentation"
        else:
            with annotations.named(place, _WAY_OUT):
                shape, whole = _read_shape(segmentation, picture.size, ids[label], index)
            picture.shapes.extend(shape)
            reason = None if whole else annotations.FEW_POINTS
        if reason:
            left_out[reason].append(place.replace(str(file), file.name, 1))


def _read_shape(segmentation, size, class_id, index):
    """The shape of `annotations[index]`, in a list that is empty if there is none to draw, and
    whether all of its polygons are drawn."""
    if is_dict(segmentation):
        if segmentation.get("size") != [size[1], size[0]]:
            raise ShapeError(
                f"`size` of the run lengths must be the picture's, [{size[1]}, {size[0]}]. It is: "
                f"{reprlib.repr(segmentation.get('size'))}"
            )
        counts = segmentation.get("counts")
        if is_list(counts, is_int, 0, 2**31 - 1):
            counts = np.array(counts, "int32")
        elif not is_text(counts):
            raise ShapeError(
                "`counts` must be run lengths, a list of integers from 0 or a string. They are: "
                f"{reprlib.repr(counts)}"
            )
        return [_Runs(class_id, counts, index)], True
    if not isinstance(segmentation, list):
        raise ShapeError(
            "`segmentation` must be a list of polygons, or run lengths. It is: "
            f"{reprlib.repr(segmentation)}"
        )
    parts = [points_of(part, "points of a polygon") for part in segmentation]
    drawn = [part for part in parts if len(part) > 2]
    if drawn:
        annotations.check_inside(np.concatenate(drawn), size)
    return [Polygon(class_id, drawn)] * bool(drawn), len(drawn) == len(parts)


def _error(place, said):
    return FileError(f"{place}: {said}. {_WAY_OUT}")
