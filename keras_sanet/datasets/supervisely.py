"""Supervisely: a project as it is downloaded, pictures and annotations.

A project has `meta.json`, the classes, and a folder a data set: `<data set>/img/street.jpg` and
`<data set>/ann/street.jpg.json`. It is the folder given, or the one folder in it. Data sets named
train, val and test are splits; others are joined, and every fifth picture is "val".

Polygons, rectangles and bitmaps are drawn in the order of the file, later ones on top, with the
pixels that an outline touches.
"""

import base64
import re
import reprlib
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from keras_sanet._files import check, is_dict, is_int, is_list, is_text, read_json
from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.drawn import (
    Bitmap,
    DrawnMask,
    Polygon,
    ShapeError,
    label_ids,
    points_of,
)
from keras_sanet.datasets.files import (
    FileError,
    UnreadableError,
    by_number,
    check_pixels,
    open_file,
)
from keras_sanet.datasets.headers import Refused
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import divide, find_images

_WAY_OUT = "Download the project again, as Supervisely JSON with images."
_LARGEST = 256 << 20  # bytes of an annotation file
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


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
    root, left_out = _find_project(Path(root)), {}
    colors, shapes = _read_classes(root / "meta.json")
    names, ids, rest = label_ids(list(colors), background)
    splits = {}
    folders = [folder for folder in _folders(root) if (folder / "ann").is_dir()]
    if not folders:
        raise FileNotFoundError(f"{root} has no data set: folders with img/ and ann/. {_WAY_OUT}")
    found = [_SPLITS.get(folder.relative_to(root).parts[0].lower()) for folder in folders]
    if any(found) and not all(found):
        raise FileError(
            f"{root} has the data sets {', '.join(folder.name for folder in folders)}, of which "
            "some are named as splits. Name all of them train, val or test, or none."
        )
    for folder, split in zip(folders, found):
        splits.setdefault(split, []).extend(_read_folder(folder, ids, shapes, rest, left_out))
    palette = [colors.get(name) or distinct_color(i) for i, name in enumerate(names)]
    splits = divide(splits[None]) if None in splits else splits
    ids = identity(len(names))
    return Dataset(root.name, names, palette, splits, ids, left_out=left_out)


def _find_project(root):
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    found = [root] if (root / "meta.json").is_file() else []
    found = found or sorted(path.parent for path in root.glob("*/meta.json"))
    if not found:
        raise FileNotFoundError(
            f"{root} is no project of Supervisely: there is no meta.json in it. {_WAY_OUT}"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise FileError(f"{root} holds several projects, {names}. Give the folder of one of them.")
    return found[0]


def _read_classes(path):
    """Dict from a class to its color, None without, and one to the kind of its shapes."""
    meta = read_json(path, _WAY_OUT)
    check(
        meta, {"classes": ("a list of dicts", lambda v: is_list(v, is_dict))}, f"{path}:", _WAY_OUT
    )
    colors, shapes = {}, {}
    for index, entry in enumerate(meta["classes"]):
        said = f"{path}: class {index}:"
        rules = {
            "title": ("a name", lambda value: is_text(value) and value),
            "color": ("as #1A2B3C", lambda value: value is None or _is_color(value)),
        }
        check(entry, rules, said, _WAY_OUT)
        if entry["title"] in colors:
            raise FileError(f"{said} {entry['title']!r} is there twice. Rename one. {_WAY_OUT}")
        color = entry.get("color")
        colors[entry["title"]] = color and tuple(bytes.fromhex(color[1:]))
        shapes[entry["title"]] = entry.get("shape")
    return colors, shapes


def _is_color(value):
    return is_text(value) and re.fullmatch("#[0-9a-fA-F]{6}", value)


def _folders(folder):
    """The folders of data sets, and of those nested in them."""
    for path in sorted(folder.iterdir(), key=by_number):
        if path.is_dir() and not path.name.startswith("."):
            yield path
            if (path / "datasets").is_dir():
                yield from _folders(path / "datasets")


def _read_folder(folder, ids, shapes, background, left_out):
    """The samples of a data set."""
    others = {}
    pictures = {path.name: path for path in find_images(folder / "img", others)}
    for reason, paths in others.items():
        left_out.setdefault(reason, []).extend(paths)
    samples = []
    for file in sorted((folder / "ann").glob("*.json"), key=by_number):
        if file.stem not in pictures:
            raise FileNotFoundError(
                f"There is no picture {folder / 'img' / file.stem}, which {file} annotates. "
                f"{_WAY_OUT}"
            )
        picture = pictures.pop(file.stem)
        found, size = read_json(file, _WAY_OUT, largest=_LARGEST), None
        rules = {
            "size": ("a dict of width and height from 1", _is_size),
            "objects": ("a list of dicts", lambda value: is_list(value, is_dict)),
        }
        check(found, rules, f"{file}:", _WAY_OUT)
        size = found["size"]["width"], found["size"]["height"]
        mask = DrawnMask(file, picture.stem, size, [], background)
        try:
            check_pixels(mask)
        except Refused as error:
            raise FileError(f"{mask} {error}") from error
        for index, entry in enumerate(found["objects"]):
            place = f"{file}: object {index} ({str(entry.get('classTitle'))[:60]})"
            try:
                shape = _read_object(entry, ids, shapes, size, place)
            except ShapeError as error:
                raise FileError(f"{place} {error}. {_WAY_OUT}") from error
            if isinstance(shape, str):
                place = place.replace(str(file), file.name, 1)
                left_out.setdefault(shape, []).append(place)
            else:
                mask.shapes.append(shape)
        if not found["objects"]:
            reason = "pictures without a shape, which are read as background"
            left_out.setdefault(reason, []).append(file)
        samples.append(Sample(picture, mask))
    if pictures:
        reason = "pictures that no annotation names"
        left_out.setdefault(reason, []).extend(pictures.values())
    return samples


def _is_size(value):
    return is_dict(value) and is_int(value.get("width"), 1) and is_int(value.get("height"), 1)


def _read_object(entry, ids, shapes, size, place):
    """The shape of an object, or the reason why it is left out."""
    label = entry.get("classTitle")
    if not is_text(label) or label not in ids:
        raise ShapeError(f"has the class {label!r}, which meta.json lacks: {', '.join(ids)}")
    kind = entry.get("geometryType") or shapes[label]
    if kind == "bitmap":
        return _bitmap(entry.get("bitmap"), ids[label], size, place)
    if kind not in ("polygon", "rectangle"):
        if not is_text(kind):
            raise ShapeError(f"must have a `geometryType`, not {reprlib.repr(kind)}")
        return f"shapes of the kind {kind[:40]}"
    points = entry.get("points")
    if not is_dict(points):
        raise ShapeError(f"must have a dict as `points`, not {reprlib.repr(points)}")
    points, holes = points.get("exterior"), points.get("interior") or []
    if not isinstance(holes, list):
        raise ShapeError(f"must have a list as `interior`, not {reprlib.repr(holes)}")
    points, holes = _points(points, "exterior"), [_points(hole, "interior") for hole in holes]
    if kind == "rectangle":
        if len(points) != 2:
            raise ShapeError(f"must have two corners as `exterior`, not {len(points)}")
        (left, top), (right, bottom) = points
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    if len(points) < 3:
        return "shapes of fewer than three points"
    if (points.max(0) < 0).any() or (points.min(0) >= size).any():
        raise ShapeError(
            f"lies outside of the picture of {size[0]} x {size[1]} pixels: "
            f"{reprlib.repr(points.tolist())}"
        )
    return Polygon(ids[label], [points], [hole for hole in holes if len(hole) > 2], "pillow")


def _points(points, name):
    if not is_list(points, lambda point: is_list(point, _is_number) and len(point) == 2):
        raise ShapeError(f"must have pairs of numbers as `{name}`, not {reprlib.repr(points)}")
    return points_of(points, f"`{name}`")


def _is_number(value):
    return type(value) in (int, float) and abs(value) <= 1e6


def _bitmap(bitmap, class_id, size, place):
    """A shape whose pixels are decoded when it is drawn."""
    bitmap = bitmap if is_dict(bitmap) else {}
    origin, data = bitmap.get("origin"), bitmap.get("data")
    if not is_list(origin, is_int, -(10**6), 10**6) or len(origin) != 2:
        raise ShapeError(f"must have integers x, y as `origin`, not {reprlib.repr(origin)}")
    if not is_text(data):
        raise ShapeError(f"must have base64 as `data`, not {reprlib.repr(data)}")
    if not data:
        return "bitmaps without data"
    outside = f"lies outside of the picture of {size[0]} x {size[1]} pixels, at {origin}"
    if origin[0] >= size[0] or origin[1] >= size[1]:
        raise ShapeError(outside)

    def decode():
        try:
            mask = _decode(data, size)
            if origin[0] + mask.shape[1] <= 0 or origin[1] + mask.shape[0] <= 0:
                raise ShapeError(outside)
        except Exception as error:  # Pillow's of broken files are of many kinds
            raise UnreadableError(f"{place}: its bitmap {error}. {_WAY_OUT}") from error
        return mask

    return Bitmap(class_id, *origin, decode)


def _decode(data, size):
    """The bool array of a PNG in base64, compressed again by zlib or not: where alpha isn't 0 if
    there is alpha, or else where values aren't."""
    try:
        data, whole = base64.b64decode(data, validate=True), True
        if not data.startswith(b"\x89PNG"):
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, 65536 + 5 * size[0] * size[1])
            whole = unpacker.eof
    except (ValueError, zlib.error) as error:
        raise ShapeError(f"can't be decoded: {error}") from error
    if not whole:
        raise ShapeError("can't be decoded: it is cut off, or larger than the picture")
    with open_file(data) as image:
        if image.width > size[0] or image.height > size[1]:
            raise ShapeError(f"is larger than the picture: {image.width} x {image.height} pixels")
        check_pixels(SimpleNamespace(size=image.size))
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
            return np.asarray(image.convert("RGBA"))[..., 3] > 0
        pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        return pixels > 0 if pixels.ndim == 2 else (pixels > 0).any(-1)
