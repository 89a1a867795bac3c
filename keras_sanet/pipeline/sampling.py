"""What to draw for each image, without a framework.

Every number is keyed by (seed, epoch, index of the sample), never by the state of an iterator:
tf.data and Pillow see the same draws, and a resumed run goes on exactly.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the draws (paper, section IV-C: flipping, scaling, contrast normalisation).

    Attributes:
        crop_size: (height, width) of the result in pixels; None keeps the scaled image whole.
        scale_range: least and largest factor of the image's size.
        contrast_range: least and largest a of 127 + a (x - 127).
        flip: whether half of the pairs are mirrored left to right.
        centre: whether the crop is the centre instead of a random part.
    """

    crop_size: tuple | None = None
    scale_range: tuple = (1.0, 1.0)
    contrast_range: tuple = (1.0, 1.0)
    flip: bool = False
    centre: bool = False

    def draws(self, seed, epoch, count):
        """One row a sample: scale, contrast, flip (0 or 1), and the place of the crop as shares
        (down, right) of the room there is. (count, 5), float64."""
        u = np.random.Generator(np.random.Philox(key=[seed, epoch])).random((count, 5))
        if self.centre:
            u[:, 3:] = 0.5
        scale = self.scale_range[0] + u[:, 0] * np.ptp(self.scale_range)
        contrast = self.contrast_range[0] + u[:, 1] * np.ptp(self.contrast_range)
        flip = (u[:, 2] < 0.5) & self.flip
        return np.stack([scale, contrast, flip, u[:, 3], u[:, 4]], axis=1)

    def window(self, size, draw):
        """Random scale and random crop as one box of the source and one resize of that box.

        Args: size, (height, width) of the image; draw, a row of `draws`.

        Returns: for rows, then for columns: start and length of the box in the source, start and
            length of the resized box in the result; and the size of the result. Where the scaled
            image is smaller than the crop, the rest of the result is padding.
        """
        scale, _, _, down, right = draw
        if self.crop_size is None:
            result = tuple(max(1, round(n * scale)) for n in size)
            return (0, size[0], 0, result[0]), (0, size[1], 0, result[1]), result
        rows, columns = (
            _axis(n, crop, scale, share)
            for n, crop, share in zip(size, self.crop_size, (down, right))
        )
        return rows, columns, tuple(self.crop_size)


def order(seed, epoch, count):
    """A permutation of the samples."""
    # A key of its own: the draws use [seed, epoch].
    return np.random.Generator(np.random.Philox(key=[seed, (1 << 32) + epoch])).permutation(count)


def _axis(size, crop, scale, share):
    scaled = max(1, round(size * scale))
    if scaled < crop:
        return 0, size, round(share * (crop - scaled)), scaled
    length = min(size, max(1, round(crop / scale)))
    return round(share * (size - length)), length, 0, crop
