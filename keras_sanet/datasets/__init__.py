"""Data sets as lists of (image, mask) files, with their classes and colors. No TensorFlow here."""

from keras_sanet.datasets import (
    ade20k,
    camvid,
    cityscapes,
    folder,
    nyuv2,
    scenes,
    sunrgbd,
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
}


def names():
    """The names that `load` knows."""
    return list(_LOADERS)


def infos():
    """An `Info` for each public data set: classes, counts, files, terms, source."""
    return [module.INFO for module in _PUBLIC]


def load(name, root=None, *, cache=None, **options):
    """Finds a data set on disk.

    Args:
        name: one of `names()`: a public data set, "tfds", "folder" (your own images) or "scenes"
            (drawn, not downloaded).
        root: its folder; of "tfds", the name of the set in TensorFlow Datasets. "scenes" is drawn
            into it, or into Keras's cache if None.
        cache: folder in which decoded pictures are kept, for slow sources; None for none.
        **options: of the data set's own `load`, such as `num_classes=13` of "nyuv2".

    Returns:
        `Dataset`. A warning says which files were found and are in no split, `left_out`.

    Raises:
        ValueError: for an unknown name.
        FileNotFoundError: where the files are not there; it says which were looked for.
    """
    if name not in _LOADERS:
        raise ValueError(f"Unknown data set {name!r}. Known: {', '.join(_LOADERS)}.")
    if root is None and name != "scenes":
        raise ValueError(f"`root`, the folder of the data set {name!r}, must be given.")
    dataset = _LOADERS[name](root, **options)
    warn(dataset.name, dataset.left_out)
    return dataset if cache is None else cached(dataset, cache)


__all__ = ["Dataset", "Sample", "infos", "load", "names"]
