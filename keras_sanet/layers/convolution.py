"""Grouped convolution that is fast where the backend's own is not, and the batch norm we use."""

import keras
from keras import ops


def batch_normalization(name=None, dtype=None):
    """Batch normalisation with PyTorch's defaults: epsilon 1e-5, momentum 0.1 (Keras's 0.9)."""
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name, dtype=dtype)


@keras.saving.register_keras_serializable(package="keras_sanet")
class GroupedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with `groups`, quick on every backend and device.

    XLA on the CPU (JAX, and TensorFlow through it) computes the gradient of a grouped convolution
    some 80 times slower than that of a dense one. There, neighbouring groups are joined to chunks
    of at least `_CHUNK_CHANNELS` channels, and each chunk is one dense convolution with a
    block-diagonal kernel: the same sums, plus products with zeros. PyTorch and accelerators have
    a native form, and use it. Weights and results are those of `Conv2D`.

    Args: those of `keras.layers.Conv2D`; channels last.
    Call arguments: inputs, (batch, height, width, channels).
    Returns: (batch, new height, new width, filters).
    """

    # Fewer, wider chunks compile faster and multiply more zeros.
    _CHUNK_CHANNELS = 64

    def convolution_op(self, inputs, kernel):
        native = keras.backend.backend() == "torch" or not runs_on_cpu()
        if self.groups == 1 or native:
            return super().convolution_op(inputs, kernel)
        chunks = self._chunks(inputs.shape[-1])
        return ops.concatenate(
            [
                ops.conv(x, k, self.strides, self.padding, "channels_last", self.dilation_rate)
                for x, k in zip(ops.split(inputs, chunks, axis=-1), self._dense(kernel, chunks))
            ],
            axis=-1,
        )

    def _chunks(self, channels):
        """The largest number of chunks that divides the groups and keeps each chunk wide enough."""
        most = max(1, min(self.groups, channels // self._CHUNK_CHANNELS))
        return max(n for n in range(1, most + 1) if self.groups % n == 0)

    def _dense(self, kernel, chunks):
        """(k, k, in / groups, filters) -> for each chunk (k, k, in / chunks, filters / chunks)."""
        rows, columns, depth, _ = kernel.shape
        joined = self.groups // chunks
        width = self.filters // self.groups
        kernel = ops.reshape(kernel, (rows, columns, depth, chunks, joined, width))
        diagonal = ops.eye(joined, dtype=kernel.dtype)[:, None, :, None]
        return [
            ops.reshape(
                kernel[:, :, None, :, chunk] * diagonal,
                (rows, columns, joined * depth, joined * width),
            )
            for chunk in range(chunks)
        ]


def runs_on_cpu():
    """Whether TensorFlow or JAX computes on the CPU."""
    return keras.distribution.list_devices()[0].lower().startswith("cpu")
