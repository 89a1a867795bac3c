"""Batch normalization by the backends' fused kernels."""

import math

import keras
from keras import ops

from keras_sanet import _backend


@keras.saving.register_keras_serializable(package="keras_sanet")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with PyTorch's defaults, in one kernel.

    Weights and results are those of the stock layer, which takes several passes over the map and
    keeps copies of it for the gradient on TensorFlow and PyTorch. (XLA fuses it on JAX.) The
    running variance is the biased one, as in Keras. In training on several devices its statistics
    are those of the whole batch; `synchronized` is never needed, and not saved.

    Where a channel has one value in the batch (one image on a grid of one cell) its variance would
    be 0, and the result `beta` whatever the value. Such a step is normalized by the moving
    statistics, as in inference, with gradients for the value; then they follow it:

        mean     <- momentum x mean     + (1 - momentum) x value
        variance <- momentum x variance + (1 - momentum) x (1 + momentum) / 2 x (value - mean)^2

    with the mean of before. In the long run that mean has the variance (1 - momentum) /
    (1 + momentum) of the values' own, so (value - mean)^2 is 2 / (1 + momentum) times their
    variance on average, and the moving variance has no bias. At first it is too large, by the
    square of the distance from the mean that the layer began with. Of two values the variance is
    biased as the stock layer's is.

    Its arguments are those of `keras.layers.BatchNormalization`; momentum is 0.9 (PyTorch's 0.1)
    and epsilon 1e-5 if not given.

    Call arguments:
        inputs: (batch, height, width, channels).

    Returns:
        A map of the same shape.
    """

    def __init__(self, axis=-1, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(axis, momentum, epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable):
            return self._normalize(inputs, False, mask)
        single = self._sees_one_value(inputs, mask)
        if single is False:
            return self._normalize(inputs, True, mask)
        outputs = self._normalize(inputs, False, mask)  # before the statistics move
        batch_outputs = self._normalize(inputs, True, mask)
        return outputs if single is True else ops.where(single, outputs, batch_outputs)

    def _normalize(self, inputs, batch_statistics, mask):
        """By the statistics of the batch, which the moving ones follow, or by the moving ones."""
        normalize = {"tensorflow": _tensorflow, "torch": _torch}.get(keras.backend.backend())
        if (
            normalize is None
            or len(inputs.shape) != 4
            or self.axis not in (-1, 3)
            or (batch_statistics and _backend.replicas() > 1)
            or mask is not None
            or keras.backend.standardize_dtype(inputs.dtype) != "float32"
            or not (self.scale and self.center)
            or getattr(self, "renorm", False)
        ):
            return super().call(inputs, training=batch_statistics, mask=mask)
        outputs, mean, variance = normalize(
            inputs,
            *(ops.convert_to_tensor(v) for v in (self.gamma, self.beta)),
            *(ops.convert_to_tensor(v) for v in (self.moving_mean, self.moving_variance)),
            self.epsilon,
            batch_statistics,
        )
        if batch_statistics:
            variance = self._variance(inputs, mask, mean, variance)
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                value = ops.stop_gradient(value)
                moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return outputs

    def _moments(self, inputs, mask):
        """Mean and variance, (channels,), of the batch of all replicas; one may have no image."""
        if _backend.replicas() == 1 or mask is not None:
            mean, variance = super()._moments(inputs, mask)
            return mean, self._variance(inputs, mask, mean, variance)
        axes = self._reduction_axes
        count = _backend.all_sum(self._count(inputs))
        mean = _backend.all_sum(ops.sum(inputs, axes, keepdims=True)) / count
        # In two passes: the mean of squares less the square of the mean would lose digits. The
        # deviations' sum is 0, and so is what the variance's gradient has through the mean.
        deviations = ops.square(inputs - ops.stop_gradient(mean))
        variance = _backend.all_sum(ops.sum(deviations, axes)) / count
        mean = ops.reshape(mean, (-1,))
        return mean, self._variance(inputs, mask, mean, variance)

    def _variance(self, inputs, mask, mean, variance):
        """The variance that the moving one takes up of a batch."""
        single = self._sees_one_value(inputs, mask)
        if single is False:
            return variance
        distance = ops.square(mean - ops.cast(self.moving_mean, mean.dtype))
        distance = distance * ((1 + self.momentum) / 2)
        return distance if single is True else ops.where(single, distance, variance)

    def _sees_one_value(self, inputs, mask):
        """Whether each channel has one value in the batch of all replicas; a tensor where that is
        only known as the step runs."""
        if mask is not None:
            return ops.sum(ops.cast(mask, "int32")) == 1
        replicas = _backend.replicas()
        # Replicas' shares of a batch differ, and all must come to the same.
        axes = [axis for axis in self._reduction_axes if axis or replicas == 1]
        sizes = [inputs.shape[axis] for axis in axes]
        if math.prod(n for n in sizes if n is not None) > 1:
            return False
        if replicas == 1 and None not in sizes:
            return math.prod(sizes) == 1
        return _backend.all_sum(self._count(inputs)) == 1

    def _count(self, inputs):
        """Number of values a channel, of this replica."""
        return ops.cast(ops.size(inputs) // inputs.shape[self.axis], inputs.dtype)

    def get_config(self):
        config = super().get_config()
        del config["synchronized"]  # other backends' constructors refuse it
        return config


def _tensorflow(x, gamma, beta, mean, variance, epsilon, batch_statistics):
    import tensorflow as tf

    statistics = (tf.zeros((0,)), tf.zeros((0,))) if batch_statistics else (mean, variance)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=statistics[0],
        variance=statistics[1],
        epsilon=epsilon,
        is_training=batch_statistics,
    )
    # TensorFlow gives the unbiased variance, sum / (n - 1).
    n = tf.cast(tf.size(x) / tf.size(mean), "float32")
    return outputs, mean, variance * (tf.maximum(n - 1, 1) / n)


def _torch(x, gamma, beta, mean, variance, epsilon, batch_statistics):
    import torch

    x = x.permute(0, 3, 1, 2)  # a view, "channels last" in PyTorch's memory
    if not batch_statistics:
        if torch.is_grad_enabled():  # they may move before the gradient is computed
            mean, variance = mean.clone(), variance.clone()
        outputs = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)
        return outputs.permute(0, 2, 3, 1), mean, variance
    outputs, mean, inverse = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, epsilon)
    return outputs.permute(0, 2, 3, 1), mean, torch.relu(inverse.pow(-2) - epsilon)
