"""Pascal VOC segmentation, 21 classes (Everingham et al., 2010)."""

from pathlib import Path

from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.files import read_text
from keras_sanet.datasets.info import Info, colors

_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
INFO = Info(
    name="voc",
    title="Pascal VOC 2012",
    classes=colors(_NAMES, start=0),
    counts={"train": 1464, "val": 1449},
    files=(
        "ImageSets/Segmentation/train.txt (also val, trainval, test), JPEGImages and "
        "SegmentationClass in VOCdevkit/VOC2012, in VOC2012 or in the folder itself",
    ),
    license="Flickr images under Flickr's terms of use",
    citation='Everingham et al., "The Pascal visual object classes (VOC) challenge", IJCV 2010',
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
)


def load(root):
    """Reads the splits train, val, trainval and test that `ImageSets/Segmentation` lists.

    Args:
        root: the folder VOC2012, or one that holds it or VOCdevkit.

    Returns:
        `Dataset`; its test split has no masks.
    """
    root = Path(root)
    for tree in (root, root / "VOC2012", root / "VOCdevkit/VOC2012"):
        lists = {
            split: tree / f"ImageSets/Segmentation/{split}.txt"
            for split in ("train", "val", "trainval", "test")
        }
        splits = {split: _read(tree, file) for split, file in lists.items() if file.is_file()}
        if splits:
            return Dataset.from_info(INFO, splits, identity(len(_NAMES)))
    raise INFO.not_found(root)


def _read(tree, file):
    """Samples of a list of names; its files must be there."""
    names = read_text(file).split()
    if not names:
        raise ValueError(f"{file} lists no image: it has the name of an image a line.")
    images = [tree / f"JPEGImages/{name}.jpg" for name in names]
    masks = [tree / f"SegmentationClass/{name}.png" for name in names]
    if file.stem == "test":
        masks = []
    for files in (images, masks):
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(files)} files that {file} lists are not in "
                f"{missing[0].parent}: {', '.join(path.name for path in missing[:3])}. "
                f"{INFO.way_out}"
            )
    return [Sample(*paths) for paths in (zip(images, masks) if masks else zip(images))]
