"""Reading MATLAB v7.3 files, which are HDF5."""

import functools
import os

import numpy as np


def open_hdf5(path, info):
    """Opens a .mat file.

    Args:
        path: of the file.
        info: the `Info` of the data set.

    Returns:
        `h5py.File`.

    Raises:
        ValueError: where the file is not HDF5, or cut off.
    """
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
        raise ValueError(f"{path} {reason}. {info.way_out}") from error


def check_array(file, name, shape, dtype, info):
    """Finds an array in a .mat file.

    Args:
        file: from `open_hdf5`.
        name: of the array.
        shape: what its shape must be; None is any length.
        dtype: what its NumPy dtype must be; None for references to arrays.
        info: the `Info` of the data set.

    Returns:
        `h5py.Dataset`.

    Raises:
        ValueError: where the array is not there or of another kind.
    """
    import h5py

    try:
        array, there = file.get(name), ", ".join(file) or "nothing"
    except Exception as error:  # h5py's of damaged files are of many kinds
        raise ValueError(f"{file.filename} is damaged: {error}. {info.way_out}") from error
    if not isinstance(array, h5py.Dataset):
        raise ValueError(
            f"{file.filename} has no array {name!r}. It holds: {there}. {info.way_out}"
        )
    dtype = h5py.ref_dtype if dtype is None else np.dtype(dtype)
    fits = len(array.shape) == len(shape)
    fits = fits and all(length in (None, found) for length, found in zip(shape, array.shape))
    if not fits or array.dtype != dtype:
        raise ValueError(
            f"{file.filename}: {name!r} must be {dtype} of shape {shape}, transposed as MATLAB "
            f"stores it, and is {array.dtype} of shape {array.shape}. {info.way_out}"
        )
    return array


def hdf5_handle(path):
    """The open HDF5 file, kept between calls. Threads may share it, processes may not."""
    return _handle(path, os.stat(path).st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=4)
def _handle(path, time, process):
    import h5py

    return h5py.File(path, "r")
