"""CVAT's "CVAT for images 1.1": `annotations.xml`, and the pictures in `images/`.

A picture called `park/a.jpg` of the subset Train is `images/Train/park/a.jpg`, `images/park/a.jpg`
or `park/a.jpg`. Splits are the subsets; without them, folders of the pictures called train, val or
test; without those, every fifth picture is "val".

Classes and their colors are the labels of the task, project or job. Shapes of a higher `z_order`
lie on top, and later ones on earlier ones of the same. Filled are the pixels whose centers lie
inside, as CVAT's own masks are.
"""

import collections
import io
import os
import re
import reprlib
from pathlib import Path
from xml.etree import ElementTree

from keras_sanet.datasets import annotations, folder
from keras_sanet.datasets.drawn import (
    Bitmap,
    Polygon,
    ShapeError,
    ellipse,
    points_of,
    rectangle,
    runs_to_mask,
    turned,
)
from keras_sanet.datasets.files import FileError, by_number, image_suffixes, read_text
from keras_sanet.datasets.listing import find_split, split_name, visible_files

_LARGEST = 256 << 20  # bytes of an XML file
_WAY_OUT = 'Export the task from CVAT again, as "CVAT for images 1.1".'
# Kinds that have no area, and their plural.
_NOT_DRAWN = {
    "polyline": "polylines", "points": "points", "cuboid": "cuboids", "skeleton": "skeletons",
    "tag": "tags",
}  # fmt: skip


def load(root, *, background="background"):
    """Reads the folder that the docstring of this module describes, or CVAT's "Segmentation mask
    1.1", of which `folder` tells.

    Args:
        root: the folder.
        background: name of the class of the pixels of no shape, which may be a label of CVAT's;
            None makes them void.

    Returns:
        `Dataset`.

    Raises:
        FileNotFoundError: where there is no `annotations.xml`, or a picture is missing.
        ValueError: for what is damaged, the tracks of a video, and labels that are no class.
    """
    root, left_out = Path(root), collections.defaultdict(list)
    file = root / "annotations.xml"
    if not file.is_file():
        if (root / "labelmap.txt").is_file():
            return folder.load(root)
        raise annotations.not_found(root, 'export as "CVAT for images 1.1"', file.name)
    labels, images = _parse(file)
    found, places = {}, {}  # image -> subset, size, shapes; label -> place of its first shape
    for attributes, elements in images:
        image, *rest = _read(file, attributes, elements, places, left_out)
        if image in found:
            raise FileError(f"{file}: there are two pictures {image}. Remove one of them.")
        found[image] = rest
    names = [n for n, (kind, _) in labels.items() if kind not in _NOT_DRAWN or n in places]
    names = names if labels else None
    names, ids, rest = annotations.number_labels(file, places, names, background)
    splits = collections.defaultdict(list)
    for image in sorted(found, key=by_number):
        subset, size, shapes = found[image]
        split = find_split(image.relative_to(root).parts[:-1])
        split = split_name(subset) if subset and subset != "default" else split
        splits[split].append(annotations.make_sample(image, file, size, shapes, ids, rest))
    if len(splits) > 1 and None in splits:
        splits["default"] = splits.pop(None)
    pictures = root / "images" if (root / "images").is_dir() else root
    annotations.add_unnamed(visible_files(pictures), found, left_out)
    colors = {background: (0, 0, 0)} | {n: color for n, (_, color) in labels.items() if color}
    return annotations.make_dataset(root, names, splits, left_out, colors)


def _parse(file):
    """Labels, dict from a name to (kind, color), and (attributes, list of (kind, attributes) of the
    shapes) of each picture."""
    if file.stat().st_size > _LARGEST:
        raise FileError(
            f"{file} has {file.stat().st_size:,} bytes; {_LARGEST:,} are allowed. Export the tasks "
            "one by one."
        )
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FileError(f"{file} defines entities, which CVAT does not. {_WAY_OUT}")
    labels, images, depth, root = {}, [], 0, None
    try:
        for event, element in ElementTree.iterparse(io.StringIO(text), ("start", "end")):
            if event == "start":
                depth += 1
                _check_kind(file, depth, element.tag)
                root = element if depth == 1 else root
                continue
            depth -= 1
            if depth == 1:
                if element.tag == "meta":
                    labels = _labels(file, element)
                elif element.tag == "image":
                    images.append((element.attrib, [(e.tag, e.attrib) for e in element]))
                root.clear()
    except ElementTree.ParseError as error:
        raise FileError(f"{file} is damaged: {error}. {_WAY_OUT}") from error
    if not images:
        raise FileError(f"{file} names no picture. {_WAY_OUT}")
    return labels, images


def _check_kind(file, depth, kind):
    if depth == 1 and kind != "annotations":
        raise FileError(f"{file} is no file of CVAT's: it begins with <{kind}>. {_WAY_OUT}")
    if depth == 2 and kind == "track":
        raise FileError(
            f'{file} holds the tracks of "CVAT for video", which are not read. Export the task as '
            '"CVAT for images 1.1", which has the shapes of each frame.'
        )


def _labels(file, meta):
    """Dict from the name of a label to its kind and color."""
    labels = {}
    for label in meta.iter("label"):
        name = label.findtext("name")
        if name and label.find("parent") is None:  # else it is a part of a skeleton
            place = f"{file}: the color of the label {reprlib.repr(name)}"
            with annotations.named(place, _WAY_OUT):
                color = annotations.parse_color(label.findtext("color"))
            labels.setdefault(name, (label.findtext("type"), color))
    return labels


def _read(file, attributes, elements, places, left_out):
    """The path, subset, size and shapes of a picture, those of a higher z order last."""
    name, subset = attributes.get("name", ""), attributes.get("subset", "")
    said = f"{file}: picture {reprlib.repr(name)}"
    with annotations.named(said, _WAY_OUT):
        image = _find_image(file.parent, subset, name)
        if image is None:
            raise FileNotFoundError(
                f"{said} is not in {file.parent / 'images'}. Export the task with its images, or "
                "put them there under their names in CVAT."
            )
        size = None, None
        if {"width", "height"} & attributes.keys():
            size = _integer(attributes, "width", 1), _integer(attributes, "height", 1)
        size = annotations.picture_size(size, image)
    shapes = []  # z order, shape
    for number, (kind, values) in enumerate(elements, 1):
        label = values.get("label", "")
        place = f"{said}: shape {number} (<{kind}>, {reprlib.repr(label)})"
        with annotations.named(place, _WAY_OUT):
            shape = _read_shape(kind, values, size, place)
            z = _integer(values, "z_order", -(10**9), default="0")
        if isinstance(shape, str):
            left_out[shape].append(f"{name}: {label}")
        else:
            shapes.append((z, shape))
            places.setdefault(label, place)
    shapes.sort(key=lambda entry: entry[0])  # later ones stay later
    return image, subset, size, [shape for _, shape in shapes]


def _find_image(root, subset, name):
    """The path of a picture; None where it is not there."""
    inside, folders = annotations.path_parts(name), [root / "images", root]
    if subset:
        folders.insert(0, root.joinpath("images", *annotations.path_parts(subset)))
    suffixes = [""]
    if not name.lower().endswith(image_suffixes()):  # the frames of a video
        suffixes += [form for s in image_suffixes() for form in (s, s.upper())]
    paths = (f"{folder.joinpath(*inside)}{suffix}" for folder in folders for suffix in suffixes)
    return next((Path(path) for path in paths if os.path.isfile(path)), None)


def _read_shape(kind, values, size, place):
    """The `Shape` of an element, or the reason why it is left out.

    Raises:
        ShapeError: what is wrong with it.
    """
    if kind in _NOT_DRAWN:
        return f"{_NOT_DRAWN[kind]}, which have no area"
    if kind not in ("polygon", "box", "ellipse", "mask"):
        return "elements of unknown kinds"
    label = values.get("label")
    if not label:
        raise ShapeError("it has no label")
    if kind == "mask":
        return _bitmap(label, values, size, place)
    points = _points(kind, values)
    if len(points) < 3:
        return annotations.FEW_POINTS
    annotations.check_inside(points, size)
    return Polygon(label, [points])


def _points(kind, values):
    """The polygon of a polygon, box or ellipse."""
    if kind == "polygon":
        pairs = [pair.split(",") for pair in values.get("points", "").split(";") if pair.strip()]
        try:
            return points_of([list(map(float, pair)) for pair in pairs], "`points`")
        except ValueError as error:
            raise ShapeError(f"`points` must be pairs x,y, with ; between them: {error}") from error
    angle = _number(values, "rotation", default="0")  # clockwise
    if kind == "box":
        left, top, right, bottom = (_number(values, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        center = (left + right) / 2, (top + bottom) / 2
        return turned(rectangle(left, top, right, bottom), angle, center)
    center, radii = ([_number(values, a + b) for b in "xy"] for a in "cr")
    if min(radii) < 0:
        raise ShapeError(f"`rx` and `ry` must be at least 0, and are {radii}")
    return turned(ellipse(center, radii, points=360), angle, center)


def _bitmap(label, values, size, place):
    left, top = (_integer(values, name, -(10**6)) for name in ("left", "top"))
    width, height = (_integer(values, name, 1) for name in ("width", "height"))
    annotations.check_size((width, height))
    annotations.check_inside(rectangle(left, top, left + width - 1, top + height - 1), size)
    if "rle" not in values:
        raise ShapeError("it has no `rle`")

    def decode():
        return runs_to_mask(list(map(int, values["rle"].split(","))), height, width, order="C")

    return Bitmap(label, left, top, annotations.decoder(decode, f"{place}: `rle`", _WAY_OUT))


def _integer(values, name, least, default=None):
    text = values.get(name, default)
    if text is None or not re.fullmatch("-?[0-9]{1,9}", text.strip()) or int(text) < least:
        raise ShapeError(f"`{name}` must be an integer from {least}, and is {reprlib.repr(text)}")
    return int(text)


def _number(values, name, default=None):
    text = values.get(name, default)
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = None
    if number is None or not abs(number) <= 1e6:
        raise ShapeError(f"`{name}` must be a number of pixels, and is {reprlib.repr(text)}")
    return number
