"""Images of one scene in several splits: crops and frames of one photograph or video."""

import collections
import re

import numpy as np
from PIL import Image

_SIDE = 16  # pixels of a thumbnail
_ALIKE = 0.98  # least correlation of two thumbnails
_BLOCK = 2048  # thumbnails compared at once
_LARGEST_GROUP = 20  # images of one name but for a number, on average: more are a numbering
_SHOWN = 3  # named in a sentence
# What tools add to the name of a photograph: Roboflow's hash, the number of a crop.
_ROBOFLOW = re.compile(r"(_(jpe?g|png))?\.rf\.[0-9a-zA-Z]+$")
_NUMBER = re.compile(r"(?<=[^-_. ])[-_. ]+[0-9]{1,3}$")


def thumbnail(image):
    """What `alike` compares: a small gray picture of mean 0 and norm 1, float32; all 0 for an image
    of one color."""
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, "float32").ravel()
    pixels = pixels - pixels.mean()
    norm = np.linalg.norm(pixels)
    return pixels / norm if norm > _SIDE else np.zeros_like(pixels)


def describe(one, other, first, second):
    """Sentences about images that two splits should not share.

    Args:
        one: name of a split.
        other: name of another.
        first: (path, `thumbnail`, digest) of each image of the one.
        second: likewise of the other.

    Returns:
        List of strings.
    """
    texts = []
    stems = {
        split: [path.stem for path, *_ in group] for split, group in ((one, first), (other, second))
    }
    if shared := same_names(stems):
        texts.append(
            f"{one} and {other} hold parts of {len(shared)} photographs, by their names: "
            f"{', '.join(list(shared)[:_SHOWN])}. If they are crops or frames of one, metrics on "
            f"{other} are too good: put all of a photograph into one split."
        )
    thumbnails = [np.array([small for _, small, _ in group]) for group in (first, second)]
    pairs = [(first[i], second[j]) for i, j in alike(*thumbnails)]
    # Images that are the same, pixel by pixel, are a problem of their own.
    names = [f"{a[0].name} and {b[0].name}" for a, b in pairs if a[2] != b[2]]
    if names:
        texts.append(
            f"{len(names)} images of {other} look like one of {one}: {', '.join(names[:_SHOWN])}. "
            "If they show the same scene, put them into one split."
        )
    return texts


def alike(first, second):
    """Pairs of indexes of thumbnails of two splits that look the same, the most alike first.

    Args:
        first: array (images, pixels) of `thumbnail`s.
        second: likewise.

    Returns:
        List of (index in first, index in second), at most one for each of second.
    """
    pairs = []
    for start in range(0, len(second) if len(first) else 0, _BLOCK):
        block = second[start : start + _BLOCK]
        best, where = np.full(len(block), -1.0), np.zeros(len(block), int)
        for other in range(0, len(first), _BLOCK):
            found = block @ first[other : other + _BLOCK].T
            nearest = found.argmax(1)
            values = found[np.arange(len(found)), nearest]
            where = np.where(values > best, nearest + other, where)
            best = np.maximum(best, values)
        pairs += [(best[i], int(where[i]), start + i) for i in np.flatnonzero(best >= _ALIKE)]
    return [(i, j) for _, i, j in sorted(pairs, key=lambda pair: -pair[0])]


def same_names(splits):
    """Photographs of which several splits hold a part, told by the names of the files.

    Args:
        splits: dict from a split to the stems of its images.

    Returns:
        Dict from the name of a photograph to the splits that hold it. Empty where names are but
        numbers of one series.
    """
    groups = collections.defaultdict(lambda: collections.defaultdict(int))
    total = 0
    for split, stems in splits.items():
        for stem in stems:
            short = _ROBOFLOW.sub("", stem)
            groups[_NUMBER.sub("", short) if short == stem else short][split] += 1
            total += 1
    if total > _LARGEST_GROUP * len(groups):
        return {}
    return {name: list(found) for name, found in groups.items() if len(found) > 1}
