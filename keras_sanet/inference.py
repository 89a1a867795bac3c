"""Probabilities and masks at the image's own size (paper, section IV-C: several scales).

The protocols, all of which average class probabilities (softmax) of equal weight:

- whole image: one prediction. Exact; JAX compiles it anew for every size of image.
- `bucket`: the same, padded right and below with ImageNet's mean colour to multiples of `bucket`
  pixels, so that few sizes are compiled. Padding changes what the pyramid pools and what the
  convolutions see at the border: figures differ from those of the whole image.
- `window`: windows of one size with a stride of two thirds of it, the last ones shifted inside,
  averaged where they overlap; an image smaller than the window is reflected. One compiled size.
- `scales`, `flip`: one of the above for each size of the image, and for its mirror image.

What happens to probabilities outside of the model is computed by NumPy, in float32: the same on
every backend, and never compiled. Means are running ones, and resizing adds to one neighbour its
weighted difference from the other, so that equal numbers stay what they are to the last bit.
"""

import numpy as np
from keras import ops
from rich.progress import track

from keras_sanet.backbones import MEAN
from keras_sanet.backend import runs_on_cpu
from keras_sanet.datasets.files import find_images, read_image


def predict_probabilities(
    model, image, scales=(1.0,), flip=False, window=None, bucket=None, batch_size=None
):
    """Class probabilities of every pixel of one image, averaged over scales and mirror images.

    Args:
        model: images to logits, or to a dict with "logits".
        image: RGB 0..255, (height, width, 3), or the path of a file.
        scales: factors of the image's size (bilinear, no antialiasing).
        flip: also predict the mirror image of each.
        window: (height, width) or one number for both, in pixels: predict by windows of this size.
            Best that of the training crops. None: the whole image.
        bucket: pad the whole image to multiples of so many pixels; None: don't.
        batch_size: windows computed at once, which bounds the memory. None: 1 on a CPU, where more
            gains nothing, 8 on an accelerator. The whole image and its mirror image are computed
            one after the other.

    Returns: float32 (height, width, classes), the size of the image whatever the scales.

    Raises: ValueError where the image is not of that shape or of a size that the model does not
        take, the model gives NaN, or another argument is not as above.
    """
    name = "the image"
    if not hasattr(image, "shape"):
        name, image = str(image), read_image(image)
    image = np.asarray(image, "float32")
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"`image` must be (height, width, 3). Received: shape {image.shape}.")
    window = (window, window) if isinstance(window, int) else window
    _check(scales, window, bucket, batch_size)
    size, mean = image.shape[:2], _Mean()
    for scale in scales:
        scaled = _resize(image, tuple(max(1, round(n * scale)) for n in size))
        views = [scaled, scaled[:, ::-1]] if flip else [scaled]
        if window is None:
            predicted = (_whole(model, view, bucket) for view in views)
        else:
            predicted = _by_windows(model, views, window, batch_size)
        for mirror, probabilities in zip((1, -1), predicted):
            mean.add(_resize(probabilities[:, ::mirror], size))
    if np.isnan(mean.value).any():
        raise ValueError(
            f"The model's logits for {name} are NaN or infinite. Were its weights trained to NaN, "
            "or do they overflow in float16?"
        )
    return mean.value


def predict_mask(model, image, **mode):
    """Class ids of every pixel of one image, (height, width); `mode`: see `predict_probabilities`.

    Returns: uint8, or uint16 for more than 256 classes.
    """
    return mask_of(predict_probabilities(model, image, **mode))


def mask_of(probabilities):
    """The most probable class of every pixel, (height, width): uint8, or uint16 for more than 256
    classes."""
    dtype = "uint8" if probabilities.shape[-1] <= 256 else "uint16"
    return probabilities.argmax(axis=-1).astype(dtype)


def predict_folder(model, folder, progress=True, **mode):
    """Predicts the images of a folder one by one, in order of their names (2 before 10).

    Args: model, mode: see `predict_probabilities`; folder, of image files; progress, whether to
        show a progress bar.
    Yields: the path of an image and its mask, see `predict_mask`.
    """
    for path in track(find_images(folder), "Predicting", disable=not progress):
        yield path, predict_mask(model, path, **mode)


def _check(scales, window, bucket, batch_size):
    if len(scales) == 0 or not min(scales) > 0:
        raise ValueError(f"`scales` must be numbers above 0. Received: scales={scales}.")
    if window is not None and (len(window) != 2 or min(window) < 1):
        raise ValueError(
            "`window` must be (height, width), each at least 1 pixel. Received: "
            f"window={tuple(window)}."
        )
    for name, value in (("bucket", bucket), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={value}.")
    if window is not None and bucket is not None:
        raise ValueError(
            f"`bucket` is for whole images: windows are of one size anyway. Received: "
            f"window={tuple(window)} and bucket={bucket}."
        )


class _Mean:
    """The mean of arrays of one shape, added one by one."""

    def __init__(self):
        self.value, self._count = None, 0

    def add(self, array):
        self._count += 1
        if self._count == 1:
            self.value = array
        else:
            self.value = self.value + (array - self.value) / np.float32(self._count)


def _whole(model, image, bucket):
    """Probabilities of an image in one piece."""
    height, width = image.shape[:2]
    if bucket is not None:
        padded = np.empty((-(-height // bucket) * bucket, -(-width // bucket) * bucket, 3), "f4")
        padded[:] = 255 * np.array(MEAN)
        padded[:height, :width] = image
        image = padded
    return _forward(model, image[None])[0, :height, :width]


def _by_windows(model, views, window, batch_size):
    """Yields the probabilities of each of several images of one size, computed by windows."""
    height, width = views[0].shape[:2]
    padding = [(0, max(0, w - n)) for n, w in zip((height, width), window)]
    views = [np.pad(view, (*padding, (0, 0)), mode="reflect") for view in views]
    places = [
        np.s_[top : top + window[0], left : left + window[1]]
        for top in _starts(views[0].shape[0], window[0])
        for left in _starts(views[0].shape[1], window[1])
    ]
    batch_size = batch_size or (1 if runs_on_cpu() else 8)
    pieces = [view[place] for view in views for place in places]
    predicted = _in_batches(model, pieces, batch_size)
    for view in views:
        mean, count = None, np.zeros((*view.shape[:2], 1), "float32")
        for place, probabilities in zip(places, predicted):
            if mean is None:
                mean = np.zeros((*view.shape[:2], probabilities.shape[-1]), "float32")
            count[place] += 1
            mean[place] += (probabilities - mean[place]) / count[place]
        yield mean[:height, :width]


def _in_batches(model, images, batch_size):
    """Yields the probabilities of each image; the last batch is filled up, so that all are of one
    shape."""
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        filled = batch + [batch[-1]] * (batch_size - len(batch))
        yield from _forward(model, np.stack(filled))[: len(batch)]


def _starts(size, window):
    """First pixels of windows that cover `size`, the last one shifted inside."""
    stride = max(1, -(-2 * window // 3))
    return sorted({min(start, size - window) for start in range(0, size, stride)})


def _forward(model, images):
    """Probabilities, (batch, height, width, classes)."""
    shape = getattr(model, "input_shape", None)  # subclasses of `keras.Model` may have none
    fixed = shape[1:3] if isinstance(shape, tuple) and len(shape) == 4 else (None, None)
    if any(a not in (None, b) for a, b in zip(fixed, images.shape[1:3])):
        raise ValueError(
            f"The model takes images of {fixed[0]} x {fixed[1]} pixels (height x width) alone. "
            f"Pass window={fixed}. Received: {images.shape[1]} x {images.shape[2]}."
        )
    logits = model.predict_on_batch(images)
    logits = logits["logits"] if isinstance(logits, dict) else logits
    logits = ops.convert_to_numpy(logits).astype("float32")
    with np.errstate(invalid="ignore"):  # infinite logits become NaN, an error later
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _resize(array, size):
    """Bilinear, of (height, width, channels) to `size`: half-pixel centres, no antialiasing."""
    for axis, (new, old) in enumerate(zip(size, array.shape)):
        if new == old:
            continue
        position = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
        low = position.astype(int)
        weight = (position - low).astype("float32").reshape((-1, 1) if axis else (-1, 1, 1))
        first, last = array.take(low, axis), array.take(np.minimum(low + 1, old - 1), axis)
        last -= first
        last *= weight
        array = np.add(first, last, out=first)
    return array
