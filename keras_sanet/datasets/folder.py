"""Your own images and masks in a folder, with a file that names the classes.

| images | masks | |
|---|---|---|
| `images/street.jpg` | `masks/street.png` (or `labels/`, `annotations/`) | |
| `images/train/street.jpg` | `masks/train/street.png` | splits |
| `train/images/street.jpg` | `train/masks/street.png` | splits |
| `train/street.jpg` | `train_labels/street.png` (or `train_masks/`) | splits |
| `street.jpg` | `street_mask.png` beside it | also in `train/`, as Roboflow exports masks |
| `JPEGImages/street.jpg` | `SegmentationClass/street.png` | CVAT's "Segmentation mask 1.1" |

`listing.pair` says which names a mask may have. CVAT's splits are `ImageSets/Segmentation/*.txt`.
Without splits every fifth image in order of the names is "val" and the others "train".

The classes are in `classes.txt`, a line a class: its name, or `name,red,green,blue`; `class_files`
says which other files will do. Masks are gray, with class ids, 255 = void; or in the colors of the
classes, see `colors`. Masks of two values, 0 and 255 or of one bit, show one class and background:
the file names that class, or background and it.
"""

import dataclasses
from pathlib import Path

import numpy as np

from keras_sanet.datasets import class_files
from keras_sanet.datasets.colors import ColorTable
from keras_sanet.datasets.dataset import Dataset, identity
from keras_sanet.datasets.files import MASK_SUFFIXES, VOID, image_suffixes, open_mask, read_text
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import (
    MASK_FOLDERS,
    divide,
    folders_of,
    mask_folder,
    outside,
    pair,
    pair_beside,
    pair_names,
    split_name,
)

_LOOKED_AT = 20  # masks, to tell whether they have two values
_VOC = "ImageSets/Segmentation"


def load(root, *, tolerance=0, binary=True):
    """Reads the folder that the docstring of this module describes.

    Args:
        root: the folder.
        tolerance: largest difference, 0..255, of a red, green or blue in a mask from the color of
            its class. Above 0 masks may be JPEG files, too; 30 or so serves them.
        binary: whether 255 is the second class where the first masks hold 0 and 255 alone. False:
            255 is void.

    Returns:
        `Dataset`.

    Raises:
        FileNotFoundError: a file or folder is not there, or an image has no mask.
        FileError: the file of the classes is not as it should be.
        ValueError: a mask would do for several images, or the other way round.
    """
    root, left_out = Path(root), {}
    classes = _read_classes(root)
    suffixes = image_suffixes() if tolerance else MASK_SUFFIXES
    splits = _find(root, suffixes, left_out)
    if None in splits:
        splits = divide(splits[None])
    names = {
        file_id: "void" if class_id == VOID else classes.names[class_id]
        for file_id, class_id in classes.ids.items()
    }
    table = ColorTable(classes.colors, classes.ids, names, tolerance)
    table.decide(
        _spread([sample.mask for group in splits.values() for sample in group])[:_LOOKED_AT]
    )
    dataset = Dataset(
        root.name,
        classes.names,
        classes.palette,
        splits,
        classes.ids,
        left_out=left_out,
        color_table=table,
    )
    return binary and _as_binary(dataset) or dataset


def _read_classes(root):
    """The `Classes` of the files in the folder or else in its splits, which must say the same."""
    files = class_files.find(root) or sum(map(class_files.find, folders_of(root)), [])
    if not files:
        raise FileNotFoundError(
            f"There is no file {root / 'classes.txt'}. It has a line a class, in order of the ids: "
            f"its name, or name,red,green,blue. {', '.join(class_files.NAMES[1:])} will do, too."
        )
    first, *others = (class_files.read(file) for file in files)
    for other in others:
        if (other.names, other.ids, other.colors) != (first.names, first.ids, first.colors):
            raise ValueError(
                f"{first.file} and {other.file} differ, and must name the same classes. Keep the "
                "one that the masks were made with."
            )
    return first


def _find(root, suffixes, left_out):
    """Dict from a split to samples; from None where there are no splits."""
    if (root / _VOC).is_dir():
        return _find_listed(root, suffixes, left_out)
    if (root / "SegmentationClass").is_dir():  # of LabelMe's converter
        folders = root / "JPEGImages", root / "SegmentationClass"
        return {None: pair(*folders, left_out, suffixes)}
    if (root / "images").is_dir():
        masks = _mask_folder(root)
        parts = [folder.name for folder in folders_of(root / "images")]
        if not parts:
            return {None: pair(root / "images", masks, left_out, suffixes)}
        for folder in (root / "images", masks):
            outside(folder, parts, left_out)
        return _by_split(
            (part, pair(root / "images" / part, masks / part, left_out, suffixes)) for part in parts
        )
    parts = [folder for folder in folders_of(root) if (folder / "images").is_dir()]
    if parts:
        return _by_split(
            (part.name, pair(part / "images", _mask_folder(part), left_out, suffixes))
            for part in parts
        )
    apart = {folder: masks for folder in folders_of(root) if (masks := mask_folder(folder))}
    if apart:
        return _by_split(
            (images.name, pair(images, masks, left_out, suffixes))
            for images, masks in apart.items()
        )
    beside = {folder: pair_beside(folder, left_out, suffixes) for folder in folders_of(root)}
    if any(beside.values()):
        for folder in [folder for folder, pairs in beside.items() if not pairs]:
            left_out.setdefault("folders without masks", []).append(folder)
        return _by_split((folder.name, pairs) for folder, pairs in beside.items() if pairs)
    if pairs := pair_beside(root, left_out, suffixes):
        return {None: pairs}
    raise FileNotFoundError(
        f"There is no folder {root / 'images'}. A data set of one's own has images/ and masks/, "
        "here or in folders such as train/ and val/; or masks beside the images, street_mask.png "
        "beside street.jpg."
    )


def _by_split(found):
    splits = {}
    for name, samples in found:
        splits.setdefault(split_name(name), []).extend(samples)
    return splits


def _mask_folder(root):
    there = [root / name for name in MASK_FOLDERS if (root / name).is_dir()]
    if not there:
        raise FileNotFoundError(
            f"There is no folder {root / 'masks'}. A data set of one's own has images/, masks/ and "
            "classes.txt."
        )
    if len(there) > 1:
        raise ValueError(f"{root} holds {' and '.join(p.name for p in there)}. Keep one of them.")
    return there[0]


def _find_listed(root, suffixes, left_out):
    """The splits of lists of names."""
    splits = {}
    for file in sorted((root / _VOC).glob("*.txt")):
        names = read_text(file).split("\n")
        names = [name.strip() for name in names if name.strip()]
        folders = root / "JPEGImages", root / "SegmentationClass"
        samples = pair_names(file, names, *folders, suffixes)
        split = None if file.stem.lower() == "default" else split_name(file.stem)
        if split in splits:
            raise ValueError(
                f"{root / _VOC} has two lists of the split {split!r}, one of them {file}."
            )
        splits[split] = samples
    if len(splits) > 1 and None in splits:
        splits["default"] = splits.pop(None)
    if not splits:
        raise FileNotFoundError(f"{root / _VOC} holds no list of images, such as train.txt.")
    return splits


def _spread(items):
    """The items in another order, the first of which are spread over all."""
    step = max(1, len(items) // _LOOKED_AT)
    return [item for start in range(step) for item in items[start::step]]


def _as_binary(dataset):
    """The data set with 0 as background and the masks' other value as the one class, where they
    have those two values; else None."""
    if dataset.num_classes > 2 or dataset.class_ids != identity(dataset.num_classes):
        return None  # the file of the classes names a void of its own
    found = set()
    samples = _spread([sample for group in dataset.splits.values() for sample in group])
    for number, sample in enumerate(samples):
        if number >= _LOOKED_AT and len(found) > 1:
            break
        try:
            found.update(np.unique(open_mask(dataset.mask_of(sample))).tolist())
        except (OSError, ValueError):
            continue  # whoever reads it next is told
        if not found <= {0, 1, 255} or found >= {1, 255}:
            return None
    one_class = dataset.num_classes == 1
    if found != {0, 255} and not (one_class and found == {0, 1}):
        return None
    names, palette = dataset.class_names, dataset.palette
    if one_class:
        names, palette = ["background", *names], [(0, 0, 0), palette[0]]
        if palette[1] == palette[0]:
            palette[1] = distinct_color(0)
    value = int(max(found))
    said = f"0 in the masks is {names[0]}, and {value} is {names[1]}"
    return dataclasses.replace(
        dataset,
        class_names=names,
        palette=palette,
        class_ids={0: 0, value: 1},
        color_table=ColorTable({}, {0, value}, {}),
        notes=[f"{said}: they hold these two values alone."],
        hint=f"The first ones hold 0 and {value} alone, so {said}: `binary=False` if not.",
    )
