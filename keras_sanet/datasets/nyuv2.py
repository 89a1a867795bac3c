"""NYU Depth v2 (Silberman et al., 2012): 1449 Kinect frames of rooms, in 40 or 13 classes.

The official file, `nyu_depth_v2_labeled.mat`, is read a frame at a time. The usual export is read
too: `RGB/<n>.jpg` (or .png) with `Label/<n>.png`, where 0 is void and 1..40 are the classes.

A frame is 640 x 480 pixels. Its edge is white, some 6 pixels wide, and labeled 0, void, so it is
neither learnt nor measured. `crop_border=True` cuts image and mask to the region that the authors'
toolbox measures, where the depth is known: rows 45..471 and columns 41..601, counted from 1, which
is 561 x 427.
"""

import dataclasses
import string
from pathlib import Path

import numpy as np
from PIL import Image

from keras_sanet.datasets.dataset import Dataset, Sample
from keras_sanet.datasets.files import (
    VOID,
    FileError,
    Frame,
    header,
    opened,
    read_text,
    size_of,
    upright,
)
from keras_sanet.datasets.hdf5 import check_array, hdf5_handle, open_hdf5
from keras_sanet.datasets.info import Info, colors
from keras_sanet.datasets.listing import pair

# The 40 classes of Gupta et al. (2013), as spelt in their table (classMapping40.mat).
NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror",
    "floor mat", "clothes", "ceiling", "books", "refridgerator", "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp",
    "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip
INFO = Info(
    name="nyuv2",
    title="NYU Depth v2",
    classes=colors(NAMES),
    counts={"train": 795, "test": 654},
    files=(
        "nyu_depth_v2_labeled.mat",
        "RGB with Label (0.jpg and 0.png, ...), and train.txt and test.txt or all 1449 frames",
        "images with labels, alike",
    ),
    license="none is stated by the authors; for research",
    citation='Silberman, Hoiem, Kohli, Fergus, "Indoor segmentation and support inference from '
    'RGBD images", 2012',
    url="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
)
# The 13 classes of Couprie et al. (2013), and that of each of the 40, a hexadecimal digit from 1
# (class13Mapping.mat).
_NAMES_13 = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table",
    "tv", "wall", "window",
)  # fmt: skip
_40_TO_13 = "c56149acd686da6d67757326b777777677777767"
# The class, 1..40, of each raw id 1..894 of the .mat file (classMapping40.mat): a digit is 1..9, a
# small letter 10..35, and A..E are 36..40.
_RAW_TO_40 = (
    "EE3m5EcCEE2DEEqEoE7E1EEyCtE8EEEECEEeECEEEfDEuEEDEDCECEBECC9EECEbCEEEEEEEEEEEEECdEE6EnEDagEEEEC"
    "EEEEEEEEECEDEEEEDCEEEEEEiEEjsxEEEEEEEEECrAEEEElEkzEEEEEEEECEEE4wEEDEDEEEEEhEEpEDEEEEEEEEDEEEEE"
    "EEEEEEEEEEEEEEEDEEEEEEEEEDCCEEDEDECDCEEEEEEEEEEDECEECCEEEEEEEEEEEEECEEEEEDEEEEEEEEEEEEEEEDEEEE"
    "EEEEEEEEDEEECEEDEECEEEEEEEEEEEDEEEEEEEEEEEEEEEEEvEEEEEEECEECDDEEEEEEEEECEDEEDEEECEEEEEEEECDEEE"
    "EEECEEEEEEEEEEECDEEEEEEEDEEEEEECEEECEDEEEDDEEEEEEEEEEDEEEEEEEEEEEEDDEEDDEEEECEECDDEDEDCEEEEEEE"
    "EEEEDECEDEEEEEDDEEEEEEDDEECDDEEEEEEEEEDDEEEEDEEEEEDEEDEEEEEEEEEEEEEEEDCEEEEEEEDCDECDEDEDEEEEEE"
    "EECEEEEECEEDEEEDECEEEEEEEECEEEEEEEEEEEEEEEEDCEECEECEEEEEEEEEDEEEEEEEEEEEEEEEECEECEEEEEEEEEEECC"
    "CEEECEEECCEEEEEEEEEEEEEEEEECEEEEEEEEEEEEECECDEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEDEEEEEEEEEEEEEEEEEE"
    "EEEEEEEEEEEEEEEEEDEDEEEECCEEECEEEEEEEEEEEEEEDEEDEEDDEEEEEEEEDDDEEEEDEEEEEEEEDEEEEEDEEEEEEEEEEE"
    "EEECEEEEEEEDEECEDEEEECEEEEECEEEEEEEDEEEEEEEEEDEE"
)
# Bit i of this number says whether frame i, counted from 0, is for training (splits.mat).
_TRAIN = int(
    "fe1f0fc03e01807ffe67f0e3f030fff9f018800f03fe001c3ff8c1f07000f07f031981c0007f38038fe101007003"
    "fffce67f9c7f8ff1f0f83ffe018c3ff8ff871f8ff1ffffffff8fc0f1c000ff8fc1f07ff80000003fff3fc307ce01"
    "f8cc1e06073c79e7c0ffe0e783fc3f83f800038ff8e3c00207ffffffe00c1fff00f81fffc3ffe3c07ffff0033fff"
    "800fe31fc07fe03e3f7ffdffffffc7f03c000007023ff8fffec20f8ffffff80787ff827f980007ec1efc",
    16,
)
_FOLDERS = ("RGB", "Label"), ("images", "labels")  # of exports
_FRAMES = 1449
_SIZE = 640, 480
_INSIDE = 40, 44, 601, 471  # left, top, right, bottom of what `crop_border` leaves
_ARRAYS = {  # MATLAB's arrays are stored transposed
    "images": ((_FRAMES, 3, *_SIZE), "uint8"),
    "labels": ((_FRAMES, *_SIZE), "uint16"),
}


@dataclasses.dataclass(frozen=True)
class _MatFrame(Frame):
    """One of `images` or `labels` of the .mat file.

    Attributes:
        array: name of the array.
        index: of the frame, from 0.
    """

    array: str
    index: int

    def open(self):
        pixels = hdf5_handle(self.file)[self.array][self.index]
        return Image.fromarray(np.ascontiguousarray(pixels.T))

    def header(self):
        return Image.new({"images": "RGB", "labels": "I;16"}[self.array], _SIZE)


@dataclasses.dataclass(frozen=True)
class _Inside(Frame):
    """A picture, a `Path` or a `Frame`, without its border."""

    picture: Path | Frame

    def __str__(self):
        return f"{self.picture} inside of {_INSIDE}"

    def open(self):
        with opened(self.picture) as image:
            self._check(image)
            return upright(image).crop(_INSIDE)

    def header(self):
        with header(self.picture) as image:
            self._check(image)
            return Image.new(image.mode, (_INSIDE[2] - _INSIDE[0], _INSIDE[3] - _INSIDE[1]))

    def _check(self, image):
        width, height = size_of(image)
        if (width, height) != _SIZE:
            raise FileError(
                f"{self.picture} is {width} x {height}, and the border is cropped of 640 x 480 "
                "frames only: load with `crop_border=False`."
            )


def load(root, *, num_classes=40, crop_border=False):
    """Reads `nyu_depth_v2_labeled.mat`, or else an export.

    An export is split by its lists `train.txt` and `test.txt`, where it has one or both: a picture
    a line, by its name, with or without folder and suffix; other words of the line are not read,
    and frames in neither list are left out. Without lists the names must be the official numbers,
    from 0 (0..1448) or from 1 (1..1449), and the official split is taken. Some of the frames will
    do, if 0 or 1449 is one of them, for it shows where the count begins.

    Args:
        root: folder of the .mat file or of the export, or the .mat file itself.
        num_classes: 40, or 13 which group them.
        crop_border: whether image and mask are cut to the 561 x 427 region inside of the border.

    Returns:
        `Dataset`.
    """
    if num_classes not in (13, 40):
        raise ValueError(f"`num_classes` of NYU Depth v2 must be 40 or 13, got {num_classes!r}.")
    root = Path(root)
    mat = root if root.is_file() else root / "nyu_depth_v2_labeled.mat"
    class_ids = range(40) if num_classes == 40 else [int(digit, 16) - 1 for digit in _40_TO_13]
    ids = {0: VOID, **dict(enumerate(class_ids, start=1))}
    left_out = {}
    if mat.is_file():
        splits = _read_mat(mat)
        digits = string.digits + string.ascii_letters
        ids = {0: VOID} | {
            raw: ids[digits.index(digit)] for raw, digit in enumerate(_RAW_TO_40, start=1)
        }
    else:
        splits = _read_export(root, left_out)
    name, classes = INFO.name, INFO.classes
    if num_classes == 13:
        name, classes = f"{name}, 13 classes", colors(_NAMES_13)
    if crop_border:
        name = f"{name}, border cropped"
        splits = {split: [_crop(sample) for sample in splits[split]] for split in splits}
    info = dataclasses.replace(INFO, name=name, classes=classes)
    return Dataset.from_info(info, splits, ids, left_out=left_out)


def _read_mat(path):
    with open_hdf5(path, INFO) as file:
        for name, (shape, dtype) in _ARRAYS.items():
            check_array(file, name, shape, dtype, INFO)
    samples = [
        Sample(*(_MatFrame(path, f"{index + 1:04}", array, index) for array in _ARRAYS))
        for index in range(_FRAMES)
    ]
    return _official_splits(dict(enumerate(samples)))


def _read_export(root, left_out):
    form = next((form for form in _FOLDERS if (root / form[1]).is_dir()), None)
    if form is None:
        raise INFO.not_found(root)
    images = root / form[0]
    samples = pair(images, root / form[1], left_out)
    lists = {split: root / f"{split}.txt" for split in INFO.counts}
    lists = {split: path for split, path in lists.items() if path.is_file()}
    if not lists:
        return _official_splits(_numbered(images, samples))
    known, listed = _by_key(samples, lambda sample: sample.image.stem), {}
    splits = {
        split: [known[stem] for stem in _read_list(path, known, listed)]
        for split, path in lists.items()
    }
    if unlisted := [known[stem].image for stem in known if stem not in listed]:
        names = ", ".join(path.name for path in lists.values())
        left_out[f"images that no list names ({names})"] = unlisted
    return splits


def _read_list(path, known, listed):
    """The stems of the pictures that a file lists, which it adds to `listed` with its path."""
    for line in filter(str.strip, read_text(path).splitlines()):
        name = line.split()[0]
        stem = Path(name).stem
        if stem not in known:
            folder = next(iter(known.values())).image.parent
            raise FileNotFoundError(f"{path} lists {name!r}, and no image in {folder} is named so.")
        if stem in listed:
            raise ValueError(f"{path} lists {name!r}, which was listed before, in {listed[stem]}.")
        listed[stem] = path
        yield stem


def _numbered(folder, samples):
    """Dict from the official index, from 0, to the sample of an export without lists."""
    rule = (
        f"An export of {INFO.title} without the lists train.txt and test.txt must be named by the "
        "official numbers, 0..1448 with 0 or 1..1449 with 1449 among them"
    )
    strange = [s.image.name for s in samples if not s.image.stem.isdecimal()]
    if strange:
        raise ValueError(f"{rule}: {folder} holds {strange[0]}. Add the lists.")
    numbers = _by_key(samples, lambda sample: int(sample.image.stem))
    if (0 in numbers) == (_FRAMES in numbers) or max(numbers) > _FRAMES:
        raise ValueError(
            f"{rule}: {folder} holds {len(numbers)} frames, {min(numbers)} to {max(numbers)}. Add "
            "the lists."
        )
    first = 0 if 0 in numbers else 1
    return {number - first: numbers[number] for number in sorted(numbers)}


def _official_splits(samples):
    splits = {
        split: [sample for i, sample in samples.items() if (_TRAIN >> i & 1) == (split == "train")]
        for split in INFO.counts
    }
    return {split: found for split, found in splits.items() if found}


def _by_key(samples, key):
    found = {}
    for sample in samples:
        other = found.setdefault(key(sample), sample)
        if other is not sample:
            raise ValueError(
                f"{other.image} and {sample.image} are the same frame, {key(sample)}: remove one."
            )
    return found


def _crop(sample):
    pictures = (sample.image, sample.mask)
    return Sample(*(_Inside(getattr(p, "file", p), p.stem, p) for p in pictures))
