"""`Dataset`: samples, and the class ids of their masks."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_sanet._tables import html_lines, html_table
from keras_sanet.datasets.colors import ColorMask, ColorTable
from keras_sanet.datasets.files import (
    LARGEST_ID,
    VOID,
    Frame,
    image_size,
    mask_size,
    open_image,
    open_mask,
    peculiarities,
)

_REPR_NAMES = 60  # characters of the names of the classes in a repr


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image and its mask.

    Attributes:
        image: its file, or a `Frame` of a file that holds many.
        mask: likewise; None where the truth is withheld.
    """

    image: Path | Frame
    mask: Path | Frame | None = None


@dataclasses.dataclass(repr=False)
class Dataset:
    """A data set on disk.

    Attributes:
        name: its name.
        class_names: names by class id.
        palette: (red, green, blue) by class id, 0..255.
        splits: dict from the name of a split to its list of `Sample`.
        class_ids: dict from the id in the mask files to the class id, or to 255 for void. Any
            other id in a file is an error.
        ignore_class: 255, void.
        counts: dict from a split to its official number of samples; empty if there is none.
        categories: dict from a category to its class ids; empty if there is none.
        count_instances: function of a sample and a predicted mask, what `evaluation` needs for the
            instance-level IoU; None without instances. See `cityscapes.count_instances`.
        left_out: dict from a reason to what was found and is not read: paths, or texts that name
            a shape and its file.
        color_table: `ColorTable` of mask files in colors; None where masks hold ids alone.
        notes: sentences that say how the files were understood.
        hint: sentence that ends the error of an unknown id.

    Raises:
        ValueError: for more than 255 classes (masks of uint8 have 255 ids beside void), and for ids
            that can't be.
    """

    name: str
    class_names: list
    palette: list
    splits: dict
    class_ids: dict
    _: dataclasses.KW_ONLY
    ignore_class: int = VOID
    counts: dict = dataclasses.field(default_factory=dict)
    categories: dict = dataclasses.field(default_factory=dict)
    count_instances: Callable | None = None
    left_out: dict = dataclasses.field(default_factory=dict)
    color_table: ColorTable | None = None
    notes: list = dataclasses.field(default_factory=list)
    hint: str = ""

    def __post_init__(self):
        count = len(self.class_names)
        if count > VOID:
            raise ValueError(
                f"{self.name!r} has {count} classes; 255 are the most, for masks are uint8 and 255 "
                "is void. Join some of them."
            )
        if strange := [i for i in self.class_ids if not 0 <= i <= LARGEST_ID]:
            raise ValueError(
                f"`class_ids` must map ids from 0 to {LARGEST_ID}. Received: {strange}."
            )
        if strange := sorted({*self.class_ids.values()} - {*range(count), VOID}):
            raise ValueError(
                f"`class_ids` must map to class ids below {count}, or to 255. Received: {strange}."
            )
        self._table = np.full(LARGEST_ID + 1, -1, "int16")
        for file_id, class_id in self.class_ids.items():
            self._table[file_id] = class_id

    def __repr__(self):
        splits = ", ".join(f"{split} {len(samples)}" for split, samples in self.splits.items())
        names = ", ".join(self.class_names)
        names = names if len(names) <= _REPR_NAMES else f"{names[:_REPR_NAMES]}..."
        return (
            f"<Dataset {self.name!r}: {self.num_classes} classes ({names}); samples: "
            f"{splits or 'none'}>"
        )

    def _repr_html_(self):
        splits = [
            (split, len(samples), self.counts.get(split, ""))
            for split, samples in self.splits.items()
        ]
        classes = [(i, *row) for i, row in enumerate(zip(self.class_names, *zip(*self.palette)))]
        return (
            html_lines([f"Dataset {self.name!r}, {self.num_classes} classes"])
            + html_table(["split", "samples", "official"], splits)
            + html_table(["id", "class", "red", "green", "blue"], classes, left=2)
        )

    @classmethod
    def from_info(cls, info, splits, class_ids, **others):
        """The data set that an `Info` describes, as it was found on disk.

        Args:
            info: the `Info`.
            splits: see `Dataset`.
            class_ids: see `Dataset`.
            **others: other attributes.
        """
        names, palette = list(info.classes), list(info.classes.values())
        return cls(info.name, names, palette, splits, class_ids, counts=info.counts, **others)

    @property
    def num_classes(self):
        """Number of classes; void is none."""
        return len(self.class_names)

    def samples(self, split):
        """The samples of a split, in order of their names."""
        if split not in self.splits:
            raise ValueError(
                f"The data set {self.name!r} has no split {split!r}. It has: "
                f"{', '.join(self.splits)}."
            )
        return self.splits[split]

    def read(self, sample):
        """Decodes a sample.

        Returns:
            Image, uint8 (height, width, 3), and mask, uint8 (height, width), or None without a mask
            file.

        Raises:
            ValueError: as `open`.
        """
        image, mask = self.open(sample)
        return np.array(image), mask

    def open(self, sample):
        """Decodes a sample, the image to a Pillow image of mode RGB, the mask as `read`.

        Raises:
            ValueError: with the file, where it is unreadable, truncated or of a refused kind, image
                and mask differ in size, or an id is no class.
        """
        image = open_image(sample.image)
        if sample.mask is None:
            return image, None
        ids = np.asarray(open_mask(self.mask_of(sample)))
        if ids.shape != image.size[::-1]:
            raise ValueError(describe_sizes(sample, image.size, ids.shape[::-1]))
        mask = self.classes_of(ids)
        if mask.min() < 0:
            unknown = np.unique(ids[mask < 0])[:10].tolist()
            raise ValueError(
                f"{sample.mask} holds the label ids {unknown}, which are no class of "
                f"{self.name!r}. Known ids: {describe_ids(self.class_ids)}. {self.hint}".rstrip()
            )
        return image, mask.astype("uint8")

    def mask_of(self, sample):
        """The path or `Frame` that gives the ids of a sample's mask."""
        if self.color_table is None or isinstance(sample.mask, Frame):
            return sample.mask
        return ColorMask(sample.mask, sample.mask.stem, self.color_table)

    def classes_of(self, ids):
        """Class ids of the ids in a mask file, int16; -1 where an id is none."""
        classes = self._table.take(ids, mode="clip")
        if ids.size and (ids.min() < 0 or ids.max() > LARGEST_ID):
            classes = np.where((ids < 0) | (ids > LARGEST_ID), -1, classes)
        return classes

    def sizes(self, split):
        """(height, width) of each sample, from the headers of the files, which it checks: they are
        there, of a kind that is read, and image and mask of one size."""
        return [self.size(sample) for sample in self.samples(split)]

    def size(self, sample):
        """As `sizes`, of one sample."""
        size = image_size(sample.image)
        if sample.mask is not None and (found := mask_size(self.mask_of(sample))) != size:
            raise ValueError(describe_sizes(sample, size, found))
        return size[::-1]


def identity(count):
    """The `class_ids` of masks that hold class ids, and 255 for void."""
    return {**{i: i for i in range(count)}, VOID: VOID}


def describe_sizes(sample, image_size, mask_size):
    """The text of an error: image and mask have these (width, height)."""
    text = (
        f"{sample.image} and its mask {sample.mask} differ in size (width, height): "
        f"{image_size} and {mask_size}."
    )
    if mask_size == image_size[::-1] and (found := peculiarities(sample.image)[0]) >= 5:
        text += (
            f" The image is turned by its EXIF orientation, {found}, and the mask fits it as it is "
            "stored: turn the mask, or remove the orientation (exiftool -Orientation= FILE)."
        )
    return text


def describe_ids(ids):
    """'0..10, 255' of a set of ids."""
    runs = []
    for i in sorted(ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in runs)
