"""Probabilities and masks at the image's own size (paper, section IV-C: several scales)."""

from pathlib import Path

import numpy as np
from keras import ops

from keras_sanet.datasets.files import read_image
from keras_sanet.layers.resizing import resize


def predict_probabilities(model, image, scales=(1.0,), flip=False, window=None):
    """Class probabilities of every pixel of one image, averaged over scales and mirror images.

    Args:
        model: images to logits, or to a dict with "logits".
        image: RGB 0..255, (height, width, 3), or the path of a file.
        scales: factors of the image's size (bilinear, no antialiasing).
        flip: also predict the mirror image of each.
        window: (height, width) or one number for both, in pixels: predict by windows of this size
            with a stride of two thirds of it, averaged where they overlap. None: the whole image.

    Returns: float32 (height, width, classes), the size of the image whatever the scales.

    Raises: ValueError where the image is not of that shape, `scales` is empty or not above 0, or
        `window` is not above 0.
    """
    if isinstance(image, (str, Path)):
        image = read_image(image)
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"`image` must be (height, width, 3). Received: shape {image.shape}.")
    if len(scales) == 0 or min(scales) <= 0:
        raise ValueError(f"`scales` must be numbers above 0. Received: scales={scales}.")
    if isinstance(window, int):
        window = (window, window)
    if window is not None and min(window) < 1:
        raise ValueError(f"`window` must be at least 1 pixel. Received: window={window}.")
    size = image.shape[:2]
    total = 0.0
    for scale in scales:
        scaled = _resize(image, tuple(max(1, round(n * scale)) for n in size))
        for mirror in (1, -1) if flip else (1,):
            probabilities = _predict(model, scaled[:, ::mirror], window)[:, ::mirror]
            total = total + _resize(probabilities, size)
    return total / (len(scales) * (2 if flip else 1))


def predict_mask(model, image, scales=(1.0,), flip=False, window=None):
    """Class ids of every pixel of one image, uint8 (height, width); see `predict_probabilities`."""
    probabilities = predict_probabilities(model, image, scales, flip, window)
    return probabilities.argmax(axis=-1).astype("uint8")


def _predict(model, image, window):
    """Probabilities of an image at its size, in one piece or by windows."""
    if window is None:
        return _forward(model, image)
    height, width = image.shape[:2]
    padding = [(0, max(0, w - n)) for n, w in zip((height, width), window)]
    padded = np.pad(image, (*padding, (0, 0)), mode="reflect")
    total, count = 0.0, np.zeros((*padded.shape[:2], 1), "float32")
    for top in _starts(padded.shape[0], window[0]):
        for left in _starts(padded.shape[1], window[1]):
            part = np.s_[top : top + window[0], left : left + window[1]]
            probabilities = _forward(model, padded[part])
            if not np.ndim(total):
                total = np.zeros((*padded.shape[:2], probabilities.shape[-1]), "float32")
            total[part] += probabilities
            count[part] += 1
    return (total / count)[:height, :width]


def _starts(size, window):
    """First pixels of windows that cover `size`, the last one shifted inside."""
    stride = max(1, -(-2 * window // 3))
    return sorted({min(start, size - window) for start in range(0, size, stride)})


def _forward(model, image):
    logits = model.predict_on_batch(np.ascontiguousarray(image)[None])
    logits = logits["logits"] if isinstance(logits, dict) else logits
    return ops.convert_to_numpy(ops.softmax(logits, axis=-1))[0]


def _resize(array, size):
    """Bilinear, of (height, width, channels) to `size`, float32."""
    if array.shape[:2] == tuple(size):
        return array
    array = ops.convert_to_tensor(array, dtype="float32")
    return ops.convert_to_numpy(resize(array[None], size)[0])
