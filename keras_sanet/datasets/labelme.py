"""LabelMe: a JSON file of shapes for each picture.

`street.json` lies beside `street.jpg`, or in another folder below the root, from which its
`imagePath` leads to the picture. Folders called train, val and test are the splits; without them,
every fifth picture is "val". Where the picture is not there, the copy in the JSON is read.

The classes are the lines of `labels.txt` or `classes.txt` in the root, or else the labels found, in
order of the alphabet. `__ignore__` is void, and `_background_` what the pixels of no shape are.
Shapes are drawn as LabelMe draws them, later ones over earlier ones.
"""

import base64
import dataclasses
import functools
import io
import json
import math
import os
import reprlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from keras_sanet._files import check, is_int, is_list, is_text, read_json, replacing
from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.drawn import (
    Bitmap,
    DrawnMask,
    Polygon,
    Shape,
    ShapeError,
    label_ids,
    points_of,
)
from keras_sanet.datasets.files import (
    VOID,
    FileError,
    Frame,
    by_number,
    image_size,
    image_suffixes,
    open_file,
    read_text,
)
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import divide, split_name, visible_files

_LARGEST = 256 << 20  # bytes of a JSON file, which may hold its picture
_WAY_OUT = "Open the picture in LabelMe and save it again."
_IGNORE, _BACKGROUND = "__ignore__", "_background_"
_SPLITS = ("train", "val", "test")
# Numbers of points that a kind may have; the last is the most. Four of a rectangle are its corners.
_COUNTS = {
    "polygon": (3, math.inf), "oriented_rectangle": (4, 4), "rectangle": (2, 4), "circle": (2, 2),
    "line": (2, 2), "linestrip": (2, math.inf), "point": (1, 1), "mask": (2, 2),
}  # fmt: skip
_LINE_WIDTH, _POINT_RADIUS = 10, 5
_MASK_MODES = ("1", "L", "P", "I", "I;16")
# What is found in a folder of another format.
_OTHERS = {
    "annotations.xml": "CVAT for images",
    "_annotations.coco.json": "COCO",
    "*/_annotations.coco.json": "COCO",
    "annotations/instances_*.json": "COCO",
    "meta.json": "Supervisely",
}


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
    root = Path(os.path.normpath(root))
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    files, left_out, found, pictures = visible_files(root), {}, [], {}
    for file in sorted((path for path in files if path.suffix.lower() == ".json"), key=by_number):
        annotation = read_json(file, _WAY_OUT, _LARGEST)
        if not isinstance(annotation, dict) or not {"shapes", "imagePath"} & annotation.keys():
            left_out.setdefault("JSON files that are not LabelMe's", []).append(file)
            continue
        found.append((file, *_read(root, file, annotation, left_out)))
        image = found[-1][1]
        other = pictures.setdefault(image, file)
        if other != file:
            raise FileError(f"{other} and {file} are both of {image}. Remove one of them.")
    if not found:
        raise _not_found(root)
    names, ids, void = _classes(root, found, background, class_names)
    splits = {}
    for file, image, size, shapes in found:
        mask = DrawnMask(file, file.stem, size, _number(shapes, ids, file), background=void)
        splits.setdefault(_split(root, file), []).append(Sample(image, mask))
    beside = splits.pop(None, [])
    if not splits:
        splits = divide(beside)
    elif beside:
        left_out["JSON files beside the splits"] = [sample.mask.file for sample in beside]
    images = {path for path in files if path.suffix.lower() in image_suffixes()}
    if unnamed := images - pictures.keys():
        left_out["pictures that no annotation names"] = sorted(unnamed, key=by_number)
    palette = [(0, 0, 0) if n == background else distinct_color(i) for i, n in enumerate(names)]
    return Dataset(root.name, names, palette, splits, identity(len(names)), left_out=left_out)


def write(folder, pictures, class_names):
    """Writes masks for LabelMe: a JSON file for each picture, and `labels.txt`.

    A file has a shape of the kind "mask" for each class that occurs, and one called `__ignore__`
    for void.

    Args:
        folder: the folder, best the one of the pictures, where LabelMe looks for its files.
        pictures: pairs of the path of an image and its mask, uint8 (height, width) of class ids.
        class_names: names by class id.

    Raises:
        FileExistsError: for a file that is there already, which may be made by hand.
        ValueError: for a mask that is none of its image.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    labels, text = folder / "labels.txt", "".join(f"{n}\n" for n in (_IGNORE, *class_names))
    if labels.exists() and read_text(labels) != text:
        raise FileExistsError(f"{labels} has other classes. Write into another folder.")
    with replacing(labels) as new:
        new.write_text(text, "utf-8")
    for image, mask in pictures:
        path = folder / f"{Path(image).stem}.json"
        if path.exists():
            raise FileExistsError(f"{path} is there already. Remove it, or write elsewhere.")
        annotation = _annotation(folder, Path(image), np.asarray(mask), class_names)
        with replacing(path) as new:
            new.write_text(json.dumps(annotation, ensure_ascii=False, indent=2), "utf-8")


def _not_found(root):
    text = f"{root} holds no LabelMe file: a JSON file for each picture, with `shapes`."
    for pattern, name in _OTHERS.items():
        if path := next(root.glob(pattern), None):
            return FileNotFoundError(f"{text} There is {path}, which is of the format {name}.")
    return FileNotFoundError(text)


def _split(root, file):
    """The split that one of the folders of a file names, or None."""
    names = (split_name(name.lower()) for name in file.relative_to(root).parts[:-1])
    return next((name for name in names if name in _SPLITS), None)


def _classes(root, found, background, class_names):
    """As `label_ids`, of the classes that are given, listed in a file, or found."""
    labels, given = class_names, True
    for name in ("labels.txt", "classes.txt"):
        if labels is None and (root / name).is_file():
            labels = [line.strip() for line in read_text(root / name).splitlines()]
            labels = [label for label in labels if label]
    if labels is None:
        labels = sorted({label for _, _, _, shapes in found for label, _, _ in shapes})
        given = False
    labels = [label for label in labels if label != _BACKGROUND]
    names, ids, void = label_ids([*labels, _IGNORE], background)
    if not names:
        raise FileError(
            f"{root} has no class: its shapes have no label but {_IGNORE}, and `background` is "
            "None."
        )
    ids[_BACKGROUND] = void
    for file, _, _, shapes in found:
        for label, where, _ in shapes:
            if given and label not in ids:
                raise FileError(
                    f"{file}: {where} is none of the classes: {', '.join(names)}. Add it to them, "
                    "or rename it."
                )
    return names, ids, void


def _number(shapes, ids, file):
    return [make(ids[label]) for label, _, make in shapes]


def _read(root, file, annotation, left_out):
    """The image of a JSON file, its size, and (label, where it is, function from a class id to the
    `Shape`) of each shape."""
    sizes = (f"a number of pixels, at most {_most()}", lambda n: n is None or is_int(n, 1, _most()))
    schema = {
        "imagePath": ("the path of a picture", is_text),
        "shapes": ("a list of shapes", lambda shapes: isinstance(shapes, list)),
        "imageWidth": sizes,
        "imageHeight": sizes,
    }
    check(annotation, schema, f"{file} is damaged:", _WAY_OUT)
    image = _find_image(root, file, annotation)
    size = annotation.get("imageWidth"), annotation.get("imageHeight")
    if None in size:
        size = image_size(image)
    if size[0] * size[1] > _most():
        raise FileError(
            f"{file}: its picture would have {size[0]} x {size[1]} pixels, more than {_most()}. "
            "For files that you trust, raise `PIL.Image.MAX_IMAGE_PIXELS`."
        )
    shapes = []
    for number, shape in enumerate(annotation["shapes"], 1):
        label = shape.get("label") if isinstance(shape, dict) else None
        where = f"shape {number}" + (f" ({reprlib.repr(label)})" if is_text(label) else "")
        try:
            make, reason = _read_shape(shape, size, f"{file}: {where}")
        except ShapeError as error:
            raise FileError(f"{file}: {where}: {error}. {_WAY_OUT}") from error
        if reason:
            left_out.setdefault(reason, []).append(f"{file.name}: {label}")
        else:
            shapes.append((label, where, make))
    return image, size, shapes


def _most():
    """The most pixels of a picture."""
    return Image.MAX_IMAGE_PIXELS or 2**40


def _find_image(root, file, annotation):
    """The path of the picture, or a `Frame` of the copy in the JSON file."""
    said = annotation["imagePath"].replace("\\", "/")
    inside = Path(os.path.abspath(root))
    for place in (file.parent / said, file.parent / said.rpartition("/")[2]):
        path = Path(os.path.abspath(place))
        if path.is_relative_to(inside) and os.path.isfile(path):
            return root / path.relative_to(inside)
    if is_text(data := annotation.get("imageData")) and data:
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
        data = read_json(self.file, _WAY_OUT, _LARGEST)
        data = data.get("imageData") if isinstance(data, dict) else None
        try:
            return open_file(base64.b64decode(data))
        except (TypeError, ValueError) as error:
            raise FileError(f"{self}: `imageData` is no base64: {error}. {_WAY_OUT}") from error


def _read_shape(shape, size, said):
    """Function from a class id to the `Shape`, and None; or None and why it can't be drawn.

    Raises:
        ShapeError: what is wrong with it.
    """
    if not isinstance(shape, dict) or not is_text(shape.get("label")) or not shape["label"]:
        raise ShapeError(f"it must be a dict with a `label`, and is {reprlib.repr(shape)}")
    kind = shape.get("shape_type")
    kind = "polygon" if kind is None else kind
    if not is_text(kind) or kind not in _COUNTS:
        raise ShapeError(
            f"`shape_type` must be one of {', '.join(_COUNTS)}, and is {reprlib.repr(kind)}"
        )
    points = shape.get("points")
    if not is_list(points, is_list, _is_number) or not all(len(pair) == 2 for pair in points):
        raise ShapeError(f"`points` must be a list of [x, y], and is {reprlib.repr(points)}")
    least, most = _COUNTS[kind]
    if len(points) < least:
        words = "three points" if kind == "polygon" else "the points of their kind"
        return None, f"shapes of fewer than {words}"
    if len(points) > most or (kind == "rectangle" and len(points) == 3):
        raise ShapeError(f"{kind} of {len(points)} points")
    points = points_of(points, "`points`")
    make, corners = _maker(kind, points, shape, said)
    if (corners.max(0) < 0).any() or (corners.min(0) > size).any():
        raise ShapeError(f"it lies outside of its picture of {size[0]} x {size[1]} pixels")
    return make, None


def _is_number(value):
    return type(value) in (int, float) and abs(value) <= 1e300  # not NaN, and a float has it


def _maker(kind, points, shape, said):
    """Function from a class id to the `Shape`, and points between which it lies."""
    if kind == "mask":
        return _mask_maker(points, shape, said)
    if kind in ("polygon", "oriented_rectangle") or len(points) == 4 and kind == "rectangle":
        return functools.partial(Polygon, parts=[points], rule="pillow"), points
    if kind in ("line", "linestrip"):
        # LabelMe rounds the joints of strips.
        options = {"width": _LINE_WIDTH, "joint": "curve" if kind == "linestrip" else None}
        around = np.concatenate([points - _LINE_WIDTH / 2, points + _LINE_WIDTH / 2])
        return functools.partial(_Drawing, method="line", points=points, options=options), around
    if kind == "rectangle":
        method, corners = "rectangle", np.stack([points.min(0), points.max(0)])
    else:
        radius = _POINT_RADIUS if kind == "point" else math.hypot(*(points[0] - points[1]))
        method, corners = "ellipse", np.stack([points[0] - radius, points[0] + radius])
    options = {"outline": 1}
    return functools.partial(_Drawing, method=method, points=corners, options=options), corners


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
        margin = _LINE_WIDTH + 1
        first = np.clip(np.floor(self.points.min(0)) - margin, 0, (width, height)).astype(int)
        last = np.clip(np.ceil(self.points.max(0)) + margin, 0, (width, height)).astype(int)
        columns, rows = (last - first).tolist()
        if not columns or not rows:
            return *first, np.zeros((rows, columns), bool)
        image = Image.new("1", (columns, rows))
        points = list(map(tuple, (self.points - first).tolist()))
        getattr(ImageDraw.Draw(image), self.method)(points, fill=1, **self.options)
        return *first, np.asarray(image)


def _mask_maker(points, shape, said):
    """As `_maker`; the points are the first and the last pixel."""
    if not is_text(shape.get("mask")):
        raise ShapeError(
            f"`mask` must be a PNG in base64, and is {reprlib.repr(shape.get('mask'))}"
        )
    (left, top), (right, bottom) = corners = points.round().astype(int).tolist()
    size = right - left + 1, bottom - top + 1
    if min(size) < 1:
        raise ShapeError(f"`points` of a mask must be its first and last pixel, and are {corners}")
    # Corners that are no whole pixels are rounded, each by itself, which may change the size.
    slack = (0, 1) if (points == np.trunc(points)).all() else (-1, 0, 1)
    decode = functools.partial(_decode_mask, shape["mask"], size, slack, said)
    return functools.partial(Bitmap, left=left, top=top, decode=decode), np.asarray(corners)


def _decode_mask(text, size, slack, said):
    """The bool array of a PNG in base64, whose size may differ by one of `slack`."""
    try:
        with open_file(base64.b64decode(text)) as image:
            if image.mode not in _MASK_MODES:
                raise ShapeError(f"it is of mode {image.mode}, not gray")
            if any(a - b not in slack for a, b in zip(image.size, size)):
                raise ShapeError(f"it has {image.size} pixels, and its box {size}")
            if image.width * image.height > _most():
                raise ShapeError(f"it has {image.size} pixels, more than {_most()}")
            mask = np.asarray(image) > 0
    except Exception as error:  # Pillow's of damaged files are of many kinds
        raise FileError(f"{said}: `mask` can't be decoded: {error}. {_WAY_OUT}") from error
    return mask if len(slack) == 3 else mask[: size[1], : size[0]]


def _annotation(folder, image, mask, class_names):
    """What LabelMe's file of a mask holds."""
    if mask.dtype != "uint8" or mask.shape != image_size(image)[::-1]:
        raise ValueError(
            f"The mask of {image} must be uint8 of (height, width) {image_size(image)[::-1]}. It "
            f"is {mask.dtype} of {mask.shape}."
        )
    try:
        relative = Path(os.path.relpath(image, folder)).as_posix()
    except ValueError:  # another drive of Windows
        relative = image.resolve().as_posix()
    shapes = []
    for class_id in np.unique(mask).tolist():
        if class_id >= len(class_names) and class_id != VOID:
            raise ValueError(
                f"The mask of {image} holds {class_id}; the ids are below {len(class_names)}."
            )
        rows, columns = np.nonzero(mask == class_id)
        left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
        box = mask[top : bottom + 1, left : right + 1] == class_id
        file = io.BytesIO()
        Image.fromarray(box.astype("uint8")).save(file, "PNG")
        shapes.append({
            "label": _IGNORE if class_id == VOID else class_names[class_id],
            "points": [[float(left), float(top)], [float(right), float(bottom)]],
            "group_id": None,
            "description": "",
            "shape_type": "mask",
            "flags": {},
            "mask": base64.b64encode(file.getvalue()).decode(),
        })  # fmt: skip
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": relative,
        "imageData": None,
        "imageHeight": mask.shape[0],
        "imageWidth": mask.shape[1],
    }
