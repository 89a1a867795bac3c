"""images.jsonl: what an evaluation has counted, image by image, so that it can be gone on with.

A line of JSON each: the header, which says what is evaluated, then the entries of the images. A
line that a kill cut off does not count. What is read may be a stranger's: it is checked against the
two tables here, and so is what it asks for in memory, before that is taken.
"""

import itertools
import json
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_sanet import _files
from keras_sanet._files import is_dict, is_dict_of, is_int, is_list, is_text
from keras_sanet.inference import complete

_WAY_OUT = "Remove it to start again, or give another folder."
_MOST_SAMPLES = 1 << 22
_MOST_PIXELS = 1 << 40  # of an image; with _MOST_SAMPLES all together fit int64
_LINE = 16 << 20  # bytes of a line
_FREE = 128 << 20  # bytes that any journal may ask for
_TIMES = 64  # and, above, how often its own size


def _is_mode(value):
    try:
        return _files.plain({name: complete(**value)[name] for name in value}) == value
    except (TypeError, ValueError, ArithmeticError):
        return False


def _header(header):
    """What the first line must hold."""
    names = header.get("class_names")
    n = len(names) if isinstance(names, list) else 0

    def is_color(value):
        return is_list(value, is_int, 0, 255) and len(value) == 3

    def is_category(ids):
        return is_list(ids, is_int, 0, n - 1) and 0 < len(ids) == len(set(ids))

    def are_categories(value):
        return is_dict_of(value, is_category) and len(value) <= n

    return {
        "class_names": ("a list of names", lambda v: n > 0 and is_list(v, is_text)),
        "palette": (
            f"{n} lists of red, green and blue, 0 to 255",
            lambda v: is_list(v, is_color) and len(v) == n,
        ),
        "source": ("text", is_text),
        "mode": ("arguments of `inference.predict_probabilities`", _is_mode),
        "categories": (f"lists of ids below {n} by name, none twice in one", are_categories),
        "absent_as_zero": ("true or false", lambda v: isinstance(v, bool)),
        "samples": (
            f"an integer from 0 to {_MOST_SAMPLES}",
            lambda v: is_int(v, 0, _MOST_SAMPLES),
        ),
        "shard": (
            "two integers I, N with 1 <= I <= N, or absent",
            lambda v: v is None or is_list(v, is_int, 1) and len(v) == 2 and v[0] <= v[1],
        ),
        **dict.fromkeys(
            ("model", "images", "masks", "class_ids"),
            ("32 hex digits", lambda v: is_text(v) and re.fullmatch("[0-9a-f]{32}", v)),
        ),
    }


def _entry(entry, n, with_instances):
    """What the line of an image must hold."""
    cells = entry.get("cells")

    def is_weighted(value):
        # NaN is a class without instances.
        return isinstance(value, float) and (math.isnan(value) or 0 <= value <= _MOST_PIXELS)

    def are_instances(value):
        rows = is_list(value, is_list, is_weighted) and all(len(row) == 3 for row in value)
        return rows and len(value) == n if with_instances else value is None

    return {
        "image": ("a name", is_text),
        "cells": (
            f"increasing integers below {n * n}",
            lambda v: is_list(v, is_int, 0, n * n - 1) and all(a < b for a, b in zip(v, v[1:])),
        ),
        "pixels": (
            f"as many positive integers as `cells`, at most {_MOST_PIXELS} in all",
            lambda v: is_list(v, is_int, 1) and len(v) == len(cells) and sum(v) <= _MOST_PIXELS,
        ),
        "instances": (
            f"{n} lists of three floats, 0 or more or NaN" if with_instances else "absent",
            are_instances,
        ),
    }


class Entry(NamedTuple):
    """Counts of an image, as `Evaluation.add_cells` takes them.

    Attributes:
        image: its name.
        cells: int64 indices of the confusion matrix, row by row, (cells,).
        pixels: pixels in each of these, int64 (cells,).
        instances: as for `Evaluation.add`, or None.
    """

    image: str
    cells: np.ndarray
    pixels: np.ndarray
    instances: np.ndarray | None


class Journal:
    """The journal in a folder.

    Args:
        folder: the folder.

    Attributes:
        path: path of the file.
    """

    def __init__(self, folder):
        self.path, self._end = Path(folder) / "images.jsonl", 0

    def read(self):
        """Reads what was written; nothing where no line was.

        Yields:
            The header, a dict, and then an `Entry` for each image.

        Raises:
            ValueError: the file is damaged; names it, the line, and what is wrong in it.
        """
        _files.check_plain(self.path)
        if not self.path.is_file():
            return
        n = most = with_instances = None
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            for number, found in self._lines(file):
                said, count = self._said(number), number - 1
                if count == 0:
                    check_header(found, said, _WAY_OUT, size)
                    n, most = len(found["class_names"]), found["samples"]
                    yield found
                    continue
                if count > most:
                    raise self.damaged(
                        f"its images are not the {most} that its first line says, but more. Did "
                        "two processes write it?"
                    )
                _check_memory(n, count, said, _WAY_OUT, size)
                if is_dict(found) and with_instances is None:
                    with_instances = "instances" in found  # in all or in none
                schema = _entry(found, n, with_instances) if is_dict(found) else {}
                _files.check(found, schema, said, _WAY_OUT)
                yield Entry(
                    found["image"],
                    np.array(found["cells"], "int64"),
                    np.array(found["pixels"], "int64"),
                    np.array(found["instances"]) if with_instances else None,
                )

    def append(self, value):
        """Writes a line after what was read and written, in the place of one that was cut off."""
        with _files.open_plain(self.path) as file:
            file.truncate(self._end)
            file.seek(self._end)
            file.write(json.dumps(value).encode() + b"\n")
            self._end = file.tell()

    def damaged(self, what):
        """The error that says so."""
        return ValueError(f"{self.path} is damaged: {what} {_WAY_OUT}")

    def _lines(self, file):
        """Yields the number of each whole line and what it holds."""
        for number in itertools.count(1):
            line = file.readline(_LINE + 1)
            if len(line) > _LINE:
                raise self.damaged(f"line {number} has more than {_LINE:,} bytes.")
            if not line.endswith(b"\n"):
                return  # the end, or cut off
            self._end = file.tell()
            yield number, _files.parse(line, self._said(number), _WAY_OUT)

    def _said(self, number):
        return f"{self.path} is damaged: line {number}:"


def check_header(header, said, way_out, size=0):
    """Checks the first line of a journal of `size` bytes, or of one that is to be written.

    Args:
        header: what JSON gave, or will be given.
        said: beginning of the message of an error.
        way_out: its last sentence.
        size: bytes of the journal.

    Raises:
        ValueError: an entry, which it names, is not what it should be.
    """
    _files.check(header, _header(header) if is_dict(header) else {}, said, way_out)
    _check_memory(len(header["class_names"]), 0, said, way_out, size)


def _check_memory(n, images, said, way_out, size):
    """Refuses a confusion matrix, and counts of each image, that would fill the memory."""
    asked, allowed = 8 * (n * n + 3 * n * images), max(_FREE, _TIMES * size)
    if asked > allowed:
        raise ValueError(
            f"{said} the counts of {n} classes in {images} images ask for {asked:,} bytes; "
            f"{allowed:,} are allowed, {_TIMES} times the size of the file or {_FREE:,}. {way_out}"
        )
