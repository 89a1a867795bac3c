"""Masks as colours, over their images, and side by side (paper, Figures 4 and 5)."""

import numpy as np
from PIL import Image, ImageDraw

from keras_sanet.datasets.files import VOID


def colour_mask(mask, palette):
    """Colours of the classes, void black.

    Args: mask, integer (height, width); palette, (red, green, blue) by class id.
    Returns: uint8 (height, width, 3).
    """
    table = np.zeros((VOID + 1, 3), "uint8")
    table[: len(palette)] = palette
    return table[np.asarray(mask)]


def overlay(image, mask, palette, alpha=0.5):
    """The image with the colours of the mask over it; void pixels stay as they are.

    Args: image, uint8 (height, width, 3); mask, integer (height, width); palette, (red, green,
        blue) by class id; alpha, share of the colour.
    Returns: uint8 (height, width, 3).
    """
    mixed = (1 - alpha) * image + alpha * colour_mask(mask, palette)
    return np.where((np.asarray(mask) == VOID)[..., None], image, np.rint(mixed)).astype("uint8")


def sheet(rows, class_names, palette):
    """Rows of equally large pictures, and a legend below.

    Args: rows, list of lists of uint8 (height, width, 3).
    Returns: `PIL.Image.Image`.
    """
    pictures = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    height, width = pictures.shape[:2]
    entries, x, y, line = [], 6, height + 6, 18
    for name, colour in zip(class_names, palette):
        length = 30 + round(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(name))
        if x > 6 and x + length > width:
            x, y = 6, y + line
        entries.append((x, y, name, tuple(colour)))
        x += length
    page = Image.new("RGB", (width, y + line + 6), "white")
    page.paste(Image.fromarray(pictures))
    draw = ImageDraw.Draw(page)
    for x, y, name, colour in entries:
        draw.rectangle((x, y, x + 12, y + 12), fill=colour, outline="black")
        draw.text((x + 17, y), name, fill="black")
    return page
