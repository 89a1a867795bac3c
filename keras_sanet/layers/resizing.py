"""Bilinear resizing as two small matrices.

The same on every backend, and for sizes that are known only when a graph runs, where
`keras.ops.image.resize` fails on TensorFlow. Half-pixel centres, no antialiasing: PyTorch's
`align_corners=False`.
"""

from keras import ops


def resize(x, size):
    """(batch, height, width, channels) to (batch, *size, channels); sizes may be tensors."""
    _, height, width, _ = ops.shape(x)
    for axis, (new, old) in enumerate(zip(size, (height, width))):
        if not (isinstance(new, int) and isinstance(old, int) and new == old):
            equation = ("nh,bhwc->bnwc", "nw,bhwc->bhnc")[axis]
            x = ops.einsum(equation, resizing_matrix(new, old, x.dtype), x)
    return x


def resizing_matrix(new, old, dtype):
    """(new, old): row n holds the weights of the old positions at the new position n."""
    scale = ops.cast(old, "float32") / ops.cast(new, "float32")
    position = (ops.arange(new, dtype="float32") + 0.5) * scale - 0.5
    position = ops.clip(position, 0.0, ops.cast(old - 1, "float32"))
    distance = ops.abs(position[:, None] - ops.arange(old, dtype="float32"))
    return ops.cast(ops.relu(1 - distance), dtype)
