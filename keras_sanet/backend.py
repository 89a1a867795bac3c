"""Which device computes, and a backend's own operations where Keras's are slower.

Each computes what the Keras operation does (`tests/test_backend.py`).
"""

import functools

import keras
from keras import ops


def runs_on_cpu():
    """Whether the backend computes on the CPU."""
    if keras.backend.backend() == "torch":
        return ops.convert_to_tensor(0.0).device.type == "cpu"
    return keras.distribution.list_devices()[0].lower().startswith("cpu")


def compiles_each_shape():
    """Whether a model is compiled anew for every shape. (TensorFlow leaves open what it has seen to
    change, PyTorch does not compile.)"""
    return keras.backend.backend() == "jax"


def argmax(x):
    """Index of the largest value of the last axis, int32; the first of equal ones.

    On TensorFlow and JAX `ops.argmax` first tells -0.0 from 0.0, in several passes.
    """
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.argmax(x, axis=-1)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.argmax(x, axis=-1, output_type="int32")
    return ops.cast(ops.argmax(x, axis=-1), "int32")


def histogram(cells, size, weights=None):
    """How often each number of 0 .. size - 1 is in `cells` (int32, 1-d), or its sum of weights.

    TensorFlow's `segment_sum` is 20 times slower on a CPU (on a GPU its `bincount` is not
    deterministic); PyTorch's adds in float32, and slowly.
    """
    if keras.backend.backend() == "torch":
        return ops.bincount(cells, weights=weights, minlength=size)
    if keras.backend.backend() == "tensorflow" and runs_on_cpu():
        import tensorflow as tf

        weights = tf.constant([], "int32") if weights is None else weights
        return tf.raw_ops.DenseBincount(input=cells, size=size, weights=weights)
    return ops.segment_sum(ops.ones_like(cells) if weights is None else weights, cells, size)


def jit(*static_argnames):
    """Decorator: `jax.jit` on JAX, where each operation outside of compiled code costs a call;
    elsewhere the function as it is."""
    if keras.backend.backend() != "jax":
        return lambda function: function
    import jax

    return functools.partial(jax.jit, static_argnames=static_argnames)
