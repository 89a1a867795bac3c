"""Pyramid pooling (paper, section III-B and IV-B; Zhao et al., PSPNet, 2017)."""

import keras
from keras import ops

from keras_sanet.layers.convolution import batch_normalization
from keras_sanet.layers.resizing import resizing_matrix


@keras.saving.register_keras_serializable(package="keras_sanet")
class PyramidPooling(keras.layers.Layer):
    """Pools a map to small grids, and fuses it with them by one 3x3 convolution.

    For each n of `bins` the map is averaged over an n x n grid of cells, taken to `branch_filters`
    channels (1x1, batch norm, ReLU) and resized back bilinearly. The map and all branches, in the
    order of `bins`, are concatenated and fused (3x3, batch norm, ReLU).

    The concatenation is never made. A 3x3 convolution of a resized n x n grid is linear in its n^2
    cells, so each cell is multiplied by the kernel once and the products are spread over the map
    by two small matrices: at 60 x 60 cells this spares half of the layer's multiplications and
    changes the result by rounding only.

    Args:
        filters: channels of the result.
        bins: cells a side of each grid. The paper's "bin sizes" 60, 30, 20, 15, 10 are the pooling
            windows on a 60 x 60 map, that is grids of 1, 2, 3, 4, 6. None: no pyramid, the 3x3
            alone.
        branch_filters: channels of a branch; as many as `filters` if None.

    Call arguments:
        inputs: (batch, height, width, channels), of any height and width.

    Returns: (batch, height, width, filters).

    In training, the branch with one cell has one value an image and channel for its batch norm:
    use batches of two images or more.

    Raises: ValueError where `filters` or a bin is not a positive integer.
    """

    def __init__(self, filters=512, bins=(1, 2, 3, 4, 6), branch_filters=None, **kwargs):
        super().__init__(**kwargs)
        for name, values in (("filters", [filters]), ("bins", bins or [])):
            if not all(isinstance(n, int) and n > 0 for n in values):
                raise ValueError(f"`{name}` must be positive integers. Received: {name}={values}.")
        self.filters = filters
        self.bins = tuple(bins) if bins else None
        self.branch_filters = branch_filters
        policy = self.dtype_policy
        self.convolutions = [
            keras.layers.Conv2D(
                branch_filters or filters, 1, use_bias=False, dtype=policy, name=f"branch{n}_conv"
            )
            for n in self.bins or ()
        ]
        self.normalizations = [
            batch_normalization(f"branch{n}_bn", policy) for n in self.bins or ()
        ]
        self.normalization = batch_normalization("bn", policy)

    def build(self, input_shape):
        channels = input_shape[-1]
        branch_filters = self.branch_filters or self.filters
        for n, convolution, normalization in self._branches():
            convolution.build((None, n, n, channels))
            normalization.build((None, n, n, branch_filters))
        self.kernel = self.add_weight(
            (3, 3, channels + len(self.convolutions) * branch_filters, self.filters),
            "glorot_uniform",
            name="kernel",
        )
        self.normalization.build((None, None, None, self.filters))

    def call(self, inputs, training=None):
        channels = inputs.shape[-1]
        x = ops.conv(
            inputs, self.kernel[:, :, :channels], padding="same", data_format="channels_last"
        )
        if self.bins:
            x = x + self._fuse_pyramid(inputs, self.kernel[:, :, channels:], training)
        return ops.relu(self.normalization(x, training=training))

    def _fuse_pyramid(self, inputs, kernel, training):
        """The pyramid's part of the 3x3 convolution, (batch, height, width, filters)."""
        _, height, width, _ = ops.shape(inputs)
        dtype = inputs.dtype
        strips = ops.einsum(
            "ih,bhwc->biwc",
            ops.concatenate([_pooling_matrix(n, height, dtype) for n in self.bins]),
            inputs,
        )
        spread, columns, row = [], [], 0
        kernels = ops.split(kernel, len(self.bins), axis=2)
        for (n, convolution, normalization), kernel in zip(self._branches(), kernels):
            cells = ops.einsum(
                "jw,biwc->bijc", _pooling_matrix(n, width, dtype), strips[:, row : row + n]
            )
            row += n
            cells = ops.relu(normalization(convolution(cells), training=training))
            # Cell (i, j) times kernel position (p, q), then over the rows of the map.
            products = ops.einsum("bijf,pqfo->bpiqjo", cells, kernel)
            products = ops.reshape(products, (-1, 3 * n, 3 * n, self.filters))
            spread.append(
                ops.einsum("hk,bklo->bhlo", _spreading_matrix(height, n, dtype), products)
            )
            columns.append(_spreading_matrix(width, n, dtype))
        # Over the columns, all grids at once.
        return ops.einsum(
            "wl,bhlo->bhwo", ops.concatenate(columns, axis=1), ops.concatenate(spread, axis=2)
        )

    def _branches(self):
        return zip(self.bins or (), self.convolutions, self.normalizations)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "bins": self.bins,
            "branch_filters": self.branch_filters,
        }


def _pooling_matrix(cells, size, dtype):
    """(cells, size): row i averages positions floor(i size / cells) .. ceil((i+1) size / cells)."""
    position, cell = ops.arange(size)[None, :], ops.arange(cells)[:, None]
    start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
    inside = ops.cast((position >= start) & (position < stop), "float32")
    return ops.cast(inside / ops.sum(inside, axis=1, keepdims=True), dtype)


def _spreading_matrix(size, cells, dtype):
    """(size, 3 cells): column (p, i) is what position h of a 3-tap, zero-padded convolution sees of
    cell i through kernel position p, that is row h + p - 1 of the resizing matrix."""
    matrix = ops.pad(resizing_matrix(size, cells, dtype), ((1, 1), (0, 0)))
    return ops.concatenate([matrix[p : p + size] for p in range(3)], axis=1)
