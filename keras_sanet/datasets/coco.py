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
import json
import os
import re
import reprlib
from pathlib import Path, PurePath
from urllib.parse import unquote

import numpy as np
from PIL import Image

from keras_sanet import _files
from keras_sanet._files import check, is_dict, is_int, is_list, is_text
from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.drawn import (
    DrawnMask,
    Polygon,
    Shape,
    ShapeError,
    check_overlap,
    coco_counts,
    label_ids,
    points_of,
    runs_to_mask,
)
from keras_sanet.datasets.files import VOID, FileError, by_number, image_size, image_suffixes
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import divide, visible_files

_ROBOFLOW = "_annotations.coco.json"
_ORDER = ("train", "val", "test")
_SPLITS = {**{split: split for split in _ORDER}, "training": "train", "testing": "test"}
_SPLITS |= {"valid": "val", "validation": "val"}
_LARGEST = 1 << 30  # bytes of a JSON file
_WAY_OUT = "Mend it there, or export it again as COCO's instance segmentation."
_FORMS = (
    f"{{train,valid,test}}/{_ROBOFLOW} (Roboflow); annotations/instances_*.json (CVAT, COCO); "
    "result.json (Label Studio); or one *.json with the keys images, annotations and categories"
)

_DICTS = ("a list of dicts", lambda value: is_list(value, is_dict))
_DOCUMENT = {"images": _DICTS, "annotations": _DICTS, "categories": _DICTS}
_ID = ("an integer or a text", lambda value: type(value) in (int, str))
_NAME = ("a text", lambda value: is_text(value) and value.strip() != "")
_LENGTH = ("an integer from 1, or left out", lambda value: value is None or is_int(value, 1))
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
            None for void.
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
    root = Path(root)
    sources = list(_find(root))
    labels = _labels([(file, document) for _, file, document, _ in sources], class_names)
    if not label_ids(labels, None)[0]:
        raise _error(sources[0][1], "`categories`", "they name no class")
    names, ids, background_id = label_ids(labels, background)
    splits, left_out, used, folders = {}, {}, set(), {}
    for split, file, document, places in sources:
        pictures = _pictures(file, document, places)
        _add_shapes(file, document, pictures, ids, left_out)
        stems = collections.Counter(picture.path.stem for picture in pictures.values())
        splits[split] = [
            Sample(
                picture.path,
                DrawnMask(
                    file,
                    picture.path.stem if stems[picture.path.stem] == 1 else picture.name,
                    picture.size,
                    picture.shapes,
                    background_id,
                    overlap,
                ),
            )
            for picture in sorted(pictures.values(), key=lambda picture: by_number(picture.name))
        ]
        used |= {picture.path for picture in pictures.values()}
        folders |= dict.fromkeys(picture.folder for picture in pictures.values())
    if unnamed := _unnamed(folders, used):
        left_out["pictures that no annotation names"] = unnamed
    return Dataset(
        root.stem if root.is_file() else root.resolve().name,
        names,
        [distinct_color(index) for index in range(len(names))],
        divide(splits[None]) if None in splits else splits,
        identity(min(len(names), VOID)),
        left_out=left_out,
    )


def write(path, pictures, class_names):
    """Writes masks as one file of COCO JSON, which CVAT and others import, and `load` reads.

    A picture has an annotation for each class that occurs in it: compressed run lengths, with
    `iscrowd` 1 as of CVAT's brush. Categories have the ids from 1. Void is in no annotation, so
    `load` gives the same masks with `background=None`.

    Args:
        path: of the file.
        pictures: iterable of (file name, mask); a mask is uint8 (height, width), 255 void.
        class_names: names by class id.

    Raises:
        ValueError: for a mask of another kind, an id that is no class, a picture named twice or
            outside of the folder, and names that `load` would not give back.
    """
    class_names = _checked_names(class_names)
    if label_ids(class_names, None)[0] != class_names:
        raise ValueError(f"`class_names` must have no void. Received: {class_names}.")
    images, annotations, seen = [], [], set()
    with _files.replacing(path) as new:
        for image_id, (name, mask) in enumerate(pictures, 1):
            name = PurePath(name).as_posix()
            if not _is_inside(name) or name in seen:
                raise ValueError(f"{name!r}: names must be relative, and each its own.")
            seen.add(name)
            mask = np.asarray(mask)
            if mask.dtype != "uint8" or mask.ndim != 2 or not mask.size:
                raise ValueError(
                    f"The mask of {name!r} must be uint8 (height, width). Received: "
                    f"{mask.dtype} {mask.shape}."
                )
            height, width = mask.shape
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for class_id in np.unique(mask[mask != VOID]).tolist():
                if class_id >= len(class_names):
                    raise ValueError(
                        f"The mask of {name!r} holds {class_id}; there are {len(class_names)} "
                        "classes."
                    )
                place = {"id": len(annotations) + 1, "image_id": image_id}
                annotations.append(
                    place | {"category_id": class_id + 1} | _annotation(mask == class_id)
                )
        categories = [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in enumerate(class_names, 1)
        ]
        document = {"images": images, "categories": categories, "annotations": annotations}
        new.write_text(json.dumps(document), "utf-8")


@dataclasses.dataclass
class _Picture:
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
            mask = runs_to_mask(counts, height, width)
        except ShapeError as error:
            raise ShapeError(f"annotations[{self.index}]: {error}") from None
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return 0, 0, mask[:0, :0]
        (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
        return left, top, mask[top : bottom + 1, left : right + 1].copy()


def _find(root):
    """The split (None without splits), JSON file, content, and folders of pictures of each part."""
    found = [(split, root / split / _ROBOFLOW) for split in _SPLITS]
    found = [(split, file, [file.parent]) for split, file in found if file.is_file()]
    for file in [] if found else sorted((root / "annotations").glob("instances_*.json")):
        name = file.stem.partition("_")[2]
        places = [root / "images" / name, root / name, root / "images", root]
        split = re.sub("_?[0-9]{4}$", "", name) or name
        found.append((split, file, places))
    if not found:
        yield _find_one(root)
        return
    parts = {}
    for split, file, places in found:
        split = _SPLITS.get(split.lower(), split)
        if split in parts:
            raise FileError(f"{file} and {parts[split][0]} are both {split!r}. Keep one of them.")
        parts[split] = file, places
    whole = [*parts] == ["default"]  # as CVAT calls the part of what is not divided
    for split in sorted(parts, key=lambda name: ([*_ORDER, name].index(name), name)):
        file, places = parts[split]
        document = _files.read_json(file, _WAY_OUT, _LARGEST)
        yield None if whole else split, file, document, places


def _find_one(root):
    """As `_find`, of a folder with one file, or of that file."""
    files = sorted(file for file in root.glob("*.json") if not file.name.startswith("."))
    if root.is_file() or (root / "result.json").is_file():
        files = [root if root.is_file() else root / "result.json"]
    found = {file: _files.read_json(file, _WAY_OUT, _LARGEST) for file in files}
    if len(found) > 1:
        found = {
            file: document
            for file, document in found.items()
            if is_dict(document) and _DOCUMENT.keys() <= document.keys()
        }
    if len(found) > 1:
        raise FileError(
            f"{root} holds several files of COCO's: {', '.join(file.name for file in found)}. Give "
            "the path of one of them."
        )
    if not found:
        raise FileNotFoundError(f"{root} holds no COCO JSON. Looked for: {_FORMS}.")
    ((file, document),) = found.items()
    folder = file.parent
    return None, file, document, [folder / "images", folder / "data", folder]


def _labels(documents, class_names):
    """Checks the categories and annotations of (file, content) pairs.

    Returns:
        Names of the categories that are classes, in order, and those of void.
    """
    annotated, found = set(), []
    for file, document in documents:
        check(document, _DOCUMENT, f"{file}:", _WAY_OUT)
        categories, below = {}, collections.defaultdict(set)  # name -> ids of its sub-categories
        for index, category in enumerate(document["categories"]):
            place = f"categories[{index}]"
            check(category, _CATEGORY, f"{file}: {place}:", _WAY_OUT)
            if category["id"] in categories:
                raise _error(file, place, f"the id {_short(category['id'])} is another's too")
            categories[category["id"]] = category["name"]
            if is_text(category.get("supercategory")):
                below[category["supercategory"]].add(category["id"])
        for index, annotation in enumerate(document["annotations"]):
            place = f"annotations[{index}]"
            check(annotation, _ANNOTATION, f"{file}: {place}:", _WAY_OUT)
            key = annotation["category_id"]
            if key not in categories:
                raise _error(file, place, f"no category has the `category_id` {_short(key)}")
            annotated.add((key, categories[key]))
        for key in sorted(categories, key=lambda key: (is_text(key), key)):
            name = categories[key]
            found.append((key, name, bool(below[name] - {key})))
    names = [name for key, name, above in found if (key, name) in annotated or not above]
    if class_names is None:
        return names
    class_names, labels = _checked_names(class_names), {name for _, name in annotated}
    others = labels - {*class_names}
    if strange := label_ids(sorted(others), None)[0]:
        raise ValueError(
            f"{documents[0][0]}: annotations are of the categories {strange}, which are not in "
            f"`class_names`: {class_names}. Add them there."
        )
    return [*class_names, *others]


def _checked_names(class_names):
    names = list(class_names) if isinstance(class_names, (list, tuple)) else []
    if not names or not all(map(_NAME[1], names)) or len(set(names)) < len(names):
        raise ValueError(f"`class_names` must be a list of distinct names. Got: {class_names!r}.")
    return names


def _pictures(file, document, places):
    """Dict from the id of a picture to its `_Picture`."""
    pictures, taken, missing = {}, {}, []
    places = [place for place in places if place.is_dir()]
    for index, image in enumerate(document["images"]):
        place = f"images[{index}]"
        check(image, _PICTURE, f"{file}: {place}:", _WAY_OUT)
        name = image["file_name"]
        spellings = dict.fromkeys(n.replace("\\", "/") for n in (name, unquote(name)))
        if not all(map(_is_inside, spellings)):
            raise _error(file, place, f"the path {_short(name)} must be relative, without ..")
        found = (c for folder in places for c in _candidates(folder, spellings))
        path, folder, inside = next((c for c in found if os.path.isfile(c[0])), (None,) * 3)
        if path is None:
            missing.append(name)
            continue
        for what, key in ((f"the id {_short(image['id'])}", image["id"]), (f"{path}", path)):
            if key in taken:
                raise _error(file, place, f"{what} is that of {taken[key]} too")
            taken[key] = place
        size = image.get("width"), image.get("height")
        size = image_size(path) if None in size else size
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and size[0] * size[1] > limit:
            said = f"{size[0]} x {size[1]} pixels are more than `PIL.Image.MAX_IMAGE_PIXELS`"
            raise _error(file, place, f"{said}, {limit}, which may be raised")
        pictures[image["id"]] = _Picture(inside, path, folder, size, [])
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(document['images'])} pictures of {file} are not there: "
            f"{', '.join(map(_short, missing[:3]))}. Looked in: "
            f"{', '.join(map(str, places)) or 'no folder'}. Export with the pictures, or put them "
            "there; remove the JSON of a split that you don't have."
        )
    if not pictures:
        raise _error(file, "`images`", "they name no picture")
    return pictures


def _is_inside(name):
    parts = name.split("/")
    absolute = name.startswith("/") or re.match("[A-Za-z]:", name)
    return not absolute and ".." not in parts and "\0" not in name


def _candidates(folder, spellings):
    """Paths where a picture may be, with the folder and the name in it: folders that lead to its
    own may stand before the name."""
    for name in spellings:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        while parts:
            yield folder.joinpath(*parts), folder, "/".join(parts)
            if parts[0] not in ("images", folder.name, folder.parent.name):
                break
            parts = parts[1:]


def _add_shapes(file, document, pictures, ids, left_out):
    """Moves the segmentations to their pictures; those without a shape go to `left_out`."""
    labels = {category["id"]: category["name"] for category in document["categories"]}
    for index, annotation in enumerate(document["annotations"]):
        label, key = labels[annotation["category_id"]], annotation["image_id"]
        if key not in pictures:
            raise _error(
                file, f"annotations[{index}] ({label})", f"no image has the id {_short(key)}"
            )
        picture = pictures[key]
        place = f"annotations[{index}] ({label} of {picture.name})"
        segmentation = annotation.pop("segmentation", None)  # whose memory is free then
        if segmentation is None or segmentation == []:
            reasons = ["boxes without a segmentation"]
        else:
            try:
                shapes, dropped = _shapes(segmentation, picture.size, ids[label], index)
            except (ShapeError, OverflowError) as error:
                raise _error(file, place, error) from None
            picture.shapes.extend(shapes)
            reasons = ["shapes of fewer than three points"] * dropped
        for reason in reasons:
            left_out.setdefault(reason, []).append(f"{file.name}: {place}")


def _shapes(segmentation, size, class_id, index):
    """The shape of `annotations[index]`, in a list that is empty if there is none to draw, and
    whether polygons of it are dropped."""
    width, height = size
    if is_dict(segmentation):
        if segmentation.get("size") != [height, width]:
            raise ShapeError(
                f"`size` of the run lengths must be the picture's, [{height}, {width}]. It is: "
                f"{_short(segmentation.get('size'))}"
            )
        counts = segmentation.get("counts")
        if is_list(counts, is_int, 0, 2**31 - 1):
            counts = np.array(counts, "int32")
        elif not is_text(counts):
            raise ShapeError(
                "`counts` must be run lengths, a list of integers from 0 or a string. They are: "
                f"{_short(counts)}"
            )
        return [_Runs(class_id, counts, index)], False
    if not isinstance(segmentation, list):
        raise ShapeError(
            "`segmentation` must be a list of polygons, or run lengths. It is: "
            f"{_short(segmentation)}"
        )
    parts = [points_of(part, "points of a polygon") for part in segmentation]
    drawn = [part for part in parts if len(part) > 2]
    if drawn:
        points = np.concatenate(drawn)
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        if right < 0 or bottom < 0 or left > width or top > height:
            raise ShapeError(
                f"the shape must be in the picture of {width} x {height} pixels, at least in part. "
                f"It is at x {left:g} to {right:g}, y {top:g} to {bottom:g}"
            )
    return [Polygon(class_id, drawn)] * bool(drawn), len(drawn) < len(parts)


def _unnamed(folders, used):
    """The pictures in folders that are not in use."""
    suffixes = image_suffixes()
    files = {file for folder in folders for file in visible_files(folder)} - used
    return sorted((file for file in files if file.suffix.lower() in suffixes), key=by_number)


def _annotation(pixels):
    """What an annotation says of the pixels of its class, bool (height, width)."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    counts = _coco_string(_runs(pixels))
    return {
        "segmentation": {"size": list(pixels.shape), "counts": counts},
        "area": int(np.count_nonzero(pixels)),
        "bbox": [left, top, right - left + 1, bottom - top + 1],
        "iscrowd": 1,
    }


def _runs(pixels):
    """Lengths of the runs of a mask, column by column, background first."""
    line = pixels.ravel(order="F")
    ends = np.flatnonzero(line[1:] != line[:-1]) + 1
    counts = np.diff(ends, prepend=0, append=line.size).tolist()
    return [0, *counts] if line[0] else counts


def _coco_string(counts):
    """The inverse of `coco_counts`."""
    codes = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            last = value == (-1 if bits & 16 else 0)
            codes.append(48 + (bits if last else bits | 32))
            if last:
                break
    return codes.decode("ascii")


def _error(file, place, said):
    return FileError(f"{file}: {place}: {said}. {_WAY_OUT}")


def _short(value):
    return reprlib.repr(value)
