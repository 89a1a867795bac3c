"""What both loaders carry out: which samples, in which order, with which draws."""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from keras_sanet.datasets.files import UNREADABLE, VOID
from keras_sanet.pipeline.pillow import augment
from keras_sanet.pipeline.sampling import Augmentation, order


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """The samples of every epoch and their draws.

    Several devices get as many samples of a batch each. In evaluation, void samples (image 0, mask
    255), which no metric counts, fill the batch up. Of several processes each loads its share.
    """

    dataset: object
    split: str
    samples: list
    augmentation: Augmentation
    batch_size: int
    shuffle: bool
    drop_remainder: bool
    seed: int
    on_bad_image: str
    transform: Callable | None = None
    devices: int = 1
    process: int = 0
    processes: int = 1
    sizes: list = ()  # (height, width) of each image
    outputs: tuple = ()  # of a model with several, each of which gets the mask
    skip: int = 0  # batches left out at the beginning of an epoch
    errors: dict = dataclasses.field(default_factory=dict)  # name of an image -> its error
    raised: list = dataclasses.field(default_factory=list)

    def __repr__(self):
        size = self.augmentation.crop_size
        return (
            f"<Plan of {self.dataset.name!r}, {self.split}: {len(self.samples)} samples in "
            f"{len(self)} batches of {self.batch_size}, "
            f"{'of any size' if size is None else 'x'.join(map(str, size))}>"
        )

    def __len__(self):
        whole, rest = divmod(len(self.samples), self.batch_size)
        return whole + (1 if rest and not self.drop_remainder else 0) - self.skip

    @property
    def share(self):
        """Samples of a batch that this process loads."""
        return (self.batch_size + self._count_void(self.batch_size)) // self.processes

    def _count_void(self, count):
        """Number of void samples that fill up a batch of `count`."""
        return 0 if self.shuffle else -count % self.devices

    def epoch(self, epoch):
        """Index of each sample in order, and its draws; ~index is a void one of its size."""
        count = len(self.samples)
        indexes = order(self.seed, epoch, count) if self.shuffle else np.arange(count)
        shares = []
        for start in range(self.skip * self.batch_size, count, self.batch_size)[: len(self)]:
            batch = indexes[start : start + self.batch_size]
            batch = np.append(batch, [~batch[0]] * self._count_void(len(batch))).astype("int64")
            shares.append(np.split(batch, self.processes)[self.process])
        indexes = np.concatenate(shares)
        draws = self.augmentation.draws(self.seed, epoch, count)
        return indexes, draws[np.maximum(indexes, ~indexes)]

    def files(self, epoch, batch):
        """Names of a batch's images that this process loads."""
        indexes = self.epoch(epoch)[0][batch * self.share : (batch + 1) * self.share]
        return [str(self.samples[i].image) for i in indexes if i >= 0]

    def readable(self):
        """The plan of the samples whose headers can be read, with their sizes."""
        kept = []
        for sample in self.samples:
            try:
                kept.append((sample, self.dataset.size(sample)))
            except (OSError, ValueError) as error:
                self._note(sample, error)
        samples, sizes = zip(*kept)
        return dataclasses.replace(self, samples=samples, sizes=sizes)

    def targets(self, mask):
        """What `fit` takes for the masks of a batch: a dict by output where there are several."""
        return dict.fromkeys(self.outputs, mask) or mask

    def pair(self, index, draw):
        """Image and mask of a sample, augmented, uint8."""
        if index < 0:
            image, mask = self.pair(~index, draw)
            return np.zeros_like(image), np.full_like(mask, VOID)
        sample = self.samples[index]
        try:
            image, mask = self.dataset.open(sample)
        except (OSError, ValueError) as error:
            self._note(sample, error)
            height, width = self.sizes[index]
            image, mask = Image.new("RGB", (width, height)), np.full((height, width), VOID, "uint8")
        image, mask = augment(image, mask, self.augmentation.choose_window(mask, draw), draw)
        if self.transform is None:
            return image, mask
        try:
            return self._transformed(image, mask)
        except Exception as error:  # whatever a function of the user's raises
            told = ValueError(f"`transform` failed for {sample.image}: {error}")
            self._note(sample, told)
            raise told from error

    def _transformed(self, image, mask):
        found = self.transform(image, mask)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise ValueError(f"it must return (image, mask), and returned {type(found).__name__}.")
        new_image, new_mask = map(np.asarray, found)
        for name, new, old in (("image", new_image, image), ("mask", new_mask, mask)):
            if new.shape != old.shape or new.dtype.kind not in "uif":
                raise ValueError(
                    f"it must return the {name} as numbers of shape {old.shape}, and returned "
                    f"{new.dtype} of shape {new.shape}."
                )
        if new_image.dtype.kind == "f" and 0 < new_image.max() <= 1 < image.max():
            raise ValueError("it must return the image in 0..255, and returned 0..1.")
        known = np.isin(new_mask, [*range(self.dataset.num_classes), VOID])
        if not known.all():
            raise ValueError(
                f"it must return class ids below {self.dataset.num_classes}, or 255, and returned "
                f"{np.unique(new_mask[~known])[:10].tolist()}."
            )
        return np.rint(new_image).clip(0, 255).astype("uint8"), new_mask.astype("uint8")

    def _note(self, sample, error):
        """Keeps the error of a sample; raises it where it does not mean a file to be left out."""
        self.errors[str(sample.image)] = error
        count = len(self.errors)
        if self.on_bad_image == "skip" and isinstance(error, UNREADABLE):
            if count <= max(1, len(self.samples) // 10) and count < len(self.samples):
                return
            error = OSError(
                f"{count} of {len(self.samples)} images can't be read, too many to leave out. The "
                f"last one: {error}"
            )
        self.raised.append(error)
        raise error
