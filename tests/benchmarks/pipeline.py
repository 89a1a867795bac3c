"""Input pipeline: JPEG and PNG on disk to augmented pairs, against PyTorch's DataLoader.

    python tests/benchmarks/pipeline.py [--data FOLDER] [--crop 473] [--rounds 7]

FOLDER holds images/, masks/ and classes.txt; without it, 64 drawn street scenes of 640x480 are
written for the run. A step is one epoch, four times through them, in batches of 8, by two workers.
Needs OpenCV (`pip install opencv-python-headless`) and PyTorch beside the package.
"""

import argparse
import tempfile
from pathlib import Path

from peers import Peer, compare, table
from PIL import Image

from keras_sanet.datasets import scenes

WORKERS, BATCH, COUNT, REPEATS = 2, 8, 64, 4


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of images and masks")
    parser.add_argument("--crop", type=int, default=473)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.data or write_scenes(Path(folder))
        run(str(root), options.crop, options.rounds)


def run(root, crop_size, rounds):
    arguments = {
        "root": root,
        "repeats": REPEATS,
        "crop_size": crop_size,
        "batch_size": BATCH,
        "workers": WORKERS,
    }
    peers = [
        Peer(f"DataLoader, {name}", "plain_loader", "epoch", {**arguments, "library": library})
        for name, library in (("OpenCV", "opencv"), ("Pillow", "pillow"))
    ]
    peers += [
        Peer(f"keras_sanet, {loader}", "ours", "epoch", {**arguments, "loader": loader}, backend)
        for loader, backend in (("tf.data", "tensorflow"), ("pillow", "jax"))
    ]
    compare(peers, rounds)
    table(f"{crop_size}x{crop_size} pairs, epoch of {root}", peers)
    count = REPEATS * len(list(Path(root, "images").iterdir()))
    for peer in peers:
        print(f"{peer.name:30}{count / peer.median / WORKERS:8.1f} images/s per core")


def write_scenes(root):
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for index in range(COUNT):
        image, mask = scenes.draw(0, index, (480, 640))
        Image.fromarray(image).save(root / "images" / f"{index}.jpg", quality=90)
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(scenes.CLASS_NAMES), "utf-8")
    return root


if __name__ == "__main__":
    main()
