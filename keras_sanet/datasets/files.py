"""Reading pictures with Pillow: the one place where a file becomes an image.

What is read follows the tables below, whatever the suffix of a file says. Both images and masks are
turned as their EXIF orientation says, as phones and annotation tools show them. An image of more
than 8 bits a channel, or of more bands than color and alpha, is refused; so is a mask whose pixels
are no ids.
"""

import contextlib
import dataclasses
import errno
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_sanet.datasets import headers
from keras_sanet.datasets.headers import Facts, Refused

# Pillow's formats that are read, with the suffixes of their files, in capitals too. Of others
# nothing is opened: Pillow would start Ghostscript for PostScript.
_FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif",),  # where Pillow has it
    "HEIF": (".heic", ".heif"),  # where pillow_heif is registered
}
HEIC_SUFFIXES = _FORMATS["HEIF"]
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".pbm")  # they keep ids
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
# Pillow's modes. Images: gray, palette, CMYK and the others are converted, alpha is dropped. Masks:
# gray values and palette indexes are the ids, of 1, 8 or 16 bits.
_IMAGE_MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr")
_MASK_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")

VOID = 255
LARGEST_ID = 65535  # of a mask file
_TRUST = (
    "For images that you trust, raise `PIL.Image.MAX_IMAGE_PIXELS`, on the command line "
    "--max-pixels."
)
MAKE_FRAMES = "make frames of it, for example with ffmpeg -i {} frames/%06d.png"
HEIC = (
    "HEIC, for which Pillow needs a plugin: `pip install pillow-heif` and "
    "`pillow_heif.register_heif_opener()`, or convert to PNG"
)
_LEAST_FRAME = 10  # bytes of a frame of any format: a GIF's without its pixels
_FACTS = "keras_sanet"  # where an image's `Facts` are in its `info`
# What EXIF's orientations 2 to 8 ask for.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # EXIF's tag
# What is wrong with the machine, not with a file.
_SYSTEM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)


class FileError(ValueError):
    """An error of a file, which it names."""


class UnreadableError(FileError):
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

    def identity(self):
        """What the picture depends on beside the file and its stem, as text."""
        return ""

    @property
    def name(self):
        """Name of the file, as of a path."""
        return self.file.name

    def __str__(self):
        return f"{self.file} [{self.stem}]"


def read_image(path):
    """Decodes an image file to uint8 RGB, (height, width, 3)."""
    return np.array(open_image(path))


def open_image(source):
    """Decodes an image file or `Frame` to a Pillow image of mode RGB."""
    return _open(source, _check_image, "RGB")


def open_mask(source):
    """Decodes a mask file or `Frame` to a Pillow image of the ids that it holds."""
    return _open(source, _check_mask)


def image_suffixes():
    """Suffixes of the files that are read, in small letters."""
    return tuple(suffix for name in _readable() for suffix in _FORMATS[name])


def frames(path):
    """The pictures of an image file: its path, or a `Frame` for each of an animated or paged one.

    Raises:
        ValueError: for a video, a file that is not there or that Pillow can't read, and one of more
            than 1000 pictures.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(
            f"{path} is a video, which is not decoded here: {MAKE_FRAMES.format(path.name)}."
        )
    with _named(path), open_file(path) as image:
        check_pixels(image)
        with open(path, "rb") as file:
            headers.check_frames(file)
        # The other pictures of a camera's JPEG ("MPO") are previews of the first.
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        most = path.stat().st_size // _LEAST_FRAME
        if count > max(1, most):
            raise UnreadableError(
                f"{path} can't be read as an image: it says that it has {count} frames, and its "
                f"size allows {most}."
            )
        headers.check_count(count)
    digits = len(str(count))
    numbered = [_Page(path, f"{path.stem}_{i:0{digits}}", i) for i in range(count)]
    return [path] if count == 1 else numbered


@dataclasses.dataclass(frozen=True)
class _Page(Frame):
    """A picture of an animated or paged file."""

    index: int

    def open(self):
        return open_file(self.file, self.index)


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


def open_file(source, page=0):
    """Pillow's image of a file that is opened as nothing but a picture of `_FORMATS`.

    Args:
        source: a path, or bytes.
        page: number of the picture in an animated or paged file.

    Raises:
        Refused: for what Pillow would read in part, or in hours.
        Exception: Pillow's, which `_named` makes errors that name the file.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        facts, heic = headers.read_facts(file, page), headers.is_heic(file)
    try:
        source = io.BytesIO(source) if isinstance(source, bytes) else source
        image = Image.open(source, formats=_readable())
    except UnidentifiedImageError:
        what = HEIC if heic else f"damaged, or none of {', '.join(_readable())}"
        raise UnidentifiedImageError(f"it is {what}") from None
    try:
        if page:
            image.seek(page)
    except Exception:
        image.close()
        raise
    image.info[_FACTS] = facts
    return image


def opened(source):
    """Pillow's image of a path or `Frame`."""
    return source.open() if isinstance(source, Frame) else open_file(source)


def header(source):
    """As `opened`; the pixels need not be the same."""
    return source.header() if isinstance(source, Frame) else open_file(source)


def _readable():
    """Those of `_FORMATS` that this Pillow has."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def upright(image):
    """The decoded image, turned as its EXIF orientation says, which it carries no more."""
    image.load()
    turn = _TURNS.get(_orientation(image))  # after Pillow has decoded: it turns TIFFs by itself
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        turned.info.pop(name, None)
    return turned


def peculiarities(source):
    """EXIF's orientation of a file or `Frame`, 1 to 8, and whether the file holds more pictures
    than the one that is read of it."""
    with _named(source), header(source) as image:
        several = image.format != "MPO" and getattr(image, "is_animated", False)
        return _orientation(image), several


def size_of(image):
    """(width, height) of an image of Pillow's when it is upright."""
    size = image.size
    if image.format == "TIFF":  # which some versions of Pillow have turned already
        size = image.tag_v2[256], image.tag_v2[257]
    return size[::-1] if _orientation(image) >= 5 else size


def _orientation(image):
    """EXIF's orientation of an image of Pillow's; 1 where it has none that can be read."""
    facts = image.info.get(_FACTS, Facts())
    try:
        if image.format == "PNG" and not facts.late:  # Pillow's own would decode it to see
            found = Image.Image.getexif(image).get(_ORIENTATION)
        else:
            found = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow's of damaged metadata are of many kinds
        return 1
    return found if found in range(1, 9) else 1


def _check_image(image):
    if image.mode not in _IMAGE_MODES:
        raise Refused(
            f"is an image of mode {image.mode!r}, and read are gray and colors of 8 bits a "
            f"channel: convert it. {headers.SCALE}."
        )


def _check_mask(image):
    if image.mode not in _MASK_MODES:
        raise Refused(
            f"is a mask of mode {image.mode!r}. Masks must hold class ids: a gray or palette PNG. "
            "Colors are read with a file that gives those of the classes: see the data set folder."
        )
    facts = image.info.get(_FACTS, Facts())
    if is_lossy(image):
        raise Refused(
            f"is a mask of the format {image.format}, whose compression changes ids. Write masks "
            "as PNG from where they were made: what is lost does not come back."
        )
    if facts.scaled:
        raise Refused(
            f"is a mask of {facts.scaled}, of which Pillow makes other numbers than it holds. Save "
            "it as a gray PNG of 8 bits."
        )


def is_lossy(image):
    """Whether pixels of an image of `open_file` may differ from those that were saved."""
    return image.info.get(_FACTS, Facts()).lossy


def image_size(source):
    """(width, height) of an image file or `Frame`, upright, from its header, which it checks."""
    return _size(source, _check_image)


def mask_size(source):
    """As `image_size`, of a mask."""
    return _size(source, _check_mask)


def _size(source, check):
    with _named(source), header(source) as image:
        check(image)
        check_pixels(image)
        return size_of(image)


def _open(source, check, mode=None):
    """The decoded Pillow image of a file whose kind and size pass, turned, and converted to a mode
    if any."""
    with _named(source), opened(source) as image:
        check(image)
        check_pixels(image)
        image = upright(image)
        return image if mode is None else image.convert(mode)


@contextlib.contextmanager
def _named(source):
    """Makes errors of a file, Pillow's and `Refused`, ones that name it."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {source}.") from None
    except FileError:
        raise
    except Refused as error:
        raise FileError(f"{source} {error}") from error
    except Image.DecompressionBombError as error:
        raise FileError(f"{source} is too large to be decoded: {error} {_TRUST}") from error
    except Exception as error:  # Pillow's of broken files are of many kinds
        reason = str(error) or type(error).__name__
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _SYSTEM:
            raise FileError(f"{source} can't be read here: {reason}.") from error
        raise UnreadableError(f"{source} can't be read as an image: {reason}.") from error


def check_pixels(image):
    """Refuses more pixels than Pillow's limit. (Pillow refuses twice that, and else only warns.)"""
    limit, (width, height) = Image.MAX_IMAGE_PIXELS, image.size
    if limit is not None and width * height > limit:
        raise Refused(
            f"is too large to be decoded: {width} x {height} pixels, more than {limit}. {_TRUST}"
        )
