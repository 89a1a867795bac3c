"""Masks whose colors say the class, in RGB or with a palette.

A mask is read by its colors where all of them are colors of classes. Else it is read by its ids:
the indexes of a palette, or red, green and blue that are all the same. What fits neither is an
error that names the color. A gray mask is read by its ids, unless all classes' colors are gray.
"""

import dataclasses

import numpy as np
from PIL import Image

from keras_sanet.datasets.files import (
    FileError,
    Frame,
    check_pixels,
    is_lossy,
    open_file,
    size_of,
    upright,
)

_SHOWN = 3  # colors named in a message
_BLEND = 4  # largest difference of a channel from a mixture of two classes' colors


class ColorTable:
    """The ids of colors, the same for all masks of a data set.

    Args:
        colors: dict from (red, green, blue) to the id in mask files.
        ids: the ids that masks may hold.
        names: dict from an id to the name of its class, for messages.
        tolerance: largest difference of a channel from the color of a class, 0..255. For masks of
            lossy formats, and only for them more than a few.
    """

    def __init__(self, colors, ids, names, tolerance=0):
        if not 0 <= tolerance <= 255:
            raise ValueError(f"`tolerance` must be from 0 to 255. Received: {tolerance}.")
        self.colors, self.ids, self.names = colors, frozenset(ids), names
        self.tolerance = tolerance
        self.all_gray = bool(colors) and all(len(set(color)) == 1 for color in colors)
        self._table = np.zeros(1 << 24, "uint16")  # id + 1 by color; pages never touched cost none
        for (red, green, blue), file_id in colors.items():
            self._table[red | green << 8 | blue << 16] = file_id + 1

    def __repr__(self):  # what a mask depends on, for the cache
        return f"{sorted(self.colors.items())} {self.tolerance}"

    def read(self, image, source):
        """Reads a Pillow image.

        Args:
            image: of mode L, LA, P, PA, or of colors.
            source: its file, for messages.

        Returns:
            Ids, uint8 (height, width), and whether they are those of colors.

        Raises:
            FileError: a color is no class's.
        """
        if image.mode in ("L", "LA"):
            return self._read_gray(np.asarray(image.getchannel(0)))
        if image.mode in ("P", "PA"):
            return self._read_palette(image, source)
        # Four bytes a pixel, as Pillow keeps them. Masks are runs of one color, which are looked up
        # once.
        image = image if image.mode == "RGB" else image.convert("RGB")
        pixels = np.frombuffer(image.tobytes("raw", "RGBX"), "<u4")
        starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
        lengths = np.diff(starts, append=len(pixels))
        runs = pixels[starts] & 0xFFFFFF
        found, by_color = self._table.take(runs), True
        if not found.all():
            red = runs & 255
            gray = (runs == red * 0x010101).all()
            if gray and self._may_be_ids(np.unique(red), self._table.take(np.unique(runs))):
                found, by_color = red + 1, False
            else:
                found = self._nearest(runs, lengths, found, source)
        ids = np.repeat((found - 1).astype("uint8"), lengths)
        return ids.reshape(image.size[::-1]), by_color

    def _read_palette(self, image, source):
        image = image.getchannel("P") if image.mode == "PA" else image
        counts = np.array(image.histogram()[:256])
        used = np.flatnonzero(counts)
        palette = np.zeros((256, 3), "uint32")
        given = np.reshape(image.getpalette("RGB"), (-1, 3))
        palette[: len(given)] = given
        packed = palette @ np.asarray([1, 1 << 8, 1 << 16], "uint32")
        found = self._table.take(packed)
        unknown = not found[used].all()
        if not self.colors or unknown and self._may_be_ids(used, found[used]):
            return np.asarray(image), False
        if unknown:
            found[used] = self._nearest(packed[used], counts[used], found[used], source)
        ids = (found.astype(int) - 1).clip(0, 255)
        return np.asarray(image.point(ids.tolist(), "L")), True

    def _read_gray(self, values):
        found = self._table.take(np.arange(256) * 0x010101)
        if self.all_gray and found[np.unique(values)].all():
            return (found - 1).astype("uint8")[values], True
        return values, False

    def _may_be_ids(self, values, found):
        """Whether values are ids, and none of their colors says another one (`found`: id + 1)."""
        agree = (found == 0) | (found == values + 1)
        return agree.all() and self.ids.issuperset(values.tolist())

    def _nearest(self, colors, counts, found, source):
        """The ids + 1 of packed colors: of those that are no class's, of the nearest class within
        the tolerance."""
        unknown, inverse = np.unique(colors[found == 0], return_inverse=True)
        channels = np.stack([unknown >> shift & 255 for shift in (0, 8, 16)], -1).astype("int16")
        known = np.asarray(list(self.colors), "int16").reshape(-1, 3)
        if not len(known):
            raise FileError(
                f"{source} is a mask in colors, and no file gives the colors of the classes. Write "
                "them into classes.txt, name,red,green,blue a line, or save gray masks of ids."
            )
        nearest, distance = np.zeros(len(unknown), int), np.zeros(len(unknown), int)
        for part in range(0, len(unknown), 4096):
            apart = np.abs(channels[part : part + 4096, None] - known).max(-1)
            nearest[part : part + 4096], distance[part : part + 4096] = (
                apart.argmin(1),
                apart.min(1),
            )
        far = distance > self.tolerance
        if far.any():
            pixels = np.bincount(inverse, counts[found == 0])
            raise FileError(self._describe(channels, known, nearest, far, pixels, counts, source))
        ids = np.asarray(list(self.colors.values()))
        found = found.copy()
        found[found == 0] = ids[nearest][inverse] + 1
        return found

    def _describe(self, channels, known, nearest, far, pixels, counts, source):
        """The text of an error: colors of no class."""
        order = np.flatnonzero(far)[np.argsort(-pixels[far], kind="stable")]
        shown = []
        for index in order[:_SHOWN]:
            class_color = tuple(known[nearest[index]].tolist())
            shown.append(
                f"{tuple(channels[index].tolist())} in {pixels[index] / counts.sum():.2%} of the "
                f"pixels (nearest: {self.names[self.colors[class_color]]} {class_color})"
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
        if image.mode in ("1", "I", "I;16", "I;16B", "I;16L"):
            return image
        with image:
            if image.mode == "L" and not self.table.all_gray:
                return image.copy()
            check_pixels(image)
            if is_lossy(image) and not self.table.tolerance:
                raise FileError(
                    f"{self.file} is a mask of the format {image.format}, whose compression "
                    "changes colors. Write masks as PNG from where they were made, or allow a "
                    "difference with `tolerance`, such as 30."
                )
            ids, by_color = self.table.read(upright(image), self.file)
        mask = Image.fromarray(ids)
        mask.info["colors"] = by_color
        return mask
