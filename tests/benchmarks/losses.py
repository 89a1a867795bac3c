"""Time of Lovász-softmax, value and gradient: one map of 473x473, 19 classes, binned and exact.

    KERAS_BACKEND=jax python tests/benchmarks/losses.py

Prints medians, least times and ratios of medians to the exact loss. The peers run in turn, so
that a load on the machine slows all alike. Compiled by jax.jit on JAX and tf.function on
TensorFlow; PyTorch runs eagerly.
"""

import time

import keras
import numpy as np

from keras_sanet.losses import lovasz_softmax

SIZE, CLASSES, ROUNDS = 473, 19, 5
PEERS = {
    "exact": {"num_bins": None},
    "1024 bins": {"num_bins": 1024},
    "256 bins": {"num_bins": 256},
}


def value_and_gradient(labels, **arguments):
    """Function of logits to (value, gradient) as NumPy arrays, which waits for the device."""

    def loss(logits):
        return lovasz_softmax(labels, logits, **arguments)

    if keras.backend.backend() == "jax":
        import jax

        compute = jax.jit(jax.value_and_grad(loss))
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def compute(logits):
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = loss(logits)
            return value, tape.gradient(value, logits)

    else:
        import torch

        def compute(logits):
            logits = logits.detach().requires_grad_(True)
            value = loss(logits)
            return value.detach(), torch.autograd.grad(value, logits)[0]

    return lambda logits: [keras.ops.convert_to_numpy(x) for x in compute(logits)]


def main():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES + 1, (1, SIZE, SIZE)).astype("int32")
    labels[labels == CLASSES] = 255
    logits = keras.ops.convert_to_tensor(
        2 * rng.standard_normal((1, SIZE, SIZE, CLASSES)).astype("float32")
    )
    labels = keras.ops.convert_to_tensor(labels)
    peers = {name: value_and_gradient(labels, **arguments) for name, arguments in PEERS.items()}
    results = {name: peer(logits) for name, peer in peers.items()}  # compiles
    times = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, peer in peers.items():
            start = time.perf_counter()
            peer(logits)
            times[name].append(time.perf_counter() - start)

    print(f"{SIZE}x{SIZE}, batch 1, {CLASSES} classes, backend {keras.backend.backend()}")
    print(
        f"{'':12}{'median ms':>10}{'least ms':>10}{'ratio':>8}{'value off':>12}{'gradient off':>14}"
    )
    base = np.median(times["exact"])
    value, gradient = results["exact"]
    for name, seconds in times.items():
        median = np.median(seconds)
        value_off = abs(results[name][0] / value - 1)
        gradient_off = np.linalg.norm(results[name][1] - gradient) / np.linalg.norm(gradient)
        print(
            f"{name:12}{1000 * median:10.1f}{1000 * min(seconds):10.1f}{median / base:8.2f}"
            f"{value_off:12.1e}{gradient_off:14.1e}"
        )


if __name__ == "__main__":
    main()
