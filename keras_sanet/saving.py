"""Model files: loading those of strangers, and writing that a kill can't leave half done.

A `.keras` file is a zip of `config.json` (which classes with which arguments) and
`model.weights.h5` (HDF5). Keras's own safe mode refuses code in it; what else such a file could ask
for, and what Keras refuses only in some versions, is refused here before Keras reads the file.
"""

import contextlib
import functools
import inspect
import io
import json
import math
import re
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras.src.saving.serialization_lib import SafeModeScope

_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
_CONFIG_BYTES = 4 << 20  # SANet with EfficientNetV2-L, the longest known, has 1 MB
_LARGEST = 1 << 20  # number of a config: filters, units, sizes
_ANY_SIZE = ("seed", "shared_object_id")
MOST_PIXELS = 1 << 27  # times channels, of a shape: 6,600 x 6,600 of RGB
_MOST_AXES = 32
_DEEPEST = 40  # lists and dicts in one another; a model in a model takes five
SLACK = 1024  # values of variables that no file need hold, such as a generator's state
_MOST_LAYERS = 1 << 12  # EfficientNetV2-L has 1,028
MOST_INTEGERS = 1 << 8  # in a list: taps, bins, blocks of stages
# What is made while a model is built: of each layer of SANet with EfficientNetV2-L, three and two.
_MOST_CALLS = 1 << 14  # layers, and calls of them
_MOST_MAPS = 1 << 15
_TRUST = "A file that you trust: `keras.saving.load_model`."

# What a config may name: of Keras, what networks on images are made of and what only computes.
_CLASSES = {
    "keras": "DTypePolicy Sequential",
    "keras.src.models.functional": "Functional",
    "keras.layers": "Activation Add Average AveragePooling2D BatchNormalization Concatenate Conv2D "
    "Conv2DTranspose Cropping2D Dense DepthwiseConv2D Dropout ELU Flatten GlobalAveragePooling2D "
    "GlobalMaxPooling2D GroupNormalization Identity InputLayer LayerNormalization LeakyReLU "
    "MaxPooling2D Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute ReLU "
    "Rescaling Reshape Resizing SeparableConv2D Softmax SpatialDropout2D Subtract UpSampling2D "
    "ZeroPadding2D",
    "keras.initializers": "Constant GlorotNormal GlorotUniform HeNormal HeUniform LecunNormal "
    "LecunUniform Ones Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros",
    "keras.src.applications.convnext": "LayerScale",
    "keras.src.applications.inception_resnet_v2": "CustomScaleLayer",
    "keras.regularizers": "L1 L1L2 L2",
    "keras.constraints": "MaxNorm NonNeg UnitNorm",
    "keras.src.ops.nn": "Celu Elu Gelu HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid "
    "LogSoftmax Relu Relu6 Selu Sigmoid Silu Softmax Softplus Softsign",
    "keras.src.ops.numpy": "Absolute Add Ceil Clip Concatenate Cos Divide Exp Expm1 Flip Floor "
    "GetItem Log Log1p Max Maximum Mean Minimum Multiply Negative Power Reciprocal Reshape Round "
    "Sign Sin Sqrt Square Subtract Tanh Transpose TrueDivide",
}
_KNOWN = {(module, name) for module, names in _CLASSES.items() for name in names.split()}
_NO_CLASSES = ("__keras_tensor__", "__slice__", "__ellipsis__")  # x and x[:, 1:], x[..., 0]
_OURS = "keras_sanet"
# Modules of backbones and of their layers; registered where their package is imported. No others:
# aliases such as keras-cv's ResNet50Backbone download weights, processors and tokenizers read the
# files that their config names.
_FOREIGN = {
    "keras_cv": r"keras_cv\.src\.(layers\.(regularization\.\w+|(fused)?mbconv)"
    r"|models\.backbones\.(csp_darknet|densenet|efficientnet_(lite|v1|v2)|mobilenet_v3|resnet_v[12]"
    r"|vgg16)\.\w+_(backbone|utils))",
    "keras_hub": r"keras_hub\.src\.models\.(cspnet|densenet|efficientnet|hgnetv2|mobilenet|resnet"
    r"|vgg|xception)\.\w+_(backbone|encoder|layers)",
}


def load_model(path):
    """Loads a model of this package from a `.keras` file, of whatever source.

    Runs no code of the file, opens no other file, writes none, and allocates no more than the file
    itself holds. (What prediction costs, the file's network decides.)

    Args: path, of the file.
    Returns: the `keras.Model`, not compiled.
    Raises: FileNotFoundError; ValueError that names the file, what was found in it, and the way
        out, where it is damaged or holds what no file of this package does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {path}.")
    if path.suffix != ".keras":
        raise ValueError(f"{path} must end in .keras to be loaded as a model. {_TRUST}")
    config, count, _ = _read(path)
    try:
        # Neither what the caller has named for files of its own, nor its trust in them.
        with keras.saving.CustomObjectScope({}), SafeModeScope(True), at_most(count + SLACK):
            _check_config(path, config)
            with _channels_last():
                model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except _Refused:
        raise
    except Exception as error:  # whatever a crafted config makes layers raise
        raise ValueError(f"{path} can't be loaded: {_short(error)} {_TRUST}") from None
    for layer in model._flatten_layers():  # files of 0.1.0; see `preprocessing.preprocess`
        if isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) == 1:
            layer.scale, layer.offset = (
                np.reshape(values, (1, 1, -1)).tolist() for values in (layer.scale, layer.offset)
            )
    return model


@contextlib.contextmanager
def _channels_last():
    """Context in which images have the channels last, whatever Keras is set to."""
    data_format = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(data_format)


def load_weights(model, path):
    """Loads the weights in a `.keras` file into a model like that in it; its config is not looked
    at.

    Raises: as `load_model`; ValueError that names the file, where the weights are others.
    """
    _read(Path(path))
    try:
        model.load_weights(path)
    except Exception as error:  # of Keras and h5py
        raise ValueError(f"{path} is not of this model: {_short(error)}") from None


def check_state(path, members):
    """Checks a `.keras` file whose weights alone are to be loaded, whatever its config.

    Args: path, of the file; members, names of what else it may hold.
    Returns: dict from the names of those that it holds to their bytes.
    Raises: as `load_model`.
    """
    return _read(Path(path), members)[2]


def arrays(content):
    """The arrays of a `.npz` file, given as bytes, which take no more than these.

    Returns: list of names and arrays. Raises: ValueError.
    """
    found = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if not _is_stored(archive, len(content)):
            raise ValueError("its arrays are compressed.")
        for info in archive.infolist():
            stream = io.BytesIO(archive.read(info))
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            left = info.file_size - stream.tell()
            sizes = all(type(size) is int and size >= 0 for size in shape)
            if not _is_number(dtype) or not sizes or math.prod(shape) * dtype.itemsize != left:
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

    Args: path, of the file.
    Returns: the number of values in it.
    Raises: FileNotFoundError; ValueError that names the file and what was found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        with open(path, "rb") as file:
            return _count(path, file, path.stat().st_size)
    except _Refused:
        raise
    except Exception as error:  # whatever h5py makes of damage
        raise ValueError(f"{path} is damaged, or is no HDF5 file: {_short(error)}") from error


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
        of = f"A variable of the shape {tuple(asked)} is one too many: "
        take("values", math.prod(asked), of)

    def normalization(self, input_shape):
        if self.input_mean is not None and input_shape:  # it fills these axes with them
            values = math.prod(input_shape[axis] or 1 for axis in self.axis)
            if values > _LARGEST:
                raise ValueError(f"{self.name} asks for {values:,} means, more than {_LARGEST:,}.")

    def device(name):
        # Where a layer fails without data, Keras tries it again with some, of any size.
        if name != "meta":
            raise ValueError(f"{_short(sys.exc_info()[1])}")

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


def weights_of(model, folder):
    """The bytes of the `.weights.h5` of a model.

    (Where the disk is full HDF5 prints tracebacks, and may end the process. Keras makes that of a
    `.keras` in memory.)

    Args: folder, where a `.keras` file may be for a moment.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        whole = Path(temporary, "model.keras")
        model.save(whole)
        with zipfile.ZipFile(whole) as archive:
            return archive.read("model.weights.h5")


_ONE_AT_A_TIME = threading.RLock()


class _Refused(ValueError):
    """What was found in a file that is not damaged."""


def _short(error):
    """An error's text without the middle: Keras's may quote all of a config, many times over."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))  # bold
    return text if len(text) <= 1000 else f"{text[:600]} ... {text[-400:]}"


def _read(path, members=()):
    """What a `.keras` file holds, once it was checked: its config, the number of values of its
    weights, and the bytes of other members by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive, members)
            config = json.loads(archive.read("config.json"))
            with archive.open("model.weights.h5") as weights:
                count = _count(path, weights, archive.getinfo("model.weights.h5").file_size)
            held = set(archive.namelist())
            return config, count, {n: archive.read(n) for n in members if n in held}
    except _Refused:
        raise
    except Exception as error:  # whatever zipfile and h5py make of damage
        raise ValueError(f"{path} is damaged, or is no .keras file: {_short(error)}.") from error


def _check_members(path, archive, more):
    """The members that Keras writes, stored as they are: then nothing can swell."""
    names = sorted(archive.namelist())
    if names != sorted({*_MEMBERS, *(name for name in more if name in names)}):
        raise _Refused(
            f"{path} must hold {', '.join((*_MEMBERS, *more))} and nothing else. It holds: "
            f"{', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}. {_TRUST}"
        )
    if not _is_stored(archive, path.stat().st_size):
        total = sum(info.file_size for info in archive.infolist())
        raise _Refused(
            f"{path} is compressed, {total:,} bytes in a file of {path.stat().st_size:,}. Keras "
            f"writes it uncompressed. {_TRUST}"
        )
    size = archive.getinfo("config.json").file_size
    if size > _CONFIG_BYTES:
        raise _Refused(
            f"The config.json in {path} must have at most {_CONFIG_BYTES:,} bytes. It has {size:,}."
            f" {_TRUST}"
        )


def _is_stored(archive, size):
    """Whether nothing in a zip of so many bytes is compressed, or there twice."""
    infos = archive.infolist()
    stored = all(
        info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        for info in infos
    )
    return stored and sum(info.file_size for info in infos) <= size


def _check_config(path, config):
    """Known classes alone, and nothing that asks for too much."""
    if not isinstance(config, dict):
        raise _Refused(f"The config.json in {path} must hold a model. It holds: {config!r:.60}.")
    config.pop("compile_config", None)  # of the model itself, which Keras leaves out as we do
    left, layers = [("", config, 1)], 0
    while left:
        key, value, depth = left.pop()
        if depth > _DEEPEST:
            raise _Refused(f"{path} is nested more than {_DEEPEST} deep, at {key:.60}. {_TRUST}")
        if isinstance(value, dict):
            if "class_name" in value:
                _check_class(path, value)
            if value.get("compile_config"):
                raise _Refused(
                    f"{path} holds a compiled model inside the model, whose optimizer is refused. "
                    f"{_TRUST}"
                )
            names = _NAMES if "class_name" in value else ()
            left += [(k, v, depth + 1) for k, v in value.items() if k not in names]
        elif isinstance(value, list):
            _check_list(path, key, value)
            layers += len(value) if key == "layers" else 0
            if layers > _MOST_LAYERS:
                raise _Refused(f"{path} has more than {_MOST_LAYERS:,} layers. {_TRUST}")
            left += [(key, entry, depth + 1) for entry in value]
        elif isinstance(value, str):
            if keras.saving.get_registered_object(value) is not None:
                raise _Refused(
                    f"{path} asks for {key:.60}={value!r}, which is registered with Keras, and may "
                    f"be anything. {_TRUST}"
                )
        elif key in _ANY_SIZE:
            continue
        elif isinstance(value, (int, float)) and not abs(value) <= _LARGEST:  # NaN too
            raise _Refused(
                f"{path} asks for {key:.60}={value!r:.60}. At most {_LARGEST} is allowed. {_TRUST}"
            )


_NAMES = ("module", "class_name", "registered_name")


def _check_list(path, key, value):
    """A shape whose values are not too many, or calls of a layer with maps, so that building it
    computes nothing."""
    if key.endswith("shape"):
        sizes = [size for size in value if isinstance(size, (int, float)) and size]
        if len(sizes) > _MOST_AXES or not abs(math.prod(sizes)) <= MOST_PIXELS:
            raise _Refused(
                f"{path} asks for {key:.60}={value!r:.100}. At most {MOST_PIXELS:,} values are "
                f"allowed. {_TRUST}"
            )
    if len(value) > MOST_INTEGERS and all(type(entry) is int for entry in value):
        raise _Refused(
            f"{path} asks for a list of {len(value):,} integers, {key:.60}. At most "
            f"{MOST_INTEGERS} are allowed. {_TRUST}"
        )
    if key == "inbound_nodes":
        for call in value:
            arguments = [call.get(k) for k in ("args", "kwargs")] if isinstance(call, dict) else []
            if not _has_tensor(arguments) or _has_matrix(arguments):
                raise _Refused(
                    f"{path} calls a layer without another's output, or with numbers: {call!r:.60}."
                    f" {_TRUST}"
                )


def _has_tensor(value):
    if isinstance(value, dict):
        return value.get("class_name") == "__keras_tensor__" or _has_tensor([*value.values()])
    return isinstance(value, list) and any(map(_has_tensor, value))


def _has_matrix(value, dimensions=-1):
    """Whether there are numbers in lists of lists, outside of what Keras describes by a class."""
    if isinstance(value, dict):
        nested = [] if "class_name" in value else value.values()
        return any(_has_matrix(entry, -1) for entry in nested)
    if isinstance(value, list):
        return any(_has_matrix(entry, dimensions + 1) for entry in value)
    return dimensions > 1 and isinstance(value, (int, float))


def _check_class(path, config):
    """Resolves a class as Keras does: what is registered by that name comes first."""
    module, name = config.get("module"), config["class_name"]
    registered = config.get("registered_name", name)
    if not all(isinstance(word, str) or word is None for word in (module, name, registered)):
        raise _Refused(f"{path} names a class by what is no text: {config!r:.60}. {_TRUST}")
    found = keras.saving.get_registered_object(registered)
    package = (registered or "").partition(">")[0]
    if name in _NO_CLASSES:
        known = config.keys() == {"class_name", "config"}
    elif found is not None:
        known = (
            isinstance(found, type)
            and issubclass(found, keras.layers.Layer)
            and (found.__name__, keras.saving.get_registered_name(found)) == (name, registered)
            and (module or "").partition(".")[0] == found.__module__.partition(".")[0] == package
            and (package == _OURS or re.fullmatch(_FOREIGN.get(package, ""), found.__module__))
        )
    else:
        known = (module, name) in _KNOWN and registered in (None, name)
    bounds = config.get("config")
    if known and name == "__slice__":
        bounds = bounds.values() if isinstance(bounds, dict) else ("",)
        known = all(bound is None or isinstance(bound, int) for bound in bounds)
    if known and name == "Constant":  # which Keras multiplies by a variable's shape
        known = isinstance(bounds, dict) and isinstance(bounds.get("value", 0), (int, float))
    if not known:
        missing = f" Import {package} first." if package in _FOREIGN and found is None else ""
        raise _Refused(
            f"{path} holds {name!r:.80} of {module!r:.80} (registered as {registered!r:.80}), "
            f"which is not known to be safe to load from a stranger.{missing} {_TRUST}"
        )


def _count(path, file, size):
    """Values in an open HDF5 file of `size` bytes, all of whose objects pass."""
    import h5py

    def refuse(name, found):
        raise _Refused(
            f"{path} holds {found} ({name}). Weights files must hold plain numbers, stored whole "
            f"and uncompressed, without links. {_TRUST}"
        )

    count = nbytes = 0
    with h5py.File(file, "r") as opened:
        left, seen = [("", opened)], set()
        while left:
            name, entry = left.pop()
            if any(entry.attrs.get_id(key).shape != () for key in entry.attrs):
                refuse(name, "an attribute of several values")
            if isinstance(entry, h5py.Group):
                address = h5py.h5o.get_info(entry.id).addr
                if address in seen:  # inside itself, or read many times
                    refuse(name, "a group with two names")
                seen.add(address)
                for key in entry:
                    link = entry.get(key, getlink=True)
                    if not isinstance(link, h5py.HardLink):
                        kind = type(link).__name__
                        refuse(f"{name}/{key}", f"an {kind}" if kind[0] == "E" else f"a {kind}")
                    left.append((f"{name}/{key}", entry[key]))
            elif not isinstance(entry, h5py.Dataset):
                refuse(name, f"a {type(entry).__name__}")
            elif entry.external:
                refuse(name, f"a dataset in another file, {entry.external[0][0]}")
            elif entry.is_virtual:
                refuse(name, "a virtual dataset, of other files")
            elif entry.chunks is not None:
                refuse(name, "a dataset in chunks")
            elif not _is_number(entry.dtype):
                refuse(name, f"a dataset of the type {entry.dtype}")
            elif entry.shape is None or entry.id.get_storage_size() != entry.nbytes:
                refuse(name, f"a dataset of the shape {entry.shape} that is not stored whole")
            else:
                count, nbytes = count + entry.size, nbytes + entry.nbytes
    if nbytes > size:  # the same bytes under many names
        refuse("all together", f"{nbytes:,} bytes of numbers in {size:,} bytes of file")
    return count


def _is_number(dtype):
    """(bfloat16 is stored as two bytes without a type.)"""
    return dtype.kind in "biuf" or dtype.str == "|V2"
