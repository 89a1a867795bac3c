"""Data sets as lists of (image, mask) files, with their classes and colors. No TensorFlow here."""

import dataclasses
import os

from keras_sanet.datasets import (
    ade20k,
    auto,
    camvid,
    cityscapes,
    coco,
    cvat,
    folder,
    hf,
    label_studio,
    labelme,
    nyuv2,
    scenes,
    sunrgbd,
    supervisely,
    tfds,
    voc,
)
from keras_sanet.datasets.cache import cached
from keras_sanet.datasets.dataset import Dataset, Sample
from keras_sanet.datasets.listing import warn

_PUBLIC = (nyuv2, sunrgbd, ade20k, cityscapes, camvid, voc)
_LOADERS = {
    **{module.INFO.name: module.load for module in _PUBLIC},
    "tfds": tfds.load,
    "folder": folder.load,
    "scenes": scenes.load,
    "coco": coco.load,
    "labelme": labelme.load,
    "cvat": cvat.load,
    "label_studio": label_studio.load,
    "supervisely": supervisely.load,
    "hf": hf.load,
}


def names():
    """The names that `load` knows."""
    return [*_LOADERS, "auto"]


def infos():
    """An `Info` for each public data set: classes, counts, files, terms, source."""
    return [module.INFO for module in _PUBLIC]


def load(name, root=None, *, cache=None, **options):
    """Finds a data set on disk.

    Args:
        name: one of `names()`: a public data set; a format of one's own, "folder" (images and
            masks), "coco", "labelme", "cvat", "label_studio", "supervisely" or "hf" (Hugging Face);
            "auto", the format that the folder is in; "tfds"; or "scenes" (drawn, not downloaded).
        root: its folder; of "tfds" and "hf" also the name of the set there. "scenes" is drawn into
            it, or into Keras's cache if None.
        cache: folder in which decoded pictures are kept, for slow sources; None for none.
        **options: of the data set's own `load`, such as `num_classes=13` of "nyuv2".

    Returns:
        `Dataset`. A warning says what was found and is not read, `left_out`; `notes` say how the
        files were understood.

    Raises:
        ValueError: for an unknown name, and for a folder of several formats with "auto".
        FileNotFoundError: where the files are not there; it says which were looked for.
    """
    if name not in names():
        a_folder = f" To read a folder: load('auto', {name!r})." if os.path.isdir(name) else ""
        raise ValueError(f"Unknown data set {name!r}. Known: {', '.join(names())}.{a_folder}")
    if root is None and name != "scenes":
        raise ValueError(f"`root`, the folder of the data set {name!r}, must be given.")
    notes = []
    if name == "auto":
        name, reason = auto.detect(root)
        notes = [f"read as {name!r}, for {reason}."]
    try:
        dataset = _LOADERS[name](root, **options)
    except FileNotFoundError as error:
        hint = root is not None and auto.hint(root, name)
        if hint:
            raise FileNotFoundError(f"{error} {hint}") from error
        raise
    dataset = dataclasses.replace(dataset, notes=[*notes, *dataset.notes])
    warn(dataset.name, dataset.left_out)
    return dataset if cache is None else cached(dataset, cache)


__all__ = ["Dataset", "Sample", "infos", "load", "names"]
