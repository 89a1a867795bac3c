"""The files in which people keep the names, ids and colors of their classes.

| file | a line | id | written by |
|---|---|---|---|
| `classes.txt` | `name` or `name,red,green,blue` | number of the line, from 0 | hand |
| `class_dict.csv` | `name,r,g,b` under that header | number of the row | Kaggle's data sets |
| `label_colors.txt` | `red green blue name` | number of the line | CamVid |
| `labelmap.txt` | `name:red,green,blue:parts:actions` | number of the line | CVAT |
| `_classes.csv` | `id, name` under a header | the id | Roboflow |
| `class_names.txt` | `name` | number of the line | LabelMe's converter |

A class named void or `__ignore__` is not learnt: its id and its color become 255. In every file but
Roboflow's and CamVid's `#` starts a comment. Lines without anything else are not counted.
"""

import csv
import os
import re
from pathlib import Path
from typing import NamedTuple

from keras_sanet.datasets.files import VOID, FileError, read_text
from keras_sanet.datasets.info import distinct_color

VOID_NAMES = ("void", "__ignore__")


class Classes(NamedTuple):
    """What a file of classes says.

    Attributes:
        names: by class id.
        palette: (red, green, blue) by class id.
        ids: dict from the id in mask files to the class id or 255.
        colors: dict from a color in mask files to the id there; empty if the file names none.
        file: its path.
    """

    names: list
    palette: list
    ids: dict
    colors: dict
    file: Path


def find(folder):
    """The paths of the files above that a folder holds."""
    return [path for name in _READERS if os.path.isfile(path := Path(folder, name))]


def read(path):
    """Reads one of the files above, known by its name.

    Args:
        path: of the file.

    Returns:
        `Classes`.

    Raises:
        FileError: names the file and the line that is not as above.
    """
    path = Path(path)
    classes = list(_READERS[path.name](path))
    names, palette, ids, colors = [], [], {VOID: VOID}, {}
    for file_id, name, color in classes:
        if not name:
            raise FileError(f"{path}: the class of id {file_id} has no name.")
        if file_id >= VOID:
            raise FileError(
                f"{path} has {len(classes)} classes, one of id {file_id}; 255 classes are the "
                "most, the id 255 being void."
            )
        if file_id in ids:
            raise FileError(f"{path} names the id {file_id} twice.")
        if color in colors:
            raise FileError(f"{path} gives the color {color} to two classes, the second {name!r}.")
        if color is not None:
            colors[color] = file_id
        if name.lower() in VOID_NAMES:
            ids[file_id] = VOID
            continue
        ids[file_id] = len(names)
        names.append(name)
        palette.append(color or distinct_color(file_id))
    if not names:
        raise FileError(f"{path} names no class.")
    return Classes(names, palette, ids, colors, path)


def _lines(path, comments=True):
    lines = read_text(path).splitlines()
    lines = [line.partition("#")[0].strip() if comments else line.strip() for line in lines]
    return [line for line in lines if line]


def _color(parts, path, line, form):
    """(red, green, blue) of three texts, None of none."""
    parts = [part.strip() for part in parts]
    if not any(parts):
        return None
    if len(parts) == 3 and all(re.fullmatch("[0-9]{1,3}", part) for part in parts):
        color = tuple(int(part) for part in parts)
        if max(color) < 256:
            return color
    raise FileError(f"{path}: {line!r} must be {form} with numbers in 0..255.")


def _classes_txt(path):
    for index, line in enumerate(_lines(path)):
        if re.search(r"[;\t]\s*[0-9]", line) or index == 0 and line.lower() in ("name", "class"):
            raise FileError(
                f"{path}: {line!r} must be a name, or name,red,green,blue, and no header."
            )
        name, *color = (part.strip() for part in line.split(","))
        yield index, name, _color(color, path, line, "a name, or name,red,green,blue")


def _class_dict(path):
    lines = [line for line in _lines(path, comments=False) if not line.startswith("#")]
    try:
        header, *rows = csv.reader(lines, strict=True, skipinitialspace=True) if lines else [[]]
    except csv.Error as error:
        raise FileError(f"{path} is no CSV: {error}.") from error
    if [word.strip().lower() for word in header] != ["name", "r", "g", "b"]:
        raise FileError(f"{path}: its first line must be name,r,g,b. It is {','.join(header)!r}.")
    for index, (name, *color) in enumerate(rows):
        yield index, name.strip(), _color(color, path, ",".join([name, *color]), "name,r,g,b")


def _label_colors(path):
    form = "red green blue name"
    for index, line in enumerate(_lines(path, comments=False)):
        *color, name = line.split(None, 3)
        yield index, name, _color(color or [name], path, line, form)


def _labelmap(path):
    form = "name:red,green,blue:parts:actions"
    for index, line in enumerate(_lines(path)):
        parts = line.split(":")
        if len(parts) != 4:
            raise FileError(f"{path}: {line!r} must be {form}, as CVAT writes it.")
        yield index, parts[0].strip(), _color(parts[1].split(","), path, line, form)


def _roboflow(path):
    for index, line in enumerate(_lines(path, comments=False)):
        if index == 0 and not line[0].isdigit():
            continue  # the header
        file_id, _, name = (part.strip() for part in line.partition(","))
        if not re.fullmatch("[0-9]{1,5}", file_id):
            raise FileError(f"{path}: {line!r} must be an id and a name, as in '1, road'.")
        yield int(file_id), name, None


def _class_names(path):
    for index, line in enumerate(_lines(path)):
        yield index, line, None


_READERS = {  # in the order in which they are looked for
    "classes.txt": _classes_txt,
    "class_dict.csv": _class_dict,
    "label_colors.txt": _label_colors,
    "labelmap.txt": _labelmap,
    "_classes.csv": _roboflow,
    "class_names.txt": _class_names,
}
NAMES = tuple(_READERS)
