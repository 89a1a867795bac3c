"""How long a model takes on this machine, which of its parts, and how much memory."""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_sanet import losses, training
from keras_sanet._arguments import integer, sides
from keras_sanet._labels import classes_of

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
        batch_size: images a step.
        rounds: timed runs of each step, after two that compile and warm up.

    Attributes:
        seconds: dict from the name of a step to a list, the two first ones included.

    `print(Benchmark(model))` shows a table.
    """

    def __init__(self, model, size=233, batch_size=2, rounds=5):
        self.size, self.batch_size = sides("size", size), integer("batch_size", batch_size)
        rounds = integer("rounds", rounds)
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
        classes = classes_of(model.get_layer("logits").output.shape[-1])
        labels = rng.integers(0, classes, shape).astype("int32")
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


@dataclasses.dataclass
class Measurement:
    """What one prediction takes; see `measure`.

    Attributes:
        seconds: of the median of the timed predictions.
        memory: bytes, or None where the system does not tell.
        kind: what they are, "resident" or "gpu".
    """

    seconds: float
    memory: int | None
    kind: str


def measure(build, size=473, batch_size=1, rounds=5):
    """Seconds of a prediction, and the most memory that building the model and predicting take.

    In a fresh process of the same backend and dtype policy, where no other model was before. On a
    CPU the memory is what the process holds at its peak (code that is loaded, compilers and copies
    of weights included) less what it held before the model was built. On Linux it is exact; on
    macOS its peak before stands for the latter, and Windows does not tell. On a GPU it is what the
    backend's own allocator counts, weights included.

    Args:
        build: a function without arguments that returns a model of images (batch, height, width,
            channels); one of a module, or a `functools.partial` of it, for it goes to the process
            by its name: `functools.partial(keras_sanet.PSPNet, 40)`.
        size: (height, width) of the images or one number for both, in pixels.
        batch_size: images. rounds: timed predictions, after two that compile and warm up.

    Returns: a `Measurement`.

    Raises: ValueError where a number is not positive or the function can't go by its name;
        MemoryError where the system ended the process; ChildProcessError, with its last words,
        where it failed otherwise.
    """
    size, batch_size = sides("size", size), integer("batch_size", batch_size)
    rounds = integer("rounds", rounds)
    policy = keras.config.dtype_policy().name
    try:
        task = pickle.dumps((policy, build, (batch_size, *size), rounds))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "`build` must be a function of a module, or a functools.partial of one. Received: "
            f"{build!r} ({error})."
        ) from None
    backend = {"KERAS_BACKEND": keras.backend.backend()}
    # As much of a GPU as is needed: this process may hold a part of it, and the peak is asked for.
    backend |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-c", "from keras_sanet import benchmark; benchmark._measure()"],
        input=task,
        capture_output=True,
        env={**os.environ, **backend, **path},
    )
    if ran.returncode == -9:
        raise MemoryError(
            f"The system ended the process that measured {build!r}: too little memory, as it seems."
        )
    if ran.returncode:
        words = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ChildProcessError(f"{build!r} can't be measured: {' '.join(words)}")
    return Measurement(**json.loads(ran.stdout.splitlines()[-1]))


def _measure():
    """What the process of `measure` does."""
    policy, build, (batch_size, *size), rounds = pickle.load(sys.stdin.buffer)
    keras.config.set_dtype_policy(policy)
    ops.convert_to_numpy(ops.zeros(()))  # starts the backend
    before, _ = _resident()
    with contextlib.redirect_stdout(io.StringIO()):
        model = build()
        channels = model.input_shape[-1] or 3
        image = np.random.default_rng(0).integers(0, 256, (batch_size, *size, channels))
        image, seconds = image.astype("float32"), []
        for _ in range(2 + rounds):
            start = time.perf_counter()
            model.predict_on_batch(image)
            seconds.append(time.perf_counter() - start)
    memory, kind = _gpu_peak(), "gpu"
    if memory is None:
        peak, kind = _resident()[1], "resident"
        memory = None if peak is None else peak - before
    found = {"seconds": float(np.median(seconds[2:])), "memory": memory, "kind": kind}
    print(json.dumps(found))


def _resident():
    """Bytes that this process holds, and those it held at its peak; None on Windows."""
    status = Path("/proc/self/status")
    if status.is_file():  # `getrusage` has the peak of the process that started this one
        lines = (line.split() for line in status.read_text().splitlines())
        sizes = {line[0]: 1024 * int(line[1]) for line in lines if line[0] in ("VmRSS:", "VmHWM:")}
        return sizes["VmRSS:"], sizes["VmHWM:"]
    try:
        import resource
    except ImportError:
        return None, None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return peak, peak


def _gpu_peak():
    """Bytes on the first GPU at the peak, of the backend's allocator; None where it has none."""
    name = keras.backend.backend()
    if name == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    if name == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    return tf.config.experimental.get_memory_info(gpus[0].name[-5:])["peak"] if gpus else None
