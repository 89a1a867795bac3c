"""Cityscapes, 19 classes (Cordts et al., 2016), from the label ids or the training ids."""

from pathlib import Path

import numpy as np

from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.files import LARGEST_ID, VOID, Frame, open_mask
from keras_sanet.datasets.info import Info
from keras_sanet.datasets.listing import visible_files

# In the order of the training ids: the label id in the files, the category, the color, and of
# classes with instances the mean pixels of one (the official evaluation's `avgClassSize`).
_TABLE = {
    "road":          (7, "flat", (128, 64, 128), None),
    "sidewalk":      (8, "flat", (244, 35, 232), None),
    "building":      (11, "construction", (70, 70, 70), None),
    "wall":          (12, "construction", (102, 102, 156), None),
    "fence":         (13, "construction", (190, 153, 153), None),
    "pole":          (17, "object", (153, 153, 153), None),
    "traffic light": (19, "object", (250, 170, 30), None),
    "traffic sign":  (20, "object", (220, 220, 0), None),
    "vegetation":    (21, "nature", (107, 142, 35), None),
    "terrain":       (22, "nature", (152, 251, 152), None),
    "sky":           (23, "sky", (70, 130, 180), None),
    "person":        (24, "human", (220, 20, 60), 3462.4756337644),
    "rider":         (25, "human", (255, 0, 0), 3930.4788056518),
    "car":           (26, "vehicle", (0, 0, 142), 12794.0202738185),
    "truck":         (27, "vehicle", (0, 0, 70), 27855.1264367816),
    "bus":           (28, "vehicle", (0, 60, 100), 35732.1511111111),
    "train":         (31, "vehicle", (0, 80, 100), 67583.7075812274),
    "motorcycle":    (32, "vehicle", (0, 0, 230), 6298.7200839748),
    "bicycle":       (33, "vehicle", (119, 11, 32), 4672.3249222261),
}  # fmt: skip
_LABEL_IDS = [label_id for label_id, *_ in _TABLE.values()]

# Label id -> training id. -1, the license plate, is 255 in a file of 8 bits, 65535 in one of 16.
TRAIN_IDS = {i: _LABEL_IDS.index(i) if i in _LABEL_IDS else VOID for i in range(34)}
TRAIN_IDS |= {255: VOID, 65535: VOID}

# Category -> training ids, for the mean IoU over the 7 categories.
CATEGORIES = {}
for _train_id, (_, _category, *_) in enumerate(_TABLE.values()):
    CATEGORIES.setdefault(_category, []).append(_train_id)

INFO = Info(
    name="cityscapes",
    title="Cityscapes",
    classes={name: color for name, (_, _, color, _) in _TABLE.items()},
    counts={"train": 2975, "val": 500, "test": 1525},
    files=(
        "leftImg8bit/<split>/<city>/*_leftImg8bit.png with "
        "gtFine/<split>/<city>/*_gtFine_labelIds.png (or *_gtFine_labelTrainIds.png)",
    ),
    license="non-commercial research, after registration",
    citation='Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", '
    "CVPR 2016",
    url="https://www.cityscapes-dataset.com/",
)
_CLASS_IDS = {
    "labelIds": TRAIN_IDS,
    "labelTrainIds": identity(len(_TABLE)),
}


def load(root, *, labels="labelIds", coarse=False):
    """Reads `leftImg8bit` with `gtFine`: the splits train, val and test that are there.

    Args:
        root: the folder of both.
        labels: "labelIds", the official files (34 ids), or "labelTrainIds", those that the
            Cityscapes scripts make (19 ids).
        coarse: whether to read the rough labels of `gtCoarse` instead, for train, train_extra and
            val.

    Returns:
        `Dataset`. Its test split has no masks: its labels in the download are all void.

    Raises:
        FileNotFoundError: where there are none, or images and labels don't match one to one.
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
    splits, left_out = {}, {}
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
    for split, samples in splits.items():
        others = visible_files(images / split) - {sample.image for sample in samples}
        if others:
            left_out.setdefault("files that are no */*_leftImg8bit.png", []).extend(others)
    masks = [samples[0].mask for samples in splits.values() if samples[0].mask is not None]
    with_instances = bool(masks) and all(_instances_file(mask).is_file() for mask in masks)
    return Dataset.from_info(
        INFO,
        splits,
        _CLASS_IDS[labels],
        categories=CATEGORIES,
        count_instances=count_instances if with_instances else None,
        left_out=left_out,
    )


def label_ids(mask):
    """A mask of training ids as the 34 label ids that the evaluation server takes, uint8."""
    return np.array(_LABEL_IDS, "uint8")[mask]


def count_instances(sample, predicted):
    """Pixels of the instances of a sample and how many of them are found, for iIoU.

    Each instance is weighted by the mean size of its class over its own size, so that small ones
    count as much as large ones. Groups, whose instances were not told apart, don't count.

    Args:
        sample: its `*_instanceIds.png` lies beside its mask.
        predicted: training ids (height, width).

    Returns:
        float64 (19, 3): pixels, pixels of the right class, pixels of the right category; NaN for
        classes without instances.

    Reference:
        Cordts et al., section 4.1 (there: instance-level intersection over union).
    """
    path = _instances_file(sample.mask)
    ids = np.asarray(open_mask(path)).astype("int64")
    if ids.shape != predicted.shape:
        raise ValueError(
            f"{path} and the prediction differ in size (height, width): {ids.shape} and "
            f"{predicted.shape}."
        )
    if ids.min() < 0 or ids.max() > LARGEST_ID:
        raise ValueError(
            f"{path} must hold instance ids of 0..{LARGEST_ID}. Received: {ids.min()} to "
            f"{ids.max()}."
        )
    # An id is 1000 x label id + number, or the label id alone for stuff and groups.
    true = np.where(ids > 1000, _THINGS[ids // 1000], VOID)
    same_category = _CATEGORY[true] == _CATEGORY[predicted]
    pixels, right, right_category = (
        np.bincount(ids[chosen], minlength=LARGEST_ID + 1)
        for chosen in (true != VOID, true == predicted, same_category)
    )
    counts = np.repeat([[np.nan if size is None else 0.0] for size in _SIZES], 3, axis=1)
    for instance in np.flatnonzero(pixels):
        train_id = _THINGS[instance // 1000]
        found = np.array([pixels[instance], right[instance], right_category[instance]])
        counts[train_id] += _SIZES[train_id] / pixels[instance] * found
    return counts


_SIZES = [size for *_, size in _TABLE.values()]
# Label id -> training id of classes with instances, and training id -> number of the category.
_THINGS = np.full(LARGEST_ID // 1000 + 1, VOID)
_CATEGORY = np.full(VOID + 1, VOID)
for _train_id, (_label_id, _, _, _size) in enumerate(_TABLE.values()):
    if _size is not None:
        _THINGS[_label_id] = _train_id
for _index, _train_ids in enumerate(CATEGORIES.values()):
    _CATEGORY[_train_ids] = _index


def _instances_file(mask):
    """The file of the instances beside that of the label ids."""
    path = mask.file if isinstance(mask, Frame) else mask
    return path.with_name(f"{path.name.rpartition('_')[0]}_instanceIds.png")


def _find(folder, kind):
    """Files of a kind in the folders of the cities, by "city/name of the frame", in order."""
    found = sorted(folder.glob(f"*/*_{kind}.png"))
    return {f"{path.parent.name}/{path.name.removesuffix(f'_{kind}.png')}": path for path in found}


def _pair(images, masks, kind):
    """Samples of a split, whose images and labels must match one to one."""
    image_files, mask_files = _find(images, "leftImg8bit"), _find(masks, kind)
    for name, missing in (
        (f"images of {images} have no *_{kind}.png in {masks}", image_files.keys() - mask_files),
        (f"*_{kind}.png of {masks} have no image in {images}", mask_files.keys() - image_files),
    ):
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} {name}: {', '.join(sorted(missing)[:3])}. "
                f"{_hint(masks, kind)}{INFO.way_out}"
            )
    return [Sample(path, mask_files[name]) for name, path in image_files.items()]


def _hint(masks, kind):
    """What to do where labels of the other kind are there."""
    truth, _, labels = kind.partition("_")
    other = next(name for name in _CLASS_IDS if name != labels)
    count = len(_find(masks, f"{truth}_{other}"))
    if count == 0 or _find(masks, kind):
        return ""
    return f'There are {count} *_{other}.png: pass labels="{other}". '
