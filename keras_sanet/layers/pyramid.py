"""Pyramid pooling (paper, section III-B and IV-B; Zhao et al., PSPNet, 2017)."""

import keras
from keras import ops

from keras_sanet import _backend
from keras_sanet._arguments import integer, integers
from keras_sanet.layers.convolution import Conv2D, convolve
from keras_sanet.layers.normalization import BatchNormalization
from keras_sanet.layers.resizing import resizing_matrix, weigh_rows


@keras.saving.register_keras_serializable(package="keras_sanet")
class PyramidPooling(keras.layers.Layer):
    """Pools a map to small grids, and fuses it with them by one 3x3 convolution.

    For each n of `bins` the map is averaged over an n x n grid of cells, taken to `filters`
    channels (1x1, batch norm or bias, ReLU) and resized back bilinearly. The map and all branches,
    in the order of `bins`, are concatenated and fused (3x3, batch norm, ReLU).

    The concatenation is never made. A 3x3 convolution of a resized n x n grid is linear in its n^2
    cells, so each cell is multiplied by the kernel once and the products are spread over the map
    by two small matrices: at 60 x 60 cells this spares half of the layer's multiplications and
    changes the result by rounding only.

    Args:
        filters: channels of each branch and of the result.
        bins: cells a side of each grid. The paper's "bin sizes" 60, 30, 20, 15, 10 are the pooling
            windows on a 60 x 60 map, that is grids of 1, 2, 3, 4, 6. None: no pyramid, the 3x3
            alone.
        normalize_branches: whether a batch norm follows the 1x1 of each branch, as in PSPNet, or a
            bias. In training, batch norm sees n x n values an image and channel there: one of a
            single image where n is 1, which `BatchNormalization` takes by its moving statistics.

    Call arguments:
        inputs: (batch, height, width, channels), of any height and width.

    Returns:
        A map, (batch, height, width, filters).

    Raises:
        ValueError: `filters` or a bin is not a positive integer.
    """

    def __init__(self, filters=512, bins=(1, 2, 3, 4, 6), *, normalize_branches=True, **kwargs):
        super().__init__(**kwargs)
        self.filters = integer("filters", filters)
        bins = () if bins is None else integers("bins", bins)
        self.bins = bins or None
        self.normalize_branches = normalize_branches
        policy = self.dtype_policy
        self.convolutions = [
            Conv2D(
                self.filters,
                1,
                use_bias=not normalize_branches,
                dtype=policy,
                name=f"branch{n}_conv",
            )
            for n in bins
        ]
        self.normalizations = [
            BatchNormalization(name=f"branch{n}_bn", dtype=policy) if normalize_branches else None
            for n in bins
        ]
        self.normalization = BatchNormalization(name="bn", dtype=policy)

    def build(self, input_shape):
        widths = self._widths(input_shape[-1])
        for convolution, normalization in zip(self.convolutions, self.normalizations):
            convolution.build((None, None, None, widths[0]))
            if normalization is not None:
                normalization.build((None, None, None, self.filters))
        self.kernel = self.add_weight(
            (3, 3, sum(widths), self.filters), "glorot_uniform", name="kernel"
        )
        self.normalization.build((None, None, None, self.filters))

    def _widths(self, channels):
        """Channels of the map and of each branch, as the kernel reads them."""
        return [channels] + [self.filters] * len(self.convolutions)

    def call(self, inputs, training=None):
        if self.bins:
            kernel, *branches = _backend.split(
                ops.convert_to_tensor(self.kernel), self._widths(inputs.shape[-1]), axis=2
            )
            x = convolve(inputs, kernel) + self._fuse_pyramid(inputs, branches, training)
        else:
            x = convolve(inputs, self.kernel)
        return ops.relu(self.normalization(x, training=training))

    def _fuse_pyramid(self, inputs, kernels, training):
        """The pyramid's part of the 3x3 convolution, (batch, height, width, filters)."""
        _, height, width, _ = ops.shape(inputs)
        dtype = inputs.dtype
        strips = weigh_rows(
            ops.concatenate([_pooling_matrix(n, height, dtype) for n in self.bins]), inputs
        )
        strips = _backend.split(strips, self.bins, axis=1)
        spread, columns = [], []
        for n, convolution, normalization, strip, kernel in zip(
            self.bins, self.convolutions, self.normalizations, strips, kernels
        ):
            cells = convolution(ops.matmul(_pooling_matrix(n, width, dtype), strip))
            if normalization is not None:
                cells = normalization(cells, training=training)
            cells = ops.relu(cells)
            # Every cell (i, j) times every kernel position (p, q), then over the rows of the map.
            products = ops.matmul(
                ops.reshape(cells, (-1, cells.shape[-1])),
                ops.reshape(ops.transpose(kernel, (2, 0, 1, 3)), (cells.shape[-1], -1)),
            )
            products = ops.reshape(products, (-1, n, n, 3, 3, self.filters))
            products = ops.transpose(products, (0, 3, 1, 4, 2, 5))
            products = ops.reshape(products, (-1, 3 * n, 3 * n, self.filters))
            spread.append(weigh_rows(_spreading_matrix(height, n, dtype), products))
            columns.append(_spreading_matrix(width, n, dtype))
        # Over the columns, all grids at once.
        return ops.matmul(ops.concatenate(columns, axis=1), ops.concatenate(spread, axis=2))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if config.get("branch_filters", 0) is None:  # files of 0.1.0 say so
            del config["branch_filters"]
        return cls(**config)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "bins": self.bins,
            "normalize_branches": self.normalize_branches,
        }


def _pooling_matrix(cells, size, dtype):
    """(cells, size): row i averages positions floor(i size / cells) .. ceil((i+1) size / cells)."""
    position, cell = ops.arange(size)[None, :], ops.arange(cells)[:, None]
    # The division of what is not negative: ONNX rounds a quotient towards 0.
    start, stop = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    inside = ops.cast((position >= start) & (position < stop), "float32")
    return ops.cast(inside / ops.sum(inside, axis=1, keepdims=True), dtype)


def _spreading_matrix(size, cells, dtype):
    """(size, 3 cells): column (p, i) is what position h of a 3-tap, zero-padded convolution sees of
    cell i through kernel position p, that is row h + p - 1 of the resizing matrix."""
    matrix = ops.pad(resizing_matrix(size, cells, dtype), ((1, 1), (0, 0)))
    return ops.concatenate([matrix[p : p + size] for p in range(3)], axis=1)
