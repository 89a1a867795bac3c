"""Folders that two processes could write into at once, and JSON that others wrote."""

import contextlib
import itertools
import json
import os
import reprlib
import socket
import stat
import threading
from pathlib import Path

from keras_sanet import backend
from keras_sanet.saving import remove

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

_LOCK = ".lock"
_HELD = set()  # (thread, folder) of the locks that this process has
_LARGEST = 32 << 20  # bytes of a JSON file


@contextlib.contextmanager
def locked(folder):
    """Context in which no other process writes into a folder; made if it is not there.

    The thread that has it may take it again inside. The operating system gives the lock back when
    the process ends, however it ends.

    Raises: FileExistsError that names the process that holds it; ValueError that names a link which
        leads out of the folder, and where `.lock` is a link or no file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = (threading.get_ident(), folder.resolve())
    if backend.process()[0] != 0 or held in _HELD:  # of several processes the first alone writes
        yield
        return
    _check_links(folder)
    with open_plain(folder / _LOCK) as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError) as error:
            owner = file.read(1000).decode("utf-8", "replace").strip()
            raise FileExistsError(
                f"Another process writes into {folder}: {owner or 'unknown'}. Wait for it, stop "
                "it, or give another folder."
            ) from error
        with contextlib.suppress(OSError):  # a full disk, which what the process writes will tell
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            file.flush()
        for left in folder.glob(".new-*"):  # of processes that were killed
            remove(left)
        _HELD.add(held)
        try:
            yield
        finally:
            _HELD.discard(held)


def _check_links(folder):
    """Refuses links that lead out of a folder, where files would be written through them. (Folders
    that are linked are left alone, but for TensorBoard's.)"""
    root = folder.resolve()
    logs = (os.scandir(found[0]) for found in os.walk(folder / "tensorboard"))
    for entry in itertools.chain(os.scandir(folder), *logs):
        target = Path(os.path.realpath(entry.path))
        written = not entry.is_dir() or "tensorboard" in Path(entry.path).relative_to(folder).parts
        if written and not target.is_relative_to(root):
            raise ValueError(
                f"{entry.path} is a link to {target}, out of the folder, and would be written "
                "through. Remove it, or put the file in its place."
            )


def open_plain(path):
    """Opens a file to read and write its bytes, from its beginning; made if it is not there.

    Raises: ValueError where it is a link, which could lead out of its folder, or no file.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    check_plain(path)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")


def check_plain(path):
    """Raises ValueError where there is a link, hard or soft, a folder or a device at a path."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise ValueError(
                f"{path} must be a file by itself, and is a link, a folder or a device. Remove it, "
                "or give another folder."
            )


def read_json(path, way_out):
    """What a file of JSON holds, of whatever source.

    Args: path; way_out, sentence that ends the message of an error.
    Raises: FileNotFoundError; ValueError that names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    said = f"{path} is damaged:"
    if not path.is_file():
        raise ValueError(f"{said} it is no file. {way_out}")
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"{said} it has {size:,} bytes; {_LARGEST:,} are allowed. {way_out}")
    return parse(path.read_bytes(), said, way_out)


def parse(text, said, way_out):
    """What bytes of JSON hold.

    Args: said, way_out: beginning and end of the message of an error.
    Raises: ValueError.
    """
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{said} {error}. {way_out}") from error


def plain(value):
    """A value as it comes back from JSON: tuples are lists, and NumPy's numbers Python's."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))


def check(found, schema, said, way_out):
    """Checks that JSON is a dict with these entries; others may be there too.

    Args:
        schema: dict from a key to the rule in words and a function, whether a value keeps it.
            An entry that is not there is None to it.
        said, way_out: as for `parse`.
    Raises: ValueError that names the first entry that is not as it should be.
    """
    if not isinstance(found, dict):
        raise ValueError(f"{said} it must be a dict. It is: {reprlib.repr(found)}. {way_out}")
    for name, (rule, keeps) in schema.items():
        if not keeps(found.get(name)):
            value = reprlib.repr(found[name]) if name in found else "nothing"
            raise ValueError(f"{said} `{name}` must be {rule}. It is: {value}. {way_out}")


def is_int(value, least=0, most=2**53):
    """Whether JSON's value is an integer in a range. (True is none.)"""
    return type(value) is int and least <= value <= most


def is_list(value, of, *args):
    """Whether JSON's value is a list, all of whose entries are as `of` says, given `args` too."""
    return isinstance(value, list) and all(of(entry, *args) for entry in value)


def is_dict_of(value, of):
    """Whether JSON's value is a dict, all of whose values are as `of` says."""
    return is_dict(value) and all(map(of, value.values()))


def is_dict(value):
    return isinstance(value, dict)


def is_text(value):
    return isinstance(value, str)
