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
import pickle
import struct
import zipfile
from pathlib import Path

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
_OF_SAFETENSORS = {theirs: dtype for dtype, theirs, _ in _DTYPES}
_OF_PYTORCH = {f"torch {theirs}": dtype for dtype, _, theirs in _DTYPES}
_LONGEST_HEADER = 10**7  # bytes; a thousand tensors take some 100,000
_MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's files before version 1.6
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)


def read(path, limit):
    """Reads the tensors of a file.

    Args:
        path: ending in one of `SUFFIXES`. Of a training script's `.pth`, what it wrapped as
            "state_dict" or "model".
        limit: bytes that the tensors of a packed file (xz) may take.

    Returns: dict of names to arrays, as they are in the file. Those of a `.weights.h5` have the
        names of torchvision: "layer1.0.bn1.running_mean" is variable 2 of layer `layer1_0_bn1`.

    Raises: FileNotFoundError; ValueError, with the path, where the suffix is none of those, where
        the file is damaged, or where it would take more than `limit`.
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
    except _DAMAGED as error:
        raise ValueError(f"{path} can't be read as a checkpoint: {error}") from error


def _array(data, dtype):
    """The bytes as a flat array."""
    if dtype == "bfloat16":  # the first half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, dtype)


def _read_safetensors(file, limit):
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header would take {length:,} bytes, more than {_LONGEST_HEADER:,}.")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    size = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size > limit:
        raise ValueError(
            f"its tensors would take {size:,} bytes, and {limit:,} are far more than enough here."
        )
    data = memoryview(file.read(size))
    if len(data) < size:
        raise ValueError(f"it ends after {len(data):,} of {size:,} bytes of tensors.")
    arrays, start = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in _OF_SAFETENSORS:
            raise ValueError(f"{name} is of the unknown dtype {entry['dtype']}.")
        begin, end = entry["data_offsets"]
        if begin != start or end < begin:  # the same bytes under many names would grow
            raise ValueError(
                f"{name} takes its bytes {begin} to {end}, where each must begin as the one before "
                f"ends, here at {start}."
            )
        start = end
        flat = _array(data[begin:end], _OF_SAFETENSORS[entry["dtype"]])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays


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
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, values):
        """It as a view of its storage, a flat array."""
        spans = ((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        last = self.offset + sum(spans)
        reaches_out = 0 not in self.shape and last >= len(values)
        if reaches_out or min((self.offset, *self.shape, *self.strides)) < 0:
            raise ValueError("a tensor reaches out of its storage.")
        steps = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, steps, writeable=False
        )


class _Unpickler(pickle._Unpickler):  # in Python: C's memo is an array, as long as a file asks
    """Knows what a file of tensors needs, and no other function or class (as Python's manual
    restricts globals). Notes the storages: key -> dtype."""

    dispatch = dict(pickle._Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]  # allocates before it reads

    _KNOWN = {
        "collections OrderedDict": collections.OrderedDict,
        "torch._utils _rebuild_tensor_v2": _Tensor,
        "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
        **_OF_PYTORCH,
    }

    def __init__(self, file, storages):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module, name):
        if f"{module} {name}" not in self._KNOWN:
            raise ValueError(
                f"it holds {module}.{name}, and tensors alone are read. Of a file that you trust, "
                "PyTorch can save them: torch.save(state_dict, ...)."
            )
        return self._KNOWN[f"{module} {name}"]

    def load_build(self):
        if not isinstance(self.stack[-2], collections.OrderedDict):  # with its `_metadata`
            raise ValueError("it sets attributes of what is no state dict.")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid):
        _, dtype, key, *_ = pid  # "storage", its class, key, device, number of values
        self._storages[key] = dtype
        return key


def _read_pth(path):
    storages = {}
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\3\4"
    if is_zip:  # since PyTorch 1.6
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is a zip that would grow, where PyTorch packs nothing.")
            (pickled,) = (n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl")
            value = _Unpickler(io.BytesIO(archive.read(pickled)), storages).load()
            root = pickled.removesuffix("data.pkl")
            flat = {
                key: _array(archive.read(f"{root}data/{key}"), dtype)
                for key, dtype in storages.items()
            }
    else:  # five pickles, then the bytes of each storage after their number of values
        data = path.read_bytes()
        stream = io.BytesIO(data)
        if _Unpickler(stream, {}).load() != _MAGIC:
            raise ValueError("it is not of PyTorch.")
        _, _, value, keys = (_Unpickler(stream, storages).load() for _ in range(4))
        flat, start = {}, stream.tell()
        for key in keys:
            dtype = storages[key]
            count = int.from_bytes(data[start : start + 8], "little")
            end = start + 8 + count * (2 if dtype == "bfloat16" else np.dtype(dtype).itemsize)
            if end > len(data):
                raise ValueError(f"it ends after {len(data):,} of {end:,} bytes.")
            flat[key] = _array(memoryview(data)[start + 8 : end], dtype)
            start = end
    for key in ("state_dict", "model"):  # as training scripts wrap it
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    return {
        name: tensor.array(flat[tensor.storage])
        for name, tensor in value.items()
        if isinstance(tensor, _Tensor)
    }
