"""Your own images: a folder with `images/`, `masks/` and `classes.txt`.

`images/street.jpg` has its mask in `masks/street.png`, a gray or palette PNG of class ids, 255 =
void; `listing.pair` says which other names will do. Splits are sub-folders of the same name in both
(`images/train`, `masks/train`, ...); without sub-folders, every fifth image in order of the names
is "val" and the others "train".

`classes.txt` has a line a class, in order of the ids from 0: its name, or its name and color as
`name,red,green,blue`. A class named void is not learnt: its id becomes 255. `#` starts a comment.
"""

import re
from pathlib import Path

from keras_sanet.datasets.dataset import Dataset
from keras_sanet.datasets.files import VOID, read_text
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import divide, outside, pair


def load(root):
    """Reads the folder that the docstring of this module describes.

    Args:
        root: the folder.

    Returns:
        `Dataset`.
    """
    root = Path(root)
    names, palette, ids = _read_classes(root / "classes.txt")
    images, masks = root / "images", root / "masks"
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"There is no folder {folder}. A data set of one's own has images/, masks/ and "
                "classes.txt."
            )
    parts = sorted(p.name for p in images.iterdir() if p.is_dir() and not p.name.startswith("."))
    left_out = {}
    if parts:
        splits = {part: pair(images / part, masks / part, left_out) for part in parts}
        outside(images, parts, left_out)
        outside(masks, parts, left_out)
    else:
        splits = divide(pair(images, masks, left_out))
    return Dataset(root.name, names, palette, splits, ids, left_out=left_out)


def _read_classes(path):
    """Names, colors, and the dict from id in the files to class id."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. It has a line a class, in order of the ids: its name, or "
            "name,red,green,blue."
        )
    lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    names, palette, ids = [], [], {VOID: VOID}
    for file_id, line in enumerate(lines):
        name, *color = (part.strip() for part in line.split(","))
        if not name:
            raise ValueError(f"{path}: {line!r} has no name.")
        if name.lower() == "void":
            ids[file_id] = VOID
            continue
        ids[file_id] = len(names)
        names.append(name)
        palette.append(_parse_color(color, path, line) if color else distinct_color(file_id))
    if not names:
        raise ValueError(f"{path} names no class.")
    if len(lines) > VOID:
        raise ValueError(f"{path} has {len(lines)} classes; 255 are the most, 255 being void.")
    return names, palette, ids


def _parse_color(parts, path, line):
    if len(parts) == 3 and all(re.fullmatch("[0-9]{1,3}", part) for part in parts):
        color = tuple(int(part) for part in parts)
        if max(color) < 256:
            return color
    raise ValueError(
        f"{path}: {line!r} must be a name, or name,red,green,blue with numbers in 0..255."
    )
