"""Cityscapes, 19 classes (Cordts et al., 2016), from the label ids or the training ids."""

from pathlib import Path

from keras_sanet.datasets.files import VOID, Dataset, Sample
from keras_sanet.datasets.info import Info

# In the order of the training ids: the label id in the files, the category, the colour.
_TABLE = {
    "road":          (7, "flat", (128, 64, 128)),
    "sidewalk":      (8, "flat", (244, 35, 232)),
    "building":      (11, "construction", (70, 70, 70)),
    "wall":          (12, "construction", (102, 102, 156)),
    "fence":         (13, "construction", (190, 153, 153)),
    "pole":          (17, "object", (153, 153, 153)),
    "traffic light": (19, "object", (250, 170, 30)),
    "traffic sign":  (20, "object", (220, 220, 0)),
    "vegetation":    (21, "nature", (107, 142, 35)),
    "terrain":       (22, "nature", (152, 251, 152)),
    "sky":           (23, "sky", (70, 130, 180)),
    "person":        (24, "human", (220, 20, 60)),
    "rider":         (25, "human", (255, 0, 0)),
    "car":           (26, "vehicle", (0, 0, 142)),
    "truck":         (27, "vehicle", (0, 0, 70)),
    "bus":           (28, "vehicle", (0, 60, 100)),
    "train":         (31, "vehicle", (0, 80, 100)),
    "motorcycle":    (32, "vehicle", (0, 0, 230)),
    "bicycle":       (33, "vehicle", (119, 11, 32)),
}  # fmt: skip
_LABEL_IDS = [label_id for label_id, _, _ in _TABLE.values()]

# Label id -> training id. -1, the licence plate, is 255 in a file of 8 bits, 65535 in one of 16.
TRAIN_IDS = {i: _LABEL_IDS.index(i) if i in _LABEL_IDS else VOID for i in range(34)}
TRAIN_IDS |= {255: VOID, 65535: VOID}

# Category -> training ids, for the mean IoU over the 7 categories.
CATEGORIES = {}
for _train_id, (_, _category, _) in enumerate(_TABLE.values()):
    CATEGORIES.setdefault(_category, []).append(_train_id)

INFO = Info(
    name="cityscapes",
    title="Cityscapes",
    classes={name: colour for name, (_, _, colour) in _TABLE.items()},
    counts={"train": 2975, "val": 500, "test": 1525},
    files=(
        "leftImg8bit/<split>/<city>/*_leftImg8bit.png with "
        "gtFine/<split>/<city>/*_gtFine_labelIds.png (or *_gtFine_labelTrainIds.png)",
    ),
    licence="non-commercial research, after registration",
    citation='Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", '
    "CVPR 2016",
    url="https://www.cityscapes-dataset.com/",
)
_CLASS_IDS = {
    "labelIds": TRAIN_IDS,
    "labelTrainIds": {**{i: i for i in range(len(_TABLE))}, VOID: VOID},
}


def load(root, labels="labelIds", coarse=False):
    """Reads `leftImg8bit` with `gtFine`: the splits train, val and test that are there.

    Args:
        root: the folder of both.
        labels: "labelIds", the official files (34 ids), or "labelTrainIds", those that the
            Cityscapes scripts make (19 ids).
        coarse: whether to read the rough labels of `gtCoarse` instead, for train, train_extra and
            val.

    The test split has no masks: its labels in the download are all void.

    Raises: FileNotFoundError where there are none, or images and labels don't match one to one.
    """
    if labels not in _CLASS_IDS:
        raise ValueError(
            f'`labels` must be "labelIds" or "labelTrainIds". Received: labels={labels!r}.'
        )
    root, truth = Path(root), "gtCoarse" if coarse else "gtFine"
    images, masks = root / "leftImg8bit", root / truth
    if not coarse and not masks.is_dir() and (root / "gtCoarse").is_dir():
        raise FileNotFoundError(
            f"{root} holds gtCoarse but no gtFine. Get gtFine_trainvaltest.zip from {INFO.url}, or "
            "pass coarse=True to use the rough labels."
        )
    if not images.is_dir() or not (masks.is_dir() or (images / "test").is_dir()):
        raise INFO.not_found(root)
    splits = {}
    for split in ("train", *(["train_extra"] if coarse else []), "val"):
        if (images / split).is_dir() or (masks / split).is_dir():
            splits[split] = _pair(images / split, masks / split, f"{truth}_{labels}")
    if (images / "test").is_dir():
        splits["test"] = [Sample(path) for path in _find(images / "test", "leftImg8bit").values()]
    for split, samples in splits.items():
        if not samples:
            raise INFO.not_found(images / split)
    if not splits:
        raise INFO.not_found(root)
    return Dataset.of(INFO, splits, _CLASS_IDS[labels])


def _find(folder, kind):
    """Files of a kind in the folders of the cities, by "city/name of the frame", in order."""
    found = sorted(folder.glob(f"*/*_{kind}.png"))
    return {f"{path.parent.name}/{path.name.removesuffix(f'_{kind}.png')}": path for path in found}


def _pair(images, masks, kind):
    """Samples of a split, whose images and labels must match one to one."""
    of_images, of_masks = _find(images, "leftImg8bit"), _find(masks, kind)
    for name, missing in (
        (f"images of {images} have no *_{kind}.png in {masks}", of_images.keys() - of_masks),
        (f"*_{kind}.png of {masks} have no image in {images}", of_masks.keys() - of_images),
    ):
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} {name}: {', '.join(sorted(missing)[:3])}. "
                f"{_hint(masks, kind)}Get them from {INFO.url}."
            )
    return [Sample(path, of_masks[name]) for name, path in of_images.items()]


def _hint(masks, kind):
    """What to do where labels of the other kind are there."""
    truth, _, labels = kind.partition("_")
    other = next(name for name in _CLASS_IDS if name != labels)
    count = len(_find(masks, f"{truth}_{other}"))
    if count == 0 or _find(masks, kind):
        return ""
    return f'There are {count} *_{other}.png: pass labels="{other}". '
