"""Label Studio: its JSON or JSON-MIN export, with the pictures beside it.

Any `*.json` in the folder may be the export. Pictures lie in the folder, in `images/`, or wherever
`images` says. A task names its picture by a URL or path, of which the file name counts, without
escapes such as %20; the eight hex digits that an upload puts before it may be missing on disk.

Brush strokes, polygons, rectangles and ellipses are drawn in the order of the file, later ones on
top.
"""

import math
import os
import re
import reprlib
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np

from keras_sanet._files import check, is_dict, is_int, is_list, is_text, read_json
from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.drawn import (
    Bitmap,
    DrawnMask,
    Polygon,
    ShapeError,
    ellipse,
    label_ids,
    points_of,
)
from keras_sanet.datasets.files import (
    FileError,
    UnreadableError,
    by_number,
    check_pixels,
    image_size,
    image_suffixes,
)
from keras_sanet.datasets.headers import Refused
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import divide, find_images

_WAY_OUT = "Export the project again, as JSON."
_LARGEST = 1 << 30  # bytes of an export: brush strokes are long lists of numbers
_KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")


def load(root, *, background="background", images=None, class_names=None):
    """Reads the exports of a folder. Every fifth picture is in "val", the others in "train".

    Args:
        root: the folder of the export.
        background: name of the class of the pixels of no shape; None for void.
        images: folder of the pictures; if None, `root` and `images/` in it.
        class_names: labels in order of the class ids; if None, those found, sorted.

    Returns:
        `Dataset`. Of several annotations of a task it has the newest. Pictures that were skipped
        or not annotated are left out, as are predictions.

    Raises:
        FileNotFoundError: without an export, or without a picture that it names.
        ValueError: for an export that can't be read, with the task and the shape.
    """
    root, left_out = Path(root), {}
    class_names = _check_names(class_names)
    pictures = _find_pictures(root, images, left_out)
    tasks = {}  # picture -> place of its task
    masks = {}  # picture -> file, size, shapes
    for file in sorted(root.glob("*.json"), key=by_number):
        found = _read_tasks(file)
        if found is None:
            left_out.setdefault("JSON files without tasks of Label Studio", []).append(file)
        for task in found or ():
            place = f"{file}: task {task['id']}"
            picture = _match(place, task["data"], pictures)
            if picture in tasks:
                raise FileError(
                    f"{place} has the picture {picture.name}, as has {tasks[picture]}. Remove one "
                    "of them."
                )
            tasks[picture] = place
            place = f"{file}: {picture.name}"
            results = _choose(place, task, left_out)
            if results is not None:
                masks[picture] = file, *_read_results(place, results, left_out)
    if not masks:
        raise FileNotFoundError(
            f"{root} holds no picture that was annotated in Label Studio. Looked for: *.json that "
            f"are lists of tasks. {_WAY_OUT}"
        )
    if unnamed := [path for paths in pictures.values() for path in paths if path not in tasks]:
        left_out["pictures that no annotation names"] = unnamed
    places = {label: at for _, _, shapes in masks.values() for label, _, at in shapes}
    names = sorted(places) if class_names is None else class_names
    if strange := [label for label in places if label not in names]:
        raise FileError(
            f"{places[strange[0]]} has a label that is none of `class_names`: {', '.join(names)}. "
            "Add it."
        )
    names, ids, rest = label_ids(names, background)
    samples = []
    for picture in sorted(masks, key=by_number):
        file, size, shapes = masks[picture]
        shapes = [make(ids[label]) for label, make, _ in shapes]
        mask = DrawnMask(file, picture.stem, size or image_size(picture), shapes, rest)
        samples.append(Sample(picture, mask))
    palette = [distinct_color(i) for i in range(len(names))]
    left_out = {
        reason: [p.removeprefix(f"{root}{os.sep}") if is_text(p) else p for p in places]
        for reason, places in left_out.items()
    }
    splits, ids = divide(samples), identity(len(names))
    return Dataset(root.name, names, palette, splits, ids, left_out=left_out)


def _check_names(names):
    if names is None:
        return None
    names = [names] if is_text(names) else list(names)
    if not is_list(names, is_text) or len({*names}) != len(names):
        raise ValueError(f"`class_names` must be different names. Received: {names!r}.")
    return names


def _find_pictures(root, images, left_out):
    """Dict from the name of a picture to its paths."""
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    folders = [root, root / "images"] if images is None else [Path(images)]
    found, looked = {}, []
    for folder in folders:
        if folder.is_dir():
            others = {} if folder == root else left_out  # exports lie in the root
            try:
                for path in find_images(folder, others):
                    found.setdefault(path.name, []).append(path)
            except FileNotFoundError as error:
                looked.append(str(error))
    if not found:
        looked = " ".join(looked) or f"There is no folder {folders[-1]}."
        raise FileNotFoundError(
            f"{looked} Label Studio's JSON comes without pictures: put them into "
            f"{root / 'images'}, or give their folder as `images`."
        )
    return found


def _read_tasks(file):
    """The tasks of an export, those of JSON-MIN as those of JSON; None for another file."""
    found = read_json(file, _WAY_OUT, largest=_LARGEST)
    if not is_list(found, is_dict) or not any(map(_is_task, found)):
        return None
    tasks, of_min = [], {}
    for index, task in enumerate(found):
        said = f"{file}: entry {index}:"
        check(task, {"id": ("an integer", is_int)}, said, _WAY_OUT)
        if "annotation_id" in task:  # JSON-MIN
            annotation = {"updated_at": task.get("updated_at"), "result": _results_of_min(task)}
            if task["id"] in of_min:  # another annotation of the same task
                of_min[task["id"]].append(annotation)
                continue
            of_min[task["id"]] = [annotation]
            task = {"id": task["id"], "data": task, "annotations": of_min[task["id"]]}
        rules = {
            "data": ("a dict", is_dict),
            "annotations": ("a list of dicts", lambda value: is_list(value, is_dict)),
        }
        check(task, rules, said, _WAY_OUT)
        tasks.append(task)
    return tasks


def _is_task(task):
    """Whether a dict is a task, or an annotation in JSON-MIN."""
    return "annotations" in task or "annotation_id" in task


def _results_of_min(task):
    """The results of an annotation in JSON-MIN, where each tag has a list of them."""
    values = [v for values in task.values() if is_list(values, is_dict) for v in values]
    kinds = [next((key for key in value if key.endswith("labels")), "others") for value in values]
    return [{**value, "type": kind, "value": value} for value, kind in zip(values, kinds)]


def _match(place, data, pictures):
    """The picture that a task's data name."""
    values = [value for value in data.values() if is_text(value)]
    found = {}
    for value in values:
        name = next((name for name in _names(value) if name in pictures), None)
        if name is not None:
            found[name] = pictures[name]
    if not found:
        named = [value for value in values if value.lower().endswith(image_suffixes())] or values
        raise FileNotFoundError(
            f"{place} names no picture that is there, but {', '.join(named)[:300] or 'none'}. Put "
            "it among the others, under that file name, or give their folder as `images`."
        )
    paths = [path for paths in found.values() for path in paths]
    if len(paths) > 1:
        raise FileError(
            f"{place} has several pictures: {', '.join(map(str, paths))}. Keep one of them; a task "
            "of several is not read."
        )
    return paths[0]


def _names(value):
    """The names that the file of a URL or path may have, the likeliest first."""
    path = value.split("?d=", 1)[-1] if "/local-files/" in value else value
    plain = re.split("[/\\\\]", path)[-1]
    bare = re.split("[/\\\\]", unquote(re.split("[?#]", path)[0]))[-1]
    yield from (plain, bare)
    for name in (plain, bare):
        if upload := re.fullmatch("[0-9a-f]{8}-(.+)", name):
            yield upload[1]


def _choose(place, task, left_out):
    """The results of the newest annotation; None where there is none."""
    annotations = task["annotations"]
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    for reason, holds in {
        "predictions, which are no truth": task.get("predictions"),
        "canceled annotations": len(kept) < len(annotations),
        "older annotations of a picture": len(kept) > 1,
        "pictures that nobody annotated": not kept,
    }.items():
        if holds:
            left_out.setdefault(reason, []).append(place)
    if not kept:
        return None
    rules = {"result": ("a list of dicts", lambda value: is_list(value, is_dict))}
    for annotation in kept:
        check(annotation, rules, f"{place}:", _WAY_OUT)
    if all(is_text(annotation.get("updated_at")) for annotation in kept):
        kept.sort(key=lambda annotation: annotation["updated_at"])
    return kept[-1]["result"]


def _read_results(place, results, left_out):
    """The size that they say, None without any, and (label, function from id to shape, place)."""
    size, shapes = None, []
    for index, result in enumerate(results):
        kind, value = result.get("type"), result.get("value")
        if not is_text(kind):
            raise FileError(f"{place}, result {index} has no `type`. {_WAY_OUT}")
        if kind not in _KINDS:
            left_out.setdefault(f"results of the type {kind[:40]}", []).append(place)
            continue
        at = f"{place}, result {index} ({kind})"
        try:
            label = _label(value, kind)
            if label is None:
                left_out.setdefault("shapes without a label", []).append(at)
                continue
            at = f"{place}, result {index} ({kind}, {label})"
            found = _size(result)
            if found != (size or found):
                raise ShapeError(f"is of a picture of {found}, those before it of {size}")
            size = found
            make = _READERS[kind](value, size, at)
        except ShapeError as error:
            raise FileError(f"{at} {error}. {_WAY_OUT}") from error
        if isinstance(make, str):
            left_out.setdefault(make, []).append(at)
        else:
            shapes.append((label, make, at))
    return size, shapes


def _label(value, kind):
    if not is_dict(value):
        raise ShapeError(f"must have a dict as `value`, not {reprlib.repr(value)}")
    labels = value.get(kind) or []
    if not is_list(labels, is_text):
        raise ShapeError(f"must have a list of labels, not {reprlib.repr(labels)}")
    if len(labels) > 1:
        raise ShapeError(f"has the labels {', '.join(labels)}, and a pixel has one class")
    return labels[0] if labels else None


def _size(result):
    """(width, height) of the picture."""
    size = result.get("original_width"), result.get("original_height")
    if not all(is_int(side, 1) for side in size):
        raise ShapeError(
            f"must have the picture's original_width and original_height, not {reprlib.repr(size)}"
        )
    try:
        check_pixels(SimpleNamespace(size=size))
    except Refused as error:
        raise ShapeError(f"{error}".rstrip(".")) from error
    turn = result.get("image_rotation", 0) or 0
    if turn != 0:
        raise ShapeError(
            f"was drawn on a picture that is turned by {reprlib.repr(turn)} degrees in Label "
            "Studio. Turn it back there and draw again, or turn the file"
        )
    return size


def _numbers(value, *names):
    """Numbers of a dict."""
    numbers = [value.get(name) for name in names]
    if not all(map(_is_number, numbers)):
        raise ShapeError(
            f"must have numbers as {', '.join(names)}, percent of the picture. They are: "
            f"{reprlib.repr(numbers)}"
        )
    return numbers


def _is_number(value):
    return type(value) in (int, float) and abs(value) <= 10_000


def _polygon(value, size, at):
    points = value.get("points")
    if not is_list(points, lambda point: is_list(point, _is_number) and len(point) == 2):
        raise ShapeError(f"must have pairs of percents as `points`, not {reprlib.repr(points)}")
    if len(points) < 3:
        return "shapes of fewer than three points"
    return _filled(np.asarray(points, "float64") * size / 100, size)


def _rectangle(value, size, at):
    x, y, width, height = _numbers(value, "x", "y", "width", "height")
    if not width or not height:
        return "shapes without an area"
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)]) * size / 100
    return _filled(_turned(corners, value) + np.array([x, y]) * size / 100, size)


def _ellipse(value, size, at):
    x, y, *radii = _numbers(value, "x", "y", "radiusX", "radiusY")
    if not all(radii):
        return "shapes without an area"
    rim = ellipse((0, 0), np.array(radii) * size / 100)
    return _filled(_turned(rim, value) + np.array([x, y]) * size / 100, size)


def _turned(points, value):
    """Points turned about (0, 0), clockwise on the screen."""
    angle = math.radians(_numbers({"rotation": 0, **value}, "rotation")[0])
    return points @ [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]


def _filled(points, size):
    points = points_of(points, "its points")
    if (points.max(0) < 0).any() or (points.min(0) > size).any():
        raise ShapeError(
            f"lies outside of the picture of {size[0]} x {size[1]} pixels: "
            f"{reprlib.repr(points.round(1).tolist())}"
        )
    return lambda class_id: Polygon(class_id, [points])


def _brush(value, size, at):
    if value.get("format", "rle") != "rle":
        raise ShapeError(f"must be of the format rle, not {reprlib.repr(value['format'])}")
    numbers = value.get("rle")
    try:
        packed = bytes(numbers) if isinstance(numbers, list) else None
    except (TypeError, ValueError):
        packed = None
    if packed is None:
        raise ShapeError(f"must have bytes as `rle`, 0..255, not {reprlib.repr(numbers)}")
    if not packed:
        return "brush strokes without a pixel"

    def decode():
        try:
            return _unpack(packed, *size)
        except ShapeError as error:
            raise UnreadableError(f"{at} {error}. {_WAY_OUT}") from error

    return lambda class_id: Bitmap(class_id, 0, 0, decode)


def _unpack(packed, width, height):
    """The pixels of a brush stroke: alpha of RGBA, row by row, in thi.ng's run lengths.

    A head has the number of values (32 bits), bits of a value less 1 (5), and four widths less 1
    (4 each). Then come runs: whether one value follows for all (1), which width the length has
    (2), the length less 1, and the value or values.
    """
    bits, position = 8 * len(packed), 0

    def read(count):
        nonlocal position
        first, position = position, position + count
        if position > bits:
            raise ShapeError("has run lengths that are cut off")
        found = int.from_bytes(packed[first // 8 : -(-position // 8)], "big")
        return found >> -position % 8 & (1 << count) - 1

    count, word = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    if word != 8 or count != 4 * width * height:
        raise ShapeError(
            f"has run lengths of {count} values of {word} bits, not of the {4 * width * height} "
            f"of 8 bits that {width} x {height} pixels have"
        )
    pixels, done = np.zeros(width * height, bool), 0
    while done < count:
        same, length = read(1), read(widths[read(2)]) + 1
        end = done + length
        if end > count:
            raise ShapeError("has run lengths that go beyond the picture")
        if same:
            alpha = read(8)
        else:
            values = np.frombuffer(read(8 * length).to_bytes(length, "big"), "uint8")
            alpha = values[(3 - done) % 4 :: 4]
        pixels[done // 4 : end // 4] = alpha >= 128
        done = end
    return pixels.reshape(height, width)


_READERS = dict(zip(_KINDS, (_brush, _polygon, _rectangle, _ellipse)))
