"""Model files: loading those of strangers, and writing that a kill can't leave half done.

A `.keras` file is a zip of `config.json` (which classes with which arguments) and
`model.weights.h5` (HDF5). Keras's own safe mode refuses code in it; what else such a file could ask
for, and what Keras refuses only in some versions, is refused here before Keras reads the file.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import threading
import zipfile
from pathlib import Path

import keras

_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
_CONFIG_BYTES = 4 << 20  # SANet with the largest backbone has 0.4 MB
_LARGEST = 1 << 20  # integer of a config: filters, units, sizes
_ANY_SIZE = ("seed", "shared_object_id")
SLACK = 1024  # values of variables that no file need hold, such as a generator's state
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
    "keras.regularizers": "L1 L1L2 L2",
    "keras.constraints": "MaxNorm NonNeg UnitNorm",
    "keras.src.ops.nn": "Celu Elu Gelu HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid "
    "LogSoftmax Relu Relu6 Selu Sigmoid Silu Softmax Softplus Softsign",
    "keras.src.ops.numpy": "Absolute Add Ceil Clip Concatenate Cos Divide Exp Expm1 Flip Floor "
    "GetItem Log Log1p Max Maximum Mean Minimum Multiply Negative Power Reciprocal Reshape Round "
    "Sign Sin Sqrt Square Subtract Tanh Transpose TrueDivide",
}
_KNOWN = {(module, name) for module, names in _CLASSES.items() for name in names.split()}
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
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            config = json.loads(archive.read("config.json"))
            with archive.open("model.weights.h5") as weights:
                count = _count(path, weights, archive.getinfo("model.weights.h5").file_size)
    except _Refused:
        raise
    except (zipfile.BadZipFile, RecursionError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or is no .keras file: {error}.") from error
    _check_config(path, config)
    try:
        with at_most(count + SLACK):
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever a crafted config makes layers raise
        raise ValueError(f"{path} can't be loaded: {error}") from error


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
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or is no HDF5 file: {error}.") from error


def digest(path, algorithm="sha256"):
    """Hex digits of a file."""
    found = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()


@contextlib.contextmanager
def at_most(count):
    """Context in which Keras creates variables of at most `count` values in all.

    The variable that would be one too many raises ValueError before it is allocated. Variables of
    other threads are not counted; such contexts run one after another.
    """
    variable, thread, left = keras.Variable, threading.get_ident(), count

    def checked(self, initializer, shape=None, *args, **kwargs):
        nonlocal left
        if threading.get_ident() == thread:
            asked = shape if callable(initializer) or isinstance(initializer, str) else None
            asked = getattr(initializer, "shape", ()) if asked is None else asked
            left -= math.prod(asked)
            if left < 0:
                raise ValueError(
                    f"A variable of the shape {tuple(asked)} is one too many: {count:,} values in "
                    "all are allowed here."
                )
        original(self, initializer, shape, *args, **kwargs)

    with _ONE_AT_A_TIME:
        own, original = "__init__" in vars(variable), variable.__init__
        variable.__init__ = checked
        try:
            yield
        finally:
            if own:
                variable.__init__ = original
            else:
                del variable.__init__


@contextlib.contextmanager
def replacing(path):
    """Context that yields a path to write a file or folder to, which then replaces `path` whole.

    The path yielded is a hidden sibling that ends in the same name. After an error nothing is
    changed. After a kill the old file is whole, and the sibling is left over. Of a folder, a kill
    between its two renames leaves both the old one and the new one whole, as hidden siblings
    (`.old-...`, `.new-...`), and none at `path`. Where nothing was written, nothing changes.

    Raises: FileNotFoundError that names the folder, where that of `path` is not there.
    """
    path = Path(os.path.realpath(path))  # the target of a link, not the link
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} into.")
    run = f"{os.getpid()}-{threading.get_ident()}"
    new, old = path.with_name(f".new-{run}-{path.name}"), path.with_name(f".old-{run}-{path.name}")
    try:
        yield new
        if new.exists():
            _sync(new)
            if new.is_dir() and path.is_dir():
                os.rename(path, old)
            os.replace(new, path)
            _sync_entry(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # as of a full disk
        if old.exists() and not path.exists():
            os.rename(old, path)
        remove(new)
        raise
    remove(old)


def remove(path):
    """Removes a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_ONE_AT_A_TIME = threading.RLock()


class _Refused(ValueError):
    """What was found in a file that is not damaged."""


def _check_members(path, archive):
    """The members that Keras writes, stored as they are: then nothing can swell."""
    infos = archive.infolist()
    names = sorted(info.filename for info in infos)
    if names != sorted(_MEMBERS):
        raise _Refused(
            f"{path} must hold {', '.join(_MEMBERS)} and nothing else. It holds: "
            f"{', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}. {_TRUST}"
        )
    stored = all(
        info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        for info in infos
    )
    total = sum(info.file_size for info in infos)
    if not stored or total > path.stat().st_size:
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


def _check_config(path, config):
    """Known classes alone, and no integer that asks for too much."""
    if not isinstance(config, dict):
        raise _Refused(f"The config.json in {path} must hold a model. It holds: {config!r:.60}.")
    config.pop("compile_config", None)  # of the model itself, which Keras leaves out as we do
    left = [("", config)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                _check_class(path, value)
            if value.get("compile_config"):
                raise _Refused(
                    f"{path} holds a compiled model inside the model, whose optimizer is refused. "
                    f"{_TRUST}"
                )
            left += value.items()
        elif isinstance(value, list):
            left += [(key, entry) for entry in value]
        elif isinstance(value, (int, float)) and abs(value) > _LARGEST and key not in _ANY_SIZE:
            raise _Refused(
                f"{path} asks for {key}={value}. At most {_LARGEST} is allowed. {_TRUST}"
            )


def _check_class(path, config):
    """Resolves a class as Keras does: what is registered by that name comes first."""
    module, name = config.get("module"), config["class_name"]
    registered = config.get("registered_name", name)
    if not all(isinstance(word, str) or word is None for word in (module, name, registered)):
        raise _Refused(f"{path} names a class by what is no text: {config!r:.60}. {_TRUST}")
    found = keras.saving.get_registered_object(registered)
    package = (registered or "").partition(">")[0]
    if found is not None:
        known = package == _OURS or _is_foreign_layer(package, found)
    elif name == "__slice__":  # as of x[:, 1:]
        bounds = config.get("config")
        bounds = bounds.values() if isinstance(bounds, dict) else ("",)
        known = all(bound is None or isinstance(bound, int) for bound in bounds)
    else:
        known = (module, name) in _KNOWN or name == "__keras_tensor__"
    if not known:
        missing = f" Import {package} first." if package in _FOREIGN and found is None else ""
        raise _Refused(
            f"{path} holds {name!r} of {module!r} (registered as {registered!r}), which is not "
            f"known to be safe to load from a stranger.{missing} {_TRUST}"
        )


def _is_foreign_layer(package, found):
    return (
        isinstance(found, type)
        and issubclass(found, keras.layers.Layer)
        and re.fullmatch(_FOREIGN.get(package, ""), found.__module__) is not None
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
            if isinstance(entry, h5py.Group):
                address = h5py.h5o.get_info(entry.id).addr
                if address in seen:
                    continue  # a group inside itself
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
            # bfloat16 is stored as two bytes without a type.
            elif entry.dtype.kind not in "biuf" and entry.dtype.str != "|V2":
                refuse(name, f"a dataset of the type {entry.dtype}")
            elif entry.shape is None or entry.id.get_storage_size() != entry.nbytes:
                refuse(name, f"a dataset of the shape {entry.shape} that is not stored whole")
            else:
                count, nbytes = count + entry.size, nbytes + entry.nbytes
    if nbytes > size:  # the same bytes under many names
        refuse("all together", f"{nbytes:,} bytes of numbers in {size:,} bytes of file")
    return count


def _sync(path):
    """A file's or a folder's content on the disk."""
    for folder, _, files in os.walk(path):
        for name in files:
            _sync_entry(os.path.join(folder, name))
        _sync_entry(folder)
    if path.is_file():
        _sync_entry(path)


def _sync_entry(path):
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDWR if os.path.isfile(path) else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
