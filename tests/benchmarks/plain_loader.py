"""JPEG and PNG to augmented pairs as one would write it with PyTorch's DataLoader: the peer of
`pipeline.py`. The same work: random scale and crop as one resize of a box, contrast, flip, padding.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset


def box_of(size, crop, scale, share):
    """Start and length in the source, start and length in the result."""
    scaled = round(size * scale)
    if scaled < crop:
        return 0, size, round(share * (crop - scaled)), scaled
    length = min(size, round(crop / scale))
    return round(share * (size - length)), length, 0, crop


class Pairs(Dataset):
    def __init__(self, root, repeats, crop, library):
        self.images = repeats * sorted(Path(root, "images").iterdir())
        self.masks = repeats * sorted(Path(root, "masks").iterdir())
        self.crop, self.library = crop, library
        cv2.setNumThreads(0)  # the workers share the cores

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        rng = np.random.default_rng()
        load = self.with_opencv if self.library == "opencv" else self.with_pillow
        image, mask = load(
            str(self.images[index]),
            str(self.masks[index]),
            rng.uniform(0.5, 2.0),
            rng.uniform(size=2),
            np.clip(127 + rng.uniform(0.75, 1.5) * (np.arange(256) - 127), 0, 255).astype("uint8"),
        )
        if rng.uniform() < 0.5:
            image, mask = image[:, ::-1].copy(), mask[:, ::-1].copy()
        return image, mask

    def with_opencv(self, image, mask, scale, shares, levels):
        image = cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(mask, cv2.IMREAD_UNCHANGED)
        (y, h, top, height), (x, w, left, width) = (
            box_of(n, self.crop, scale, share) for n, share in zip(mask.shape, shares)
        )
        image = cv2.resize(image[y : y + h, x : x + w], (width, height))
        mask = cv2.resize(
            mask[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        )
        border = (
            top,
            self.crop - top - height,
            left,
            self.crop - left - width,
            cv2.BORDER_CONSTANT,
        )
        image = cv2.copyMakeBorder(cv2.LUT(image, levels), *border, value=0)
        return image, cv2.copyMakeBorder(mask, *border, value=255)

    def with_pillow(self, image, mask, scale, shares, levels):
        image, mask = Image.open(image).convert("RGB"), Image.open(mask)
        (y, h, top, height), (x, w, left, width) = (
            box_of(n, self.crop, scale, share) for n, share in zip(image.size[::-1], shares)
        )
        box = (x, y, x + w, y + h)
        image = image.resize((width, height), Image.Resampling.BILINEAR, box)
        mask = mask.resize((width, height), Image.Resampling.NEAREST, box)
        image = image.point(levels.tolist() * 3)
        canvas = Image.new("RGB", (self.crop, self.crop)), Image.new("L", (self.crop,) * 2, 255)
        for part, whole in zip((image, mask), canvas):
            whole.paste(part, (left, top))
        return tuple(np.array(whole) for whole in canvas)


def epoch(root, repeats, crop_size, batch_size, workers, library):
    loader = DataLoader(
        Pairs(root, repeats, crop_size, library),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
    )

    return lambda: sum(len(images) for images, _ in loader)
