"""Masks as colors, over their images, and side by side (paper, Figures 4 and 5)."""

import contextlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_sanet._labels import classes_of
from keras_sanet.datasets.files import VOID
from keras_sanet.datasets.info import color

_DIM = 48  # least grey of `errors`, so that a dark pixel is not taken for void
_WRONG = (255, 0, 0)
_LINE = 18  # pixels of a line of text
# Pillow's own font knows ASCII alone. Names on Linux, macOS and Windows.
_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")


def palette(num_classes):
    """Colors for classes that have none: those of PASCAL VOC from 1 on, for void is black.

    Args:
        num_classes: number of classes, 1..255; 1, of one channel, is of two classes.

    Returns:
        List of (red, green, blue) by class id, all distinct.

    Raises:
        ValueError: `num_classes` is out of range.
    """
    if not 1 <= num_classes <= VOID:
        raise ValueError(
            f"`num_classes` must be 1 to {VOID}, the ids of a mask. "
            f"Received: num_classes={num_classes}."
        )
    return [color(index) for index in range(1, classes_of(num_classes) + 1)]


def color_mask(mask, palette):
    """Colors of the classes, void black.

    Args:
        mask: integer (height, width).
        palette: (red, green, blue) by class id.

    Returns:
        uint8 (height, width, 3).
    """
    table = np.zeros((max(len(palette), VOID + 1), 3), "uint8")
    table[: len(palette)] = palette
    return table[np.asarray(mask)]


def overlay(image, mask, palette, *, alpha=0.5):
    """The image with the colors of the mask over it; void pixels stay as they are.

    Args:
        image: uint8 (height, width, 3).
        mask: integer (height, width).
        palette: (red, green, blue) by class id.
        alpha: share of the color, 0..1.

    Returns:
        uint8 (height, width, 3).
    """
    mixed = (1 - alpha) * image + alpha * color_mask(mask, palette)
    return np.where((np.asarray(mask) == VOID)[..., None], image, np.rint(mixed)).astype("uint8")


def errors(image, truth, mask):
    """Where a prediction is wrong: red; the image in dim grey where it is right, void black.

    Grey is 48 plus half of the image's brightness (ITU-R 601), 48..175.

    Args:
        image: uint8 (height, width, 3).
        truth: true class ids, integer (height, width); void (255) is neither right nor wrong.
        mask: predicted class ids, integer (height, width).

    Returns:
        uint8 (height, width, 3).

    Raises:
        ValueError: the sizes differ.
    """
    image, truth, mask = np.asarray(image), np.asarray(truth), np.asarray(mask)
    if not image.shape[:2] == truth.shape == mask.shape:
        raise ValueError(
            "`image`, `truth` and `mask` must be of one height and width. "
            f"Received: shapes {image.shape}, {truth.shape}, {mask.shape}."
        )
    grey = _DIM + np.asarray(Image.fromarray(image).convert("L")) // 2
    picture = np.where((truth == mask)[..., None], grey[..., None], np.array(_WRONG, "uint8"))
    return np.where((truth == VOID)[..., None], 0, picture).astype("uint8")


def sheet(rows, class_names, palette, *, titles=None):
    """Rows of pictures, titles above the columns, and a legend below.

    Args:
        rows: list of lists of uint8 (height, width, 3), one height a row and one width a column.
        class_names: strings by class id.
        palette: (red, green, blue) by class id.
        titles: list of strings, one a column (what is wider than it loses its end), or None.

    Returns:
        `PIL.Image.Image`.

    Raises:
        ValueError: pictures of a row, which it names, don't fit.
    """
    widths = _column_widths(rows)
    if titles is not None and len(titles) != len(widths):
        raise ValueError(
            f"`titles` must have one entry a column, {len(widths)}. Received: titles={titles}."
        )
    pictures = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    names = legend(class_names, palette, pictures.width)
    top = 0 if titles is None else _LINE
    page = Image.new("RGB", (pictures.width, top + pictures.height + names.height), "white")
    page.paste(pictures, (0, top))
    page.paste(names, (0, top + pictures.height))
    if titles is not None:
        font = _font(titles)
        for title, width, right in zip(titles, widths, np.cumsum(widths).tolist()):
            head = Image.new("RGB", (width, top), "white")
            left = max(2, (width - font.getlength(title)) / 2)
            ImageDraw.Draw(head).text((left, 2), title, "black", font)
            page.paste(head, (right - width, 0))
    return page


def legend(class_names, palette, width):
    """The colors of the classes and their names, in lines.

    Letters beyond ASCII are drawn where matplotlib is installed, or DejaVu Sans or Arial; those
    that the font lacks are boxes.

    Args:
        class_names: strings by class id.
        palette: (red, green, blue) by class id.
        width: width of the page, pixels.

    Returns:
        `PIL.Image.Image`.
    """
    font = _font(class_names)
    entries, x, y = [], 6, 6
    for name, rgb in zip(class_names, palette):
        length = 30 + round(font.getlength(name))
        if x > 6 and x + length > width:
            x, y = 6, y + _LINE
        entries.append((x, y, name, tuple(rgb)))
        x += length
    page = Image.new("RGB", (width, y + _LINE + 6), "white")
    draw = ImageDraw.Draw(page)
    for x, y, name, rgb in entries:
        draw.rectangle((x, y, x + 12, y + 12), fill=rgb, outline="black")
        draw.text((x + 17, y), name, "black", font)
    return page


def _font(texts):
    """A font for strings: Pillow's own, or for letters beyond ASCII the first that is found."""
    if all(text.isascii() for text in texts):
        return ImageFont.load_default()
    names = _FONTS
    with contextlib.suppress(ImportError):
        import matplotlib  # carries a font

        names = (f"{matplotlib.get_data_path()}/fonts/ttf/{names[0]}", *names)
    for name in names:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, 10)
    return ImageFont.load_default()


def _column_widths(rows):
    """Widths of the columns of pictures, or an error."""
    if len(rows) == 0 or len(rows[0]) == 0:
        raise ValueError(f"`rows` must hold a row of one picture at least. Received: rows={rows}.")
    widths = [np.shape(picture)[1] for picture in rows[0]]
    for index, row in enumerate(rows):
        sizes = [np.shape(picture)[:2] for picture in row]
        if [width for _, width in sizes] != widths or len({height for height, _ in sizes}) > 1:
            raise ValueError(
                "`rows` must hold pictures of one height a row and one width a column: "
                f"{widths}, as row 0. Received: row {index} with (height, width) {sizes}."
            )
    return widths
