"""Masks whose colors say the class, in RGB or with a palette.

Masks in colors and with a palette are read by their colors, if a file gives those of the classes;
or, if no mask fits these, by ids: the indexes of the palette, or red, green and blue that are the
same. Gray masks are read by their ids, unless they are none and are gray colors of classes. What
does not fit is an error that names the color.
"""

import dataclasses

import numpy as np
from PIL import Image

from keras_sanet.datasets.files import (
    VOID,
    FileError,
    Frame,
    check_pixels,
    is_lossy,
    open_file,
    size_of,
    upright,
)

_SHOWN = 3  # colors named in a message
_BLOCK = 4096  # colors compared at once
_NO_COLORS = (
    "no file gives the colors of the classes. Write them into classes.txt, name,red,green,blue a "
    "line, or save gray masks of ids."
)
_MODES = ("L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of masks with colors
_BLEND = 4  # largest difference of a channel from a mixture of two classes' colors


class ColorTable:
    """The ids of colors, the same for all masks of a data set.

    How masks are read is decided once for all of a kind (gray, with a palette, in colors), by
    `decide`. A mask that does not fit is an error.

    Args:
        colors: dict from (red, green, blue) to the id in mask files.
        ids: the ids that masks may hold.
        names: dict from an id to the name of its class, for messages.
        tolerance: largest difference of a channel from the color of a class, 0..255. Above 0 masks
            in colors may be of lossy formats.
    """

    def __init__(self, colors, ids, names, tolerance=0):
        if not 0 <= tolerance <= 255:
            raise ValueError(f"`tolerance` must be from 0 to 255. Received: {tolerance}.")
        self.colors, self.ids, self.names = colors, frozenset(ids), names
        self.tolerance = tolerance
        self._by_color = dict.fromkeys(("palette", "colors"), bool(colors)) | {"gray": False}
        self._table = np.zeros(1 << 24, "uint16")  # id + 1 by color; pages never touched cost none
        for (red, green, blue), file_id in colors.items():
            self._table[red | green << 8 | blue << 16] = file_id + 1

    def __repr__(self):  # what a mask depends on, for the cache
        return f"{sorted(self.colors.items())} {sorted(self.ids)} {self.tolerance} {self._by_color}"

    def decide(self, files):
        """Decides whether masks are read by colors or by ids, by some of them.

        Gray masks hold ids, unless they can't be ids and their values are colors of classes; those
        with a palette and in colors the other way round.

        Args:
            files: paths of masks.
        """
        colors, ids = {}, {}  # kind -> whether a mask is of colors alone, of ids alone
        for file in files if self.colors else ():
            try:
                with open_file(file) as image:
                    check_pixels(image)
                    kind, values, packed, _ = _describe(image)
            except Exception:  # Pillow's of broken files are of many kinds; told by who reads it
                continue
            found = self._find(packed)[0] > 0
            may_be_ids = values is not None and self.ids.issuperset(values.tolist())
            if len(set(packed.tolist())) < len(packed):  # indexes of one color, which says nothing
                found = np.zeros_like(found)
            elif kind != "gray":  # and no color says another id
                may_be_ids = may_be_ids and self._agree(values, packed)
            # White that is a class's is no void.
            white = kind == "gray" and found.all() and 0xFFFFFF in packed
            colors[kind] = colors.get(kind) or found.all() and (not may_be_ids or white)
            ids[kind] = ids.get(kind) or may_be_ids and not found.all()
        for kind, by_color in self._by_color.items():
            only_colors, only_ids = colors.get(kind), ids.get(kind)
            if by_color and only_ids and not only_colors:
                self._by_color[kind] = False
            elif not by_color and only_colors and not only_ids:
                self._by_color[kind] = True

    def takes_colors(self, image):
        """Whether masks like a Pillow image are read by their colors."""
        return self._by_color[_kind(image)]

    def read(self, image, source):
        """Reads a Pillow image.

        Args:
            image: of mode L, LA, P, PA, or of colors.
            source: its file, for messages.

        Returns:
            Ids, uint8 (height, width), and whether they are those of colors.

        Raises:
            FileError: a color is no class's, or pixels are transparent.
        """
        kind, values, packed, where = _describe(image, source)
        by_color = self._by_color[kind]
        if by_color:
            ids, nearest = self._find(packed)
            if not ids.all():
                raise FileError(self._name_colors(packed, where(), ids, nearest, source))
            ids -= 1
        elif values is None:
            raise FileError(
                f"{source} is a mask in colors, and "
                + ("others of the data set hold ids." if self.colors else _NO_COLORS)
            )
        else:
            ids = values
        return where(ids.astype("uint8")), by_color

    def _find(self, packed):
        """The id + 1 of each packed color, 0 where it is no class's; and the nearest class of each
        of the latter."""
        ids = self._table.take(packed).astype("int64")
        nearest = np.zeros(len(packed), int)
        unknown = np.flatnonzero(ids == 0)
        if not self.colors or not len(unknown):
            return ids, nearest
        known = np.asarray(list(self.colors), "int16")
        class_ids = np.asarray(list(self.colors.values()))
        for part in np.split(unknown, range(_BLOCK, len(unknown), _BLOCK)):
            apart = np.abs(_channels(packed[part])[:, None] - known).max(-1)
            nearest[part] = apart.argmin(1)
            close = apart.min(1) <= self.tolerance
            ids[part[close]] = class_ids[nearest[part[close]]] + 1
        return ids, nearest

    def _agree(self, values, packed):
        """Whether no color of some values is that of a class with another id."""
        found = self._table.take(packed)
        return ((found == 0) | (found == values + 1) | (values == VOID)).all()

    def _name_colors(self, packed, counts, ids, nearest, source):
        """The text of an error: colors of no class."""
        known, class_ids = np.asarray(list(self.colors), "int16"), list(self.colors.values())
        far = np.flatnonzero(ids == 0)
        order, shown = far[np.argsort(-counts[far], kind="stable")], []
        channels = _channels(packed)
        for index in order[:_SHOWN]:
            name = self.names[class_ids[nearest[index]]]
            shown.append(
                f"{tuple(channels[index].tolist())} in {counts[index] / counts.sum():.2%} of the "
                f"pixels (nearest: {name} {tuple(known[nearest[index]].tolist())})"
            )
        count = f" ({len(order)} such colors)" if len(order) > _SHOWN else ""
        text = f"{source} holds colors that are no class's: {', '.join(shown)}{count}. "
        if all(_is_mixture(channels[index], known) for index in order[:100]):
            text += (
                "They are mixtures of classes' colors, as antialiased edges have: save the masks "
                "without antialiasing, resized by nearest neighbor."
            )
        else:
            text += (
                "Add them to the file of classes, as void if they are none, or allow a difference "
                "with `tolerance`."
            )
        return text


def _kind(image):
    if image.mode in ("L", "LA"):
        return "gray"
    return "palette" if image.mode == "P" else "colors"


def _channels(packed):
    return np.stack([packed >> shift & 255 for shift in (0, 8, 16)], -1).astype("int16")


def _describe(image, source=None):
    """What a mask holds.

    Returns:
        Its kind; the values of its gray levels or palette indexes, None for colors that are not
        gray; the packed colors of these; and a function that gives, of an array of one number for
        each of them, the array (height, width), and without arguments the pixels of each.

    Raises:
        FileError: pixels are transparent, and not black.
    """
    kind, shape = _kind(image), image.size[::-1]
    _check_alpha(image, source)
    if kind != "colors":
        level = image.getchannel(0) if image.mode == "LA" else image
        counts = np.array(level.histogram()[:256])
        values = np.flatnonzero(counts)
        packed = values * 0x010101
        if kind == "palette":
            palette = np.zeros((256, 3), "int64")
            given = np.reshape(image.getpalette("RGB"), (-1, 3))
            palette[: len(given)] = given
            packed = (palette @ [1, 1 << 8, 1 << 16])[values]

        def where(numbers=None):
            if numbers is None:
                return counts[values]
            table = np.zeros(256, int)
            table[values] = numbers
            return np.asarray(level.point(table.tolist(), "L"))

        return kind, values, packed, where
    # Four bytes a pixel, as Pillow keeps them. Masks are runs of one color, which are looked up
    # once.
    image = image if image.mode == "RGB" else image.convert("RGB")
    pixels = np.frombuffer(image.tobytes("raw", "RGBX"), "<u4")
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    lengths = np.diff(starts, append=len(pixels))
    packed, inverse = np.unique(pixels[starts] & 0xFFFFFF, return_inverse=True)
    red = packed & 255
    values = red.astype("int64") if (packed == red * 0x010101).all() else None

    def where_of_runs(numbers=None):
        if numbers is None:
            return np.bincount(inverse, lengths)
        return np.repeat(numbers[inverse], lengths).reshape(shape)

    return kind, values, packed, where_of_runs


def _check_alpha(image, source):
    """Refuses pixels that are not opaque, and not black: nobody sees their colors."""
    if image.mode not in ("RGBA", "LA", "PA"):
        return
    alpha = np.asarray(image.getchannel("A"))
    if alpha.min() < 255 and np.asarray(image.convert("RGB"))[alpha < 255].any():
        raise FileError(
            f"{source} holds transparent pixels with a color behind. Flatten the mask onto the "
            "color of their class, or save it without transparency."
        )


def _is_mixture(color, known):
    """Whether a color lies on the line between two others, and near none."""
    for i, first in enumerate(known):
        span = (known[i + 1 :] - first).astype("float64")
        if not len(span):
            continue
        length = np.maximum((span**2).sum(-1), 1)
        share = np.clip((span @ (color - first)) / length, 0, 1)
        if (np.abs(first + share[:, None] * span - color).max(-1) <= _BLEND).any():
            return np.abs(known - color).max(-1).min() > _BLEND
    return False


@dataclasses.dataclass(frozen=True)
class ColorMask(Frame):
    """A mask file that is read by a `ColorTable`.

    Attributes:
        table: the `ColorTable`.
    """

    table: ColorTable = dataclasses.field(compare=False, repr=False)

    def __str__(self):
        return str(self.file)

    def identity(self):
        return repr(self.table)

    def header(self):
        with open_file(self.file) as image:
            return Image.new("L", size_of(image))

    def open(self):
        """The mask; its `info["colors"]` is whether it was read by colors."""
        image = open_file(self.file)
        gray = image.mode in ("L", "LA")
        if image.mode not in _MODES or image.mode == "L" and not self.table.takes_colors(image):
            return image  # of ids, or refused
        with image:
            check_pixels(image)
            if is_lossy(image) and not (self.table.tolerance and self.table.takes_colors(image)):
                raise FileError(
                    f"{self.file} is a mask of the format {image.format}, whose compression "
                    f"changes {'values' if gray else 'colors'}. Write masks as PNG from where they "
                    "were made; or name the colors of all classes, and allow a difference with "
                    "`tolerance`, such as 30."
                )
            ids, by_color = self.table.read(upright(image), self.file)
        mask = Image.fromarray(ids)
        mask.info["colors"] = by_color
        return mask
