"""Model files of strangers, loaded without running code or taking more memory than they hold."""

import contextlib
import functools
import inspect
import io
import math
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras.src.saving.serialization_lib import SafeModeScope

from keras_sanet._untrusted import (
    LARGEST,
    MOST_INTEGERS,
    MOST_PIXELS,
    TRUST,
    Refused,
    check_config,
    count_values,
    is_number,
    is_stored,
    read_members,
    shorten,
)

__all__ = [
    "MOST_INTEGERS",
    "MOST_PIXELS",
    "SLACK",
    "arrays",
    "at_most",
    "check_state",
    "check_weights",
    "load_model",
    "load_weights",
    "weight_bytes",
]

_ONE_AT_A_TIME = threading.RLock()
SLACK = 1024  # values of variables that no file need hold, such as a generator's state
# What is made while a model is built: of each layer of SANet with EfficientNetV2-L, three and two.
_MOST_CALLS = 1 << 14  # layers, and calls of them
_MOST_MAPS = 1 << 15


def load_model(path):
    """Loads a model of this package from a `.keras` file, of whatever source.

    Runs no code of the file, opens no other file, writes none, and allocates no more than the file
    itself holds. (What prediction costs, the file's network decides.)

    Args:
        path: path of the file.

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds what no file of this package does; names the file, what
            was found in it, and the way out.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {path}.")
    if path.suffix != ".keras":
        raise ValueError(f"{path} must end in .keras to be loaded as a model. {TRUST}")
    config, count, _ = read_members(path)
    try:
        # Neither what the caller has named for files of its own, nor its trust in them.
        with keras.saving.CustomObjectScope({}), SafeModeScope(True), at_most(count + SLACK):
            check_config(path, config)
            with _channels_last():
                model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Refused:
        raise
    except Exception as error:  # whatever a crafted config makes layers raise
        raise ValueError(f"{path} can't be loaded: {shorten(error)} {TRUST}") from None
    for layer in model._flatten_layers():  # files of 0.1.0; see `preprocessing.preprocess`
        if isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) == 1:
            layer.scale, layer.offset = (
                np.reshape(values, (1, 1, -1)).tolist() for values in (layer.scale, layer.offset)
            )
    return model


@contextlib.contextmanager
def _channels_last():
    data_format = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(data_format)


def load_weights(model, path):
    """Loads the weights in a `.keras` file into a model like that in it, whatever its config.

    Raises:
        ValueError: the weights are others, or as `load_model`.
    """
    read_members(Path(path))
    try:
        model.load_weights(path)
    except Exception as error:  # of Keras and h5py
        raise ValueError(f"{path} is not of this model: {shorten(error)}") from None


def check_state(path, members):
    """Checks a `.keras` file whose weights alone are to be loaded, whatever its config.

    Args:
        path: path of the file.
        members: names of what else it may hold.

    Returns:
        Dict from the names of those that it holds to their bytes.

    Raises:
        ValueError: as `load_model`.
    """
    return read_members(Path(path), members)[2]


def arrays(content):
    """The arrays of a `.npz` file, given as bytes, which take no more than these.

    Returns:
        List of names and arrays.

    Raises:
        ValueError: they would take more, or are no numbers.
    """
    found = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if not is_stored(archive, len(content)):
            raise ValueError("its arrays are compressed.")
        for info in archive.infolist():
            stream = io.BytesIO(archive.read(info))
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            left = info.file_size - stream.tell()
            sizes = all(type(size) is int and size >= 0 for size in shape)
            if not is_number(dtype) or not sizes or math.prod(shape) * dtype.itemsize != left:
                raise ValueError(f"{info.filename} holds no numbers, or not as many as it says.")
            stream.seek(0)
            name = info.filename.removesuffix(".npy")
            found.append((name, np.lib.format.read_array(stream, allow_pickle=False)))
    return found


def check_weights(path):
    """Checks that an HDF5 file holds plain numbers, all of them in the file itself.

    Refused are links but hard ones, virtual and external datasets, chunks (and so compression),
    datasets that are stored in part, and those that are no numbers: what Keras never writes and
    what could read another file or ask for more memory than the file has bytes.

    Args:
        path: path of the file.

    Returns:
        The number of values in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file and what was found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        with open(path, "rb") as file:
            return count_values(path, file, path.stat().st_size)
    except Refused:
        raise
    except Exception as error:  # whatever h5py makes of damage
        raise ValueError(f"{path} is damaged, or is no HDF5 file: {shorten(error)}") from error


@contextlib.contextmanager
def at_most(count):
    """Context in which Keras creates variables of at most `count` values in all, and no more layers
    and maps than a model can have; it only finds the shapes of maps, and computes none.

    What would be one too many raises ValueError before it is allocated. Other threads are not
    counted; such contexts run one after another.
    """
    limits = {"values": count, "layers and calls of them": _MOST_CALLS, "maps": _MOST_MAPS}
    left = dict(limits)

    def take(what, number=1, of=""):
        left[what] -= number
        if left[what] < 0:
            raise ValueError(f"{of}{limits[what]:,} {what} in all are allowed here.")

    def variable(self, initializer, shape=None, *args, **kwargs):
        asked = shape if callable(initializer) or isinstance(initializer, str) else None
        asked = getattr(initializer, "shape", ()) if asked is None else asked
        take(
            "values", math.prod(asked), f"A variable of the shape {tuple(asked)} is one too many: "
        )

    def normalization(self, input_shape):
        if self.input_mean is not None and input_shape:  # it fills these axes with them
            values = math.prod(input_shape[axis] or 1 for axis in self.axis)
            if values > LARGEST:
                raise ValueError(f"{self.name} asks for {values:,} means, more than {LARGEST:,}.")

    def device(name):
        # Where a layer fails without data, Keras tries it again with some, of any size.
        if name != "meta":
            raise ValueError(f"{shorten(sys.exc_info()[1])}")

    with _ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        before = functools.partial(_before, stack)
        before(keras.Variable, "__init__", variable)
        before(keras.Operation, "__init__", lambda *_, **__: take("layers and calls of them"))
        before(keras.Operation, "__call__", lambda *_, **__: take("layers and calls of them"))
        before(keras.KerasTensor, "__init__", lambda *_, **__: take("maps"))
        before(keras.layers.Normalization, "build", normalization)
        core = sys.modules.get("keras.src.backend.torch.core")
        if hasattr(core, "device_scope"):  # on PyTorch
            before(core, "device_scope", device)
        yield


def _before(stack, owner, name, check):
    """Until the stack is closed, calls of a method or function by this thread are first checked."""
    own, original, thread = name in vars(owner), getattr(owner, name), threading.get_ident()

    @functools.wraps(original)
    def checked(*args, **kwargs):
        if threading.get_ident() == thread:
            check(*args, **kwargs)
        return original(*args, **kwargs)

    if name == "__init__":  # which Keras asks for its arguments
        checked.__signature__ = inspect.signature(original)
    setattr(owner, name, checked)
    stack.callback(*((setattr, owner, name, original) if own else (delattr, owner, name)))


def weight_bytes(model, folder):
    """The bytes of the `.weights.h5` of a model.

    (Where the disk is full HDF5 prints tracebacks, and may end the process. Keras makes that of a
    `.keras` in memory.)

    Args:
        model: a `keras.Model`.
        folder: where a `.keras` file may be for a moment.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        whole = Path(temporary, "model.keras")
        model.save(whole)
        with zipfile.ZipFile(whole) as archive:
            return archive.read("model.weights.h5")


_ONE_AT_A_TIME = threading.RLock()
