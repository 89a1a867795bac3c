"""`make_dataset`: a split of a data set as batches for `fit`, `evaluate` and `predict`."""

import dataclasses

import keras
import numpy as np
from PIL import Image

from keras_sanet import _backend
from keras_sanet._arguments import integer, sides
from keras_sanet.datasets.files import UNREADABLE, VOID
from keras_sanet.pipeline.pillow import PillowDataset, augment
from keras_sanet.pipeline.sampling import Augmentation, order


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """What both loaders carry out: which samples, in which order, with which draws.

    Of several devices each gets as many samples of a batch; so in evaluation void samples (image 0,
    mask 255), which no figure counts, fill it up. Of several processes each loads its share.
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
        return (self.batch_size + self._void(self.batch_size)) // self.processes

    def _void(self, count):
        """Number of void samples that fill up a batch of `count`."""
        return 0 if self.shuffle else -count % self.devices

    def epoch(self, epoch):
        """Index of each sample in order, and its draws; ~index is a void one of its size."""
        count = len(self.samples)
        indexes = order(self.seed, epoch, count) if self.shuffle else np.arange(count)
        shares = []
        for start in range(self.skip * self.batch_size, count, self.batch_size)[: len(self)]:
            batch = indexes[start : start + self.batch_size]
            batch = np.append(batch, [~batch[0]] * self._void(len(batch))).astype("int64")
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

    def rest(self, batches):
        """The plan of an epoch's rest, after so many of its batches."""
        return dataclasses.replace(self, skip=batches)

    def targets(self, mask):
        """What `fit` takes for the masks of a batch: a dict by output where there are several."""
        return dict.fromkeys(self.outputs, mask) or mask

    def for_outputs(self, names):
        """The plan for a model with these outputs."""
        return dataclasses.replace(self, outputs=tuple(names))

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
        return augment(image, mask, self.augmentation.choose_window(mask, draw), draw)

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


def make_dataset(
    dataset,
    split,
    crop_size=None,
    batch_size=8,
    training=True,
    seed=None,
    scale_range=(0.5, 2.0),
    contrast_range=(0.75, 1.5),
    flip=True,
    rotation_range=(0.0, 0.0),
    brightness_range=(1.0, 1.0),
    saturation_range=(1.0, 1.0),
    hue_range=(0.0, 0.0),
    blur_range=(0.0, 0.0),
    class_limit=None,
    image_scale=1.0,
    drop_remainder=None,
    loader=None,
    on_bad_image="error",
):
    """Batches of a split: (images, masks), uint8 (batch, height, width, 3) and (batch, height,
    width), 255 = void.

    In training, samples are shuffled and each (image, mask) pair is scaled, cropped, flipped and
    changed in contrast by draws keyed by (seed, epoch, index): images bilinearly (half-pixel
    centres, no antialiasing) and padded with 0, masks by nearest neighbour and padded with 255.
    Otherwise pairs come in order, whole, or their centre if `crop_size` is given.

    Args:
        dataset: from `datasets.load`.
        split: name of the split.
        crop_size: (height, width) or one number for both, in pixels; required in training.
        batch_size: samples a batch, over all devices (make the data set inside
            `distribution.scope`) and processes, each of which gets its share.
        training: as above.
        seed: int, for the same draws again; None draws one.
        scale_range, contrast_range, flip: the paper's augmentation in training.
        rotation_range, brightness_range, saturation_range, hue_range, blur_range, class_limit:
            more of it, see `Augmentation`; none unless asked for.
        image_scale: a factor on the size of all images and masks, before everything else.
        drop_remainder: whether the last, smaller batch of an epoch is left out; as `training` if
            None (each epoch leaves out others).
        loader: "tf.data", "pillow" (a `keras.utils.PyDataset`, no TensorFlow needed), or None:
            tf.data on the TensorFlow backend, else Pillow. Both give the same pairs.
        on_bad_image: "error", or "skip": an image or mask that is gone or can't be decoded is left
            out where its header shows it, and else is a black image whose pixels are all void. One,
            or up to a tenth of the split; `dataset.plan.errors` has them, and a run's skipped.txt.

    Returns: a `tf.data.Dataset` or a `keras.utils.PyDataset`. Its `set_epoch(epoch)` says which
        epoch the next iteration is; without it, they count up from 0. Its `rest(batches)` is the
        data set of an epoch's rest after so many batches, its `plan` what it carries out. Its
        `for_outputs(names)` gives (images, {name: masks}), for a model with several outputs.

    Raises: ValueError or FileNotFoundError that names the argument or the file. All files' headers
        are read at once; what only decoding shows is raised when the sample is reached.
    """
    if crop_size is None and training:
        raise ValueError("`crop_size` must be given in training: (height, width) in pixels.")
    if crop_size is not None:
        crop_size = sides("crop_size", crop_size)
    batch_size = integer("batch_size", batch_size)
    for name, limits, least in (
        ("scale_range", scale_range, 0),
        ("contrast_range", contrast_range, 0),
        ("rotation_range", rotation_range, -180),
        ("brightness_range", brightness_range, 0),
        ("saturation_range", saturation_range, 0),
        ("hue_range", hue_range, -1),
        ("blur_range", blur_range, 0),
    ):
        pair = isinstance(limits, (tuple, list)) and len(limits) == 2
        if not pair or not least <= limits[0] <= limits[1] < np.inf:
            raise ValueError(
                f"`{name}` must be (least, largest), {least} or more. Received: {name}={limits}."
            )
    low, high = scale_range
    if low <= 0 or not 0 < image_scale < np.inf:
        raise ValueError(
            "`scale_range` must be (least, largest), and it and `image_scale` above 0. "
            f"Received: scale_range={scale_range}, image_scale={image_scale}."
        )
    if class_limit is not None and not 0 < class_limit <= 1:
        raise ValueError(
            f"`class_limit` must be a share, above 0 and up to 1. Received: {class_limit}."
        )
    if on_bad_image not in ("error", "skip"):
        raise ValueError(
            f'`on_bad_image` must be "error" or "skip". Received: on_bad_image={on_bad_image!r}.'
        )
    if seed is not None:
        seed = integer("seed", seed, least=0, most=2**64 - 1)
    samples = dataset.samples(split)
    if not samples:
        raise ValueError(f"The split {split!r} of {dataset.name!r} has no samples.")
    if any(sample.mask is None for sample in samples):
        raise ValueError(f"The split {split!r} of {dataset.name!r} has no masks: predict only.")
    if training:
        scale_range = (image_scale * low, image_scale * high)
        augmentation = Augmentation(
            crop_size,
            scale_range,
            contrast_range,
            flip,
            rotation_range,
            brightness_range,
            saturation_range,
            hue_range,
            blur_range,
            class_limit,
        )
    else:
        augmentation = Augmentation(crop_size, (image_scale, image_scale), centre=True)
    devices, (process, processes) = _backend.devices(), _backend.process()
    if drop_remainder is None:
        drop_remainder = training
    # TensorFlow's replicas may share the last batch unevenly.
    rest = 0 if drop_remainder or keras.backend.backend() == "tensorflow" else len(samples)
    if training and (batch_size % devices or rest % devices):
        raise ValueError(
            f"In training, each of {devices} devices needs as many samples of a batch. Received: "
            f"batch_size={batch_size}, drop_remainder={drop_remainder} for {len(samples)} samples. "
            f"Choose a multiple of {devices} and leave out the last, smaller batch."
        )
    plan = Plan(
        dataset,
        split,
        samples,
        augmentation,
        batch_size,
        shuffle=training,
        drop_remainder=drop_remainder,
        seed=int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed,
        on_bad_image=on_bad_image,
        devices=devices,
        process=process,
        processes=processes,
    ).readable()
    sizes = set(plan.sizes)
    if crop_size is None and batch_size > 1 and len(sizes) > 1:
        raise ValueError(
            f"The images of {split!r} have {len(sizes)} sizes, such as {sorted(sizes)[:3]}, and "
            "can't be batched whole: use batch_size=1 or give `crop_size`."
        )
    if len(plan) == 0:
        raise ValueError(
            f"The split {split!r} has {len(samples)} samples, less than one batch of "
            f"{batch_size}: lower `batch_size` or set drop_remainder=False."
        )
    if loader is None:
        loader = "tf.data" if keras.backend.backend() == "tensorflow" else "pillow"
    if loader == "tf.data":
        from keras_sanet.pipeline import tf_data  # imports TensorFlow

        return tf_data.load(plan)
    if loader == "pillow":
        return PillowDataset(plan)
    raise ValueError(f'`loader` must be "tf.data", "pillow" or None. Received: loader={loader!r}.')
