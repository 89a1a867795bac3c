"""How long a model's prediction takes on this machine, and how much memory."""

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

from keras_sanet._arguments import integer, sides


@dataclasses.dataclass
class Measurement:
    """What one prediction takes.

    Attributes:
        seconds: median of the timed predictions.
        memory: bytes, or None where the system does not tell.
        kind: of the memory, "resident" or "gpu".
    """

    seconds: float
    memory: int | None
    kind: str


def measure(build, image_size=473, *, batch_size=1, rounds=5):
    """Measures a prediction in a fresh process of the same backend and dtype policy.

    On a CPU the memory is what the process holds at its peak (code that is loaded, compilers and
    copies of weights included) less what it held before the model was built. On Linux it is exact;
    on macOS the peak before stands for the latter, and Windows does not tell. On a GPU it is what
    the backend's own allocator counts, weights included.

    Args:
        build: a function without arguments that returns a model of images (batch, height, width,
            channels). It goes to the process by its name, so it must be one of a module, or a
            `functools.partial` of one: `functools.partial(keras_sanet.PSPNet, 40)`.
        image_size: (height, width) of the images or one number for both, in pixels.
        batch_size: number of images.
        rounds: number of timed predictions, after two that compile and warm up.

    Returns:
        A `Measurement`.

    Raises:
        ValueError: a number is not positive, or the function can't go by its name.
        MemoryError: the system ended the process.
        ChildProcessError: it failed otherwise; with its last words.
    """
    image_size, batch_size = sides("image_size", image_size), integer("batch_size", batch_size)
    rounds = integer("rounds", rounds)
    policy = keras.config.dtype_policy().name
    try:
        task = pickle.dumps((policy, build, (batch_size, *image_size), rounds))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "`build` must be a function of a module, or a functools.partial of one. Received: "
            f"{build!r} ({error})."
        ) from None
    environment = {
        **os.environ,
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Of a GPU no more than is needed: this process may hold a part of it.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    code = "from keras_sanet import measurement; measurement._measure()"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, input=task, capture_output=True, env=environment)
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
    policy, build, shape, rounds = pickle.load(sys.stdin.buffer)
    keras.config.set_dtype_policy(policy)
    ops.convert_to_numpy(ops.zeros(()))  # starts the backend
    before, _ = _resident()
    with contextlib.redirect_stdout(io.StringIO()):
        model = build()
        shape = (*shape, model.input_shape[-1] or 3)
        image = np.random.default_rng(0).integers(0, 256, shape).astype("float32")
        seconds = []
        for _ in range(2 + rounds):
            start = time.perf_counter()
            model.predict_on_batch(image)
            seconds.append(time.perf_counter() - start)
    memory, kind = _gpu_peak(), "gpu"
    if memory is None:
        peak, kind = _resident()[1], "resident"
        memory = None if peak is None else peak - before
    found = Measurement(float(np.median(seconds[2:])), memory, kind)
    print(json.dumps(dataclasses.asdict(found)))


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
