"""What the readers of annotation tools share: places in errors, sizes, paths, labels, splits.

A reader says by a `ShapeError` what is wrong with an entry, and `named` says where it is. Shapes
have their label as `class_id` until `make_sample` gives them the id.
"""

import contextlib
import dataclasses
import re
import reprlib
from pathlib import PureWindowsPath
from types import SimpleNamespace

import numpy as np

from keras_sanet._files import is_dict, is_list, is_text
from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.drawn import DrawnMask, ShapeError, label_ids
from keras_sanet.datasets.files import (
    VOID,
    FileError,
    UnreadableError,
    by_number,
    check_pixels,
    image_size,
    image_suffixes,
)
from keras_sanet.datasets.headers import Refused
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import divide

FEW_POINTS = "shapes of fewer than three points"  # a reason to leave them out
DICTS = ("a list of dicts", lambda value: is_list(value, is_dict))  # a rule of `_files.check`


def not_found(root, what, looked_for):
    """The FileNotFoundError of a folder that is not there, or not of a format.

    Args:
        root: the folder.
        what: that it should hold, with the name of the format.
        looked_for: files in words.
    """
    if not root.exists():
        return FileNotFoundError(f"There is no folder {root}.")
    return FileNotFoundError(f"{root} holds no {what}. Looked for: {looked_for}.")


@contextlib.contextmanager
def named(place, way_out):
    """Context in which a `ShapeError` becomes a `FileError` that begins with its place."""
    try:
        yield
    except ShapeError as error:
        raise FileError(f"{place}: {error}. {way_out}") from error


def decoder(decode, place, way_out):
    """The function `decode` for a `Bitmap`, with errors that begin with their place."""

    def decode_named():
        try:
            return decode()
        except Exception as error:  # Pillow's of damaged files are of many kinds
            raise UnreadableError(f"{place} can't be decoded: {error}. {way_out}") from error

    return decode_named


def check_size(size):
    """Raises ShapeError for (width, height) of more pixels than are decoded."""
    try:
        check_pixels(SimpleNamespace(size=size))
    except Refused as error:
        raise ShapeError(f"it {error}".rstrip(".")) from error


def picture_size(said, path):
    """(width, height) as a file says it of a picture, or as the picture's own if it doesn't."""
    size = image_size(path) if None in said else said
    check_size(size)
    return size


def check_inside(points, size, last=0):
    """Raises ShapeError where all points lie to one side of a picture.

    Args:
        points: array (points, 2).
        size: (width, height) of the picture.
        last: 1 where points are numbers of pixels, the last of which is less than the size by 1.
    """
    first, end = points.min(0), points.max(0)
    if (end < 0).any() or (first > np.subtract(size, last)).any():
        raise ShapeError(
            f"it lies outside of its picture of {size[0]} x {size[1]} pixels, at x {first[0]:g} to "
            f"{end[0]:g}, y {first[1]:g} to {end[1]:g}"
        )


def path_parts(text):
    """The parts of a relative path as Windows or another system writes it.

    Raises:
        ShapeError: it is none, or might lead out of its folder.
    """
    path = PureWindowsPath(text if is_text(text) else "")
    if not path.parts or path.anchor or ".." in path.parts or "\0" in text:
        raise ShapeError(f"{reprlib.repr(text)} must be a relative path without ..")
    return path.parts


def parse_color(text):
    """(red, green, blue) of a text such as #ff8000; None of none."""
    if text is None or text == "":
        return None
    if not is_text(text) or not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise ShapeError(f"a color must be like #ff8000, and is {reprlib.repr(text)}")
    return tuple(bytes.fromhex(text[1:]))


def add_unnamed(files, used, left_out):
    """Adds the pictures among files that are not in use to `left_out`, a defaultdict of lists."""
    suffixes = image_suffixes()
    pictures = {path for path in files if path.suffix.lower() in suffixes}
    if unnamed := sorted(pictures - {*used}, key=by_number):
        left_out["pictures that no annotation names"] += unnamed


def check_names(class_names):
    """A list of class names.

    Raises:
        ValueError: they are none, or not distinct.
    """
    names = list(class_names) if isinstance(class_names, (list, tuple)) else []
    named = all(is_text(name) and name.strip() for name in names)
    if not names or not named or len({*names}) < len(names):
        raise ValueError(f"`class_names` must be a list of distinct names. Got: {class_names!r}.")
    return names


def number_labels(source, places, class_names, background):
    """As `label_ids`, of the labels that a reader has found.

    Args:
        source: file or folder, for messages.
        places: dict from a label to the place of a shape of it.
        class_names: the labels in order of their ids; None for those found, sorted.
        background: as for `label_ids`.

    Raises:
        FileError: a label is none of `class_names`, or there is no class.
    """
    labels = sorted(places) if class_names is None else class_names
    names, ids, rest = label_ids(labels, background)
    for label, place in places.items():
        if label not in ids:
            raise FileError(
                f"{place} is none of the classes: {', '.join(names)}. Add it to them, or rename it."
            )
    if not names:
        raise FileError(f"{source} has no class: there is no label, and `background` is None.")
    return names, ids, rest


def make_sample(image, file, size, shapes, ids, rest):
    """The `Sample` of an image and its shapes, drawn in their order.

    Args:
        image: path or `Frame`.
        file: the annotation file.
        size: (width, height).
        shapes: list of `Shape`, with labels as class ids.
        ids: dict from a label to its class id.
        rest: id of the pixels of no shape.
    """
    shapes = [dataclasses.replace(shape, class_id=ids[shape.class_id]) for shape in shapes]
    return Sample(image, DrawnMask(file, image.stem, size, shapes, rest))


def make_dataset(root, names, splits, left_out, colors=()):
    """The `Dataset` of what was read.

    Args:
        root: its folder.
        names: of the classes.
        splits: dict from a split to its samples; those of None alone are divided.
        left_out: dict from a reason to what was left out.
        colors: dict from a class to its (red, green, blue) or None; others get distinct ones.
    """
    palette = [dict(colors).get(name) or distinct_color(i) for i, name in enumerate(names)]
    splits = divide(splits[None]) if [*splits] == [None] else splits
    ids = identity(min(len(names), VOID))
    return Dataset(root.absolute().name, names, palette, splits, ids, left_out=dict(left_out))
