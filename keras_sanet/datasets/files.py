"""Samples, and reading them with Pillow: the one place where a file becomes an array.

Images become uint8 RGB: grey, palette, CMYK and RGBA ones are converted (alpha is dropped), 16-bit
grey and float ones are refused. Masks become uint8 class ids, 255 = void; those of grey, palette
and 16-bit files are read as the ids they hold, colour ones are refused. Pixels are taken as they
are stored (an EXIF rotation is not applied, to images and masks alike).
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from keras_sanet.tables import html_lines, html_table

VOID = 255
LARGEST_ID = 65535  # of a mask file
_REPR_NAMES = 60  # characters of the names of the classes in a repr
_IMAGE_MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr")
_MASK_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")
_VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_TRUST = "For images that you trust, raise `PIL.Image.MAX_IMAGE_PIXELS`."
_LEAST_FRAME = 10  # bytes of a frame of any format: a GIF's without its pixels
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class UnreadableError(ValueError):
    """A file that can't be decoded."""


UNREADABLE = (OSError, UnreadableError)  # errors of files that are gone or broken, no more


@dataclasses.dataclass(frozen=True)
class Frame:
    """One of many pictures in a file; a subclass opens it.

    Attributes:
        file: path of the file.
        stem: name of the picture, for results and messages.
    """

    file: Path
    stem: str

    def open(self):
        """The Pillow image."""
        raise NotImplementedError

    def header(self):
        """A Pillow image of the same mode and size, whose pixels need not be the same."""
        return self.open()

    def __str__(self):
        return f"{self.file} [{self.stem}]"


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image file and its mask's, which is None where the truth is withheld. Either may be a
    `Frame` of a file that holds many."""

    image: Path | Frame
    mask: Path | Frame | None = None


@dataclasses.dataclass(repr=False)
class Dataset:
    """A data set on disk.

    Attributes:
        name: its name.
        class_names: names by class id.
        palette: (red, green, blue) by class id, 0..255.
        splits: dict from the name of a split to its list of `Sample`.
        class_ids: dict from the id in the mask files to the class id, or to 255 for void. Any
            other id in a file is an error.
        ignore_class: 255, void.
        counts: dict from a split to its official number of samples; empty if there is none.
        categories: dict from a category to its class ids; empty if there is none.
        count_instances: function of a sample and a predicted mask, what `evaluation` needs for the
            instance-level IoU; None without instances. See `cityscapes.count_instances`.
    """

    name: str
    class_names: list
    palette: list
    splits: dict
    class_ids: dict
    ignore_class: int = VOID
    counts: dict = dataclasses.field(default_factory=dict)
    categories: dict = dataclasses.field(default_factory=dict)
    count_instances: Callable | None = None

    def __post_init__(self):
        strange = [i for i in self.class_ids if not 0 <= i <= LARGEST_ID]
        if strange:
            raise ValueError(
                f"`class_ids` must map ids from 0 to {LARGEST_ID}. Received: {strange}."
            )
        self._table = np.full(LARGEST_ID + 1, -1, "int16")
        for file_id, class_id in self.class_ids.items():
            self._table[file_id] = class_id

    def __repr__(self):
        splits = ", ".join(f"{split} {len(samples)}" for split, samples in self.splits.items())
        names = ", ".join(self.class_names)
        names = names if len(names) <= _REPR_NAMES else f"{names[:_REPR_NAMES]}..."
        return (
            f"<Dataset {self.name!r}: {self.num_classes} classes ({names}); samples: "
            f"{splits or 'none'}>"
        )

    def _repr_html_(self):
        splits = [
            (split, len(samples), self.counts.get(split, ""))
            for split, samples in self.splits.items()
        ]
        classes = [
            (index, name, *colour)
            for index, (name, colour) in enumerate(zip(self.class_names, self.palette))
        ]
        return (
            html_lines([f"Dataset {self.name!r}, {self.num_classes} classes"])
            + html_table(["split", "samples", "official"], splits)
            + html_table(["id", "class", "red", "green", "blue"], classes, left=2)
        )

    @classmethod
    def of(cls, info, splits, class_ids):
        """The set that an `Info` describes, as it was found on disk."""
        names, palette = list(info.classes), list(info.classes.values())
        return cls(info.name, names, palette, splits, class_ids, counts=info.counts)

    @property
    def num_classes(self):
        return len(self.class_names)

    def samples(self, split):
        """The samples of a split, in order of their names."""
        if split not in self.splits:
            raise ValueError(
                f"The data set {self.name!r} has no split {split!r}. It has: "
                f"{', '.join(self.splits)}."
            )
        return self.splits[split]

    def read(self, sample):
        """Decodes a sample.

        Returns: image, uint8 (height, width, 3), and mask, uint8 (height, width), or None without
            a mask file.

        Raises: as `open`.
        """
        image, mask = self.open(sample)
        return np.array(image), mask

    def open(self, sample):
        """Decodes a sample, the image to a Pillow image of mode RGB, the mask as `read`.

        Raises: ValueError that names the file: unreadable or truncated, of a refused kind, image
            and mask of different sizes, an id that is no class.
        """
        image = open_image(sample.image)
        if sample.mask is None:
            return image, None
        ids = np.asarray(open_mask(sample.mask))
        if ids.shape != image.size[::-1]:
            raise ValueError(sizes_differ(sample, image.size, ids.shape[::-1]))
        mask = self.classes_of(ids)
        if mask.min() < 0:
            unknown = np.unique(ids[mask < 0])[:10].tolist()
            raise ValueError(
                f"{sample.mask} holds the label ids {unknown}, which are no class of "
                f"{self.name!r}. Known ids: {ranges(self.class_ids)}."
            )
        return image, mask.astype("uint8")

    def classes_of(self, ids):
        """Class ids of the ids in a mask file, int16; -1 where an id is none."""
        classes = self._table.take(ids, mode="clip")
        if ids.size and (ids.min() < 0 or ids.max() > LARGEST_ID):
            classes = np.where((ids < 0) | (ids > LARGEST_ID), -1, classes)
        return classes

    def sizes(self, split):
        """(height, width) of each sample, from the headers of the files, which it checks: they are
        there, of a kind that is read, and image and mask of one size."""
        return [self.size(sample) for sample in self.samples(split)]

    def size(self, sample):
        """As `sizes`, of one sample."""
        width, height = _header(sample.image, _check_image)
        if sample.mask is not None:
            size = _header(sample.mask, _check_mask)
            if size != (width, height):
                raise ValueError(sizes_differ(sample, (width, height), size))
        return height, width


def read_image(path):
    """Decodes an image file to uint8 RGB, (height, width, 3)."""
    return np.array(open_image(path))


def open_image(source):
    """Decodes an image file or `Frame` to a Pillow image of mode RGB."""
    return _open(source, _check_image, "RGB")


def open_mask(source):
    """Decodes a mask file or `Frame` to a Pillow image of the ids that it holds."""
    return _open(source, _check_mask)


def find_images(folder):
    """Image files of a folder, sorted by name, 2 before 10; an error where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and path.name[0] != "."
    ]
    if not found:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
    return sorted(found, key=by_number)


def frames(path):
    """The pictures of an image file: its path, or a `Frame` for each of an animated or paged one.

    Raises: ValueError for a video, and for a file that is not there or that Pillow can't read.
    """
    if path.suffix.lower() in _VIDEO_SUFFIXES:
        raise ValueError(
            f"{path} is a video, which is not decoded here. Make frames of it, for example with "
            f"ffmpeg -i {path.name} frames/%06d.png."
        )
    with _named(path), Image.open(path) as image:
        _check_pixels(path, image)
        # The other pictures of a camera's JPEG ("MPO") are previews of the first.
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        most = path.stat().st_size // _LEAST_FRAME
        if count > max(1, most):
            raise ValueError(
                f"{path} can't be read as an image: it says that it has {count} frames, and its "
                f"size allows {most}."
            )
    digits = len(str(count))
    numbered = [_Page(path, f"{path.stem}_{i:0{digits}}", i) for i in range(count)]
    return [path] if count == 1 else numbered


@dataclasses.dataclass(frozen=True)
class _Page(Frame):
    """A picture of an animated or paged file."""

    index: int

    def open(self):
        image = Image.open(self.file)
        try:
            image.seek(self.index)
        except Exception:
            image.close()
            raise
        return image


def by_number(path):
    """Key that sorts paths by name, and numbers in it by value: frames of a video in order."""
    words = re.split(r"([0-9]+)", str(path))
    return [int(word) if index % 2 else word for index, word in enumerate(words)], str(path)


def read_text(path):
    """The content of a UTF-8 file, with or without a byte order mark."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}. Save it as such.") from error
    if "\0" in text:
        raise ValueError(f"{path} must be UTF-8 text, and holds zeros. Save it as such.")
    return text


def pair(images, masks):
    """Samples of the images of a folder and the PNGs of the same stem in another."""
    samples = [Sample(path, Path(masks) / f"{path.stem}.png") for path in find_images(images)]
    missing = [sample for sample in samples if not sample.mask.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(samples)} images of {images} have no mask of the same name "
            f"and .png in {masks}. The first: {missing[0].image.name} (looked for "
            f"{missing[0].mask})."
        )
    return samples


def _check_image(path, image):
    if image.mode not in _IMAGE_MODES:
        raise ValueError(
            f"{path} is an image of mode {image.mode!r}, more than 8 bits a channel, which are all "
            "that is read: convert it."
        )


def _check_mask(path, image):
    if image.mode not in _MASK_MODES:
        raise ValueError(
            f"{path} is a mask of mode {image.mode!r}. Masks must hold class ids: a grey or "
            "palette PNG, not colours."
        )


def _header(path, check):
    """(width, height) of a file whose kind passes `check`."""
    with _named(path), path.header() if isinstance(path, Frame) else Image.open(path) as image:
        check(path, image)
        return image.size


def _open(path, check, mode=None):
    """The decoded Pillow image of a file whose kind and size pass, converted to a mode if any."""
    with _named(path), path.open() if isinstance(path, Frame) else Image.open(path) as image:
        check(path, image)
        _check_pixels(path, image)
        image.load()
        return image if mode is None else image.convert(mode)


@contextlib.contextmanager
def _named(path):
    """Makes Pillow's errors, of broken and of very large files, ones that name the file."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be decoded: {error} {_TRUST}") from error
    except Exception as error:  # Pillow's of broken files are of many kinds
        if isinstance(error, ValueError) and str(getattr(path, "file", path)) in str(error):
            raise  # one of ours; Pillow's is of a PNG's text that swells
        reason = str(error) or type(error).__name__
        raise UnreadableError(f"{path} can't be read as an image: {reason}.") from error


def _check_pixels(path, image):
    """Pillow itself refuses twice its limit, and only warns above it."""
    limit, (width, height) = Image.MAX_IMAGE_PIXELS, image.size
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{path} is too large to be decoded: {width} x {height} pixels, more than {limit}. "
            f"{_TRUST}"
        )


def sizes_differ(sample, image_size, mask_size):
    return (
        f"{sample.image} and its mask {sample.mask} differ in size (width, height): "
        f"{image_size} and {mask_size}."
    )


def ranges(ids):
    """'0..10, 255' of a set of ids."""
    runs = []
    for i in sorted(ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in runs)
