"""One model on several devices.

What a step computes is that of one device with the whole batch, to float32 rounding: batch
normalization (our layer), `SegmentationLoss`, `LovaszSoftmax` and metrics are of all replicas'
images. What is not:

- dropout, whose draws differ;
- `val_loss`, which counts the void samples that fill up the last batch as images (no other
  metric does);
- on TensorFlow, exact Lovász-softmax (`num_bins=None`): the mean of the replicas', by their images.
  Of 8 images of 96 x 96 with 19 classes, against one device (with 1024 bins: value 1e-7 and
  gradient 3e-4 off, on any number of replicas):

      replicas    every class in every image    4 classes an image
                  value      gradient           value      gradient
      2           +0.0001    23 % off           -0.0024    26 % off
      4           +0.0005    44 %               -0.0041    42 %
      8           +0.0001    51 %               -0.0052    36 %

- on TensorFlow, stock batch normalization of somebody else's backbone (`synchronize_batch_norm`).
"""

import contextlib
import warnings

import keras
from keras import ops

from keras_sanet import _backend
from keras_sanet._arguments import as_integer
from keras_sanet.layers import BatchNormalization


@contextlib.contextmanager
def scope(devices="auto"):
    """Context for everything from the data sets to `fit`, which trains on several devices.

    That is `tf.distribute.MirroredStrategy` on TensorFlow and `keras.distribution.DataParallel` on
    JAX; with one device nothing changes. `batch_size` is over all devices, and in training a
    multiple of them. (A last batch of fewer images than replicas leaves one without: TensorFlow's
    oneDNN convolutions fail then on a CPU. Leave it out, or set TF_ENABLE_ONEDNN_OPTS=0.)

    Several hosts, on JAX: call `keras.distribution.initialize` first. "auto" is then all devices of
    all processes; each process runs the same program, and `pipeline.make_dataset` gives it its
    share of each batch. Files are for one process to write (`is_chief`, `alone`), as `training.fit`
    does; its folder must be one that all of them read.

    Args:
        devices: "auto", all accelerators, or else the CPU; a number, the first so many
            accelerators, or so many logical devices of the CPU where there is none; or a list of
            names, as ["gpu:0", "gpu:2"] or ["cpu:0", "cpu:1"].

    Yields:
        The names of the devices.

    Raises:
        ValueError: where there are no such devices, the CPU can't be split any more, or on
            PyTorch, where `fit` has one device.

    Example:
        with keras_sanet.distribution.scope("auto") as devices:
            train = keras_sanet.pipeline.make_dataset(data, "train", crop_size=473, batch_size=16)
            model = keras_sanet.SANet(data.num_classes)
            keras_sanet.training.compile(model, 30 * len(train))
            model.fit(train, epochs=30)
    """
    number = as_integer(devices)
    devices = devices if number is None else number
    names = _devices(devices)
    with _strategy(names, devices):
        yield names


def is_chief():
    """Tells whether this process writes the files: process 0, or the only one."""
    return _backend.process()[0] == 0


def wait():
    """Waits until all processes have come here, as to read what one of them wrote."""
    if _backend.process()[1] > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("keras_sanet")


@contextlib.contextmanager
def alone():
    """Context for what one of several processes does by itself, as saving: Keras makes variables
    then, for which it would wait for the others under `keras.distribution`."""
    shared = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(shared)


def synchronize_batch_norm(model, *, synchronized=True):
    """Switches how stock batch norms of another package's backbone take their statistics.

    Synchronized, `keras.layers.BatchNormalization` takes them over the batch of all replicas of
    TensorFlow. (Ours always do, and JAX does.)

    Saved files then hold it, which other backends refuse: switch it off before saving.

    Args:
        model: any model; layers inside layers are switched too. Call it before `fit`, or compile
            again.
        synchronized: False to switch it off.

    Returns:
        The number of layers switched.

    Raises:
        ValueError: on other backends than TensorFlow.
    """
    if synchronized and keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`synchronized` needs TensorFlow. Received: synchronized=True on "
            f"{keras.backend.backend()}, where `keras.distribution` (JAX) has statistics of the "
            "whole batch without it."
        )
    found = [
        layer
        for layer in model._flatten_layers()  # inside layers too, which `model.layers` has not
        if isinstance(layer, keras.layers.BatchNormalization)
        and not isinstance(layer, BatchNormalization)
    ]
    for layer in found:
        layer.synchronized = synchronized
    return len(found)


def _devices(devices):
    """Names of the devices asked for."""
    listed = isinstance(devices, (list, tuple)) and all(isinstance(d, str) for d in devices)
    number = isinstance(devices, int) and not isinstance(devices, bool)
    if not (devices == "auto" or (number and devices > 0) or (listed and devices)):
        raise ValueError(
            '`devices` must be "auto", a positive number or a list of names such as "gpu:0". '
            f"Received: devices={devices!r}."
        )
    if listed and len(set(devices)) < len(devices):
        raise ValueError(f"`devices` must be different ones. Received: devices={devices!r}.")
    if keras.backend.backend() == "torch":
        return _torch_devices(devices)
    if _backend.process()[1] > 1:
        if devices != "auto":
            raise ValueError(
                '`devices` must be "auto" in several processes: all devices of all of them. '
                f"Received: devices={devices!r}."
            )
        return keras.distribution.list_devices()
    cpus = 1
    if number:
        cpus = devices
    elif listed:
        cpus = sum(name.lower().startswith("cpu") for name in devices)
    if cpus > 1:
        _split_cpu(cpus)
    found = keras.distribution.list_devices()  # accelerators, or else those of the CPU
    on_cpu = found[0].startswith("cpu")
    if devices == "auto":
        return found[:1] if on_cpu else found
    if number and len(found) >= devices:
        return found[:devices]
    if listed:
        found = found if on_cpu else found + keras.distribution.list_devices("cpu")
        if {name.lower() for name in devices} <= set(found):
            return [name.lower() for name in devices]
    hint = ""
    if cpus > 1 and on_cpu:
        hint = (
            " The CPU can be split into more only before the backend computes: open the scope "
            "first, in a new process."
        )
    raise ValueError(f"There are the devices {', '.join(found)}. Received: {devices=}.{hint}")


def _split_cpu(count):
    """Gives the CPU so many logical devices, if the backend has not started and has no GPU."""
    with contextlib.suppress(RuntimeError):  # has started
        if keras.backend.backend() == "jax":
            import jax

            jax.config.update("jax_num_cpu_devices", count)
            return
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        if len(tf.config.get_logical_device_configuration(cpu) or []) < count:
            split = [tf.config.LogicalDeviceConfiguration()] * count
            tf.config.set_logical_device_configuration(cpu, split)


def _torch_devices(devices):
    import torch

    default = str(ops.convert_to_tensor(0.0).device)
    if devices == "auto":
        if torch.cuda.device_count() > 1:
            warnings.warn(
                f"Keras on PyTorch trains on one device, {default}, of "
                f"{torch.cuda.device_count()}: set KERAS_BACKEND to jax or tensorflow for all.",
                stacklevel=5,
            )
        return [default]
    if devices == 1:
        return [default]
    if isinstance(devices, int) or len(devices) > 1:
        raise ValueError(
            "`fit` of Keras on PyTorch trains on one device. For several, set KERAS_BACKEND to jax "
            "or tensorflow, or write the loop yourself with torch's DistributedDataParallel "
            "(keras.io/guides/distributed_training_with_torch). "
            f"Received: devices={devices!r}."
        )
    return list(devices)


def _strategy(names, devices):
    """The context that trains on the devices."""
    if len(names) == 1:
        chosen = not (devices == "auto" or isinstance(devices, int))
        return keras.device(names[0]) if chosen else contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        return _DataParallel(devices=names, auto_shard_dataset=False).scope()
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([name.upper() for name in names]).scope()


class _DataParallel(keras.distribution.DataParallel):
    """Each device computes a batch whole that can't be divided by their number.

    Data sets are not sharded: `pipeline.make_dataset` gives each process its own.
    """

    def get_data_layout(self, data_shape):
        if data_shape[0] % (self.device_mesh.devices.size // _backend.process()[1]) == 0:
            return super().get_data_layout(data_shape)
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
