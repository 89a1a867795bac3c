"""The plan carried out by tf.data. The only module that imports TensorFlow at its top."""

import numpy as np
import tensorflow as tf

from keras_sanet.datasets.files import VOID


def load(plan):
    """A `tf.data.Dataset` of the plan's batches; each iteration is the next epoch."""
    epoch = _Epoch()

    def epoch_plan():
        indexes, draws = plan.epoch(epoch.next())
        return indexes.astype("int64"), draws

    def samples(_):
        indexes, draws = tf.numpy_function(epoch_plan, [], [tf.int64, tf.float64])
        return tf.data.Dataset.from_tensor_slices((indexes, draws))

    def read_box(index, draw):
        image, mask, (rows, columns, size) = plan.read_box(index, draw)
        return image, mask, np.array([*rows, *columns, *size], "int32")

    def read(index, draw):
        image, mask, place = tf.numpy_function(
            read_box, [index, draw], [tf.uint8, tf.uint8, tf.int32]
        )
        image.set_shape((None, None, 3))
        mask.set_shape((None, None))
        place.set_shape((6,))
        image, mask = augment(image, mask, place, tf.cast(draw, tf.float32))
        height, width = plan.augmentation.crop_size or (None, None)
        return tf.ensure_shape(image, (height, width, 3)), tf.ensure_shape(mask, (height, width))

    dataset = tf.data.Dataset.range(1).flat_map(samples)
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(plan.batch_size, drop_remainder=plan.drop_remainder)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(plan)))
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    dataset.set_epoch = epoch.set
    return dataset


def augment(image, mask, place, draw):
    """Resizes the image's box and changes its contrast; pads and mirrors image and mask.

    Args:
        image: the box of the source, uint8 (any height, any width, 3).
        mask: the box of the mask, resized, uint8 (height, width).
        place: int32 (6,): top and height, left and width of the box in the result, and the
            result's height and width.
        draw: float32 (5,), a row of `Augmentation.draws`.

    Returns: image and mask of the result's size, uint8.
    """
    contrast, flip = draw[1], draw[2] > 0
    top, height, left, width, rows, columns = tf.unstack(place)
    image = tf.image.resize(image, (height, width))  # half-pixel centres, no antialiasing
    image = tf.clip_by_value(127 + contrast * (image - 127), 0, 255)
    image = tf.cast(tf.round(image), tf.uint8)
    padding = [[top, rows - top - height], [left, columns - left - width]]
    image = tf.pad(image, [*padding, [0, 0]])
    mask = tf.pad(mask, padding, constant_values=VOID)
    return tf.cond(flip, lambda: (image[:, ::-1], mask[:, ::-1]), lambda: (image, mask))


class _Epoch:
    """The epoch that the next iteration is."""

    def __init__(self):
        self.set(0)

    def set(self, epoch):
        self._epoch = epoch

    def next(self):
        self._epoch += 1
        return self._epoch - 1
