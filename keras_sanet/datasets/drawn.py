"""Masks that are drawn from shapes, as annotation tools write them. Nothing is written to disk.

Tools draw the same polygon in two ways, and each reader follows its own tool:

| rule | pixels of a polygon | tools |
|---|---|---|
| "coco" | those whose center lies inside, as pycocotools counts | COCO, CVAT, Label Studio |
| "pillow" | those, and the ones that its outline touches | LabelMe, Supervisely |

Of the square (3, 3)-(10, 8) the first has 35 pixels, the second 48.
"""

import dataclasses
import reprlib

import numpy as np
from PIL import Image, ImageDraw

from keras_sanet.datasets.class_files import VOID_NAMES
from keras_sanet.datasets.files import VOID, Frame

_FARTHEST = 1_000_000  # pixels
OVERLAPS = ("later", "smaller", "void")


class ShapeError(ValueError):
    """What is wrong with a shape or its picture, in words that follow its place."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """A part of a mask.

    Attributes:
        class_id: of its pixels; 255 is void.
    """

    class_id: int

    def draw(self, width, height):
        """Its pixels inside a picture.

        Returns:
            left, top, and a bool array (rows, columns), cut at the picture's edges.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Polygon(Shape):
    """Polygons, joined, and holes in them.

    Attributes:
        parts: arrays (points, 2) of x and y in pixels, from the upper left corner.
        holes: likewise.
        rule: "coco" or "pillow"; see the docstring of this module.
    """

    parts: list
    holes: list = ()
    rule: str = "coco"

    def draw(self, width, height):
        fill = {"coco": _fill_as_coco, "pillow": _fill_as_pillow}[self.rule]
        points = np.concatenate([np.asarray(part, "float64") for part in self.parts])
        left, top, *size = box_around(points, 1, width, height)  # outlines need a pixel more
        mask = np.zeros(size[::-1], bool)
        if mask.size:
            for part in self.parts:
                mask |= fill(np.asarray(part, "float64"), left, top, *size)
            for hole in self.holes:
                mask &= ~fill(np.asarray(hole, "float64"), left, top, *size)
        return left, top, mask


@dataclasses.dataclass(frozen=True, eq=False)
class Bitmap(Shape):
    """Pixels of a rectangle.

    Attributes:
        left: column of its first pixels.
        top: row of its first pixels.
        decode: function without arguments that gives the bool array (rows, columns).
    """

    left: int
    top: int
    decode: object

    def draw(self, width, height):
        left, top = max(0, self.left), max(0, self.top)
        mask = self.decode()[top - self.top :, left - self.left :]
        return left, top, mask[: max(0, height - top), : max(0, width - left)]


@dataclasses.dataclass(frozen=True)
class DrawnMask(Frame):
    """A mask that is drawn when it is opened.

    Attributes:
        size: (width, height) of the picture, upright.
        shapes: list of `Shape`, in the order in which they are drawn.
        background: id of the pixels of no shape; 255 is void.
        overlap: which shape has the pixels of several: "later", the one drawn last; "smaller", the
            one of fewest pixels; "void", none.
    """

    size: tuple
    shapes: list = dataclasses.field(compare=False, repr=False)
    background: int = VOID
    overlap: str = "later"

    def identity(self):
        drawn = [shape.class_id for shape in self.shapes]
        return f"{self.size} {drawn} {self.background} {self.overlap}"

    def header(self):
        return Image.new("L", self.size)

    def open(self):
        """The mask; its `info["overlapped"]` is the number of pixels of several shapes."""
        width, height = self.size
        ids = np.full((height, width), self.background, "uint8")
        nothing = np.iinfo("int32").max
        least = np.full(ids.shape, nothing, "int32")  # pixels of the shape that has a pixel
        twice = np.zeros(ids.shape, bool)
        for shape in self.shapes:
            left, top, mask = shape.draw(width, height)
            there = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
            twice[there] |= mask & (least[there] < nothing)
            pixels = np.count_nonzero(mask)
            on_top = mask & (pixels <= least[there]) if self.overlap == "smaller" else mask
            ids[there][on_top] = shape.class_id
            least[there][on_top] = pixels
        if self.overlap == "void":
            ids[twice] = VOID
        image = Image.fromarray(ids)
        image.info["overlapped"] = np.count_nonzero(twice)
        return image


def check_overlap(overlap):
    """Raises ValueError for what is none of `OVERLAPS`."""
    if overlap not in OVERLAPS:
        raise ValueError(f"`overlap` must be one of {', '.join(OVERLAPS)}. Received: {overlap!r}.")


def label_ids(labels, background):
    """Class names, and the id of each label of a tool.

    Args:
        labels: names in order of the ids. "void" and "__ignore__" become void.
        background: name of the class of the pixels of no shape, which comes first if it is none of
            the labels; None or "void" for void.

    Returns:
        List of class names, dict from a label to its id, and the id of the background.
    """
    names = list(dict.fromkeys(label for label in labels if label.lower() not in VOID_NAMES))
    if background is not None and background.lower() in VOID_NAMES:
        background = None
    if background is not None and background not in names:
        names.insert(0, background)
    ids = {name: class_id for class_id, name in enumerate(names)}
    ids |= {label: VOID for label in labels if label.lower() in VOID_NAMES}
    return names, ids, VOID if background is None else ids[background]


def points_of(numbers, source):
    """Array (points, 2) of the numbers x, y, x, y, ... or of pairs of them.

    Raises:
        ShapeError: they are no such numbers, or not finite, or too large.
    """
    try:
        points = np.asarray(numbers, object)
        if not {*map(type, points.ravel().tolist())} <= {int, float}:
            raise TypeError
        points = points.astype("float64")
    except (TypeError, ValueError, OverflowError):
        points = np.empty(())
    if points.ndim == 1 and len(points) % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ShapeError(f"{source} must be pairs of numbers x, y, and are {reprlib.repr(numbers)}")
    if not (np.abs(points) <= _FARTHEST).all():
        raise ShapeError(
            f"{source} must be finite numbers, {_FARTHEST:,} at most, and are "
            f"{reprlib.repr(points.tolist())}"
        )
    return points


def rectangle(left, top, right, bottom):
    """Array of the corners of a rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], "float64")


def ellipse(center, radii, points=72):
    """Array (points, 2) of a polygon in place of an ellipse."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.asarray(center) + np.asarray(radii) * np.stack([np.cos(angle), np.sin(angle)], -1)


def turned(points, degrees, center):
    """Points turned about a center, clockwise, as y goes down."""
    angle = np.radians(degrees)
    turn = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return (points - center) @ turn + center if degrees else points


def box_around(points, margin, width, height):
    """The part of a picture around points: left, top, width and height, 0 where it is empty."""
    left, top = np.clip(np.floor(points.min(0)) - margin, 0, (width, height)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(points.max(0)) + margin + 1, 0, (width, height)).astype(int)
    return left, top, int(right) - left, int(bottom) - top


def cut_out(mask):
    """Left and top of the pixels of a bool array, and the part of it that holds them."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, mask[:0, :0]
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    return left, top, mask[top : bottom + 1, left : right + 1].copy()


def runs_to_mask(counts, height, width, order="F"):
    """The mask of run lengths, background first.

    Args:
        counts: lengths of the runs.
        height: of the mask.
        width: of the mask.
        order: "F" for column by column, as COCO has it, "C" for row by row.

    Returns:
        bool (height, width).

    Raises:
        ShapeError: the runs are no lengths, or don't add up to the mask.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ShapeError("run lengths must be a list of integers from 0")
    if counts.sum(dtype="float64") != height * width:
        raise ShapeError(
            f"run lengths add up to {counts.sum(dtype='float64'):.0f} pixels, not to "
            f"{width} x {height}: cut off, or of another picture"
        )
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order=order)


def mask_to_runs(mask, order="F"):
    """The inverse of `runs_to_mask`, a list."""
    line = mask.ravel(order=order)
    changes = np.flatnonzero(np.diff(line, prepend=False))
    return np.diff(changes, prepend=0, append=line.size).tolist()


def coco_counts(text):
    """The run lengths in COCO's compressed string: 5 bits a character, the sixth for more to come,
    each number from the third on less the one two before."""
    codes = np.frombuffer(text.encode("latin-1", "replace"), "uint8").astype("int64") - 48
    if codes.size and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise ShapeError("run lengths are a damaged string")
    counts, value, shift = [], 0, 0
    for code in codes.tolist():
        value |= (code & 31) << shift
        shift += 5
        if shift > 60:
            raise ShapeError("run lengths are a damaged string")
        if not code & 32:
            value -= (code & 16) << (shift - 4) if code & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def coco_string(counts):
    """The inverse of `coco_counts`."""
    codes = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        last = False
        while not last:
            bits, value = value & 31, value >> 5
            last = value == (-1 if bits & 16 else 0)
            codes.append(48 + (bits if last else bits | 32))
    return codes.decode("ascii")


def _fill_as_pillow(points, left, top, width, height):
    image = Image.new("1", (width, height))
    if len(points) > 1:
        ImageDraw.Draw(image).polygon(
            list(map(tuple, (points - (left, top)).tolist())), fill=1, outline=1
        )
    return np.asarray(image)


def _fill_as_coco(points, left, top, width, height):
    """pycocotools' rule: on a grid five times as fine, each column of centers changes between
    outside and inside below where the outline passes it."""
    if len(points) < 3:
        return np.zeros((height, width), bool)
    corners = np.trunc(5 * points + 0.5).astype("int64")
    ends = np.roll(corners, -1, axis=0)
    span = np.abs(ends - corners)
    steep = span[:, 0] < span[:, 1]
    axis = np.where(steep, 1, 0)[:, None]  # the one that goes in steps of 1
    backward = np.take_along_axis(corners > ends, axis, 1)
    starts, ends = np.where(backward, ends, corners), np.where(backward, corners, ends)
    slope = np.take_along_axis(ends - starts, 1 - axis, 1)[:, 0] / np.maximum(span.max(1), 1)
    # The outline passes column c between 5 c + 2 and 5 c + 3.
    low, high = np.minimum(starts, ends)[:, 0], np.maximum(starts, ends)[:, 0]
    first = np.clip(-(-(low - 2) // 5), left, left + width)
    count = np.maximum(np.clip((high - 3) // 5 + 1, left, left + width) - first, 0)
    edge = np.repeat(np.arange(len(corners)), count)
    column = np.arange(len(edge)) + np.repeat(first - np.cumsum(count) + count, count)
    steep, slope, (x, y) = steep[edge], slope[edge], starts[edge].T
    step = 5 * column + 2 - x
    line = np.minimum(*(np.trunc(y + slope * (step + i) + 0.5) for i in (0, 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(steep, np.ceil((5 * column + 2.5 - x) / slope), 0)

    def is_past(step):
        passed = np.trunc(x + slope * step + 0.5)
        return np.where(slope > 0, passed >= 5 * column + 3, passed <= 5 * column + 2)

    step += np.where(is_past(step - 1), -1, np.where(is_past(step), 0, 1))  # rounding
    line = np.where(steep, y + step - 1, line)
    line = np.ceil(np.clip((line + 0.5) / 5 - 0.5 - top, 0, height)).astype("int64")
    changes = np.sort((column - left) * height + line)
    return runs_to_mask(np.diff(changes, prepend=0, append=width * height), height, width)
