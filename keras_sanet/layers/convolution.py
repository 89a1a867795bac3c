"""Convolution in the form that is quickest where it runs.

`convolve` computes what `keras.ops.conv` does. Accelerators and their libraries are left alone; on
a CPU it takes another road where the backend's own is slow:

- a 1x1 convolution is one matrix product (all backends);
- TensorFlow's own operation dilates and groups by oneDNN, where Keras's goes through copies of the
  map, or XLA;
- a 3x3 convolution to far fewer channels multiplies first and adds the shifted products after
  (all backends);
- XLA (JAX) computes the gradient of a kernel up to four times slower than as matrix products, and
  that of a grouped convolution some 80 times slower than that of a dense one. So neighboring
  groups are joined to chunks of at least `_CHUNK_CHANNELS` channels, and each chunk is one dense
  convolution with a block-diagonal kernel: the same sums, plus products with zeros.

Within `native_form` it is the backend's own convolution on every device, dilation and all: what an
exported graph should hold. So are groups, unless they are asked to be chunks: TensorFlow without
oneDNN joins a convolution with the bias and the ReLU after it, and that has no groups.
"""

import contextlib
import contextvars
import functools

import keras
from keras import ops

from keras_sanet._backend import runs_on_cpu

# Fewer, wider chunks compile faster and multiply more zeros.
_CHUNK_CHANNELS = 64

# Of this thread, and of the calls it makes, alone: the backend's own convolution, or None.
_NATIVE = contextvars.ContextVar("native_form", default=None)


@contextlib.contextmanager
def native_form(grouped=True):
    """Within it every convolution that is called or traced is one operation of the backend.

    Args:
        grouped: whether also those with groups; else TensorFlow's are one operation a chunk.
    """
    token = _NATIVE.set(_convolve_natively if grouped else _convolve_natively_in_chunks)
    try:
        yield
    finally:
        _NATIVE.reset(token)


@keras.saving.register_keras_serializable(package="keras_sanet")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, channels last, that is quick on every backend and device.

    Weights and results are those of the stock layer. On TensorFlow without an accelerator, where
    XLA makes a training step slower, `compile(jit_compile="auto")` leaves XLA off.

    Its arguments are those of `keras.layers.Conv2D`.

    Call arguments:
        inputs: (batch, height, width, channels).

    Returns:
        A map, (batch, new height, new width, filters).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"data_format": "channels_last", **kwargs})
        self.supports_jit = keras.backend.backend() != "tensorflow" or not runs_on_cpu()

    def convolution_op(self, inputs, kernel):
        return convolve(inputs, kernel, self.strides, self.padding, self.dilation_rate, self.groups)


def convolve(inputs, kernel, strides=(1, 1), padding="same", dilation_rate=(1, 1), groups=1):
    """`ops.conv` of (batch, height, width, channels) with (rows, columns, channels / groups,
    filters)."""
    backend = keras.backend.backend()
    kernel = ops.convert_to_tensor(kernel)
    if native := _NATIVE.get():
        return native(inputs, kernel, strides, padding, dilation_rate, groups)
    if runs_on_cpu():
        if kernel.shape[:2] == (1, 1) and groups == 1:
            if max(strides) > 1:
                inputs = inputs[:, :: strides[0], :: strides[1]]
            return _multiply(inputs, ops.reshape(kernel, kernel.shape[2:]))
        if _is_wide(kernel) and padding == "same" and max(strides) == groups == 1:
            return _multiply_then_shift(inputs, kernel, dilation_rate)
        onednn = backend == "tensorflow" and _has_onednn(
            keras.backend.standardize_dtype(inputs.dtype)
        )
        if onednn and 1 in (max(strides), max(dilation_rate)):
            import tensorflow as tf

            return tf.nn.conv2d(inputs, kernel, strides, padding.upper(), dilations=dilation_rate)
        if backend != "torch" and groups > 1:
            return _convolve_chunks(_stock, inputs, kernel, strides, padding, dilation_rate, groups)
        if backend == "jax" and _is_odd(kernel) and padding == "same" and max(strides) == 1:
            from keras_sanet.layers import convolution_jax

            return convolution_jax.convolve(inputs, kernel, dilation_rate)
    return _stock(inputs, kernel, strides, padding, dilation_rate)


def _stock(inputs, kernel, strides, padding, dilation_rate, groups=1):
    """Keras's own, which reads the groups off the kernel."""
    return ops.conv(inputs, kernel, strides, padding, "channels_last", dilation_rate)


def _convolve_natively(inputs, kernel, strides, padding, dilation_rate, groups=1):
    if keras.backend.backend() != "tensorflow":
        return _stock(inputs, kernel, strides, padding, dilation_rate)
    import tensorflow as tf

    # Keras's form goes through copies of the map where it is dilated, and through XLA with groups.
    if padding == "same" and max(strides) == 1 and _is_odd(kernel):
        # In numbers: ONNX Runtime refuses "same" with dilation where the size is open.
        rows, columns = (n // 2 * d for n, d in zip(kernel.shape, dilation_rate))
        padding = [[0, 0], [rows, rows], [columns, columns], [0, 0]]
    else:
        padding = padding.upper()
    return tf.nn.conv2d(inputs, kernel, strides, padding, dilations=dilation_rate)


def _convolve_natively_in_chunks(inputs, kernel, strides, padding, dilation_rate, groups):
    if groups == 1 or keras.backend.backend() != "tensorflow":
        return _convolve_natively(inputs, kernel, strides, padding, dilation_rate, groups)
    return _convolve_chunks(
        _convolve_natively, inputs, kernel, strides, padding, dilation_rate, groups
    )


def _multiply(inputs, matrix):
    """(batch, height, width, channels) times (channels, filters)."""
    if keras.backend.backend() != "jax":
        return ops.matmul(inputs, matrix)
    from keras_sanet.layers import convolution_jax

    return convolution_jax.multiply(inputs, matrix)


def _is_wide(kernel):
    """Whether a kernel has many more channels than filters."""
    return _is_odd(kernel) and kernel.shape[2] >= 4 * kernel.shape[3]


def _is_odd(kernel):
    return kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1


def _multiply_then_shift(inputs, kernel, dilation_rate):
    """Every cell times all positions of the kernel, one matrix product; then each product goes
    where its position of the kernel sends it."""
    rows, columns, channels, _ = kernel.shape
    matrix = ops.reshape(ops.transpose(kernel, (2, 0, 1, 3)), (channels, -1))
    products = iter(ops.split(_multiply(inputs, matrix), rows * columns, axis=-1))
    total = 0
    for i in range(rows):
        for j in range(columns):
            down, right = (i - rows // 2) * dilation_rate[0], (j - columns // 2) * dilation_rate[1]
            total = total + _shift(_shift(next(products), down, axis=1), right, axis=2)
    return total


def _shift(x, cells, axis):
    """x[n + cells] at n, zeros beyond the end."""
    if cells == 0:
        return x
    kept, padding = [slice(None)] * 4, [(0, 0)] * 4
    kept[axis] = slice(cells, None) if cells > 0 else slice(None, cells)
    padding[axis] = (max(-cells, 0), max(cells, 0))
    return ops.pad(x, padding)[tuple(kept)]


@functools.cache
def _has_onednn(dtype):
    """Whether TensorFlow's CPU convolutions have gradients with groups and dilation.

    oneDNN's have, and it depends on the build, the processor (float16) and the environment: so try.
    """
    import tensorflow as tf

    with tf.init_scope():
        x, kernel = tf.ones((1, 3, 3, 4), dtype), tf.ones((3, 3, 2, 4), dtype)

        @tf.function
        def gradients(x, kernel):
            return tf.gradients(tf.nn.conv2d(x, kernel, 1, "SAME", dilations=2), [x, kernel])

        try:
            gradients(x, kernel)
        except tf.errors.OpError:
            return False
        return True


def _convolve_chunks(convolution, inputs, kernel, strides, padding, dilation_rate, groups):
    chunks = chunk_count(groups, inputs.shape[-1])
    outputs = [
        convolution(x, k, strides, padding, dilation_rate)
        for x, k in zip(ops.split(inputs, chunks, axis=-1), _block_diagonal(kernel, groups, chunks))
    ]
    return ops.concatenate(outputs, axis=-1)


def chunk_count(groups, channels):
    """The largest number of chunks that divides the groups and keeps each chunk wide enough."""
    most = max(1, min(groups, channels // _CHUNK_CHANNELS))
    return max(n for n in range(1, most + 1) if groups % n == 0)


def _block_diagonal(kernel, groups, chunks):
    """(k, k, in / groups, filters) -> for each chunk (k, k, in / chunks, filters / chunks)."""
    rows, columns, depth, filters = kernel.shape
    joined, width = groups // chunks, filters // groups
    kernel = ops.reshape(kernel, (rows, columns, depth, chunks, joined, width))
    diagonal = ops.eye(joined, dtype=kernel.dtype)[:, None, :, None]
    return [
        ops.reshape(
            kernel[:, :, None, :, chunk] * diagonal,
            (rows, columns, joined * depth, joined * width),
        )
        for chunk in range(chunks)
    ]
