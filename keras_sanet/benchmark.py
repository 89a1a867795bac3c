"""How long a model takes on this machine, and which of its parts."""

import time

import keras
import numpy as np
from keras import ops

from keras_sanet import losses, training

_PARTS = ("backbone", "aggregator", "pyramid_pooling", "head")  # names of layers
_LOVASZ = "the same with Lovász-softmax"


class Benchmark:
    """Seconds of prediction and of training steps on random images.

    The parts of a training step are differences: of the step of the backbone alone, of the step
    of backbone and aggregator, and so on to the whole step, with cross-entropy, AdamW and metrics.
    All steps run in turn: a machine that is slower for a while is so for all of them.

    Args:
        model: one of `keras_sanet`'s, with one output. Its weights are trained: throw it away.
        size: (height, width) of the images or one number for both, in pixels.
        batch_size: images a step; two or more, for the batch norm of the pyramid's single cell.
        rounds: timed runs of each step, after two that compile and warm up.

    Attributes:
        seconds: dict from the name of a step to a list, the two first ones included.

    `print(Benchmark(model))` shows a table.
    """

    def __init__(self, model, size=233, batch_size=2, rounds=5):
        for name, value in (("batch_size", batch_size), ("rounds", rounds)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}.")
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"`size` must be one or two positive integers. Received: {size}.")
        self.batch_size = batch_size
        self.description = f"{model.name}, {model.count_params():,} parameters"
        steps = self._steps(model)
        self.seconds = {name: [] for name in steps}
        for _ in range(2 + rounds):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                self.seconds[name].append(time.perf_counter() - start)

    def _steps(self, model):
        rng = np.random.default_rng(0)
        shape = (self.batch_size, *self.size)
        image = rng.integers(0, 256, (*shape, 3)).astype("uint8")
        labels = rng.integers(0, model.get_layer("logits").output.shape[-1], shape).astype("int32")
        steps = {"prediction": lambda: model.predict_on_batch(image)}
        for name, part in _beginnings(model).items():
            part.compile("sgd", lambda y_true, y_pred: y_pred)
            steps[name] = lambda part=part: part.train_on_batch(image, np.zeros(self.batch_size))
        whole = _same_layers(model)
        whole.compile("sgd", losses.SegmentationLoss(lovasz_weight=0.0))
        steps["classifier, cross-entropy"] = lambda: whole.train_on_batch(image, labels)
        for name, loss in (("AdamW, metrics", "cross_entropy"), (_LOVASZ, "lovasz")):
            full = _same_layers(model)
            training.compile(full, 1000, loss=loss)
            steps[name] = lambda full=full: full.train_on_batch(image, labels)
        return steps

    def median(self, name):
        """Seconds of the median of the timed runs."""
        return float(np.median(self.seconds[name][2:]))

    def __str__(self):
        prediction, *parts, lovasz = self.seconds
        lines = [
            f"{self.description}: {self.size[0]}x{self.size[1]}, batch {self.batch_size}",
            f"{'':32}{'first s':>9}{'median ms':>11}{'images/s':>10}{'share':>8}",
            self._line("prediction", prediction),
            self._line("training step", parts[-1]),
        ]
        before = 0.0
        for name in parts:
            part = self.median(name) - before
            before += part
            share = 100 * part / self.median(parts[-1])
            lines.append(f"  {name:39}{1000 * part:11.1f}{share:16.0f} %")
        return "\n".join([*lines, self._line(lovasz, lovasz)])

    def _line(self, title, name):
        median = self.median(name)
        rate = self.batch_size / median
        return f"{title:32}{self.seconds[name][0]:9.2f}{1000 * median:11.1f}{rate:10.2f}"


def _same_layers(model):
    """Another model of the same layers, to be compiled otherwise."""
    return keras.Model(model.input, model.output)


def _beginnings(model):
    """Dict from a part's name to the model that ends with it, in the mean square of its maps."""
    beginnings = {}
    for layer in model.layers:
        if layer.name not in _PARTS:
            continue
        if layer.name == "backbone":
            image, maps = layer.input, layer.output.values()
        else:
            image, maps = model.input, [layer.output]
        total = sum(ops.mean(ops.square(map), axis=(1, 2, 3)) for map in maps)
        beginnings[layer.name] = keras.Model(image, total)
    return beginnings
