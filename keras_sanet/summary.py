"""What a model costs: parameters and multiply-accumulates of each of its layers (paper, Table II).

The model is called on an image that has a shape and no values, and every call of a layer, however
deep inside, is counted. So a layer that is shared counts as often as it is called, and one that no
call reaches not at all.

One multiply-accumulate (MAC) is a product and its addition, two FLOPs. Convolutions and dense
layers count; biases, batch norms, activations, pooling and resizing do not, as is usual (fvcore,
ptflops). Layers of this package count as their equations are written, whatever the backend
computes: the pyramid's 3x3 as over the concatenation. Zeros of padding count.
"""

import dataclasses
import io
import math
import threading

import keras
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_sanet import layers
from keras_sanet._arguments import integer, sides
from keras_sanet._tables import html_lines, html_table, rich_cells

_ONE_AT_A_TIME = threading.RLock()


@dataclasses.dataclass
class Row:
    """A layer, with all that is inside of it."""

    name: str  # of a layer in layers "backbone/conv1"
    depth: int  # how many layers it is in; 0 for those of the model
    kind: str  # name of its class
    parameters: int  # number of its values; a layer that stands twice has them at the first place
    trainable: int  # number of those that are trained
    calls: int = 0  # how often it is called where it stands
    output: tuple = ()  # shape of its (last) result, in the last call
    macs: int = 0  # multiply-accumulates


class Summary:
    """Parameters and multiply-accumulates of a model and of its layers, for images of a size.

    Nothing is computed, and the model stays as it is. (On PyTorch a layer that can't be called
    without values makes Keras compute the model once.) `print(Summary(model))` shows the layers of
    the model; `table(depth)` those inside too.

    Args:
        model: any built `keras.Model` of images, channels last.
        image_size: (height, width) of the images or one number for both, in pixels. None for the
            model's own, or 473 where it takes any.
        batch_size: number of images.

    Attributes:
        image_shape: (batch, height, width, channels).
        parameters: number of values.
        trainable: number of those that are trained.
        macs: multiply-accumulates of the batch.
        rows: list of `Row`, layers in the order of their first call, each before those inside.
        uncounted: list of texts, the weights of two axes and more of layers that no rule is for.
        unread: list of the other packages' kinds of layers, whose own code may multiply too.

    Raises:
        ValueError: an argument is not as above.
    """

    def __init__(self, model, image_size=None, *, batch_size=1):
        if not getattr(model, "built", False):
            raise ValueError(
                "`model` must be a built Keras model: call it once on a batch of images. "
                f"Received: {model!r}."
            )
        self.image_shape = _image_shape(model, image_size, batch_size)
        self.name = model.name
        counter = _Counter()
        _trace(model, self.image_shape, counter.count_call)
        self.parameters = _count(model.weights)
        self.trainable = _count(model.trainable_weights)
        root, *self.rows = counter.rows.values()
        self.macs = root.macs
        left = [w for w in model.weights if sum(n > 1 for n in w.shape) > 1]
        left = [w for w in left if id(w) not in counter.counted]
        self.uncounted = [f"{weight.path} {tuple(weight.shape)}" for weight in left]
        self.unread = sorted(counter.unread)

    def table(self, depth=1):
        """The layers that have parameters or multiply-accumulates, as text.

        Args:
            depth: how deep; 1 for the model's own layers, None for all.
        """
        console = Console(file=io.StringIO(), width=160, color_system=None)
        console.print(self._title, highlight=False)
        console.print(self._table(depth))
        lines = [line.rstrip() for line in console.file.getvalue().strip().splitlines()]
        return "\n".join(lines + self._notes)

    def __str__(self):
        return self.table()

    def __repr__(self):
        return f"<Summary of {self._title}: {self._totals}>"

    def _repr_html_(self):
        table = html_table(*rich_cells(self._table(1)), left=3)
        return html_lines([self._title]) + table + html_lines(self._notes)

    @property
    def _title(self):
        batch, *size = self.image_shape
        return f"{self.name}: {'x'.join(map(str, size))}, batch {batch}"

    def _table(self, depth):
        table = Table(box=SIMPLE, pad_edge=False)
        titles = ("layer", "kind", "output", "trainable", "not trained", "GMAC", "share")
        for title in titles:
            table.add_column(title, justify="left" if title in titles[:3] else "right")

        def add(name, kind, output, parameters, trainable, macs):
            share = f"{100 * macs / self.macs:.1f} %" if self.macs else ""
            numbers = (f"{trainable:,}", f"{parameters - trainable:,}", f"{macs / 1e9:.3f}")
            table.add_row(Text(name), Text(kind), output, *numbers, share)

        rest = [self.parameters, self.trainable, self.macs]
        for row in self.rows:
            numbers = (row.parameters, row.trainable, row.macs)
            if row.depth == 0:
                rest = [left - number for left, number in zip(rest, numbers)]
            if any(numbers) and (depth is None or row.depth < depth):
                name = "  " * row.depth + row.name.rpartition("/")[2]
                name += f" ({row.calls} times)" * (row.calls > 1)
                add(name, row.kind, "x".join(map(str, row.output[1:])), *numbers)
        if any(rest):
            add("(in no layer that is called)", "", "", *rest)
        table.add_section()
        add("total", "", "", self.parameters, self.trainable, self.macs)
        return table

    @property
    def _totals(self):
        return f"{self.parameters:,} parameters, {self.macs / 1e9:.3f} GMAC"

    @property
    def _notes(self):
        """The lines below the table."""
        rest = "Normalization, activations, pooling and resizing count none."
        lines = [f"{self._totals} (1 MAC = 2 FLOPs). {rest}"]
        lines += [f"Not counted: {weights}" for weights in self.uncounted]
        if self.unread:
            lines.append(f"Not looked for products in the own code of: {', '.join(self.unread)}")
        return lines


def norms_of_one_value(model, image_shape):
    """Names of layers `keras.layers.BatchNormalization` that have one value a channel of a batch.

    In training such a layer gives its shift alone, and its moving variance goes to 0. (Ours take
    their moving statistics then.) Layers that are frozen do not count.

    Args:
        model: a `keras.Model`.
        image_shape: (batch, height, width, channels).
    """
    stock = {
        id(layer)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        if not isinstance(layer, layers.BatchNormalization)
    }
    found = {}

    def note_call(call, layer, *args, **kwargs):
        outputs = call(layer, *args, **kwargs)
        if id(layer) in stock and math.prod(outputs.shape) == outputs.shape[layer.axis]:
            found[layer.name] = True
        return outputs

    if stock:
        _trace(model, image_shape, note_call)
    return list(found)


def _image_shape(model, image_size, batch_size):
    batch_size = integer("batch_size", batch_size)
    own = getattr(model, "input_shape", None) or (None, None, None, 3)
    if not isinstance(own, tuple) or len(own) != 4 or own[-1] is None:
        rule = "`model` must take images, (batch, height, width, channels)."
        raise ValueError(f"{rule} Received: {model.name}, of input_shape={own}.")
    size = [n or 473 for n in own[1:3]] if image_size is None else image_size
    size = sides("image_size", size)
    if any(n not in (None, given) for n, given in zip(own[1:3], size)):
        rule = f"{model.name} takes images of {own[1:3]} alone."
        raise ValueError(f"{rule} Received: image_size={image_size}.")
    return (batch_size, *size, own[-1])


def _count(weights):
    return sum(math.prod(weight.shape) for weight in weights)


_L = keras.layers
_COUNTED = (
    layers.FeatureAdapter, layers.ConvLSTMAggregator, layers.PyramidPooling, _L.Conv2D, _L.Dense,
    _L.DepthwiseConv2D, _L.SeparableConv2D, _L.Conv2DTranspose,
)  # fmt: skip
_LOOPS = (_L.RNN, _L.TimeDistributed)  # they call a layer once and compute it many times


def _count_macs(layer, inputs, output):
    """Multiply-accumulates of one call of a layer, beside those of the layers that it calls.

    Each position of the result (of a transposed convolution, of the map) takes every value of the
    kernels once.
    """
    maps = inputs[0] if isinstance(layer, _L.Conv2DTranspose) else output
    channels = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    positions = math.prod(maps) // maps[channels]
    if isinstance(layer, layers.ConvLSTMAggregator):  # Eqs 2-8, h_0 being 0
        steps = [layer.kernel] * len(inputs) + [layer.recurrent_kernel] * (len(inputs) - 1)
        return positions * _count(steps)
    kernels = ("kernel", "depthwise_kernel", "pointwise_kernel")
    return positions * _count(getattr(layer, name) for name in kernels if hasattr(layer, name))


class _Counter:
    """Counts the calls of layers.

    Attributes: rows, by the identities of layers in one another, the model's the first; counted,
        identities of the weights of layers that have a rule; unread, as in `Summary`.
    """

    def __init__(self):
        self.rows, self.counted, self.unread = {}, set(), set()
        self._path, self._seen = [], set()

    def count_call(self, call, layer, *args, **kwargs):
        if not self._path:  # the model; once more where a backend's first way of tracing fails
            self.__init__()
        path = (*map(id, self._path), id(layer))
        if path not in self.rows:
            name = "/".join(inner.name for inner in (*self._path[1:], layer))
            new, trained = (
                _count(w for w in weights if id(w) not in self._seen)
                for weights in (layer.weights, layer.trainable_weights)
            )
            self.rows[path] = Row(name, len(self._path) - 1, type(layer).__name__, new, trained)
        self._path.append(layer)
        try:
            outputs = call(layer, *args, **kwargs)
        finally:
            self._path.pop()
        self._seen |= {id(weight) for weight in layer.weights}
        row, inputs = self.rows[path], _shapes([args, kwargs])
        row.calls, row.output = row.calls + 1, ([()] + _shapes(outputs))[-1]
        if isinstance(layer, _COUNTED):
            looped = any(isinstance(outer, _LOOPS) for outer in self._path)
            if not looped and None not in (*inputs[0], *row.output):
                self.counted |= {id(weight) for weight in layer.weights}
                for length in range(1, len(path) + 1):
                    self.rows[path[:length]].macs += _count_macs(layer, inputs, row.output)
        elif not type(layer).call.__module__.startswith(("keras.", "keras_sanet.")):
            self.unread.add(type(layer).__name__)
        return outputs


class _Call(keras.layers.Layer):
    """Calls the model; Keras finds the shape of what it returns by tracing the call."""

    def __init__(self, model):
        super().__init__(dtype="float32")
        self._model = lambda x: model(x, training=False)

    def call(self, x):
        return self._model(x)


def _trace(model, image_shape, meet):
    """Calls a model on a shape; calls of layers by this thread become meet(call, layer, ...)."""
    original, thread = _L.Layer.__call__, threading.get_ident()

    def call(layer, *args, **kwargs):
        if threading.get_ident() != thread:
            return original(layer, *args, **kwargs)
        return meet(original, layer, *args, **kwargs)

    with _ONE_AT_A_TIME:
        _L.Layer.__call__ = call
        try:
            _Call(model).compute_output_spec(keras.KerasTensor(image_shape))
        finally:
            _L.Layer.__call__ = original


def _shapes(structure):
    """Shapes of the tensors of any structure, in order; open sizes are None."""
    return [tuple(x.shape) for x in keras.tree.flatten(structure) if hasattr(x, "shape")]
