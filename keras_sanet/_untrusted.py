"""What a model file of a stranger may hold.

A `.keras` file is a zip of `config.json` (which classes with which arguments) and
`model.weights.h5` (HDF5). Keras's own safe mode refuses code in it; what else such a file could ask
for, and what Keras refuses only in some versions, is refused here before Keras reads the file.
"""

import json
import math
import re
import zipfile

import keras

_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
_CONFIG_BYTES = 4 << 20  # SANet with EfficientNetV2-L, the longest known, has 1 MB
LARGEST = 1 << 20  # number of a config: filters, units, sizes
_NAMES = ("module", "class_name", "registered_name")
_ANY_SIZE = ("seed", "shared_object_id")
MOST_PIXELS = 1 << 27  # times channels, of a shape: 6,600 x 6,600 of RGB
_MOST_AXES = 32
_DEEPEST = 40  # lists and dicts in one another; a model in a model takes five
_MOST_LAYERS = 1 << 12  # EfficientNetV2-L has 1,028
MOST_INTEGERS = 1 << 8  # in a list: taps, bins, blocks of stages
TRUST = "A file that you trust: `keras.saving.load_model`."

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


class Refused(ValueError):
    """What was found in a file that is not damaged."""


def _refuse(path, found):
    raise Refused(f"{path} {found} {TRUST}")


def shorten(error):
    """An error's text without the middle: Keras's may quote all of a config, many times over."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))  # bold
    return text if len(text) <= 1000 else f"{text[:600]} ... {text[-400:]}"


def read_members(path, members=()):
    """What a `.keras` file holds, once it was checked: its config, the number of values of its
    weights, and the bytes of other members by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive, members)
            config = json.loads(archive.read("config.json"))
            with archive.open("model.weights.h5") as weights:
                count = count_values(path, weights, archive.getinfo("model.weights.h5").file_size)
            held = set(archive.namelist())
            return config, count, {n: archive.read(n) for n in members if n in held}
    except Refused:
        raise
    except Exception as error:  # whatever zipfile and h5py make of damage
        raise ValueError(f"{path} is damaged, or is no .keras file: {shorten(error)}.") from error


def _check_members(path, archive, more):
    """The members that Keras writes, stored as they are: then nothing can swell."""
    names = sorted(archive.namelist())
    if names != sorted({*_MEMBERS, *(name for name in more if name in names)}):
        held = f"{', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}"
        allowed = ", ".join((*_MEMBERS, *more))
        _refuse(path, f"must hold {allowed} and nothing else. It holds: {held}.")
    size = path.stat().st_size
    if not is_stored(archive, size):
        total = sum(info.file_size for info in archive.infolist())
        found = f"is compressed, {total:,} bytes in a file of {size:,}"
        _refuse(path, f"{found}. Keras writes it uncompressed.")
    size = archive.getinfo("config.json").file_size
    if size > _CONFIG_BYTES:
        _refuse(path, f"has a config.json of {size:,} bytes; {_CONFIG_BYTES:,} are allowed.")


def is_stored(archive, size):
    """Whether nothing in a zip of so many bytes is compressed, or there twice."""
    infos = archive.infolist()
    stored = all(
        info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        for info in infos
    )
    return stored and sum(info.file_size for info in infos) <= size


def check_config(path, config):
    """Known classes alone, and nothing that asks for too much."""
    if not isinstance(config, dict):
        _refuse(path, f"must hold a model in its config.json. It holds: {config!r:.60}.")
    config.pop("compile_config", None)  # of the model itself, which Keras leaves out as we do
    left, layers = [("", config, 1)], 0
    while left:
        key, value, depth = left.pop()
        if depth > _DEEPEST:
            _refuse(path, f"is nested more than {_DEEPEST} deep, at {key:.60}.")
        if isinstance(value, dict):
            if "class_name" in value:
                _check_class(path, value)
            if value.get("compile_config"):
                _refuse(path, "holds a compiled model inside the model, with an optimizer.")
            names = _NAMES if "class_name" in value else ()
            left += [(k, v, depth + 1) for k, v in value.items() if k not in names]
        elif isinstance(value, list):
            _check_list(path, key, value)
            layers += len(value) if key == "layers" else 0
            if layers > _MOST_LAYERS:
                _refuse(path, f"has more than {_MOST_LAYERS:,} layers.")
            left += [(key, entry, depth + 1) for entry in value]
        elif isinstance(value, str):
            if keras.saving.get_registered_object(value) is not None:
                found = f"asks for {key:.60}={value!r}"
                _refuse(path, f"{found}, which is registered with Keras, and may be anything.")
        elif key in _ANY_SIZE:
            continue
        elif isinstance(value, (int, float)) and not abs(value) <= LARGEST:  # NaN too
            _refuse(path, f"asks for {key:.60}={value!r:.60}. At most {LARGEST} is allowed.")


def _check_list(path, key, value):
    """A shape whose values are not too many, or calls of a layer with maps, so that building it
    computes nothing."""
    if key.endswith("shape"):
        sizes = [size for size in value if isinstance(size, (int, float)) and size]
        if len(sizes) > _MOST_AXES or not abs(math.prod(sizes)) <= MOST_PIXELS:
            found = f"asks for {key:.60}={value!r:.100}"
            _refuse(path, f"{found}. At most {MOST_PIXELS:,} values are allowed.")
    if len(value) > MOST_INTEGERS and all(type(entry) is int for entry in value):
        found = f"asks for a list of {len(value):,} integers, {key:.60}"
        _refuse(path, f"{found}. At most {MOST_INTEGERS} are allowed.")
    if key == "inbound_nodes":
        for call in value:
            arguments = [call.get(k) for k in ("args", "kwargs")] if isinstance(call, dict) else []
            if not _has_tensor(arguments) or _has_matrix(arguments):
                what = "calls a layer without another's output, or with numbers"
                _refuse(path, f"{what}: {call!r:.60}.")


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
        _refuse(path, f"names a class by what is no text: {config!r:.60}.")
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
        held = f"holds {name!r:.80} of {module!r:.80} (registered as {registered!r:.80})"
        _refuse(path, f"{held}, which is not known to be safe to load from a stranger.{missing}")


def count_values(path, file, size):
    """Values in an open HDF5 file of `size` bytes, all of whose objects pass."""
    import h5py

    def refuse(name, found):
        rule = "must hold plain numbers, stored whole and uncompressed, without links"
        _refuse(path, f"holds {found} ({name}). Weights files {rule}.")

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
            elif not is_number(entry.dtype):
                refuse(name, f"a dataset of the type {entry.dtype}")
            elif entry.shape is None or entry.id.get_storage_size() != entry.nbytes:
                refuse(name, f"a dataset of the shape {entry.shape} that is not stored whole")
            else:
                count, nbytes = count + entry.size, nbytes + entry.nbytes
    if nbytes > size:  # the same bytes under many names
        refuse("all together", f"{nbytes:,} bytes of numbers in {size:,} bytes of file")
    return count


def is_number(dtype):
    """(bfloat16 is stored as two bytes without a type.)"""
    return dtype.kind in "biuf" or dtype.str == "|V2"
