"""Time of reading masks in colors, beside masks of ids of the same pictures.

    python tests/benchmarks/color_masks.py [HEIGHT WIDTH]

Prints medians of interleaved rounds, in milliseconds, and their ratios to the ids.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from keras_sanet import datasets
from keras_sanet.datasets.files import open_mask

ROUNDS = 31


def draw(rng, height, width, classes=11):
    """A mask of some ellipses, as street scenes have segments."""
    image = Image.new("L", (width, height))
    for _ in range(60):
        x, y, a, b = (int(rng.integers(5, n)) for n in (width, height, width // 4, height // 4))
        ImageDraw.Draw(image).ellipse([x - a, y - b, x + a, y + b], fill=int(rng.integers(classes)))
    return np.asarray(image)


def main(height=512, width=512):
    rng = np.random.default_rng(0)
    ids, colors = draw(rng, height, width), rng.integers(0, 256, (11, 3)).astype("uint8")
    palette = Image.fromarray(10 - ids)
    palette.putpalette(colors[::-1].tobytes())  # its indexes are no ids
    masks = {"ids": Image.fromarray(ids), "palette": palette, "RGB": Image.fromarray(colors[ids])}
    photo = Image.fromarray(rng.integers(0, 256, (8, 8, 3), "uint8")).resize((width, height))
    classes = "\n".join(f"c{i},{r},{g},{b}" for i, (r, g, b) in enumerate(colors.tolist()))
    jobs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, mask in masks.items():
            root = Path(folder, name)
            for part in ("images", "masks"):
                (root / part).mkdir(parents=True)
            photo.save(root / "images/a.jpg", quality=92)
            mask.save(root / "masks/a.png")
            (root / "classes.txt").write_text(classes)
            data = datasets.load("folder", root)
            (sample,) = data.samples("train")
            assert (data.read(sample)[1] == ids).all()
            jobs[f"mask, {name}"] = lambda d=data, s=sample: np.asarray(open_mask(d.mask_of(s)))
            jobs[f"picture and mask, {name}"] = lambda d=data, s=sample: d.read(s)
        jobs["Pillow alone, RGB"] = lambda: Image.open(Path(folder, "RGB/masks/a.png")).load()
        times = {name: [] for name in jobs}
        for _ in range(ROUNDS):
            for name, job in jobs.items():
                start = time.perf_counter()
                job()
                times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        base = medians["picture and mask, ids" if "picture" in name else "mask, ids"]
        print(f"{name:26} {value:7.2f} ms  {value / base:5.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
