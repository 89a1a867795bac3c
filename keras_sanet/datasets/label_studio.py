"""Label Studio: its JSON or JSON-MIN export, with the pictures beside it.

Any `*.json` in the folder may be the export. Pictures lie in the folder, in `images/`, or wherever
`images` says. A task names its picture by a URL or path, of which the file name counts, without
escapes such as %20; the eight hex digits that an upload puts before it may be missing on disk.

Brush strokes, polygons, rectangles and ellipses are drawn in the order of the file, later ones on
top.
"""

import collections
import os
import re
import reprlib
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from keras_sanet._files import check, is_dict, is_int, is_list, is_text, read_json
from keras_sanet.datasets import annotations
from keras_sanet.datasets.drawn import (
    Bitmap,
    Polygon,
    ShapeError,
    ellipse,
    points_of,
    rectangle,
    turned,
)
from keras_sanet.datasets.files import FileError, by_number, image_size, image_suffixes
from keras_sanet.datasets.listing import find_images

_WAY_OUT = "Export the project again, as JSON."
_LARGEST = 1 << 30  # bytes of an export: brush strokes are long lists of numbers


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
    root, left_out = Path(root), collections.defaultdict(list)
    class_names = None if class_names is None else annotations.check_names(class_names)
    pictures = _find_pictures(root, images, left_out)
    tasks = {}  # picture -> place of its task
    found, places = {}, {}  # picture -> file, size, shapes; label -> place of its first shape
    for file in sorted(root.glob("*.json"), key=by_number):
        content = _read_tasks(file)
        if content is None:
            left_out["JSON files without tasks of Label Studio"].append(file)
        for task in content or ():
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
                found[picture] = file, *_read_results(place, results, places, left_out)
    if not found:
        what = "picture that was annotated in Label Studio"
        raise annotations.not_found(root, what, "*.json that are lists of tasks")
    there = (path for paths in pictures.values() for path in paths)
    annotations.add_unnamed(there, tasks, left_out)
    names, ids, rest = annotations.number_labels(root, places, class_names, background)
    samples = []
    for picture in sorted(found, key=by_number):
        file, size, shapes = found[picture]
        size = size or image_size(picture)
        samples.append(annotations.make_sample(picture, file, size, shapes, ids, rest))
    left_out = {
        reason: [p.removeprefix(f"{root}{os.sep}") if is_text(p) else p for p in places]
        for reason, places in left_out.items()
    }
    return annotations.make_dataset(root, names, {None: samples}, left_out)


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
    keys = {"annotations", "annotation_id"}  # the second of JSON-MIN
    if not is_list(found, is_dict) or all(keys.isdisjoint(task) for task in found):
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
        check(task, {"data": ("a dict", is_dict), "annotations": annotations.DICTS}, said, _WAY_OUT)
        tasks.append(task)
    return tasks


def _results_of_min(task):
    """The results of an annotation in JSON-MIN, where each tag has a list of them."""
    values = [v for values in task.values() if is_list(values, is_dict) for v in values]
    kinds = [next((key for key in value if key.endswith("labels")), "others") for value in values]
    return [{**value, "type": kind, "value": value} for value, kind in zip(values, kinds)]


def _match(place, data, pictures):
    """The picture that a task's data name."""
    values = [value for value in data.values() if is_text(value)]
    names = (next((n for n in _names(value) if n in pictures), None) for value in values)
    found = {name: pictures[name] for name in names if name is not None}
    if not found:
        urls = [value for value in values if value.lower().endswith(image_suffixes())] or values
        raise FileNotFoundError(
            f"{place} names no picture that is there, but {', '.join(urls)[:300] or 'none'}. Put "
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
    everything = task["annotations"]
    kept = [annotation for annotation in everything if not annotation.get("was_cancelled")]
    for reason, holds in {
        "predictions, which are no truth": task.get("predictions"),
        "canceled annotations": len(kept) < len(everything),
        "older annotations of a picture": len(kept) > 1,
        "pictures that nobody annotated": not kept,
    }.items():
        if holds:
            left_out[reason].append(place)
    if not kept:
        return None
    for annotation in kept:
        check(annotation, {"result": annotations.DICTS}, f"{place}:", _WAY_OUT)
    if all(is_text(annotation.get("updated_at")) for annotation in kept):
        kept.sort(key=lambda annotation: annotation["updated_at"])
    return kept[-1]["result"]


def _read_results(place, results, places, left_out):
    """The size that results say, None without any, and their shapes."""
    size, shapes = None, []
    for index, result in enumerate(results):
        check(result, {"type": ("a text", is_text)}, f"{place}, result {index}:", _WAY_OUT)
        kind, value = result["type"], result.get("value")
        if kind not in _READERS:
            left_out[f"results of the type {kind[:40]}"].append(place)
            continue
        at = f"{place}, result {index} ({kind})"
        with annotations.named(at, _WAY_OUT):
            label = _label(value, kind)
        if label is None:
            left_out["shapes without a label"].append(at)
            continue
        at = f"{place}, result {index} ({kind}, {label})"
        with annotations.named(at, _WAY_OUT):
            found = _size(result)
            if found != (size or found):
                raise ShapeError(f"it is of a picture of {found}, those before it of {size}")
            size = found
            shape = _READERS[kind](label, value, size, at)
        if is_text(shape):
            left_out[shape].append(at)
        else:
            shapes.append(shape)
            places.setdefault(label, at)
    return size, shapes


def _label(value, kind):
    """The label of a result, None without."""
    labels = (value.get(kind) or []) if is_dict(value) else None
    if not is_list(labels, is_text):
        raise ShapeError(f"`value` must have a list of labels, and is {reprlib.repr(value)}")
    if len(labels) > 1:
        raise ShapeError(f"it has the labels {', '.join(labels)}, and a pixel has one class")
    return labels[0] if labels else None


def _size(result):
    """(width, height) of the picture."""
    size = result.get("original_width"), result.get("original_height")
    if not all(is_int(side, 1) for side in size):
        raise ShapeError(
            "it must have the picture's original_width and original_height. They are: "
            f"{reprlib.repr(size)}"
        )
    annotations.check_size(size)
    turn = result.get("image_rotation", 0) or 0
    if turn != 0:
        raise ShapeError(
            f"it was drawn on a picture that is turned by {reprlib.repr(turn)} degrees in Label "
            "Studio. Turn it back there and draw again, or turn the file"
        )
    return size


# Functions of a label, a value, the size of the picture and the place give the `Shape`, or the
# reason why it is left out. Numbers are percents of the picture.


def _polygon(label, value, size, place):
    points = points_of(value.get("points"), "`points`")
    return annotations.FEW_POINTS if len(points) < 3 else _filled(label, points, size)


def _rectangle(label, value, size, place):
    x, y, width, height, angle = _numbers(value, "x", "y", "width", "height")
    if not width or not height:
        return "shapes without an area"
    return _filled(label, rectangle(x, y, x + width, y + height), size, angle, (x, y))


def _ellipse(label, value, size, place):
    x, y, *radii, angle = _numbers(value, "x", "y", "radiusX", "radiusY")
    if not all(radii):
        return "shapes without an area"
    return _filled(label, ellipse((x, y), radii), size, angle, (x, y))


def _numbers(value, *names):
    """Numbers of a dict, and the angle in it."""
    numbers = [*map(value.get, names), value.get("rotation", 0), 0]
    return points_of(numbers, f"{', '.join(names)} and rotation").ravel().tolist()[:-1]


def _filled(label, points, size, angle=0, center=(0, 0)):
    """The polygon of points in percent, turned about a center."""
    scale = np.array(size) / 100
    points = points_of(turned(points * scale, angle, center * scale), "its points")
    annotations.check_inside(points, size)
    return Polygon(label, [points])


def _brush(label, value, size, place):
    if value.get("format", "rle") != "rle":
        raise ShapeError(f"`format` must be rle, and is {reprlib.repr(value['format'])}")
    numbers = value.get("rle")
    try:
        packed = bytes(numbers if isinstance(numbers, list) else None)
    except (TypeError, ValueError):
        raise ShapeError(f"it must have bytes as `rle`, not {reprlib.repr(numbers)}") from None
    if not packed:
        return "brush strokes without a pixel"
    return Bitmap(label, 0, 0, annotations.decoder(lambda: _unpack(packed, *size), place, _WAY_OUT))


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
            raise ShapeError("it has run lengths that are cut off")
        found = int.from_bytes(packed[first // 8 : -(-position // 8)], "big")
        return found >> -position % 8 & (1 << count) - 1

    count, word = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    if word != 8 or count != 4 * width * height:
        raise ShapeError(
            f"it has run lengths of {count} values of {word} bits, not of the {4 * width * height} "
            f"of 8 bits that {width} x {height} pixels have"
        )
    pixels, done = np.zeros(width * height, bool), 0
    while done < count:
        same, length = read(1), read(widths[read(2)]) + 1
        end = done + length
        if end > count:
            raise ShapeError("it has run lengths that go beyond the picture")
        if same:
            alpha = read(8)
        else:
            values = np.frombuffer(read(8 * length).to_bytes(length, "big"), "uint8")
            alpha = values[(3 - done) % 4 :: 4]
        pixels[done // 4 : end // 4] = alpha >= 128
        done = end
    return pixels.reshape(height, width)


_READERS = {
    "brushlabels": _brush,
    "polygonlabels": _polygon,
    "rectanglelabels": _rectangle,
    "ellipselabels": _ellipse,
}
