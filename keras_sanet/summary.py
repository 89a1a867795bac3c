"""What a model costs: parameters and multiply-accumulates of each of its layers (paper, Table II).

The model is called on an image that has a shape and no values, and every call of a layer inside,
however deep, is met by a rule of the table at `_RULES`. So what is counted is what is called, as
often as it is: a layer that is shared counts twice, one that no call reaches not at all.

One multiply-accumulate (MAC) is a product and its addition, two FLOPs. Convolutions, dense layers,
recurrent cells and attention count; biases, batch norms, activations, pooling and resizing do not,
as is usual (fvcore, ptflops). A layer of ours counts as its equation is written, even where it
takes a shorter road: the pyramid's 3x3 as over the concatenation, a grouped convolution without the
zeros that some backends multiply. Zeros of padding count.
"""

import contextlib
import dataclasses
import inspect
import io
import math
import threading

import keras
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_sanet._arguments import integer, sides
from keras_sanet._tables import html_lines, html_table, rich_cells
from keras_sanet.layers import (
    BatchNormalization,
    ConvLSTMAggregator,
    FeatureAdapter,
    PyramidPooling,
    SegmentationOutput,
)

_ONE_AT_A_TIME = threading.RLock()


@dataclasses.dataclass
class Row:
    """A layer, with all that is inside of it.

    Attributes:
        name: the layer's; of a layer in layers "backbone/conv1".
        depth: how many layers it is in; 0 for those of the model.
        kind: name of its class. calls: how often it is called where it stands.
        output: shape of its (last) result, in the last call.
        parameters, trainable: their values; a layer that stands twice has them at the first place.
        macs: multiply-accumulates.
    """

    name: str
    depth: int
    kind: str
    calls: int
    output: tuple
    parameters: int
    trainable: int
    macs: int


class Summary:
    """Parameters and multiply-accumulates of a model and of its layers, for images of a size.

    Nothing is computed or allocated, and the model stays as it is. (On PyTorch a layer that can't
    be called without values makes Keras compute the model once.) Layers do what they do in
    inference. Of a layer of another package, what counts are the layers, `keras.ops.matmul` and
    `einsum` that it calls.

    Args:
        model: any built `keras.Model` of images, channels last.
        size: (height, width) of the images or one number for both, in pixels. None for the model's
            own, or 473 where it takes any.
        batch_size: images.

    Attributes:
        parameters, trainable: number of values, in all and of those that are trained.
        macs: multiply-accumulates of the batch.
        rows: list of `Row`, layers in the order of their first call, each before those inside.
        uncounted: list of texts, what no rule is for: weights of two axes and more that no counted
            layer has and no counted product takes as they are, and layers that multiply maps.
        unread: list of kinds of layers of other packages, whose own code may multiply in other
            ways, as by the operator @.

    `print(Summary(model))` shows the layers of the model; `table(depth)` those inside too.

    Raises: ValueError where an argument is not as above.

    Reference: section IV-A, Table II.
    """

    def __init__(self, model, size=None, batch_size=1):
        if not getattr(model, "built", False):
            raise ValueError(
                "`model` must be a built Keras model: call it once on a batch of images. "
                f"Received: {model!r}."
            )
        self.image_shape = _image_shape(model, size, batch_size)
        self.name = model.name
        trace = _Trace()
        _Called(trace, model).compute_output_spec(keras.KerasTensor(self.image_shape))
        self.parameters = _count(model.weights)
        self.trainable = _count(model.trainable_weights)
        self.macs = trace.root.total()
        self.rows = list(trace.root.rows(set()))
        self.uncounted = trace.uncounted + [
            f"{weight.path} {tuple(weight.shape)}, unless it was cast or transposed first"
            for weight in model.weights
            if sum(n > 1 for n in weight.shape) > 1 and id(weight) not in trace.covered
        ]
        self.unread = sorted(trace.unread)

    def as_dict(self):
        """All figures, for JSON."""
        return {
            "model": self.name,
            "image_shape": list(self.image_shape),
            "parameters": self.parameters,
            "trainable": self.trainable,
            "macs": self.macs,
            "layers": [dataclasses.asdict(row) for row in self.rows],
            "uncounted": self.uncounted,
            "unread": self.unread,
        }

    def table(self, depth=1):
        """A table as text, of layers with parameters or multiply-accumulates.

        Args: depth, how deep; 1 for the model's own layers, None for all.
        """
        console = Console(file=io.StringIO(), width=160, color_system=None)
        console.print(self._title, highlight=False)
        console.print(self._table(depth))
        lines = [line.rstrip() for line in console.file.getvalue().strip().splitlines()]
        return "\n".join(lines + self._notes)

    def __str__(self):
        return self.table()

    def __repr__(self):
        return (
            f"<Summary of {self._title}: {self.parameters:,} parameters, {self.macs / 1e9:.3f} "
            "GMAC>"
        )

    def _repr_html_(self):
        table = html_table(*rich_cells(self._table(1)), left=3)
        return html_lines([self._title]) + table + html_lines(self._notes)

    @property
    def _title(self):
        batch, *size = self.image_shape
        return f"{self.name}: {'x'.join(map(str, size))}, batch {batch}"

    def _table(self, depth):
        table = Table(box=SIMPLE, pad_edge=False)
        for title in ("layer", "kind", "output"):
            table.add_column(title)
        for title in ("trainable", "not trained", "GMAC", "share"):
            table.add_column(title, justify="right")

        def add(name, kind, output, parameters, trainable, macs):
            share = f"{100 * macs / self.macs:.1f} %" if self.macs else ""
            numbers = (f"{trainable:,}", f"{parameters - trainable:,}", f"{macs / 1e9:.3f}")
            table.add_row(Text(name), Text(kind), output, *numbers, share)

        shown = [row for row in self.rows if row.parameters or row.macs]
        for row in shown:
            if depth is None or row.depth < depth:
                name = "  " * row.depth + row.name.rpartition("/")[2]
                name += f" ({row.calls} times)" * (row.calls > 1)
                output = "x".join(map(str, row.output[1:]))
                add(name, row.kind, output, row.parameters, row.trainable, row.macs)
        top = [row for row in shown if row.depth == 0]
        of_rows = [sum(getattr(row, n) for row in top) for n in ("parameters", "trainable", "macs")]
        rest = [t - r for t, r in zip((self.parameters, self.trainable, self.macs), of_rows)]
        if any(rest):
            add("(in no layer that is called)", "", "", *rest)
        table.add_section()
        add("total", "", "", self.parameters, self.trainable, self.macs)
        return table

    @property
    def _notes(self):
        """The lines below the table."""
        lines = [
            f"{self.parameters:,} parameters, {self.macs / 1e9:.3f} GMAC (1 MAC = 2 FLOPs). "
            "Normalisation, activations, pooling and resizing count none."
        ]
        lines += [f"Not counted: {what}" for what in self.uncounted]
        if self.unread:
            lines.append(f"Not looked for products in the own code of: {', '.join(self.unread)}")
        return lines


def norms_of_one_value(model, image_shape):
    """Names of layers `keras.layers.BatchNormalization` that have one value a channel of a batch.

    In training such a layer gives its shift alone, and its moving variance goes to 0. (Ours take
    their moving statistics then.) Layers that are frozen do not count.

    Args: model; image_shape, (batch, height, width, channels).
    """
    stock = {
        id(layer)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        if not isinstance(layer, BatchNormalization)
    }
    if not stock:
        return []
    trace = _Trace()
    _Called(trace, model).compute_output_spec(keras.KerasTensor(image_shape))
    return [
        node.layer.name
        for node in trace.root.nodes()
        if id(node.layer) in stock
        if math.prod(node.output) == node.output[node.layer.axis]
    ]


def _image_shape(model, size, batch_size):
    """(batch, height, width, channels)."""
    batch_size = integer("batch_size", batch_size)
    own = getattr(model, "input_shape", None) or (None, None, None, 3)
    if not isinstance(own, tuple) or len(own) != 4 or own[-1] is None:
        raise ValueError(
            "`model` must take images, (batch, height, width, channels). "
            f"Received: {model.name}, of input_shape={own}."
        )
    asked = [n or 473 for n in own[1:3]] if size is None else size
    asked = sides("size", asked)
    if any(n not in (None, given) for n, given in zip(own[1:3], asked)):
        raise ValueError(f"{model.name} takes images of {own[1:3]} alone. Received: size={size}.")
    return (batch_size, *asked, own[-1])


def _count(weights):
    return sum(math.prod(weight.shape) for weight in weights)


# How many multiply-accumulates a layer makes in one call, by its class; the first that fits. What
# it calls itself counts by itself, so a composite has here what it does beside. A rule gets the
# layer, the shapes of its arguments in their order, and that of its result.


def _none(layer, inputs, output):
    return 0


def _convolution(layer, inputs, output):
    """Each position of the result takes every value of the kernel once: (rows, columns, channels /
    groups, filters), or (rows, columns, channels, multiplier) of a depthwise one."""
    return _positions(layer, output) * _count([layer.kernel])


def _separable(layer, inputs, output):
    return _positions(layer, output) * _count([layer.depthwise_kernel, layer.pointwise_kernel])


def _transposed(layer, inputs, output):
    """Each position of the map gives every value of the kernel once."""
    return _positions(layer, inputs[0]) * _count([layer.kernel])


def _positions(layer, shape):
    channels = shape[1] if layer.data_format == "channels_first" else shape[-1]
    return math.prod(shape) // channels


def _dense(layer, inputs, output):
    return math.prod(output) * inputs[0][-1]


def _einsum_dense(layer, inputs, output):
    return _einsum(layer.equation, inputs[0], tuple(layer.kernel.shape), output=output)


def _attention(layer, inputs, output):
    """Each query with each key, and each of these weights with a value."""
    query, value = inputs[:2]
    if isinstance(layer, keras.layers.GroupQueryAttention):
        axes, width = None, layer.num_query_heads * 2 * layer.head_dim
    else:
        config = layer.get_config()
        axes, key_width = config["attention_axes"], config["key_dim"]
        width = config["num_heads"] * (key_width + (config["value_dim"] or key_width))
    values = math.prod(value[axis] for axis in axes or range(1, len(value) - 1))
    return math.prod(query[:-1]) * values * width


def _recurrent(layer, inputs, output):
    """Each step takes both kernels: of (batch, steps, channels) as a whole, of maps (batch, steps,
    height, width, channels) at each position of the state."""
    cell = layer.cell
    known = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
    convolutional = isinstance(
        layer, (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)
    )
    if not convolutional and not isinstance(cell, known):
        return None
    positions = inputs[0][0]
    if convolutional:
        state = output if len(output) < len(inputs[0]) else (output[0], *output[2:])
        positions = _positions(cell, state)
    return inputs[0][1] * positions * _count([cell.kernel, cell.recurrent_kernel])


def _adapter(layer, inputs, output):
    """Eq. 1: resized, then 1x1."""
    return math.prod(output) * inputs[0][-1] if layer.filters else 0


def _aggregator(layer, inputs, output):
    """Eqs 2-8: m input convolutions and, h_0 being 0, m - 1 recurrent ones."""
    positions, steps = math.prod(inputs[0][:-1]), len(inputs)
    return positions * (
        steps * _count([layer.kernel]) + (steps - 1) * _count([layer.recurrent_kernel])
    )


def _pyramid(layer, inputs, output):
    """The 3x3 over the map and all branches; these are layers by themselves."""
    return math.prod(output[:-1]) * _count([layer.kernel])


def _matmul(a, b, output):
    return math.prod(output) * a[-1]


def _einsum(equation, *inputs, output):
    """Each value of the result sums over all letters that it has not."""
    letters, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        result = [letter for letter in letters if letters.count(letter) == 1]
    sizes = {}
    for operand, shape in zip(letters.split(","), inputs):
        first, _, last = operand.partition("...")
        sizes.update(zip(first, shape))
        sizes.update(zip(last[::-1], shape[::-1]))
    summed = (size for letter, size in sizes.items() if letter not in result)
    return math.prod(output) * math.prod(summed)


_L = keras.layers
_RULES = (
    (FeatureAdapter, _adapter),
    (ConvLSTMAggregator, _aggregator),
    (PyramidPooling, _pyramid),
    (SegmentationOutput, _none),
    ((_L.SeparableConv1D, _L.SeparableConv2D), _separable),
    ((_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose), _transposed),
    ((_L.Conv1D, _L.Conv2D, _L.Conv3D, _L.DepthwiseConv1D, _L.DepthwiseConv2D), _convolution),
    (_L.Dense, _dense),
    (_L.EinsumDense, _einsum_dense),
    ((_L.MultiHeadAttention, _L.GroupQueryAttention), _attention),
    (_L.RNN, _recurrent),
    ((_L.BatchNormalization, _L.LayerNormalization, _L.GroupNormalization), _none),
    ((_L.Normalization, _L.SpectralNormalization, _L.Embedding, _L.PReLU), _none),
)
# What these call is not met as often as it is computed, or is a part of their rule.
_LOOPS = (_L.RNN, _L.TimeDistributed)
# They multiply, without weights, and no rule says how often.
_OTHER_PRODUCTS = (_L.Dot, _L.Attention)
_OTHER_OPERATIONS = (
    "Dot", "Tensordot", "Vdot", "Inner", "Conv", "DepthwiseConv", "SeparableConv", "ConvTranspose",
    "DotProductAttention",
)  # fmt: skip


class _Node:
    """A layer where it is called: its multiply-accumulates and, by identity, what it calls."""

    def __init__(self, layer=None):
        self.layer, self.inside = layer, {}
        self.calls, self.macs, self.output = 0, 0, ()

    def total(self):
        return self.macs + sum(node.total() for node in self.inside.values())

    def nodes(self):
        """Yields all nodes inside."""
        for node in self.inside.values():
            yield node
            yield from node.nodes()

    def rows(self, seen, prefix="", depth=0):
        """Yields a `Row` of each layer inside; `seen` are weights that stand elsewhere before."""
        for node in self.inside.values():
            layer = node.layer
            new = [weight for weight in layer.weights if id(weight) not in seen]
            trained = {id(weight) for weight in layer.trainable_weights}
            yield Row(
                prefix + layer.name,
                depth,
                type(layer).__name__,
                node.calls,
                node.output,
                _count(new),
                _count(weight for weight in new if id(weight) in trained),
                node.total(),
            )
            yield from node.rows(seen, f"{prefix}{layer.name}/", depth + 1)
            seen |= {id(weight) for weight in new}


class _Called(keras.layers.Layer):
    """Calls the model; Keras finds the shape of what it returns by tracing the call."""

    def __init__(self, trace, model):
        super().__init__(dtype="float32")
        self._call = lambda x: trace.of(model, x)

    def call(self, x):
        return self._call(x)


class _Trace:
    """Follows the calls of layers and of products within a call of the model.

    Attributes: root, the `_Node` of the model; covered, ids of the weights of counted layers;
        uncounted, unread, as in `Summary`.
    """

    def of(self, model, x):
        # Anew: a backend may call twice, where the first way of tracing fails.
        self.covered, self.uncounted, self.unread = set(), [], set()
        self._path = [_Node()]
        with _ONE_AT_A_TIME, self._watched():
            outputs = model(x, training=False)
        (self.root,) = self._path[0].inside.values()
        return outputs

    @contextlib.contextmanager
    def _watched(self):
        # `Layer.__call__` prepares the arguments and calls that of Operation.
        watched = [(keras.Operation, "__call__", self._operation)]
        watched += [(keras.ops, name, self._product) for name in ("matmul", "einsum")]
        originals = [getattr(owner, name) for owner, name, _ in watched]
        thread = threading.get_ident()
        try:
            for (owner, name, meet), original in zip(watched, originals):
                setattr(owner, name, _meeting(meet, original, thread))
            yield
        finally:
            for (owner, name, _), original in zip(watched, originals):
                setattr(owner, name, original)

    def _operation(self, call, operation, *args, **kwargs):
        if isinstance(operation, _L.Layer):
            return self._layer(call, operation, *args, **kwargs)
        outputs, kind = call(operation, *args, **kwargs), type(operation).__name__
        if kind == "Matmul":
            self._add("matmul", args, outputs)
        elif kind == "Einsum":
            self._add("einsum", (operation.subscripts, *args), outputs)
        elif kind in _OTHER_OPERATIONS:
            self._tell(operation)
        return outputs

    def _layer(self, call, layer, *args, **kwargs):
        node = self._path[-1].inside.setdefault(id(layer), _Node(layer))
        self._path.append(node)
        try:
            outputs = call(layer, *args, **kwargs)
        finally:
            self._path.pop()
        node.calls += 1
        node.output = ([()] + _shapes(outputs))[-1]
        if isinstance(layer, _OTHER_PRODUCTS):
            self._tell(layer)
        rule = _rule(layer)
        if rule is None and not type(layer).call.__module__.startswith("keras."):
            self.unread.add(type(layer).__name__)
        if rule is not None and not self._in_loop():
            arguments = inspect.signature(layer.call).bind(*args, **kwargs).arguments
            try:
                macs = rule(layer, _shapes(list(arguments.values())), node.output)
            except TypeError:  # a size that is open even here
                macs = None
            if macs is not None:
                node.macs += macs
                self.covered |= {id(weight) for weight in layer.weights}
        return outputs

    def _product(self, call, *args, **kwargs):
        outputs = call(*args, **kwargs)
        if _rule(self._path[-1].layer) is None:  # else the layer's rule has it
            arguments = inspect.signature(call).bind(*args, **kwargs).arguments
            self._add(call.__name__, list(arguments.values()), outputs)
        return outputs

    def _add(self, name, args, outputs):
        if self._in_loop():
            return
        inputs, (output,) = _shapes(args), _shapes(outputs)
        try:
            if name == "matmul":
                self._path[-1].macs += _matmul(*inputs, output)
            else:
                self._path[-1].macs += _einsum(args[0], *inputs, output=output)
        except TypeError:  # a size that is open even here
            self._tell(self._path[-1].layer)
            return
        operands = keras.tree.flatten(args)
        self.covered |= {id(x) for x in operands if isinstance(x, keras.Variable)}

    def _tell(self, what):
        text = f"products of {what.name} ({type(what).__name__})"
        if text not in self.uncounted:
            self.uncounted.append(text)

    def _in_loop(self):
        return any(isinstance(node.layer, _LOOPS) for node in self._path)


def _meeting(meet, original, thread):
    """A function that goes by `meet` in one thread, and is the original in others."""

    def call(*args, **kwargs):
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        return meet(original, *args, **kwargs)

    return call


def _rule(layer):
    return next((rule for kinds, rule in _RULES if isinstance(layer, kinds)), None)


def _shapes(structure):
    """Shapes of the tensors of any structure, in order; open sizes are None."""
    return [
        tuple(None if n is None else int(n) for n in x.shape)
        for x in keras.tree.flatten(structure)
        if hasattr(x, "shape")
    ]
