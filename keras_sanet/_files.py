"""Files: replaced whole, folders that two processes could write into, JSON that others wrote."""

import contextlib
import errno
import hashlib
import json
import os
import reprlib
import shutil
import socket
import stat
import threading
from pathlib import Path

from keras_sanet import _backend

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

_LOCK = ".lock"
_LOGS = "tensorboard"  # folder of a run
_HELD = set()  # (thread, folder) of the locks that this process has
_LARGEST = 32 << 20  # bytes of a JSON file


@contextlib.contextmanager
def locked(folder):
    """Context in which no other process writes into a folder; made if it is not there.

    The thread that has it may take it again inside. The operating system gives the lock back when
    the process ends, however it ends.

    Raises: FileExistsError that names the process that holds it; ValueError that names a link which
        leads out of the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = (threading.get_ident(), folder.resolve())
    if _backend.process()[0] != 0 or held in _HELD:  # of several processes the first alone writes
        yield
        return
    _check_links(folder)
    with open_plain(folder / _LOCK, buffering=0) as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError) as error:
            holder = file.read(200).decode("utf-8", "replace").strip() or "unknown"
            raise FileExistsError(
                f"Another process writes into {folder}: {holder}. Wait for it, stop it, or give "
                "another folder."
            ) from error
        with contextlib.suppress(OSError):  # a full disk, which what comes next will tell
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        for left in folder.glob(".new-*"):  # of processes that were killed
            remove(left)
        _HELD.add(held)
        try:
            yield
        finally:
            _HELD.discard(held)


def _check_links(folder):
    """Refuses links that lead out of a folder, where they would be written through. (Folders that
    are linked are left alone, but for TensorBoard's.)"""
    root = folder.resolve()
    logs = (entry for found in os.walk(folder / _LOGS) for entry in _entries(found[0]))
    written = [entry for entry in _entries(folder) if not entry.is_dir() or entry.name == _LOGS]
    for entry in (*written, *logs):
        target = Path(os.path.realpath(entry.path))
        if not target.is_relative_to(root):
            raise ValueError(
                f"{entry.path} is a link to {target}, out of its folder, and would be written "
                "through. Remove it, or put the file in its place."
            )


def _entries(folder):
    with os.scandir(folder) as entries:
        return list(entries)


def open_plain(path, buffering=-1):
    """Opens a file to read and write its bytes, from its beginning; made if it is not there.

    Raises: ValueError where it is a link, one of several names of a file, or no file, for what is
        written could go elsewhere.
    """
    check_plain(path)
    if os.path.exists(path) and os.stat(path).st_nlink > 1:
        raise ValueError(f"{path} must be a file by itself, and has other names too. Remove it.")
    new = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return open(
        path, "rb+", buffering, opener=lambda name, flags: os.open(name, flags | new, 0o666)
    )


def check_plain(path):
    """Raises ValueError where there is a link, a folder or a device at a path."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError(
                f"{path} must be a file by itself, and is a link or no file. Remove it."
            )


def read_json(path, way_out, largest=_LARGEST):
    """What a file of JSON holds, of whatever source.

    Args: path; way_out, sentence that ends the message of an error; largest, bytes of the file.
    Raises: FileNotFoundError; ValueError that names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    said = f"{path} is damaged:"
    if not path.is_file():
        raise ValueError(f"{said} it is no file. {way_out}")
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"{said} it has {size:,} bytes; {largest:,} are allowed. {way_out}")
    return parse(path.read_bytes(), said, way_out)


def parse(text, said, way_out):
    """What bytes of JSON hold.

    Args: said, way_out: beginning and end of the message of an error.
    Raises: ValueError.
    """
    try:
        return json.loads(text.decode("utf-8-sig"))
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


def digest(path, algorithm="sha256"):
    """Hex digits of a file."""
    found = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()


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
        with full_disk_told(path):
            yield new
            if new.exists():
                _sync(new)
                if new.is_dir() and path.is_dir():
                    os.rename(path, old)
                os.replace(new, path)
                _sync_entry(path.parent)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        remove(new)
        raise
    remove(old)


@contextlib.contextmanager
def full_disk_told(path):
    """Context in which a full disk is an OSError that names the file or folder `path`.

    HDF5 and TensorFlow say it in the texts of errors of their own.
    """
    try:
        yield
    except Exception as error:
        told, number = error, getattr(error, "errno", None)
        while told is not None and number not in _FULL:
            number = next((n for n in _FULL if os.strerror(n) in str(told)), None)
            told = told.__cause__ or told.__context__
        if number not in _FULL:
            if isinstance(error, OSError) and error.errno and not error.filename:
                error.filename = str(path)
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def remove(path):
    """Removes a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# No space left on the disk, in a file, or of a user's.
_FULL = [getattr(errno, name) for name in ("ENOSPC", "EFBIG", "EDQUOT") if hasattr(errno, name)]


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
