"""CamVid, 11 classes (Brostow et al., 2008), in the split and ids of the SegNet tutorial."""

from pathlib import Path

from keras_sanet.datasets.files import VOID, Dataset, pair

# In the order of the ids in the files; 11 is void.
CLASSES = {
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
_SPLITS = ("train", "val", "test")


def load(root):
    """Reads `<split>/images` with `<split>/labels`, or the tutorial's `<split>` with
    `<split>annot`, for the splits train, val and test that are there."""
    root = Path(root)
    splits = {}
    for split in _SPLITS:
        for images, masks in ((f"{split}/images", f"{split}/labels"), (split, f"{split}annot")):
            if (root / masks).is_dir():
                splits[split] = pair(root / images, root / masks)
    if not splits:
        raise FileNotFoundError(
            f"{root} holds no CamVid: looked for train/images with train/labels (also val, test), "
            "and for train with trainannot. The SegNet tutorial's copy has the second form."
        )
    ids = {**{i: i for i in range(len(CLASSES))}, len(CLASSES): VOID, VOID: VOID}
    return Dataset("camvid", list(CLASSES), list(CLASSES.values()), splits, ids)
