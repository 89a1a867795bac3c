"""Batch normalisation by the backends' fused kernels."""

import keras
from keras import ops

from keras_sanet import backend


@keras.saving.register_keras_serializable(package="keras_sanet")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with PyTorch's defaults, in one kernel.

    Weights and results are those of the stock layer, which takes several passes over the map and
    keeps copies of it for the gradient on TensorFlow and PyTorch. (XLA fuses it on JAX.) The
    running variance is the biased one, as in Keras. In training on several devices its statistics
    are those of the whole batch; `synchronized` is never needed, and not saved.

    Args: those of `keras.layers.BatchNormalization`; momentum 0.9 (PyTorch's 0.1) and epsilon 1e-5.
    Call arguments: inputs, (batch, height, width, channels).
    Returns: a map of the same shape.
    """

    def __init__(self, axis=-1, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(axis, momentum, epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        normalize = {"tensorflow": _tensorflow, "torch": _torch}.get(keras.backend.backend())
        if (
            normalize is None
            or len(inputs.shape) != 4
            or self.axis not in (-1, 3)
            or (training and backend.replicas() > 1)
            or mask is not None
            or keras.backend.standardize_dtype(inputs.dtype) != "float32"
            or not (self.scale and self.center)
            or getattr(self, "renorm", False)
        ):
            return super().call(inputs, training=training, mask=mask)
        batch_statistics = bool(training and self.trainable)
        outputs, mean, variance = normalize(
            inputs,
            *(ops.convert_to_tensor(v) for v in (self.gamma, self.beta)),
            *(ops.convert_to_tensor(v) for v in (self.moving_mean, self.moving_variance)),
            self.epsilon,
            batch_statistics,
        )
        if batch_statistics:
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                value = ops.stop_gradient(value)
                moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return outputs

    def _moments(self, inputs, mask):
        """Mean and variance, (channels,), of the batch of all replicas; one may have no image."""
        if backend.replicas() == 1 or mask is not None:
            return super()._moments(inputs, mask)
        axes = self._reduction_axes
        count = ops.cast(ops.size(inputs) // inputs.shape[self.axis], inputs.dtype)
        count = backend.all_sum(count)
        mean = backend.all_sum(ops.sum(inputs, axes, keepdims=True)) / count
        # In two passes: the mean of squares less the square of the mean would lose digits. The
        # deviations' sum is 0, and so is what the variance's gradient has through the mean.
        deviations = ops.square(inputs - ops.stop_gradient(mean))
        variance = backend.all_sum(ops.sum(deviations, axes)) / count
        return ops.reshape(mean, (-1,)), variance

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
        outputs = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)
        return outputs.permute(0, 2, 3, 1), mean, variance
    outputs, mean, inverse = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, epsilon)
    return outputs.permute(0, 2, 3, 1), mean, torch.relu(inverse.pow(-2) - epsilon)
