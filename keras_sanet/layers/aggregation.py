"""Multi-layer feature aggregation (paper, section III-A, Eqs 1-8)."""

import keras
from keras import ops

from keras_sanet._arguments import integer
from keras_sanet.layers.convolution import convolve
from keras_sanet.layers.normalization import BatchNormalization
from keras_sanet.layers.resizing import resize


@keras.saving.register_keras_serializable(package="keras_sanet")
class FeatureAdapter(keras.layers.Layer):
    """Eq. 1: brings one feature map to the grid and the channels of the sequence.

        x'_t = w_t * psi(x_t)

    psi is bilinear resizing (half-pixel centers, no antialiasing), w_t a 1x1 convolution without
    bias.

    Args:
        filters: channels c' of the result; None leaves the channels as they are (psi alone).
        normalize: whether a batch norm follows, which the paper does not have.

    Call arguments:
        inputs: (batch, height, width, channels).
        target: a map (batch, target height, target width, any), of which only the grid counts.

    Returns:
        A map, (batch, target height, target width, filters).

    Raises:
        ValueError: `filters` is neither None nor a positive integer.

    Reference: section III-A, Eq. 1.
    """

    def __init__(self, filters=None, *, normalize=False, **kwargs):
        super().__init__(**kwargs)
        self.filters = None if filters is None else integer("filters", filters)
        self.normalize = normalize
        self.norm = BatchNormalization(name="norm", dtype=self.dtype_policy) if normalize else None

    def build(self, inputs_shape, target_shape=None):
        if self.filters is not None:
            self.kernel = self.add_weight(
                (1, 1, inputs_shape[-1], self.filters), "glorot_uniform", name="kernel"
            )
        if self.norm:
            self.norm.build((*inputs_shape[:3], self.filters or inputs_shape[-1]))

    def call(self, inputs, target, training=None):
        x = resize(inputs, ops.shape(target)[1:3])
        if self.filters is not None:
            x = convolve(x, self.kernel)
        return self.norm(x, training=training) if self.norm else x

    def compute_output_shape(self, inputs_shape, target_shape):
        return (*inputs_shape[:1], *target_shape[1:3], self.filters or inputs_shape[-1])

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "normalize": self.normalize}


@keras.saving.register_keras_serializable(package="keras_sanet")
class ConvLSTMAggregator(keras.layers.Layer):
    """Eqs 2-8: reads feature maps as a sequence with a dilated convolutional LSTM, and averages.

        i_t = sigmoid(w_ix * x'_t + w_ih * h_{t-1} + b_i)      (2)
        f_t = sigmoid(w_fx * x'_t + w_fh * h_{t-1} + b_f)      (3)
        o_t = sigmoid(w_ox * x'_t + w_oh * h_{t-1} + b_o)      (4)
        g_t =    tanh(w_gx * x'_t + w_gh * h_{t-1} + b_g)      (5)
        c_t = f_t . c_{t-1} + i_t . g_t                        (6)
        h_t = o_t . tanh(c_t)                                  (7)
        y   = 1/m sum_t h_t                                    (8)

    with h_0 = c_0 = 0 and dilated 'same' convolutions. Eq. 6 is the standard one; the paper prints
    one symbol twice. Weights (`kernel`, `recurrent_kernel`, `bias`; gates stored as i, f, c, o;
    forget bias 1) are those of `keras.layers.ConvLSTM2D`, which load here as they are. That layer
    never dilates the recurrent convolution; with `recurrent_dilation_rate=1` the two are equal.

    Args:
        filters: channels c' of the cell and of the result.
        kernel_size: side of both kernels, in cells; odd.
        dilation_rate: dilation of both convolutions, in cells.
        recurrent_dilation_rate: dilation of the recurrent one, where it should differ.
        return_sequences: True gives every h_t instead of their mean.

    Call arguments:
        inputs: list of m >= 1 maps of one shape, (batch, height, width, channels).

    Returns:
        A map, (batch, height, width, filters); all of them, (batch, m, height, width, filters),
        with `return_sequences`.

    Raises:
        ValueError: an argument is not a positive integer, `kernel_size` is even, or the maps differ
            in shape.

    Example:
        y = ConvLSTMAggregator(256)([x0, x1, x2, x3, x4])

    Reference: section III-A, Eqs 2-8.
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        *,
        dilation_rate=2,
        recurrent_dilation_rate=None,
        return_sequences=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = integer("filters", filters)
        self.kernel_size = integer("kernel_size", kernel_size)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd. Received: kernel_size={kernel_size}.")
        self.dilation_rate = integer("dilation_rate", dilation_rate)
        if recurrent_dilation_rate is not None:
            recurrent_dilation_rate = integer("recurrent_dilation_rate", recurrent_dilation_rate)
        self.recurrent_dilation_rate = recurrent_dilation_rate
        self.return_sequences = return_sequences

    def build(self, input_shape):
        shapes = [tuple(shape) for shape in _check_list(input_shape)]
        if len({shape[1:] for shape in shapes}) > 1:
            raise ValueError(
                "`ConvLSTMAggregator` needs maps of one shape; bring them to it with "
                f"`FeatureAdapter`. Received: shapes={shapes}."
            )
        size, filters = self.kernel_size, self.filters
        self.kernel = self.add_weight(
            (size, size, shapes[0][-1], 4 * filters), "glorot_uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            (size, size, filters, 4 * filters), "orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight((4 * filters,), self._unit_forget_bias, name="bias")

    def call(self, inputs):
        h = [h for _, h in self._steps(_check_list(inputs))]
        return ops.stack(h, axis=1) if self.return_sequences else sum(h) / len(h)  # Eq. 8

    def gates(self, inputs):
        """What the cell does with each map, for looking at.

        Args:
            inputs: as for the layer.

        Returns:
            Dict of "input", "forget", "output" (Eqs 2-4) and "candidate" (Eq. 5), each
            (batch, m, height, width, filters).
        """
        if not self.built:
            self.build([x.shape for x in inputs])
        steps = [gates for gates, _ in self._steps(inputs)]
        return {name: ops.stack([gates[name] for gates in steps], axis=1) for name in steps[0]}

    def _steps(self, maps):
        """Yields the gates and h_t of every step."""
        # The input convolutions of all steps in one; the recurrence adds its own to each.
        z = self._convolve(ops.concatenate(maps, axis=0), self.kernel, self.dilation_rate)
        z = ops.split(z + ops.cast(self.bias, z.dtype), len(maps), axis=0)
        dilation_rate = self.recurrent_dilation_rate or self.dilation_rate
        c = h = None
        for z_t in z:
            if h is not None:
                z_t = z_t + self._convolve(h, self.recurrent_kernel, dilation_rate)
            i, f, g, o = ops.split(z_t, 4, axis=-1)
            i, f, o, g = ops.sigmoid(i), ops.sigmoid(f), ops.sigmoid(o), ops.tanh(g)  # Eqs 2-5
            c = i * g if c is None else f * c + i * g  # Eq. 6
            h = o * ops.tanh(c)  # Eq. 7
            yield {"input": i, "forget": f, "output": o, "candidate": g}, h

    def _convolve(self, x, kernel, dilation_rate):
        kernel = ops.cast(kernel, x.dtype)  # `gates` is called without Keras's autocasting
        return convolve(x, kernel, dilation_rate=(dilation_rate, dilation_rate))

    def _unit_forget_bias(self, shape, dtype=None):
        zeros, ones = ops.zeros((self.filters,), dtype), ops.ones((self.filters,), dtype)
        return ops.concatenate([zeros, ones, zeros, zeros])

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape[0]
        steps = (len(input_shape),) if self.return_sequences else ()
        return (batch, *steps, height, width, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "dilation_rate": self.dilation_rate,
            "recurrent_dilation_rate": self.recurrent_dilation_rate,
            "return_sequences": self.return_sequences,
        }


def _check_list(maps):
    """The list of maps (or of their shapes), or an error."""
    if not isinstance(maps, (list, tuple)) or not maps or isinstance(maps[0], (int, type(None))):
        raise ValueError(
            "`ConvLSTMAggregator` reads a list of maps, [x_1, ..., x_m]. "
            f"Received: {getattr(maps, 'shape', maps)}."
        )
    return list(maps)
