"""LabelMe: a JSON file of shapes for each picture.

`street.json` lies beside `street.jpg`, or in another folder below the root, from which its
`imagePath` leads to the picture. Folders called train, val and test are the splits; without them,
every fifth picture is "val". Where the picture is not there, the copy in the JSON is read.

The classes are the lines of `labels.txt` or `classes.txt` in the root, or else the labels found, in
order of the alphabet. `__ignore__` is void, and `_background_` what the pixels of no shape are.
Shapes are drawn as LabelMe draws them, later ones over earlier ones.
"""

import base64
import collections
import dataclasses
import math
import os
import reprlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from keras_sanet._files import check, is_dict, is_int, is_text, read_json
from keras_sanet.datasets import annotations
from keras_sanet.datasets.drawn import Bitmap, Polygon, Shape, ShapeError, box_around, points_of
from keras_sanet.datasets.files import FileError, Frame, by_number, open_file, read_text
from keras_sanet.datasets.listing import find_split, visible_files

IGNORE = "__ignore__"
_BACKGROUND = "_background_"
_LARGEST = 256 << 20  # bytes of a JSON file, which may hold its picture
_WAY_OUT = "Open the picture in LabelMe and save it again."
# Numbers of points that a kind may have; the last is the most. Four of a rectangle are its corners.
_COUNTS = {
    "polygon": (3, math.inf), "oriented_rectangle": (4, 4), "rectangle": (2, 4), "circle": (2, 2),
    "line": (2, 2), "linestrip": (2, math.inf), "point": (1, 1), "mask": (2, 2),
}  # fmt: skip
_LINE_WIDTH, _POINT_RADIUS = 10, 5
_MASK_MODES = ("1", "L", "P", "I", "I;16")


def load(root, *, background="background", class_names=None):
    """Reads the folder that the docstring of this module describes.

    Args:
        root: the folder.
        background: name of the class of the pixels of no shape; None makes them void.
        class_names: labels in order of the class ids, in place of those of `labels.txt`. The
            background comes first if it is none of them.

    Returns:
        `Dataset`.

    Raises:
        FileNotFoundError: where there is no LabelMe file, or a picture is missing.
        ValueError: for what is damaged, and for labels that are no class.
    """
    root, left_out = Path(os.path.normpath(root)), collections.defaultdict(list)
    files = visible_files(root)
    found, used, places = [], {}, {}  # used: image -> file; places: label -> its first shape
    for file in sorted((path for path in files if path.suffix.lower() == ".json"), key=by_number):
        content = read_json(file, _WAY_OUT, _LARGEST)
        if not is_dict(content) or not {"shapes", "imagePath"} & content.keys():
            left_out["JSON files that are not LabelMe's"].append(file)
            continue
        image, size, shapes = _read(root, file, content, places, left_out)
        if image in used:
            raise FileError(f"{used[image]} and {file} are both of {image}. Remove one of them.")
        used[image] = file
        found.append((image, file, size, shapes))
    if not found:
        looked_for = "a JSON file for each picture, with `shapes`"
        raise annotations.not_found(root, "LabelMe file", looked_for)
    names, ids, rest = _number(root, places, class_names, background)
    splits = collections.defaultdict(list)
    for image, file, size, shapes in found:
        split = find_split(file.relative_to(root).parts[:-1])
        splits[split].append(annotations.make_sample(image, file, size, shapes, ids, rest))
    if len(splits) > 1 and None in splits:
        beside = [sample.mask.file for sample in splits.pop(None)]
        left_out["JSON files beside the splits"] = beside
    annotations.add_unnamed(files, used, left_out)
    return annotations.make_dataset(root, names, splits, left_out, {background: (0, 0, 0)})


def _number(root, places, class_names, background):
    """As `number_labels`, of the classes that are given, listed in a file, or found."""
    for name in ("labels.txt", "classes.txt"):
        if class_names is None and (root / name).is_file():
            class_names = filter(None, map(str.strip, read_text(root / name).splitlines()))
    places = {label: place for label, place in places.items() if label != _BACKGROUND}
    labels = sorted(places) if class_names is None else class_names
    labels = [label for label in labels if label != _BACKGROUND]
    names, ids, rest = annotations.number_labels(root, places, [*labels, IGNORE], background)
    return names, ids | {_BACKGROUND: rest}, rest


def _read(root, file, content, places, left_out):
    """The image, size and shapes of a JSON file."""
    length = ("a number of pixels from 1", lambda value: value is None or is_int(value, 1))
    schema = {
        "imagePath": ("the path of a picture", is_text),
        "shapes": ("a list of shapes", lambda value: isinstance(value, list)),
        "imageWidth": length,
        "imageHeight": length,
    }
    check(content, schema, f"{file} is damaged:", _WAY_OUT)
    image = _find_image(root, file, content)
    size = content.get("imageWidth"), content.get("imageHeight")
    with annotations.named(file, _WAY_OUT):
        size = annotations.picture_size(size, image)
    shapes = []
    for number, entry in enumerate(content["shapes"], 1):
        label = entry.get("label") if is_dict(entry) else None
        place = f"{file}: shape {number}" + f" ({reprlib.repr(label)})" * is_text(label)
        with annotations.named(place, _WAY_OUT):
            shape = _read_shape(entry, size, place)
        if is_text(shape):
            left_out[shape].append(f"{file.name}: {label}")
        else:
            shapes.append(shape)
            places.setdefault(label, place)
    return image, size, shapes


def _find_image(root, file, content):
    """The path of the picture, or a `Frame` of the copy in the JSON file."""
    said = content["imagePath"].replace("\\", "/")
    inside = Path(os.path.abspath(root))
    for place in (file.parent / said, file.parent / said.rpartition("/")[2]):
        path = Path(os.path.abspath(place))
        if path.is_relative_to(inside) and os.path.isfile(path):
            return root / path.relative_to(inside)
    if is_text(data := content.get("imageData")) and data:
        return _Copy(file, file.stem)
    raise FileNotFoundError(
        f"{file}: there is no picture {reprlib.repr(said)} in {root}, and the JSON holds no copy "
        "of it. Put the picture beside the JSON. `imagePath` leads from the one to the other, and "
        f"may not lead out of {root}."
    )


@dataclasses.dataclass(frozen=True)
class _Copy(Frame):
    """The picture that a JSON file holds."""

    def open(self):
        content = read_json(self.file, _WAY_OUT, _LARGEST)
        data = content.get("imageData") if is_dict(content) else None
        try:
            return open_file(base64.b64decode(data))
        except (TypeError, ValueError) as error:
            raise FileError(f"{self}: `imageData` is no base64: {error}. {_WAY_OUT}") from error


def _read_shape(entry, size, place):
    """The `Shape` of an entry, or the reason why it is left out.

    Raises:
        ShapeError: what is wrong with it.
    """
    label = entry.get("label") if is_dict(entry) else None
    if not is_text(label) or not label:
        raise ShapeError(f"it must be a dict with a `label`, and is {reprlib.repr(entry)}")
    kind = entry.get("shape_type")
    kind = "polygon" if kind is None else kind
    if not is_text(kind) or kind not in _COUNTS:
        raise ShapeError(
            f"`shape_type` must be one of {', '.join(_COUNTS)}, and is {reprlib.repr(kind)}"
        )
    points = points_of(entry.get("points"), "`points`")
    least, most = _COUNTS[kind]
    if len(points) < least:
        least = "three points" if kind == "polygon" else "the points of their kind"
        return f"shapes of fewer than {least}"
    if len(points) > most or (kind == "rectangle" and len(points) == 3):
        raise ShapeError(f"{kind} of {len(points)} points")
    shape, outline = _make_shape(kind, points, entry, place)
    annotations.check_inside(outline, size)
    return shape


def _make_shape(kind, points, entry, place):
    """A shape, and points between which it lies."""
    label = entry["label"]
    if kind == "mask":
        return _bitmap(label, points, entry.get("mask"), place), points
    if kind in ("polygon", "oriented_rectangle") or len(points) == 4 and kind == "rectangle":
        return Polygon(label, [points], rule="pillow"), points
    if kind in ("line", "linestrip"):
        # LabelMe rounds the joints of strips.
        options = {"width": _LINE_WIDTH, "joint": "curve" if kind == "linestrip" else None}
        around = np.concatenate([points - _LINE_WIDTH / 2, points + _LINE_WIDTH / 2])
        return _Drawing(label, "line", points, options), around
    if kind == "rectangle":
        method, corners = "rectangle", np.stack([points.min(0), points.max(0)])
    else:
        radius = _POINT_RADIUS if kind == "point" else math.hypot(*(points[0] - points[1]))
        method, corners = "ellipse", np.stack([points[0] - radius, points[0] + radius])
    return _Drawing(label, method, corners, {"outline": 1}), corners


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawing(Shape):
    """What a method of Pillow's `ImageDraw` fills.

    Attributes:
        method: its name.
        points: array (points, 2).
        options: of the method.
    """

    method: str
    points: np.ndarray
    options: dict

    def draw(self, width, height):
        left, top, *size = box_around(self.points, _LINE_WIDTH + 1, width, height)
        image = Image.new("1", size)
        if all(size):
            points = list(map(tuple, (self.points - (left, top)).tolist()))
            getattr(ImageDraw.Draw(image), self.method)(points, fill=1, **self.options)
        return left, top, np.asarray(image)


def _bitmap(label, points, text, place):
    """The shape of a PNG in base64, between its first and its last pixel."""
    if not is_text(text):
        raise ShapeError(f"`mask` must be a PNG in base64, and is {reprlib.repr(text)}")
    (left, top), (right, bottom) = corners = points.round().astype(int).tolist()
    size = right - left + 1, bottom - top + 1
    if min(size) < 1:
        raise ShapeError(f"`points` of a mask must be its first and last pixel, and are {corners}")
    # Corners that are no whole pixels are rounded, each by itself, which may change the size.
    slack = (0, 1) if (points == np.trunc(points)).all() else (-1, 0, 1)

    def decode():
        with open_file(base64.b64decode(text)) as image:
            if image.mode not in _MASK_MODES:
                raise ShapeError(f"it is of mode {image.mode}, not gray")
            if any(a - b not in slack for a, b in zip(image.size, size)):
                raise ShapeError(f"it has {image.size} pixels, and its box {size}")
            annotations.check_size(image.size)
            mask = np.asarray(image) > 0
        return mask if len(slack) == 3 else mask[: size[1], : size[0]]

    return Bitmap(label, left, top, annotations.decoder(decode, f"{place}: `mask`", _WAY_OUT))
