"""Decoded pictures on disk, for sources that are slow to decode (.mat, 16-bit or large PNG)."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from keras_sanet import _files
from keras_sanet.datasets.dataset import Sample
from keras_sanet.datasets.files import FileError, Frame, header, open_image, open_mask

_VERSION = 2  # of what is stored


def cached(dataset, folder):
    """Makes a data set whose pictures are decoded once and then read from a folder.

    A picture is stored when it is first read, upright and uncompressed (`.npy`: a byte a channel
    and pixel, two a pixel of a 16-bit mask). Its name is a hash of the source file's bytes; of a
    frame, of the file's name, size and time. So a changed source is decoded anew, and one folder
    may serve several sets. Files appear whole or not at all: runs may share the folder and be
    interrupted.

    Args:
        dataset: from `datasets.load`.
        folder: made where it is missing.

    Returns:
        `Dataset`.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a file in its place
        raise _unwritable(folder, error) from error

    def keep(source, kind, image=""):
        file = source.file if isinstance(source, Frame) else source
        return _Cached(file, source.stem, source, folder, kind, str(image))

    splits = {
        split: [
            Sample(keep(s.image, "image"), s.mask and keep(dataset.mask_of(s), "mask", s.image))
            for s in samples
        ]
        for split, samples in dataset.splits.items()
    }
    return dataclasses.replace(dataset, splits=splits)


@dataclasses.dataclass(frozen=True)
class _Cached(Frame):
    source: object
    folder: Path
    kind: str
    image: str  # of a mask

    def __str__(self):
        return str(self.source)

    def header(self):
        return header(self.source)

    def open(self):
        key = self._key()
        path = self.folder / key[:2] / f"{key}.npy"
        try:
            return Image.fromarray(np.load(path))
        except Exception:  # not there, or damaged; NumPy's errors of that are of many kinds
            picture = {"image": open_image, "mask": open_mask}[self.kind](self.source)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _files.replacing(path) as new, open(new, "wb") as file:
                np.save(file, np.asarray(picture))
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return picture

    def _key(self):
        digest = hashlib.blake2b(f"{_VERSION} {self.kind}".encode(), digest_size=16)
        if isinstance(self.source, Frame):
            status, name = os.stat(self.file), str(self.source).replace(str(self.file), "", 1)
            of_file = (str(self.file.resolve()), name, status.st_size, status.st_mtime_ns)
            digest.update(
                f"{of_file} {self.image} {self.source.identity()}".encode(
                    "utf-8", "surrogateescape"
                )
            )
        else:
            digest.update(Path(self.source).read_bytes())
        return digest.hexdigest()


def _unwritable(folder, error):
    """Not an error of the picture, which might be left out for it."""
    return FileError(
        f"The cache {folder} can't be written: {error}. Make room, or load the data set without "
        "`cache`."
    )
