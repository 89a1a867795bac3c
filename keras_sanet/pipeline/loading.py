"""`make_dataset`: a split of a data set as batches for `fit`, `evaluate` and `predict`."""

import dataclasses

import keras
import numpy as np

from keras_sanet.pipeline.pillow import PillowDataset, augment
from keras_sanet.pipeline.sampling import Augmentation, order


@dataclasses.dataclass(frozen=True)
class Plan:
    """What both loaders carry out: which samples, in which order, with which draws."""

    dataset: object
    samples: list
    augmentation: Augmentation
    batch_size: int
    shuffle: bool
    drop_remainder: bool
    seed: int

    def __len__(self):
        whole, rest = divmod(len(self.samples), self.batch_size)
        return whole + (1 if rest and not self.drop_remainder else 0)

    def epoch(self, epoch):
        """Index of each sample in order, and its draws."""
        count = len(self.samples)
        indexes = order(self.seed, epoch, count) if self.shuffle else np.arange(count)
        return indexes, self.augmentation.draws(self.seed, epoch, count)[indexes]

    def pair(self, index, draw):
        """Image and mask of a sample, augmented, uint8."""
        image, mask = self.dataset.open(self.samples[index])
        return augment(image, mask, self.augmentation.choose_window(mask, draw), draw)


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
        batch_size: samples a batch, over all devices.
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

    Returns: a `tf.data.Dataset` or a `keras.utils.PyDataset`, with a method `set_epoch(epoch)`.
        Without it, epochs count up from 0 as they are iterated.

    Raises: ValueError or FileNotFoundError that names the argument or the file. All files' headers
        are read at once; what only decoding shows is raised when the sample is reached.
    """
    if crop_size is None and training:
        raise ValueError("`crop_size` must be given in training: (height, width) in pixels.")
    if isinstance(crop_size, int):
        crop_size = (crop_size, crop_size)
    for name, value in (("batch_size", batch_size), *(("crop_size", n) for n in crop_size or ())):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be positive integers. Received: {value}.")
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
    if low <= 0 or image_scale <= 0:
        raise ValueError(
            "`scale_range` must be (least, largest), and it and `image_scale` above 0. "
            f"Received: scale_range={scale_range}, image_scale={image_scale}."
        )
    if class_limit is not None and not 0 < class_limit <= 1:
        raise ValueError(
            f"`class_limit` must be a share, above 0 and up to 1. Received: {class_limit}."
        )
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
    plan = Plan(
        dataset,
        samples,
        augmentation,
        batch_size,
        shuffle=training,
        drop_remainder=training if drop_remainder is None else drop_remainder,
        seed=int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed,
    )
    sizes = set(dataset.sizes(split))
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
