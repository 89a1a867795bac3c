"""The plan carried out by Pillow and NumPy, without TensorFlow."""

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
        pairs = [
            augment(*self.plan.read_box(i, draw), draw)
            for i, draw in zip(self._order[batch], self._draws[batch])
        ]
        images, masks = zip(*pairs)
        return np.stack(images), np.stack(masks)


def augment(image, mask, place, draw):
    """Resizes the image's box and changes its contrast; pads and mirrors image and mask.

    Args:
        image: the box of the source, uint8 (any height, any width, 3).
        mask: the box of the mask, resized, uint8 (height, width).
        place: (top, height), (left, width) of the box in the result, and the result's size.
        draw: a row of `Augmentation.draws`.

    Returns: image and mask of the result's size, uint8.
    """
    _, contrast, flip, _, _ = draw
    (top, height), (left, width), size = place
    image = _resize(image, (width, height))
    levels = 127 + contrast * (np.arange(256) - 127)
    image = np.clip(np.rint(levels), 0, 255).astype("uint8")[image]
    padding = ((top, size[0] - top - height), (left, size[1] - left - width))
    image = np.pad(image, (*padding, (0, 0)))
    mask = np.pad(mask, padding, constant_values=VOID)
    if flip:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return image, mask


def _resize(array, size):
    """Bilinear, to (width, height). `Image.resize` would smooth when it shrinks; this does not."""
    image = Image.fromarray(array)
    if image.size == size:
        return array
    box = (0, 0, *image.size)
    transform, resampling = Image.Transform.EXTENT, Image.Resampling.BILINEAR
    return np.asarray(image.transform(size, transform, box, resampling))
