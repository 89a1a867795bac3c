"""Bilinear resizing as two small matrices.

The same on every backend, and for sizes that are known only when a graph runs, where
`keras.ops.image.resize` fails on TensorFlow. Half-pixel centers, no antialiasing: PyTorch's
`align_corners=False`.
"""

from keras import ops


def resize(x, size):
    """(batch, height, width, channels) to (batch, *size, channels); sizes may be tensors."""
    _, height, width, _ = ops.shape(x)
    if not _same(size[0], height):
        x = weigh_rows(resizing_matrix(size[0], height, x.dtype), x)
    if not _same(size[1], width):
        x = ops.matmul(resizing_matrix(size[1], width, x.dtype), x)
    return x


def weigh_rows(matrix, x):
    """Sums of rows: (new, height) times (batch, height, width, channels)."""
    _, height, width, channels = ops.shape(x)
    x = ops.matmul(matrix, ops.reshape(x, (-1, height, width * channels)))
    return ops.reshape(x, (-1, matrix.shape[0] or ops.shape(matrix)[0], width, channels))


def _same(new, old):
    return isinstance(new, int) and isinstance(old, int) and new == old


def resizing_matrix(new, old, dtype):
    """(new, old): row n holds the weights of the old positions at the new position n."""
    scale = ops.cast(old, "float32") / ops.cast(new, "float32")
    position = (ops.arange(new, dtype="float32") + 0.5) * scale - 0.5
    position = ops.clip(position, 0.0, ops.cast(old - 1, "float32"))
    distance = ops.abs(position[:, None] - ops.arange(old, dtype="float32"))
    return ops.cast(ops.relu(1 - distance), dtype)
