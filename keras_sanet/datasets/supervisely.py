"""Supervisely: a project as it is downloaded, pictures and annotations.

A project has `meta.json`, the classes, and a folder a data set: `<data set>/img/street.jpg` and
`<data set>/ann/street.jpg.json`. It is the folder given, or the one folder in it. Data sets named
train, val and test are splits; others are joined, and every fifth picture is "val".

Polygons, rectangles and bitmaps are drawn in the order of the file, later ones on top, with the
pixels that an outline touches.
"""

import base64
import collections
import reprlib
import zlib
from pathlib import Path

import numpy as np

from keras_sanet._files import check, is_dict, is_int, is_list, is_text, read_json
from keras_sanet.datasets import annotations
from keras_sanet.datasets.dataset import Sample
from keras_sanet.datasets.drawn import (
    Bitmap,
    DrawnMask,
    Polygon,
    ShapeError,
    label_ids,
    points_of,
    rectangle,
)
from keras_sanet.datasets.files import FileError, by_number, open_file
from keras_sanet.datasets.listing import find_images, find_split

_WAY_OUT = "Download the project again, as Supervisely JSON with images."
_LARGEST = 256 << 20  # bytes of an annotation file


def load(root, *, background="background"):
    """Reads a project, with the classes and colors of its `meta.json`.

    Args:
        root: the folder of the project, or the one that holds it.
        background: name of the class of the pixels of no shape; None for void.

    Returns:
        `Dataset`. Lines, points and the like are left out.

    Raises:
        FileNotFoundError: without `meta.json`, or without a picture that is annotated.
        ValueError: for a file that can't be read, with the object.
    """
    root, left_out = _find_project(Path(root)), collections.defaultdict(list)
    classes = _read_classes(root / "meta.json")
    names, ids, rest = label_ids([*classes], background)
    folders = [folder for folder in _folders(root) if (folder / "ann").is_dir()]
    if not folders:
        raise FileNotFoundError(f"{root} has no data set: folders with img/ and ann/. {_WAY_OUT}")
    found = [find_split(folder.relative_to(root).parts[:1]) for folder in folders]
    if any(found) and not all(found):
        raise FileError(
            f"{root} has the data sets {', '.join(folder.name for folder in folders)}, of which "
            "some are named as splits. Name all of them train, val or test, or none."
        )
    splits = collections.defaultdict(list)
    for folder, split in zip(folders, found):
        splits[split] += _read_folder(folder, classes, ids, rest, left_out)
    colors = {name: color for name, (_, color) in classes.items()}
    return annotations.make_dataset(root, names, splits, left_out, colors)


def _find_project(root):
    found = [root] if (root / "meta.json").is_file() else []
    found = found or sorted(path.parent for path in root.glob("*/meta.json"))
    if not found:
        raise annotations.not_found(root, "project of Supervisely", "meta.json")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise FileError(f"{root} holds several projects, {names}. Give the folder of one of them.")
    return found[0]


def _read_classes(path):
    """Dict from a class to the kind of its shapes and its color, None without."""
    meta, classes = read_json(path, _WAY_OUT), {}
    check(meta, {"classes": annotations.DICTS}, f"{path}:", _WAY_OUT)
    for index, entry in enumerate(meta["classes"]):
        title = entry.get("title")
        with annotations.named(f"{path}: class {index}", _WAY_OUT):
            if not is_text(title) or not title:
                raise ShapeError(f"`title` must be a name, and is {reprlib.repr(title)}")
            if title in classes:
                raise ShapeError(f"{title!r} is there twice. Rename one")
            classes[title] = entry.get("shape"), annotations.parse_color(entry.get("color"))
    return classes


def _folders(folder):
    """The folders of data sets, and of those nested in them."""
    for path in sorted(folder.iterdir(), key=by_number):
        if path.is_dir() and not path.name.startswith("."):
            yield path
            if (path / "datasets").is_dir():
                yield from _folders(path / "datasets")


def _read_folder(folder, classes, ids, rest, left_out):
    """The samples of a data set."""
    pictures = {path.name: path for path in find_images(folder / "img", left_out)}
    samples = []
    for file in sorted((folder / "ann").glob("*.json"), key=by_number):
        if file.stem not in pictures:
            raise FileNotFoundError(
                f"There is no picture {folder / 'img' / file.stem}, which {file} annotates. "
                f"{_WAY_OUT}"
            )
        picture = pictures.pop(file.stem)
        content = read_json(file, _WAY_OUT, largest=_LARGEST)
        size = ("a dict of width and height from 1", _is_size)
        check(content, {"size": size, "objects": annotations.DICTS}, f"{file}:", _WAY_OUT)
        size = content["size"]["width"], content["size"]["height"]
        with annotations.named(file, _WAY_OUT):
            annotations.check_size(size)
        shapes = []
        for index, entry in enumerate(content["objects"]):
            where = f"object {index} ({str(entry.get('classTitle'))[:60]})"
            with annotations.named(f"{file}: {where}", _WAY_OUT):
                shape = _read_object(entry, classes, ids, size, f"{file}: {where}")
            if is_text(shape):
                left_out[shape].append(f"{file.name}: {where}")
            else:
                shapes.append(shape)
        if not content["objects"]:
            left_out["pictures without a shape, which are read as background"].append(file)
        samples.append(Sample(picture, DrawnMask(file, picture.stem, size, shapes, rest)))
    annotations.add_unnamed(pictures.values(), (), left_out)
    return samples


def _is_size(value):
    return is_dict(value) and is_int(value.get("width"), 1) and is_int(value.get("height"), 1)


def _read_object(entry, classes, ids, size, place):
    """The shape of an object, or the reason why it is left out."""
    label = entry.get("classTitle")
    if not is_text(label) or label not in classes:
        raise ShapeError(
            f"it has the class {reprlib.repr(label)}, which meta.json lacks: {', '.join(classes)}"
        )
    kind = entry.get("geometryType") or classes[label][0]
    if kind == "bitmap":
        return _bitmap(entry.get("bitmap"), ids[label], size, place)
    if kind not in ("polygon", "rectangle"):
        if not is_text(kind):
            raise ShapeError(f"it must have a `geometryType`, not {reprlib.repr(kind)}")
        return f"shapes of the kind {kind[:40]}"
    found = entry.get("points")
    if not is_dict(found) or not isinstance(found.get("interior") or [], list):
        raise ShapeError(
            f"`points` must be a dict of `exterior` and `interior`, and is {reprlib.repr(found)}"
        )
    points = points_of(found.get("exterior"), "`exterior`")
    holes = [points_of(hole, "`interior`") for hole in found.get("interior") or []]
    if kind == "rectangle":
        if len(points) != 2:
            raise ShapeError(f"`exterior` must be two corners, and is {reprlib.repr(found)}")
        points = rectangle(*points.ravel())
    if len(points) < 3:
        return annotations.FEW_POINTS
    annotations.check_inside(points, size, last=1)
    return Polygon(ids[label], [points], [hole for hole in holes if len(hole) > 2], "pillow")


def _bitmap(bitmap, class_id, size, place):
    """A shape whose pixels are decoded when it is drawn."""
    bitmap = bitmap if is_dict(bitmap) else {}
    origin, data = bitmap.get("origin"), bitmap.get("data")
    if not is_list(origin, is_int, -(10**6), 10**6) or len(origin) != 2:
        raise ShapeError(f"`origin` must be integers x, y, and is {reprlib.repr(origin)}")
    if not is_text(data):
        raise ShapeError(f"`data` must be base64, and is {reprlib.repr(data)}")
    if not data:
        return "bitmaps without data"
    annotations.check_inside(np.array([origin]).clip(0), size, last=1)

    def decode():
        mask = _decode(data, size)
        end = np.add(origin, mask.shape[::-1]) - 1
        annotations.check_inside(np.stack([origin, end]), size, last=1)
        return mask

    return Bitmap(class_id, *origin, annotations.decoder(decode, f"{place}: its bitmap", _WAY_OUT))


def _decode(data, size):
    """The bool array of a PNG in base64, compressed again by zlib or not: where alpha isn't 0 if
    there is alpha, or else where values aren't."""
    data, whole = base64.b64decode(data, validate=True), True
    if not data.startswith(b"\x89PNG"):
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(data, 65536 + 5 * size[0] * size[1])
        whole = unpacker.eof
    if not whole:
        raise ShapeError("it is cut off, or larger than the picture")
    with open_file(data) as image:
        if image.width > size[0] or image.height > size[1]:
            raise ShapeError(f"it is larger than the picture: {image.width} x {image.height}")
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
            return np.asarray(image.convert("RGBA"))[..., 3] > 0
        pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        return pixels > 0 if pixels.ndim == 2 else (pixels > 0).any(-1)
