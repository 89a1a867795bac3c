"""`make_dataset`: a split of a data set as batches for `fit`, `evaluate` and `predict`."""

import keras
import numpy as np

from keras_sanet import _backend
from keras_sanet._arguments import integer, sides
from keras_sanet.pipeline.pillow import PillowDataset
from keras_sanet.pipeline.plan import Plan
from keras_sanet.pipeline.sampling import Augmentation

_LEAST = {"rotation_range": -180, "hue_range": -1}  # of the others 0


def make_dataset(
    dataset,
    split,
    *,
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
    transform=None,
    image_scale=1.0,
    drop_remainder=None,
    loader=None,
    on_bad_image="error",
):
    """Makes batches of a split: (images, masks), uint8 (batch, height, width, 3) and (batch,
    height, width), 255 = void.

    In training, samples are shuffled, and each pair of image and mask is scaled, cropped, flipped
    and changed in contrast (paper, section IV-C). The draws depend on (seed, epoch, index) alone.
    Images are resized bilinearly (half-pixel centers, no antialiasing) and padded with 0, masks by
    nearest neighbor and padded with 255. In evaluation, pairs come in order: whole, or their center
    if `crop_size` is given.

    Args:
        dataset: from `datasets.load`.
        split: name of the split.
        crop_size: (height, width) or one number for both, in pixels; required in training.
        batch_size: samples a batch, over all devices (make the data set inside
            `distribution.scope`) and processes, each of which gets its share.
        training: False for evaluation, as above.
        seed: int, for the same draws again; None draws one.
        scale_range: least and largest factor of the size.
        contrast_range: least and largest a of 127 + a (x - 127).
        flip: whether half of the pairs are mirrored left to right.
        rotation_range: least and largest degrees, counter-clockwise about the crop's center.
        brightness_range: least and largest factor.
        saturation_range: least and largest factor.
        hue_range: least and largest turn of the hues, as a share of the color circle.
        blur_range: least and largest standard deviation of a Gaussian, in pixels of the file.
        class_limit: largest share of a crop's labeled pixels that one class may take, before it
            is rotated; up to ten places are tried. None for any.
        transform: function of image, uint8 (height, width, 3), and mask, uint8 (height, width), to
            a pair of the same shapes: image in 0..255 (floats are rounded) and class ids. It is
            called last, on every augmented crop, in evaluation too, and from several threads. It
            repeats its draws only if it has a seed of its own; resuming a run does not check it.
        image_scale: a factor on the size of all images and masks, before everything else.
        drop_remainder: whether the last, smaller batch of an epoch is left out; as `training` if
            None (each epoch leaves out others).
        loader: "tf.data", "pillow" (a `keras.utils.PyDataset`, no TensorFlow needed), or None:
            tf.data on the TensorFlow backend, else Pillow. Both give the same pairs.
        on_bad_image: "error", or "skip": an image or mask that is gone or can't be decoded is left
            out where its header shows it, and else is a black image whose pixels are all void. One,
            or up to a tenth of the split; `dataset.plan.errors` has them, and a run's skipped.txt.

    Returns:
        A `tf.data.Dataset` or a `keras.utils.PyDataset` with these attributes: `set_epoch(epoch)`
        says which epoch the next iteration is (without it they count up from 0), `rest(batches)`
        gives the rest of an epoch after so many batches, `for_outputs(names)` gives (images,
        {name: masks}) for a model with several outputs, and `plan` is the `Plan`.

    Raises:
        ValueError: with the name of the argument or the file.
        FileNotFoundError: with the name of the file. The headers of all files are read at once;
            what only decoding shows is raised when the sample is reached.
    """
    if crop_size is None and training:
        raise ValueError("`crop_size` must be given in training: (height, width) in pixels.")
    if crop_size is not None:
        crop_size = sides("crop_size", crop_size)
    batch_size = integer("batch_size", batch_size)
    ranges = {
        "scale_range": scale_range,
        "contrast_range": contrast_range,
        "rotation_range": rotation_range,
        "brightness_range": brightness_range,
        "saturation_range": saturation_range,
        "hue_range": hue_range,
        "blur_range": blur_range,
    }
    for name, limits in ranges.items():
        pair, least = isinstance(limits, (tuple, list)) and len(limits) == 2, _LEAST.get(name, 0)
        if not pair or not least <= limits[0] <= limits[1] < np.inf:
            raise ValueError(
                f"`{name}` must be (least, largest), {least} or more. Received: {name}={limits}."
            )
    if scale_range[0] <= 0 or not 0 < image_scale < np.inf:
        raise ValueError(
            "`scale_range` must be (least, largest), and it and `image_scale` above 0. "
            f"Received: scale_range={scale_range}, image_scale={image_scale}."
        )
    if class_limit is not None and not 0 < class_limit <= 1:
        raise ValueError(
            f"`class_limit` must be a share, above 0 and up to 1. Received: {class_limit}."
        )
    if transform is not None and not callable(transform):
        raise ValueError(
            f"`transform` must be a function of image and mask. Received: transform={transform!r}."
        )
    if on_bad_image not in ("error", "skip"):
        raise ValueError(
            f'`on_bad_image` must be "error" or "skip". Received: on_bad_image={on_bad_image!r}.'
        )
    if loader not in ("tf.data", "pillow", None):
        raise ValueError(
            f'`loader` must be "tf.data", "pillow" or None. Received: loader={loader!r}.'
        )
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    seed = integer("seed", seed, least=0, most=2**64 - 1)
    samples = dataset.samples(split)
    if not samples:
        raise ValueError(f"The split {split!r} of {dataset.name!r} has no samples.")
    if any(sample.mask is None for sample in samples):
        raise ValueError(f"The split {split!r} of {dataset.name!r} has no masks: predict only.")
    if training:
        ranges["scale_range"] = tuple(image_scale * factor for factor in scale_range)
        augmentation = Augmentation(crop_size, flip=flip, class_limit=class_limit, **ranges)
    else:
        augmentation = Augmentation(crop_size, (image_scale, image_scale), centre=True)
    devices, (process, processes) = _backend.devices(), _backend.process()
    tensorflow = keras.backend.backend() == "tensorflow"
    if drop_remainder is None:
        drop_remainder = training
    # TensorFlow's replicas may share the last batch unevenly.
    rest = 0 if drop_remainder or tensorflow else len(samples)
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
        seed=seed,
        on_bad_image=on_bad_image,
        transform=transform,
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
    if loader == "pillow" or (loader is None and not tensorflow):
        return PillowDataset(plan)
    from keras_sanet.pipeline import tf_data  # imports TensorFlow

    return tf_data.load(plan)
