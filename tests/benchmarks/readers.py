"""Reading speed of the data sets against plain Pillow on the same files, with and without a cache.

    python tests/benchmarks/readers.py [--rounds 7]

Trees of the official layouts are written for the run: drawn street scenes of 640x480 pixels,
2048x1024 for Cityscapes, and NYU Depth v2's .mat file with a few of its 1449 frames filled
(compressed in chunks of a frame; its peer is plain h5py). A round reads eight pairs with each
reader in turn; medians, milliseconds a pair.
"""

import argparse
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from keras_sanet import datasets
from keras_sanet.datasets import scenes

COUNT = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{'ms a pair':24}{'plain':>8}{'reader':>8}{'ratio':>7}{'cached':>8}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        for name in TREES:
            root = Path(folder, name)
            compare(name, root, write_tree(root, name), cache, options.rounds)
        root = Path(folder, "nyuv2")
        compare("nyuv2", root, write_mat(root), cache, options.rounds)


def compare(name, root, split, cache, rounds):
    plain = datasets.load(name, root)
    readers = {
        "plain": (read_plainly, plain.samples(split)[:COUNT]),
        "reader": (plain.read, plain.samples(split)[:COUNT]),
    }
    cached = datasets.load(name, root, cache=cache)
    readers["cached"] = (cached.read, cached.samples(split)[:COUNT])
    times = {reader: [] for reader in readers}
    for _ in range(rounds + 1):  # the first warms up, and fills the cache
        for reader, (read, samples) in readers.items():
            start = time.perf_counter()
            for sample in samples:
                read(sample)
            times[reader].append(1000 * (time.perf_counter() - start) / len(samples))
    base, *others = (np.median(seconds[1:]) for seconds in times.values())
    columns = "".join(f"{median:8.2f}{median / base:7.2f}" for median in others)
    print(f"{name:24}{base:8.2f}{columns}", flush=True)


def read_plainly(sample):
    if isinstance(sample.image, Path):
        return np.array(Image.open(sample.image).convert("RGB")), np.array(Image.open(sample.mask))
    with h5py.File(sample.image.file) as file:
        return tuple(np.array(file[part][sample.image.index].T) for part in ("images", "labels"))


def pairs(size=(480, 640), first_id=0):
    """Scenes whose classes start at `first_id`; at 1, void is 0."""
    for index in range(COUNT):
        image, mask = scenes.draw(0, index, size)
        yield image, mask + np.uint8(first_id)  # 255 + 1 is 0


# Data set: paths of an image and its mask, arguments of `pairs`, the split to read.
TREES = {
    "folder": ("images/train/{}.jpg", "masks/train/{}.png", {}, "train"),
    "camvid": ("train/images/{}.png", "train/labels/{}.png", {}, "train"),
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", {}, "train"),
    "ade20k": (
        "images/training/{}.jpg", "annotations/training/{}.png", {"first_id": 1}, "train"
    ),
    "sunrgbd": (
        "image/train/img-{}.jpg", "label37/train/{}.png", {"first_id": 1}, "train"
    ),
    "cityscapes": (
        "leftImg8bit/val/city/{}_leftImg8bit.png",
        "gtFine/val/city/{}_gtFine_labelIds.png",
        {"size": (1024, 2048)},
        "val",
    ),
}  # fmt: skip


def write_tree(root, name):
    *paths, arguments, split = TREES[name]
    for index, pair in enumerate(pairs(**arguments)):
        for array, path in zip(pair, paths):
            path = root / path.format(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "classes.txt").write_text("\n".join(scenes.CLASS_NAMES), "utf-8")  # of "folder"
    lists = root / "ImageSets/Segmentation"  # of "voc"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(map(str, range(COUNT))), "utf-8")
    return split


def write_mat(root):
    root.mkdir()
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        shape, chunk = (1449, 3, 640, 480), (1, 3, 640, 480)
        file.create_dataset("images", shape, "uint8", chunks=chunk, compression=3)
        shape, chunk = (1449, 640, 480), (1, 640, 480)
        file.create_dataset("labels", shape, "uint16", chunks=chunk, compression=3)
    frames = [sample.image.index for sample in datasets.load("nyuv2", root).samples("train")]
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as file:
        for index, (image, mask) in zip(frames, pairs(first_id=1)):
            file["images"][index], file["labels"][index] = image.T, mask.T
    return "train"


if __name__ == "__main__":
    main()
