"""Tensors of checkpoint files as NumPy arrays: `.safetensors`, `.safetensors.xz`, PyTorch's `.pth`
and `.pt`, and a backbone's `.weights.h5`.

A `.pth` is a pickle, which calls what the file names. As with `torch.load(weights_only=True)` that
is a short list of harmless functions; ours builds NumPy arrays, and needs no PyTorch. No file makes
us allocate more than a few times its bytes or, where it is packed, `limit`.

References: github.com/huggingface/safetensors; torch/serialization.py; Python's manual,
`pickle`, "Restricting Globals".
"""

import collections
import io
import json
import lzma
import math
import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from keras_sanet import saving

SUFFIXES = (".safetensors", ".safetensors.xz", ".pth", ".pt", ".weights.h5")

# NumPy     safetensors  PyTorch
_DTYPES = (
    ("<f8", "F64", "DoubleStorage"),
    ("<f4", "F32", "FloatStorage"),
    ("<f2", "F16", "HalfStorage"),
    ("bfloat16", "BF16", "BFloat16Storage"),
    ("<i8", "I64", "LongStorage"),
    ("<i4", "I32", "IntStorage"),
    ("<i2", "I16", "ShortStorage"),
    ("i1", "I8", "CharStorage"),
    ("u1", "U8", "ByteStorage"),
    ("?", "BOOL", "BoolStorage"),
)
_SAFETENSORS_DTYPES = {theirs: dtype for dtype, theirs, _ in _DTYPES}
_PYTORCH_DTYPES = {f"torch {theirs}": dtype for dtype, _, theirs in _DTYPES}
_LONGEST_HEADER = 2**21  # bytes, of a pickle too; a thousand tensors take some 200,000
_MOST_AXES = 64  # NumPy's
_MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's files before version 1.6


def read(path, limit):
    """Reads the tensors of a file.

    Args:
        path: ending in one of `SUFFIXES`. Of a training script's `.pth`, what it wrapped as
            "state_dict" or "model".
        limit: bytes that the tensors of a packed file (xz) may take.

    Returns:
        Dict from names to arrays, as they are in the file. Those of a `.weights.h5` have the names
        of torchvision: "layer1.0.bn1.running_mean" is variable 2 of layer `layer1_0_bn1`.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: with the path, for another suffix, a damaged file, and one that would take more
            than `limit`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No weights file {path}.")
    if not path.name.endswith(SUFFIXES):
        raise ValueError(
            f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} to be read as a "
            "checkpoint."
        )
    try:
        if path.name.endswith(".weights.h5"):
            return _read_h5(path)
        if path.suffix == ".xz":
            with lzma.open(path) as file:
                return _read_safetensors(file, limit)
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                return _read_safetensors(file, path.stat().st_size)
        return _read_pth(path)
    except OSError:
        raise
    except Exception as error:  # whatever a crafted file makes Python raise
        raise ValueError(f"{path} can't be read as a checkpoint: {error!s:.500}") from error


def _array(data, dtype):
    """The bytes as a flat array."""
    if dtype == "bfloat16":  # the first half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, dtype)


def _itemsize(dtype):
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _are_sizes(values):
    """Whether it is a list of integers that can be sizes. (Larger ones take long to multiply.)"""
    return (
        isinstance(values, (list, tuple))
        and len(values) <= _MOST_AXES
        and all(type(value) is int and 0 <= value < 2**48 for value in values)
    )


def _read_safetensors(file, limit):
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header would take {length:,} bytes, more than {_LONGEST_HEADER:,}.")
    header = json.loads(file.read(length), object_pairs_hook=_no_name_twice)
    if not isinstance(header, dict):
        raise ValueError("its header is no dict of tensors.")
    header.pop("__metadata__", None)
    spans = {name: _span(name, entry) for name, entry in header.items()}
    start = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != start:  # the same bytes under many names would grow
            raise ValueError(
                f"{name} takes its bytes {begin} to {end}, where each must begin as the one before "
                f"ends, here at {start}."
            )
        start = end
    if start > limit:
        raise ValueError(
            f"its tensors would take {start:,} bytes, and {limit:,} are far more than enough here."
        )
    data = memoryview(file.read(start))
    if len(data) < start:
        raise ValueError(f"it ends after {len(data):,} of {start:,} bytes of tensors.")
    return {
        name: _array(data[slice(*spans[name])], _SAFETENSORS_DTYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
    }


def _no_name_twice(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header has a name twice.")
    return found


def _span(name, entry):
    """First byte of a tensor and the one after its last, as its entry in the header says."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} is no tensor with dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SAFETENSORS_DTYPES:
        raise ValueError(f"{name} is of the unknown dtype {dtype!s:.60}.")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise ValueError(f"{name} has a shape or offsets that are no lists of sizes.")
    begin, end = offsets
    needed = math.prod(shape) * _itemsize(_SAFETENSORS_DTYPES[dtype])
    if end - begin != needed:
        raise ValueError(
            f"{name} takes its bytes {begin} to {end}, where its shape {shape} of {dtype} takes "
            f"{needed:,}."
        )
    return begin, end


def _read_h5(path):
    """Keras keeps variables by number and, with them, the name of their layer."""
    saving.check_weights(path)
    with h5py.File(path) as file:
        groups = [group["vars"] for group in file["layers"].values()]
        return {
            f"{group.attrs['name'].replace('_', '.')}.{variable}": group[str(index)][()]
            for group in groups
            for index, variable in zip(
                range(len(group)), ("weight", "bias", "running_mean", "running_var")
            )
        }


class _Tensor:
    """A tensor as PyTorch saves it: storage, offset, shape and strides, counted in values."""

    def __init__(self, storage, offset, shape, strides, *_):
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no storage.")
        if not _are_sizes((offset,)) or not (_are_sizes(shape) and _are_sizes(strides)):
            raise ValueError("a tensor has an offset, a shape or strides that are no sizes.")
        if len(shape) != len(strides):
            raise ValueError("a tensor has another number of strides than of axes.")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, values):
        """It as a view of its storage, a flat array."""
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides))
        if 0 not in self.shape and last >= len(values):
            raise ValueError("a tensor reaches out of its storage.")
        steps = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, steps, writeable=False
        )


class _Storage(NamedTuple):
    """The flat array that tensors are views of."""

    dtype: str
    key: str


class _Unpickler(pickle._Unpickler):  # in Python: C's memo is an array, as long as a file asks
    """Knows what a file of tensors needs, and no other function or class (as Python's manual
    restricts globals). Notes the storages: key -> dtype."""

    dispatch = dict(pickle._Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]  # allocates before it reads
    del dispatch[pickle.EMPTY_SET[0]], dispatch[pickle.FROZENSET[0]]  # of keys as in _check_keys

    def __init__(self, file, storages):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module, name):
        if f"{module} {name}" not in _KNOWN:
            raise ValueError(
                f"it holds {module:.80}.{name:.80}, and tensors alone are read. Of a file that you "
                "trust, PyTorch can save them: torch.save(state_dict, ...)."
            )
        return _KNOWN[f"{module} {name}"]

    def load_build(self):
        if not isinstance(self.stack[-2], collections.OrderedDict):
            raise ValueError("it sets attributes of what is no state dict.")
        self.stack.pop()  # `_metadata`, which nobody reads

    def load_dict(self):
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_setitem(self):
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        _check_keys(self.stack[::2])
        super().load_setitems()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def persistent_load(self, pid):
        # "storage", its class, key, device, number of values
        if not isinstance(pid, tuple) or len(pid) < 3 or pid[0] != "storage":
            raise ValueError("it names a storage by what is no tuple of PyTorch's.")
        storage = _Storage(*pid[1:3])
        if (
            not all(isinstance(word, str) for word in storage)
            or storage.dtype not in _PYTORCH_DTYPES.values()
        ):
            raise ValueError("it holds a storage whose key or dtype is none of PyTorch's.")
        if self._storages.setdefault(storage.key, storage.dtype) != storage.dtype:
            raise ValueError(f"it holds the storage {storage.key:.60} in two dtypes.")
        return storage


def _check_keys(keys):
    """Keys of dicts. (Tuples can take forever to hash.)"""
    for key in keys:
        if not isinstance(key, (str, int, float, bytes, type(None))):
            raise ValueError(f"it holds a dict with a key of the type {type(key).__name__}.")


def _ordered_dict(items=()):
    """As Python 2 pickled it, with its items."""
    items = list(items)
    _check_keys(key for key, _ in items)
    return collections.OrderedDict(items)


_KNOWN = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _Tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
    **_PYTORCH_DTYPES,
}


def _read_pth(path):
    storages = {}
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\3\4"
    if is_zip:  # since PyTorch 1.6
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
            if not stored or sum(info.file_size for info in infos) > path.stat().st_size:
                raise ValueError("it is a zip that would grow, where PyTorch packs nothing.")
            (pickled,) = (info for info in infos if info.filename.rpartition("/")[2] == "data.pkl")
            if pickled.file_size > _LONGEST_HEADER:
                raise ValueError(
                    f"its data.pkl has {pickled.file_size:,} bytes, more than {_LONGEST_HEADER:,}."
                )
            value = _Unpickler(io.BytesIO(archive.read(pickled)), storages).load()
            root = pickled.filename.removesuffix("data.pkl")
            flat = {
                key: _array(archive.read(f"{root}data/{key}"), dtype)
                for key, dtype in storages.items()
            }
    else:  # five pickles, then the bytes of each storage after their number of values
        data = path.read_bytes()
        stream = io.BytesIO(data[:_LONGEST_HEADER])
        if _Unpickler(stream, {}).load() != _MAGIC:
            raise ValueError("it is not of PyTorch.")
        _, _, value, keys = (_Unpickler(stream, storages).load() for _ in range(4))
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("its list of storages is none.")
        flat, start = {}, stream.tell()
        for key in keys:
            dtype = storages[key]
            count = int.from_bytes(data[start : start + 8], "little")
            end = start + 8 + count * _itemsize(dtype)
            if end > len(data):
                raise ValueError(f"it ends after {len(data):,} of {end:,} bytes.")
            flat[key] = _array(memoryview(data)[start + 8 : end], dtype)
            start = end
    for key in ("state_dict", "model"):  # as training scripts wrap it
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict):
        raise ValueError(f"it holds no state dict, but a {type(value).__name__}.")
    return {
        name: tensor.array(flat[tensor.storage.key])
        for name, tensor in value.items()
        if isinstance(tensor, _Tensor) and isinstance(name, str)
    }
