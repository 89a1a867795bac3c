"""What to draw for each image, without a framework.

Every number is keyed by (seed, epoch, index of the sample), never by the state of an iterator:
tf.data and Pillow see the same draws, and a resumed run goes on exactly.
"""

import collections
import dataclasses
import itertools

import numpy as np

from keras_sanet.datasets.files import VOID

# What is drawn for one sample: factor of its size, a of 127 + a (x - 127), 1 to mirror, the place
# of the crop as shares (down, right) of the room there is; degrees counter-clockwise, factors of
# brightness and saturation, share of the circle of hues, standard deviation of the blur in pixels
# of the file, and a number that keys other places of the crop.
Draw = collections.namedtuple(
    "Draw",
    "scale contrast flip down right rotation brightness saturation hue blur key",
    defaults=(0.0, 1.0, 1.0, 0.0, 0.0, 0.0),
)
_TRIES = 10  # places of a crop


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the draws (paper, section IV-C: flipping, scaling, contrast normalization).

    The attributes are arguments of `make_dataset`, except `centre`: whether the crop is the center
    instead of a random part.
    """

    crop_size: tuple | None = None
    scale_range: tuple = (1.0, 1.0)
    contrast_range: tuple = (1.0, 1.0)
    flip: bool = False
    rotation_range: tuple = (0.0, 0.0)
    brightness_range: tuple = (1.0, 1.0)
    saturation_range: tuple = (1.0, 1.0)
    hue_range: tuple = (0.0, 0.0)
    blur_range: tuple = (0.0, 0.0)
    class_limit: float | None = None
    centre: bool = False

    def draws(self, seed, epoch, count):
        """A `Draw` a sample, as the rows of a float64 array (count, 11)."""
        # A key a group, so that a further draw leaves the others as they are.
        u = _generator([seed, epoch]).random((count, 5))
        v = _generator([seed, (2 << 32) + epoch]).random((count, 6))
        corner = np.full((count, 2), 0.5) if self.centre else u[:, 3:]
        columns = [
            _within(self.scale_range, u[:, 0]),
            _within(self.contrast_range, u[:, 1]),
            (u[:, 2] < 0.5) & self.flip,
            *corner.T,
            _within(self.rotation_range, v[:, 0]),
            _within(self.brightness_range, v[:, 1]),
            _within(self.saturation_range, v[:, 2]),
            _within(self.hue_range, v[:, 3]),
            _within(self.blur_range, v[:, 4]),
            np.floor(v[:, 5] * 2**32),
        ]
        return np.stack(columns, axis=1)

    def choose_window(self, mask, draw):
        """The first window in which no class takes more than `class_limit`, of ten at most.

        Args:
            mask: class ids, (height, width).
            draw: a row of `draws`.

        Returns:
            As `window`; the first if none will do.
        """
        first = self.window(mask.shape, draw)
        if self.class_limit is None:
            return first
        draw = Draw(*draw)
        places = _generator([int(draw.key), 0]).random((_TRIES - 1, 2))
        others = (self.window(mask.shape, draw._replace(down=y, right=x)) for y, x in places)
        for window in itertools.chain([first], others):
            (y, rows, *_), (x, columns, *_), _ = window
            ids = mask[y : y + rows, x : x + columns]
            counts = np.bincount(ids.ravel(), minlength=VOID)[:VOID]
            if 0 < counts.max() <= self.class_limit * counts.sum():
                return window
        return first

    def window(self, size, draw):
        """Random scale and random crop as one box of the source and one resize of that box.

        Args:
            size: (height, width) of the image.
            draw: a row of `draws`.

        Returns:
            For rows, then for columns: start and length of the box in the source, start and length
            of the resized box in the result; and the size of the result. Where the scaled image is
            smaller than the crop, the rest of the result is padding.
        """
        draw = Draw(*draw)
        if self.crop_size is None:
            result = tuple(max(1, round(n * draw.scale)) for n in size)
            return (0, size[0], 0, result[0]), (0, size[1], 0, result[1]), result
        rows, columns = (
            _axis(n, crop, draw.scale, share)
            for n, crop, share in zip(size, self.crop_size, (draw.down, draw.right))
        )
        return rows, columns, tuple(self.crop_size)


def order(seed, epoch, count):
    """A permutation of the samples."""
    return _generator([seed, (1 << 32) + epoch]).permutation(count)


def _generator(key):
    return np.random.Generator(np.random.Philox(key=key))


def _within(limits, shares):
    return limits[0] + shares * np.ptp(limits)


def _axis(size, crop, scale, share):
    scaled = max(1, round(size * scale))
    if scaled < crop:
        return 0, size, round(share * (crop - scaled)), scaled
    length = min(size, max(1, round(crop / scale)))
    return round(share * (size - length)), length, 0, crop
