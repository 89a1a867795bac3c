"""The plan carried out by tf.data. The only module that imports TensorFlow at its top."""

import dataclasses

import tensorflow as tf


def load(plan):
    """A `tf.data.Dataset` of the plan's batches; each iteration is the next epoch."""
    epoch = _Epoch()

    def epoch_plan():
        indexes, draws = plan.epoch(epoch.next())
        return indexes.astype("int64"), draws

    def samples(_):
        indexes, draws = tf.numpy_function(epoch_plan, [], [tf.int64, tf.float64])
        return tf.data.Dataset.from_tensor_slices((indexes, draws))

    def pair(index, draw):
        image, mask = tf.numpy_function(plan.pair, [index, draw], [tf.uint8, tf.uint8])
        height, width = plan.augmentation.crop_size or (None, None)
        return tf.ensure_shape(image, (height, width, 3)), tf.ensure_shape(mask, (height, width))

    dataset = tf.data.Dataset.range(1).flat_map(samples)
    dataset = dataset.map(pair, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(plan.share, drop_remainder=plan.drop_remainder)
    if plan.outputs:
        dataset = dataset.map(lambda image, mask: (image, plan.targets(mask)))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(plan)))
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    dataset.plan, dataset.set_epoch = plan, epoch.set
    dataset.rest = lambda batches: load(dataclasses.replace(plan, skip=batches))
    dataset.for_outputs = lambda names: load(dataclasses.replace(plan, outputs=tuple(names)))
    return dataset


class _Epoch:
    """The epoch that the next iteration is."""

    def __init__(self):
        self.set(0)

    def set(self, epoch):
        self._epoch = epoch

    def next(self):
        self._epoch += 1
        return self._epoch - 1
