"""SUN RGB-D (Song et al., 2015): 10335 frames of rooms from four cameras, in 37 classes, the first
37 of the 40 of NYU Depth v2.

The official tree is read, and two kinds of export to two folders of files: one is numbered per
split, the other runs through both.
"""

import dataclasses
import re
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from keras_sanet.datasets.dataset import Dataset, Sample
from keras_sanet.datasets.files import VOID, Frame, image_suffixes, open_file
from keras_sanet.datasets.hdf5 import check_array, hdf5_handle, open_hdf5
from keras_sanet.datasets.info import Info, colors
from keras_sanet.datasets.listing import find_images
from keras_sanet.datasets.nyuv2 import NAMES

INFO = Info(
    name="sunrgbd",
    title="SUN RGB-D",
    classes=colors(NAMES[:37]),
    counts={"train": 5285, "test": 5050},
    files=(
        "SUNRGBD with SUNRGBDtoolbox",
        "image/train/img-000001.jpg with label37/train/00000001.png (also test)",
        "image/img-000001.jpg with label37/00000001.png, numbered 1..5050 for testing and "
        "5051..10335 for training (label37 may be named semseg-label37)",
    ),
    license="none is stated by the authors; for research",
    citation='Song, Lichtenberg, Xiao, "SUN RGB-D: a RGB-D scene understanding benchmark suite", '
    "2015",
    url="https://rgbd.cs.princeton.edu/",
)
_LABELS = "label37", "semseg-label37"
_META = "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat"
_SEGMENTATION = "SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat"
_SPLIT = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
_MAPS = "SUNRGBD2Dseg/seglabel"  # of _SEGMENTATION: a reference a sample
_CONTENTS = ["files"], ["test"], ["train"], ["test", "train"]  # of the two folders of an export
_HINT = (  # the first id can't be seen from the names of the files
    "Files with 0 = void, 1..37 are loaded with `first_id=1`, files with 0..36, 255 = void with "
    "`first_id=0`."
)
_AUTHORS = "/n/fs/sun3d/data"  # where the paths in the .mat files start


@dataclasses.dataclass(frozen=True)
class _Image(Frame):
    """An image named by its folders, for files of several cameras share their names."""

    def open(self):
        return open_file(self.file)


@dataclasses.dataclass(frozen=True)
class _Map(Frame):
    """One of the label maps of SUNRGBD2Dseg.mat, by its index from 0."""

    index: int

    def open(self):
        return Image.fromarray(np.ascontiguousarray(self._map()[()].T))

    def header(self):
        return Image.new("L", self._map().shape)  # stored transposed: (width, height)

    def _map(self):
        file = hdf5_handle(self.file)
        reference = file[_MAPS][self.index, 0]
        if not reference:
            raise ValueError(f"{self} has no label map, entry {self.index + 1} of {_MAPS}.")
        array = file[reference]
        if len(array.shape) != 2 or array.dtype != "uint8":
            raise ValueError(
                f"{self} must be a uint8 map of two axes, and is {array.dtype} of shape "
                f"{array.shape}."
            )
        return array


def load(root, *, first_id=1):
    """Reads the official tree, `SUNRGBD` with `SUNRGBDtoolbox`, or else an export.

    An export has its images in `image` and its masks in `label37` or `semseg-label37`, matched by
    the number at the end of their names. With the folders `train` and `test` in both, these are the
    splits; without them, 1..5050 are for testing and 5051..10335 for training.

    Args:
        root: the folder.
        first_id: the id of the first class, wall, in the files of an export. 1: the ids are 1..37,
            and 0 is void. 0: the ids are 0..36, and 255 is void.

    Returns:
        `Dataset`.
    """
    if first_id not in (0, 1):
        raise ValueError(f"`first_id` of SUN RGB-D must be 0 or 1, got {first_id!r}.")
    root = Path(root)
    classes = dict(enumerate(range(len(INFO.classes)), start=first_id))
    ids = {VOID if first_id == 0 else 0: VOID, **classes}
    if (root / "SUNRGBDtoolbox").is_dir() or (root / "SUNRGBD").is_dir():
        if first_id == 0:
            raise ValueError(
                f"{root} is the official tree of SUN RGB-D, whose first class has the id 1: leave "
                "out `first_id=0`, which is for exports."
            )
        return Dataset.from_info(INFO, _read_official(root), ids)
    left_out = {}
    splits = _read_export(root, left_out)
    return Dataset.from_info(INFO, splits, ids, left_out=left_out, hint=_HINT)


# The official tree


def _read_official(root):
    missing = [name for name in (_META, _SEGMENTATION, _SPLIT) if not (root / name).is_file()]
    if not (root / "SUNRGBD").is_dir():
        missing.append("SUNRGBD")
    if missing:
        raise FileNotFoundError(
            f"{root} has no {', '.join(missing)}. The official tree is SUNRGBD.zip and "
            f"SUNRGBDtoolbox.zip, unpacked side by side. {INFO.way_out}"
        )
    split_of = {}
    for split in INFO.counts:
        for path in _mat_strings(root / _SPLIT, f"all{split}"):
            folder = _relative(path, root / _SPLIT)
            if split_of.setdefault(folder, split) != split:
                raise ValueError(f"{root / _SPLIT}: {path} is in both alltrain and alltest.")
    images = _mat_strings(root / _META, "SUNRGBDMeta", "rgbpath")
    with open_hdf5(root / _SEGMENTATION, INFO) as file:
        count = check_array(file, _MAPS, (None, 1), None, INFO).shape[0]
    if count != len(images):
        raise ValueError(
            f"{root / _SEGMENTATION} has {count} label maps for the {len(images)} images of "
            f"{root / _META}. {INFO.way_out}"
        )
    splits = {split: [] for split in INFO.counts}
    for index, path in enumerate(images):
        folder = _relative(path, root / _META).parent.parent  # of <folder>/image/<name>.jpg
        if folder not in split_of:
            raise ValueError(
                f"{root / _META}: entry {index + 1}, {path}, is in neither alltrain nor alltest "
                f"of {root / _SPLIT}."
            )
        stem = "_".join(folder.parts[1:])  # without SUNRGBD
        found = sorted((root / folder / "image").glob("*.jpg"))
        if len(found) != 1:
            raise FileNotFoundError(
                f"{root / folder / 'image'} must hold one .jpg, and holds {len(found)}. "
                f"{INFO.way_out}"
            )
        sample = Sample(_Image(found[0], stem), _Map(root / _SEGMENTATION, stem, index))
        splits[split_of[folder]].append(sample)
    return splits


def _mat_strings(path, name, field=None):
    """The strings of a cell array of a MATLAB v5 file, or those of a field of a struct array."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(
            f"{path} is read by SciPy, which is not installed: "
            '`pip install "keras-sanet[sunrgbd]"`.'
        ) from error
    try:
        found = loadmat(path, squeeze_me=True, variable_names=[name])
    except NotImplementedError as error:  # SciPy's of version 7.3
        raise ValueError(
            f"{path} is a MATLAB file of version 7.3, and must be of version 5 as the original. "
            f"{INFO.way_out}"
        ) from error
    except Exception as error:  # SciPy's errors of broken files are of many kinds
        raise ValueError(
            f"{path} can't be read as a MATLAB file of version 5: {error}. {INFO.way_out}"
        ) from error
    array = found.get(name)
    if field and array is not None:
        array = array[field] if field in (array.dtype.names or ()) else None
    if array is None:
        what = f"{name}.{field}" if field else name
        raise ValueError(f"{path} has no {what!r}. {INFO.way_out}")
    return [str(text) for text in np.atleast_1d(array)]


def _relative(path, source):
    """'SUNRGBD/...' of a path in the authors' file system."""
    try:
        return PurePosixPath(re.sub("/+", "/", path.strip())).relative_to(_AUTHORS)
    except ValueError:
        raise ValueError(f"{source}: the path {path!r} does not start with {_AUTHORS}.") from None


# Exports


def _read_export(root, left_out):
    labels = [root / name for name in _LABELS if (root / name).is_dir()]
    if not (root / "image").is_dir() or not labels:
        raise INFO.not_found(root)
    if len(labels) > 1:
        raise ValueError(f"{root} must have one of {' and '.join(_LABELS)}, and has both.")
    images, masks = root / "image", labels[0]
    content = _content(images)
    if content != _content(masks) or content not in _CONTENTS:
        raise ValueError(
            f"An export of {INFO.title} has train, test or both in its two folders, or files "
            f"alone. {images} has {' and '.join(content) or 'nothing'}, {masks} has "
            f"{' and '.join(_content(masks)) or 'nothing'}."
        )
    if content != ["files"]:
        splits = {split: _matched(images / split, masks / split, left_out) for split in content}
        return {split: list(splits[split].values()) for split in INFO.counts if split in splits}
    samples = _matched(images, masks, left_out)
    if min(samples) < 1 or max(samples) > sum(INFO.counts.values()):
        raise ValueError(
            f"{images} must be numbered within 1..{sum(INFO.counts.values())}, the testing images "
            f"first, and has {min(samples)} to {max(samples)}."
        )
    splits = {split: [] for split in INFO.counts}
    for number, sample in samples.items():
        splits["train" if number > INFO.counts["test"] else "test"].append(sample)
    return {split: found for split, found in splits.items() if found}


def _content(folder):
    """The names of the sub-folders of a folder, and "files" where it has images."""
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    files = any(path.suffix.lower() in image_suffixes() for path in visible)
    return sorted(path.name for path in visible if path.is_dir()) + ["files"] * files


def _matched(images, masks, left_out):
    """Dict from the number, in order, to its sample."""
    pictures, labels = _by_number(images, left_out), _by_number(masks, left_out, ".png")
    if lone := sorted(pictures.keys() ^ labels.keys()):
        where, other = (images, masks) if lone[0] in pictures else (masks, images)
        raise FileNotFoundError(
            f"{images} and {masks} must hold the same numbers, and {len(lone)} are in one of them "
            f"alone. The first: {lone[0]} is in {where} and not in {other}."
        )
    return {number: Sample(pictures[number], labels[number]) for number in sorted(pictures)}


def _by_number(folder, left_out, suffix=None):
    """Dict from the number at the end of a name to the file."""
    found = {}
    for path in find_images(folder, left_out):
        number = re.search(r"\d+$", path.stem)
        if not number or path.suffix.lower() != (suffix or path.suffix.lower()):
            raise ValueError(
                f"{path} must be named by a number, as img-000001.jpg and its mask 00000001.png."
            )
        other = found.setdefault(int(number[0]), path)
        if other is not path:
            raise ValueError(f"{other} and {path} have the same number: remove one.")
    return found
