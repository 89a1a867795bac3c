"""Which devices compute, and a backend's own operations where Keras's are slower.

Each computes what the Keras operation does (`tests/test_backend.py`).
"""

import functools
import itertools

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


def replicas():
    """Number of replicas that compute this step, each on its share of the batch.

    That is `tf.distribute`; 1 elsewhere. (Under `keras.distribution` on JAX an operation is of the
    whole batch as it is.)
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def all_sum(x):
    """Sum of x over the replicas; x where there is one.

    Its gradient is the sum of theirs. So a loss that is the same on every replica has the gradient
    of one device after Keras has divided it by their number and added up the gradients.
    """
    if replicas() == 1:
        return x
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, x)


def devices():
    """Number of devices that share each batch, of all processes."""
    name = keras.backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    shared = keras.distribution.distribution() if name == "jax" else None
    return process()[1] if shared is None else shared.device_mesh.devices.size


def process():
    """Which process this one is, and of how many: (0, 1) unless `keras.distribution.initialize` has
    joined several (JAX)."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    # The count would start JAX, after which its devices are fixed.
    return (
        (jax.process_index(), jax.process_count()) if jax.distributed.is_initialized() else (0, 1)
    )


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


def split(x, sizes, axis):
    """Parts of x of these sizes along an axis.

    On PyTorch `ops.split` puts the sizes on the device and reads them back, a wait on a GPU, and
    impossible on the device "meta", on which Keras finds the shapes of what a layer returns.
    """
    if keras.backend.backend() == "torch":
        import torch

        return torch.split(x, sizes, axis)
    return ops.split(x, list(itertools.accumulate(sizes))[:-1], axis)


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


def make_deterministic():
    """Has the backend give the same bits again for the same seed, on one device; slower on GPUs.

    Whatever operation can't raises its own error, which names it. On a GPU, JAX takes it from the
    environment, before it starts: XLA_FLAGS=--xla_gpu_deterministic_ops=true.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    if keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(True)


def random_states():
    """States of the random generators that the backend keeps itself, NumPy arrays: PyTorch's, from
    which Keras takes dropout without a seed."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    return [state.numpy() for state in (torch.get_rng_state(), *torch.cuda.get_rng_state_all())]


def set_random_states(states):
    """Sets what `random_states` gave, on a machine of as many GPUs."""
    if keras.backend.backend() == "torch" and states:
        import torch

        cpu, *gpus = map(torch.from_numpy, states)
        torch.set_rng_state(cpu)
        if len(gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(gpus)
