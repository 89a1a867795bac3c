"""Reading MATLAB v7.3 files, which are HDF5."""

import functools
import os

import numpy as np


def open_hdf5(path, info):
    """Opens a .mat file of the data set that `info` describes; one that is no HDF5, or cut off, is
    an error."""
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        with open(path, "rb") as file:
            older = file.read(10) == b"MATLAB 5.0"
        reason = (
            "is a MATLAB file of version 5, and must be of version 7.3, which is HDF5"
            if older
            else f"can't be read as HDF5, so it is not the original or not all of it: {error}"
        )
        raise ValueError(f"{path} {reason}. Get {info.title} from {info.url}.") from error


def check_array(file, name, shape, dtype, info):
    """The array of a file of `open_hdf5`; an error if it is not there or of another kind.

    Args:
        name: of the array. shape: its shape, where None is any length. dtype: its NumPy dtype,
            None for references to arrays.
    """
    import h5py

    try:
        array, there = file.get(name), ", ".join(file) or "nothing"
    except Exception as error:  # h5py's of damaged files are of many kinds
        raise ValueError(
            f"{file.filename} is damaged: {error}. Get {info.title} from {info.url}."
        ) from error
    if not isinstance(array, h5py.Dataset):
        raise ValueError(
            f"{file.filename} has no array {name!r}. It holds: {there}. Get {info.title} from "
            f"{info.url}."
        )
    dtype = h5py.ref_dtype if dtype is None else np.dtype(dtype)
    fits = len(array.shape) == len(shape)
    fits = fits and all(length in (None, found) for length, found in zip(shape, array.shape))
    if not fits or array.dtype != dtype:
        raise ValueError(
            f"{file.filename}: {name!r} must be {dtype} of shape {shape}, transposed as MATLAB "
            f"stores it, and is {array.dtype} of shape {array.shape}. Get {info.title} from "
            f"{info.url}."
        )
    return array


def hdf5_handle(path):
    """The open HDF5 file, kept between calls. Threads may share it, processes may not."""
    return _handle(path, os.stat(path).st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=4)
def _handle(path, time, process):
    import h5py

    return h5py.File(path, "r")
