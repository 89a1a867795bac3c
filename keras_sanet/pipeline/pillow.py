"""Augmentation with Pillow, and the plan carried out without TensorFlow."""

import keras
import numpy as np
from PIL import Image

from keras_sanet.datasets.files import VOID


class PillowDataset(keras.utils.PyDataset):
    """Batches for `fit` on any backend.

    Pass `shuffle=False` to `fit`: samples are shuffled here, and `fit` would change the order of
    the batches.
    """

    def __init__(self, plan, workers=2):
        super().__init__(workers=workers, max_queue_size=4)
        self.plan = plan
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self._epoch = epoch
        self._order, self._draws = self.plan.epoch(epoch)

    def on_epoch_end(self):
        self.set_epoch(self._epoch + 1)

    def __len__(self):
        return len(self.plan)

    def __getitem__(self, index):
        batch = slice(index * self.plan.batch_size, (index + 1) * self.plan.batch_size)
        pairs = [self.plan.pair(i, draw) for i, draw in zip(self._order[batch], self._draws[batch])]
        images, masks = zip(*pairs)
        return np.stack(images), np.stack(masks)


def augment(image, mask, window, draw):
    """Cuts out and resizes a box, changes the image's contrast, mirrors and pads.

    Args:
        image: Pillow image, RGB.
        mask: class ids, uint8 (height, width), of the image's size.
        window: the box and where it goes, from `Augmentation.window`.
        draw: a row of `Augmentation.draws`.

    Returns: image, uint8 (height, width, 3), padded with 0, and mask, uint8 (height, width), with
        255.
    """
    _, contrast, flip, _, _ = draw
    (y, rows, top, height), (x, columns, left, width), size = window
    image = _resize(image, (x, y, x + columns, y + rows), (width, height))
    levels = np.rint(127 + contrast * (np.arange(256) - 127)).clip(0, 255).astype(int)
    image = image.point(3 * levels.tolist())
    mask = _resize_mask(mask[y : y + rows, x : x + columns], (height, width))
    if flip:
        image, mask = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mask[:, ::-1]
        left = size[1] - left - width
    place = slice(top, top + height), slice(left, left + width)
    padded_image, padded_mask = np.zeros((*size, 3), "uint8"), np.full(size, VOID, "uint8")
    padded_image[place], padded_mask[place] = image, mask
    return padded_image, padded_mask


def _resize(image, box, size):
    """Bilinear, of the box to (width, height), with half-pixel centres and no antialiasing."""
    resampling = Image.Resampling.BILINEAR
    if size[0] >= box[2] - box[0] and size[1] >= box[3] - box[1]:
        return image.resize(size, resampling, box)
    return image.transform(size, Image.Transform.EXTENT, box, resampling)  # `resize` would smooth


def _resize_mask(mask, size):
    """Nearest neighbour with half-pixel centres, of (height, width) to `size`."""
    for axis, (n, length) in enumerate(zip(size, mask.shape)):
        mask = mask.take(((np.arange(n) + 0.5) * (length / n)).astype(int), axis)
    return mask
