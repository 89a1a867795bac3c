"""Augmentation with Pillow, and the plan carried out without TensorFlow."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from keras_sanet.datasets.files import VOID
from keras_sanet.pipeline.sampling import Draw


class PillowDataset(keras.utils.PyDataset):
    """Batches for `fit` on any backend.

    Pass `shuffle=False` to `fit`: samples are shuffled here, and `fit` would change the order of
    the batches. (Batches are made ahead here. Keras's own workers would give an epoch what they had
    made too much of the one before.)

    Args:
        plan: the `Plan`.
        workers: number of threads.
        ahead: number of batches that are kept ready.
    """

    def __init__(self, plan, workers=2, ahead=4):
        super().__init__()
        self.plan, self._ahead = plan, ahead
        self._pool = ThreadPoolExecutor(workers)
        self._ready = {}  # index of a batch -> its future
        self.set_epoch(0)

    def __repr__(self):
        return f"<PillowDataset of {self.plan!r}>"

    def set_epoch(self, epoch):
        """Says which epoch the next iteration is."""
        for batch in self._ready.values():
            batch.cancel()
        self._epoch, self._ready = epoch, {}
        self._samples = list(zip(*self.plan.epoch(epoch)))

    def _replace(self, **changes):
        plan = dataclasses.replace(self.plan, **changes)
        return PillowDataset(plan, self._pool._max_workers, self._ahead)

    def rest(self, batches):
        """The rest of an epoch after so many batches."""
        return self._replace(skip=batches)

    def for_outputs(self, names):
        """The batches for a model with these outputs: (images, {name: masks})."""
        return self._replace(outputs=tuple(names))

    def on_epoch_end(self):
        self.set_epoch(self._epoch + 1)

    def __len__(self):
        return len(self.plan)

    def __getitem__(self, index):
        size = self.plan.share
        for i in range(index, min(index + 1 + self._ahead, len(self))):
            if i not in self._ready:
                batch = self._samples[i * size : (i + 1) * size]
                self._ready[i] = self._pool.submit(self._batch, batch)
        return self._ready.pop(index).result()

    def _batch(self, samples):
        images, masks = zip(*(self.plan.pair(*sample) for sample in samples))
        return np.stack(images), self.plan.targets(np.stack(masks))


def augment(image, mask, window, draw):
    """Changes the image's colors; cuts out, resizes, rotates, mirrors and pads image and mask.

    Args:
        image: Pillow image, RGB.
        mask: class ids, uint8 (height, width), of the image's size.
        window: the box and where it goes, from `Augmentation.window`.
        draw: a row of `Augmentation.draws`.

    Returns:
        Image, uint8 (height, width, 3), padded with 0, and mask, uint8 (height, width), with 255.
    """
    draw = Draw(*map(float, draw))
    (y, rows, top, height), (x, columns, left, width), size = window
    if draw.rotation:
        return _rotate(_recolor(image, draw), mask, window, draw)
    image = _recolor(image.crop((x, y, x + columns, y + rows)), draw)
    image = _resize(image, (width, height))
    mask = _resize_mask(mask[y : y + rows, x : x + columns], (height, width))
    if draw.flip:
        image, mask = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mask[:, ::-1]
        left = size[1] - left - width
    box = slice(top, top + height), slice(left, left + width)
    padded_image, padded_mask = np.zeros((*size, 3), "uint8"), np.full(size, VOID, "uint8")
    padded_image[box], padded_mask[box] = image, mask
    return padded_image, padded_mask


def _recolor(image, draw):
    """Blur, hue, saturation, then brightness and contrast."""
    if draw.blur:
        image = image.filter(ImageFilter.GaussianBlur(draw.blur))
    if draw.hue:
        hue, *others = image.convert("HSV").split()
        turned = [(level + round(256 * draw.hue)) % 256 for level in range(256)]
        image = Image.merge("HSV", (hue.point(turned), *others)).convert("RGB")
    if draw.saturation != 1:
        image = ImageEnhance.Color(image).enhance(draw.saturation)
    levels = 127 + draw.contrast * (draw.brightness * np.arange(256) - 127)
    return image.point(3 * np.rint(levels).clip(0, 255).astype(int).tolist())


def _rotate(image, mask, window, draw):
    """Window, rotation about the result's center and flip as one resampling."""
    (y, rows, top, height), (x, columns, left, width), size = window
    angle = math.radians(draw.rotation)
    cosine, sine = math.cos(angle), math.sin(angle)
    middle_y, middle_x = size[0] / 2, size[1] / 2
    mirror = -1 if draw.flip else 1
    # (X, Y) in the result comes from x0 + (X' - left) columns / width, with X' the rotated X.
    across, down = columns / width, rows / height
    matrix = (
        *(across * mirror * cosine, -across * sine),
        x + across * (middle_x - left - mirror * cosine * middle_x + sine * middle_y),
        *(down * mirror * sine, down * cosine),
        y + down * (middle_y - top - mirror * sine * middle_x - cosine * middle_y),
    )
    affine, size = Image.Transform.AFFINE, size[::-1]
    nearest, bilinear = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
    image = image.transform(size, affine, matrix, bilinear, fillcolor=0)
    mask = Image.fromarray(mask).transform(size, affine, matrix, nearest, fillcolor=VOID)
    return np.array(image), np.array(mask)


def _resize(image, size):
    """Bilinear, to (width, height), with half-pixel centers and no antialiasing."""
    resampling = Image.Resampling.BILINEAR
    if size[0] >= image.width and size[1] >= image.height:
        return image.resize(size, resampling)
    box = (0, 0, *image.size)
    return image.transform(size, Image.Transform.EXTENT, box, resampling)  # `resize` would smooth


def _resize_mask(mask, size):
    """Nearest neighbor with half-pixel centers, of (height, width) to `size`."""
    for axis, (n, length) in enumerate(zip(size, mask.shape)):
        mask = mask.take(((np.arange(n) + 0.5) * (length / n)).astype(int), axis)
    return mask
