"""CVAT's "CVAT for images 1.1": `annotations.xml`, and the pictures in `images/`.

A picture called `park/a.jpg` of the subset Train is `images/Train/park/a.jpg`, `images/park/a.jpg`
or `park/a.jpg`. Splits are the subsets; without them, folders of the pictures called train, val or
test; without those, every fifth picture is "val".

Classes and their colors are the labels of the task, project or job. Shapes of a higher `z_order`
lie on top, and later ones on earlier ones of the same. Filled are the pixels whose centers lie
inside, as CVAT's own masks are.
"""

import functools
import io
import math
import os
import re
import reprlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from keras_sanet._files import replacing
from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.drawn import (
    Bitmap,
    DrawnMask,
    Polygon,
    ShapeError,
    ellipse,
    label_ids,
    points_of,
    runs_to_mask,
)
from keras_sanet.datasets.files import (
    VOID,
    FileError,
    by_number,
    image_size,
    image_suffixes,
    read_text,
)
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import divide, split_name, visible_files

_LARGEST = 256 << 20  # bytes of an XML file
_WAY_OUT = 'Export the task from CVAT again, as "CVAT for images 1.1".'
_SPLITS = ("train", "val", "test")
# Kinds that have no area, and their plural.
_NOT_DRAWN = {
    "polyline": "polylines", "points": "points", "cuboid": "cuboids", "skeleton": "skeletons",
    "tag": "tags",
}  # fmt: skip
# What is found in a folder of another format.
_OTHERS = {
    "labelmap.txt": 'CVAT\'s "Segmentation mask 1.1"',
    "annotations/instances_*.json": "COCO",
    "_annotations.coco.json": "COCO",
    "*/_annotations.coco.json": "COCO",
    "meta.json": "Supervisely",
}


def load(root, *, background="background"):
    """Reads the folder that the docstring of this module describes.

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
    root = Path(root)
    path = root / "annotations.xml"
    if not path.is_file():
        raise _not_found(path)
    labels, images = _parse(path)
    left_out, found, named = {}, [], set()
    for attributes, elements in images:
        found.append(_read(path, attributes, elements, left_out))
        image = found[-1][0]
        if image in named:
            raise FileError(f"{path}: there are two pictures {image}. Remove one of them.")
        named.add(image)
    names, palette, ids, void = _classes(path, labels, found, background)
    splits = {}
    for image, subset, size, shapes in sorted(found, key=lambda picture: by_number(picture[0])):
        shapes = sorted(shapes, key=lambda shape: shape[0])  # stable
        drawn = [make(ids[label]) for _, label, _, make in shapes]
        mask = DrawnMask(path, image.stem, size, drawn, background=void)
        splits.setdefault(_split(root, image, subset), []).append(Sample(image, mask))
    if [*splits] == [None]:
        splits = divide(splits[None])
    elif None in splits:
        splits["default"] = splits.pop(None)
    folder = root / "images" if (root / "images").is_dir() else root
    files = {file for file in visible_files(folder) if file.suffix.lower() in image_suffixes()}
    if unnamed := files - named:
        left_out["pictures that no annotation names"] = sorted(unnamed, key=by_number)
    return Dataset(root.name, names, palette, splits, identity(len(names)), left_out=left_out)


def write(path, pictures, class_names, palette):
    """Writes masks for CVAT, which imports them as "CVAT 1.1" into a task of these pictures and
    labels.

    There is a mask for each class that occurs; void is in none. `load(..., background=None)` reads
    the same masks again.

    Args:
        path: of the XML file, replaced if it is there.
        pictures: pairs of the path of an image and its mask, uint8 (height, width) of class ids.
            CVAT knows an image by its name, or by its path below `images` beside the XML file.
        class_names: names by class id.
        palette: (red, green, blue) by class id.

    Raises:
        ValueError: for a mask that is none of its image, and for two images of one name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = set()
    with replacing(path) as new, open(new, "w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        file.write("<version>1.1</version>\n")
        file.write(_text(_meta(class_names, palette)))
        for number, (image, mask) in enumerate(pictures):
            image = Path(image)
            name = _name(path.parent, image)
            if name in names:
                raise ValueError(f"There are two images {name}, such as {image}. Rename one.")
            names.add(name)
            file.write(_text(_image_element(number, name, image, np.asarray(mask), class_names)))
        file.write("</annotations>\n")


def _not_found(path):
    text = f'There is no file {path}, which an export as "CVAT for images 1.1" has.'
    for pattern, name in _OTHERS.items():
        if other := next(path.parent.glob(pattern), None):
            return FileNotFoundError(f"{text} There is {other}, which is of the format {name}.")
    return FileNotFoundError(text)


def _parse(path):
    """Labels, dict from a name to (kind, color), and (attributes, list of (kind, attributes) of the
    shapes) of each picture."""
    if path.stat().st_size > _LARGEST:
        raise FileError(
            f"{path} has {path.stat().st_size:,} bytes; {_LARGEST:,} are allowed. Export the tasks "
            "one by one."
        )
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FileError(f"{path} defines entities, which CVAT does not. {_WAY_OUT}")
    labels, images, depth, root = {}, [], 0, None
    try:
        for event, element in ElementTree.iterparse(io.StringIO(text), ("start", "end")):
            if event == "start":
                depth += 1
                _check_kind(path, depth, element.tag)
                root = element if depth == 1 else root
                continue
            depth -= 1
            if depth == 1:
                if element.tag == "meta":
                    labels = _labels(path, element)
                elif element.tag == "image":
                    images.append((element.attrib, [(e.tag, e.attrib) for e in element]))
                root.clear()
    except ElementTree.ParseError as error:
        raise FileError(f"{path} is damaged: {error}. {_WAY_OUT}") from error
    if not images:
        raise FileError(f"{path} names no picture. {_WAY_OUT}")
    return labels, images


def _check_kind(path, depth, kind):
    if depth == 1 and kind != "annotations":
        raise FileError(f"{path} is no file of CVAT's: it begins with <{kind}>. {_WAY_OUT}")
    if depth == 2 and kind == "track":
        raise FileError(
            f'{path} holds the tracks of "CVAT for video", which are not read. Export the task as '
            '"CVAT for images 1.1", which has the shapes of each frame.'
        )


def _labels(path, meta):
    """Dict from the name of a label to its kind and color."""
    labels = {}
    for label in meta.iter("label"):
        name, color = label.findtext("name"), label.findtext("color") or None
        if not name or label.find("parent") is not None:  # a part of a skeleton
            continue
        if color is not None and not re.fullmatch("#[0-9a-fA-F]{6}", color):
            raise FileError(
                f"{path}: the color of the label {reprlib.repr(name)} must be like #ff8000, and is "
                f"{reprlib.repr(color)}. {_WAY_OUT}"
            )
        color = color and tuple(bytes.fromhex(color[1:]))
        labels.setdefault(name, (label.findtext("type"), color))
    return labels


def _classes(path, labels, found, background):
    """Names, palette, ids of the labels, and the id of the background."""
    used = {shape[1] for _, _, _, shapes in found for shape in shapes}
    drawable = [name for name, (kind, _) in labels.items() if kind not in _NOT_DRAWN]
    names = [name for name in labels if name in drawable or name in used]
    names, ids, void = label_ids(names if labels else sorted(used), background)
    if not names:
        raise FileError(f"{path} has no label, and `background` is None. {_WAY_OUT}")
    for image, _, _, shapes in found:
        for _, label, where, _ in shapes:
            if label not in ids:
                raise FileError(
                    f"{path}: {image.name}: {where} is none of the labels: {', '.join(names)}. "
                    f"{_WAY_OUT}"
                )
    colors = {background: (0, 0, 0)} | {name: color for name, (_, color) in labels.items() if color}
    return names, [colors.get(n, distinct_color(i)) for i, n in enumerate(names)], ids, void


def _split(root, image, subset):
    """The split of an image, or None."""
    if subset and subset != "default":
        known = split_name(subset.lower())
        return known if known in _SPLITS else subset
    names = (split_name(name.lower()) for name in image.relative_to(root).parts[:-1])
    return next((name for name in names if name in _SPLITS), None)


def _read(path, attributes, elements, left_out):
    """Path, subset and size of a picture, and (z order, label, where it is, function from a class
    id to the `Shape`) of each shape."""
    name, subset = attributes.get("name", ""), attributes.get("subset", "")
    said = f"{path}: picture {reprlib.repr(name)}"
    try:
        image = _find_image(path.parent, subset, name)
        size = None
        if {"width", "height"} & attributes.keys():
            size = _integer(attributes, "width", 1), _integer(attributes, "height", 1)
            _check_pixels(*size)
    except ShapeError as error:
        raise FileError(f"{said}: {error}. {_WAY_OUT}") from error
    if image is None:
        raise FileNotFoundError(
            f"{said} is not in {path.parent / 'images'}. Export the task with its images, or put "
            "them there under their names in CVAT."
        )
    size = size or image_size(image)
    shapes = []
    for number, (kind, values) in enumerate(elements, 1):
        label = values.get("label", "")
        where = f"shape {number} (<{kind}>, {reprlib.repr(label)})"
        try:
            z, make, reason = _read_shape(kind, values, size, f"{said}: {where}")
        except ShapeError as error:
            raise FileError(f"{said}: {where}: {error}. {_WAY_OUT}") from error
        if reason:
            left_out.setdefault(reason, []).append(f"{name}: {label}")
        else:
            shapes.append((z, label, where, make))
    return image, subset, size, shapes


def _find_image(root, subset, name):
    """The path of a picture; None where it is not there."""
    for part in (subset, name):
        inside = PurePosixPath(part.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or PureWindowsPath(part).drive:
            raise ShapeError(f"{reprlib.repr(part)} must be a path inside of the folder")
    name = name.replace("\\", "/")
    if not name:
        raise ShapeError("it has no name")
    suffixes = [""]
    if not name.lower().endswith(image_suffixes()):  # the frames of a video
        suffixes += [form for s in image_suffixes() for form in (s, s.upper())]
    for folder in (root / "images" / subset, root / "images", root):
        for suffix in suffixes:
            if os.path.isfile(place := folder / f"{name}{suffix}"):
                return place
    return None


def _read_shape(kind, values, size, said):
    """Its z order, function from a class id to the `Shape`, and None; or why it can't be drawn.

    Raises:
        ShapeError: what is wrong with it.
    """
    if kind in _NOT_DRAWN:
        return 0, None, f"{_NOT_DRAWN[kind]}, which have no area"
    if kind not in ("polygon", "box", "ellipse", "mask"):
        return 0, None, "elements of unknown kinds"
    if not values.get("label"):
        raise ShapeError("it has no label")
    z = _integer(values, "z_order", -(10**9), default=0)
    if kind == "mask":
        make, points = _mask_maker(values, said)
    else:
        points = _points(kind, values)
        if len(points) < 3:
            return z, None, "shapes of fewer than three points"
        make = functools.partial(Polygon, parts=[points], rule="coco")
    if (points.max(0) < 0).any() or (points.min(0) > size).any():
        raise ShapeError(f"it lies outside of its picture of {size[0]} x {size[1]} pixels")
    return z, make, None


def _points(kind, values):
    """The polygon of a polygon, box or ellipse."""
    if kind == "polygon":
        pairs = [pair.split(",") for pair in values.get("points", "").split(";") if pair.strip()]
        if not all(len(pair) == 2 for pair in pairs):
            raise ShapeError("`points` must be pairs x,y, with ; between them")
        return points_of(pairs, "`points`")
    if kind == "box":
        left, top, right, bottom = (_number(values, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        center = (left + right) / 2, (top + bottom) / 2
    else:
        center, radii = ([_number(values, a + b) for b in "xy"] for a in "cr")
        if min(radii) < 0:
            raise ShapeError(f"`rx` and `ry` must be at least 0, and are {radii}")
        points = ellipse(center, radii, points=360)
    angle = math.radians(_number(values, "rotation", default=0))  # clockwise, y being down
    if angle:
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        points = (points - center) @ turn.T + center
    return points_of(points, "the points")


def _mask_maker(values, said):
    """Function from a class id to the `Bitmap`, and the corners of its box."""
    left, top = (_integer(values, name, -(10**6)) for name in ("left", "top"))
    width, height = (_integer(values, name, 1) for name in ("width", "height"))
    _check_pixels(width, height)
    if "rle" not in values:
        raise ShapeError("it has no `rle`")
    decode = functools.partial(_decode_mask, values["rle"], width, height, said)
    corners = np.array([[left, top], [left + width - 1, top + height - 1]])
    return functools.partial(Bitmap, left=left, top=top, decode=decode), corners


def _decode_mask(text, width, height, said):
    try:
        counts = [int(count) for count in text.split(",")]
        return runs_to_mask(counts, height, width, order="C")
    except ValueError as error:
        raise FileError(f"{said}: `rle`: {error}. {_WAY_OUT}") from error


def _check_pixels(width, height):
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > most:
        raise ShapeError(
            f"it would have {width} x {height} pixels, more than {most}; for files that you trust, "
            "raise `PIL.Image.MAX_IMAGE_PIXELS`"
        )


def _integer(values, name, least, default=None):
    text = values.get(name, default)
    if isinstance(text, str) and re.fullmatch("-?[0-9]{1,9}", text.strip()):
        text = int(text)
    if not isinstance(text, int) or text < least:
        raise ShapeError(f"`{name}` must be an integer from {least}, and is {reprlib.repr(text)}")
    return text


def _number(values, name, default=None):
    text = values.get(name, default)
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= 1e6:
        raise ShapeError(f"`{name}` must be a number of pixels, and is {reprlib.repr(text)}")
    return number


def _name(folder, image):
    """What CVAT calls an image."""
    for above in (folder / "images", folder):
        if image.resolve().is_relative_to(above.resolve()):
            return image.resolve().relative_to(above.resolve()).as_posix()
    return image.name


def _text(element):
    ElementTree.indent(element)
    return ElementTree.tostring(element, encoding="unicode") + "\n"


def _meta(class_names, palette):
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    ElementTree.SubElement(task, "mode").text = "annotation"
    labels = ElementTree.SubElement(task, "labels")
    for name, color in zip(class_names, palette):
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*color)
        ElementTree.SubElement(label, "type").text = "any"
        ElementTree.SubElement(label, "attributes")
    return meta


def _image_element(number, name, image, mask, class_names):
    """`<image>` of a mask."""
    if mask.dtype != "uint8" or mask.shape != image_size(image)[::-1]:
        raise ValueError(
            f"The mask of {image} must be uint8 of (height, width) {image_size(image)[::-1]}. It "
            f"is {mask.dtype} of {mask.shape}."
        )
    size = {"width": str(mask.shape[1]), "height": str(mask.shape[0])}
    element = ElementTree.Element("image", {"id": str(number), "name": name, **size})
    for class_id in np.unique(mask[mask != VOID]).tolist():
        if class_id >= len(class_names):
            raise ValueError(
                f"The mask of {image} holds {class_id}; the ids are below {len(class_names)}."
            )
        rows, columns = np.nonzero(mask == class_id)
        left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
        box = mask[top : bottom + 1, left : right + 1] == class_id
        # The first run is one of background, of length 0 where the box begins with the class.
        changes = np.flatnonzero(np.diff(box.ravel(), prepend=False, append=not box[-1, -1]))
        runs = np.diff(changes, prepend=0).tolist()
        ElementTree.SubElement(element, "mask", {
            "label": class_names[class_id], "source": "manual", "occluded": "0",
            "rle": ", ".join(map(str, runs)), "left": str(left), "top": str(top),
            "width": str(box.shape[1]), "height": str(box.shape[0]), "z_order": "0",
        })  # fmt: skip
    return element
