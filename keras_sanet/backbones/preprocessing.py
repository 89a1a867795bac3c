"""What networks were trained with instead of raw RGB, 0..255."""

import numpy as np
from keras import layers, ops

# ImageNet's mean and standard deviation of RGB / 255, which torchvision and timm train with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def statistics(channels):
    """Mean and standard deviation, of values / 255, that each channel is normalized with.

    ImageNet's of R, G, B; for one or two channels, and for those after RGB, the mean of the three.
    """
    others = channels - 3 if channels >= 3 else channels
    return tuple((rgb if channels >= 3 else ()) + (sum(rgb) / 3,) * others for rgb in (_MEAN, _STD))


# Raw RGB times the scale plus the offset; the channels in the order R, G, B (as
# `keras.applications.imagenet_utils.preprocess_input` calls and defines most of them).
#   name     scale            offset                         then to BGR
MODES = {
    "none": (1.0, 0.0, False),
    "unit": (1 / 255, 0.0, False),
    "tf": (1 / 127.5, -1.0, False),
    "tf128": (1 / 128, -1.0, False),
    "torch": (None, None, False),  # by channel, from `statistics`
    "caffe": (1.0, [-123.68, -116.779, -103.939], True),
}


def preprocess(image, mode):
    """Raw images to what a network was trained with.

    Args:
        image: (batch, height, width, channels), 0..255; channels other than RGB for "torch" alone.
        mode: a name of `MODES`, or a layer, of which scale and offset count where it has them
            (keras-hub's ImageConverter would also resize).

    Returns:
        float32 (batch, height, width, channels), also under mixed precision: bfloat16 would
        round the image.
    """
    if mode not in MODES if isinstance(mode, str) else not callable(mode):
        raise ValueError(
            f"`preprocessing` must be one of {', '.join(MODES)}, or a layer. Received: {mode!r}."
        )
    bgr = False
    if mode == "torch":
        means, deviations = statistics(image.shape[-1])
        scale = [1 / (255 * deviation) for deviation in deviations]
        offset = [-mean / deviation for mean, deviation in zip(means, deviations)]
    elif isinstance(mode, str):
        scale, offset, bgr = MODES[mode]
    elif hasattr(mode, "scale") and hasattr(mode, "offset"):
        scale = 1.0 if mode.scale is None else mode.scale
        offset = 0.0 if mode.offset is None else mode.offset
    else:
        return mode(image)
    # With all three axes: Keras takes a flat list for the first axis where it is set to
    # "channels_first", even as a loaded model is called.
    scale, offset = np.reshape(scale, (1, 1, -1)).tolist(), np.reshape(offset, (1, 1, -1)).tolist()
    x = layers.Rescaling(scale, offset, dtype="float32", name="normalization")(image)
    return ops.flip(x, axis=-1) if bgr else x
