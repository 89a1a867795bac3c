"""Probabilities and masks at the image's own size (paper, section IV-C: several scales).

The protocols, all of which average class probabilities of equal weight (softmax of logits, sigmoid
where there is one channel; those of the model itself where it gives them):

- whole image: one prediction. Exact; JAX compiles it anew for every size of image.
- `bucket`: the same, padded right and below with ImageNet's mean colour to multiples of `bucket`
  pixels, so that few sizes are compiled. Padding changes what the pyramid pools and what the
  convolutions see at the border: figures differ from those of the whole image.
- `window`: windows of one size with a stride of two thirds of it, the last ones shifted inside,
  averaged where they overlap; an image smaller than the window is reflected. Compiled once.
- `scales`, `flip`: one of the above for each size of the image, and for its mirror image.

What happens to probabilities outside of the model is computed by NumPy, in float32: the same on
every backend, and never compiled. Means are running ones, and resizing adds to one neighbour its
weighted difference from the other, so that equal numbers stay what they are to the last bit.
"""

import inspect
import operator
from pathlib import Path

import keras
import numpy as np
from keras import ops, tree
from rich.progress import track

from keras_sanet._backend import compiles_each_shape, runs_on_cpu
from keras_sanet.backbones.preprocessing import statistics
from keras_sanet.datasets.files import VOID, read_image
from keras_sanet.datasets.listing import find_images


def predict_probabilities(
    model,
    image,
    scales=(1.0,),
    flip=False,
    window=None,
    bucket=None,
    batch_size=None,
    from_logits=None,
):
    """Class probabilities of every pixel of one image, averaged over scales and mirror images.

    Args:
        model: images to logits or probabilities, or to a dict with "logits".
        image: 0..255, (height, width, channels of the model), or the path of a file, read as RGB.
        scales: factors of the image's size (bilinear, no antialiasing).
        flip: also predict the mirror image of each.
        window: (height, width) or one number for both, in pixels: predict by windows of this size.
            Best that of the training crops. None: the whole image.
        bucket: pad the whole image to multiples of so many pixels; None: don't.
        batch_size: windows computed at once, which bounds the memory. None: 4, and 1 with JAX on a
            CPU. The whole image and its mirror image are computed one after the other.
        from_logits: whether the model gives logits, or else probabilities. None: as its last
            operations tell (`gives_probabilities`).

    Returns: float32 (height, width, channels of the model's output), the size of the image whatever
        the scales. One channel is the probability of the second of two classes.

    Raises: ValueError, with the path if there is one, where the image is not of that shape, holds
        NaN or floats of 0..1, or is of a size that the model does not take; where the model does
        not give predictions of the image's size, or gives NaN, or it can't be told whether they
        are probabilities; where another argument is not as above.
    """
    mode = complete(
        scales=scales,
        flip=flip,
        window=window,
        bucket=bucket,
        batch_size=batch_size,
        from_logits=from_logits,
    )
    if not isinstance(image, (str, Path)):
        return _predict(model, image, **mode)
    pixels = read_image(image)
    try:
        return _predict(model, pixels, **mode)
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from error


def predict_mask(model, image, **mode):
    """Class ids of every pixel of one image, (height, width); `mode`: see `predict_probabilities`.

    Returns: see `mask_of`.
    """
    return mask_of(predict_probabilities(model, image, **mode))


def mask_of(probabilities):
    """The most probable class of every pixel, (height, width): uint8, or uint16 for more than 255
    classes (255 is void). Of one channel it is 1 above 0.5, and else 0."""
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > 0.5).astype("uint8")
    dtype = "uint8" if probabilities.shape[-1] <= VOID else "uint16"
    return probabilities.argmax(axis=-1).astype(dtype)


def predict_folder(model, folder, progress=True, **mode):
    """Predicts the images of a folder one by one, in order of their names (2 before 10).

    Args: model, mode: see `predict_probabilities`; folder, of image files; progress, whether to
        show a progress bar.
    Yields: the path of an image and its mask, see `predict_mask`.
    """
    for path in track(find_images(folder), "Predicting", disable=not progress):
        yield path, predict_mask(model, path, **mode)


def complete(**mode):
    """All arguments of `predict_probabilities` that say how, checked, with their defaults.

    Args: mode, some of them.
    Returns: dict of all, in plain Python: `scales` a tuple of floats, `window` one of two integers.
    Raises: TypeError for an unknown name, ValueError for a value that is not as it should be.
    """
    parameters = inspect.signature(predict_probabilities).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    unknown = sorted(mode.keys() - defaults)
    if unknown:
        raise TypeError(f"Unknown arguments {', '.join(unknown)}. Known: {', '.join(defaults)}.")
    mode = {**defaults, **mode}
    scales, window = mode["scales"], mode["window"]
    try:
        mode["scales"] = tuple(float(scale) for scale in _listed(scales))
    except (TypeError, ValueError):
        mode["scales"] = ()
    if not mode["scales"] or not all(0 < scale < np.inf for scale in mode["scales"]):
        raise ValueError(f"`scales` must be numbers above 0. Received: scales={scales}.")
    mode["flip"] = bool(mode["flip"])
    if mode["from_logits"] not in (None, False, True):
        raise ValueError(
            "`from_logits` must be True, False, or None to tell it from the model. Received: "
            f"from_logits={mode['from_logits']!r}."
        )
    if window is not None:
        sides = tuple(_listed(window))
        mode["window"] = tuple(map(_positive, sides * 2 if len(sides) == 1 else sides))
        if len(mode["window"]) != 2 or None in mode["window"]:
            raise ValueError(
                "`window` must be (height, width) or one number for both, integers of at least 1 "
                f"pixel. Received: window={window!r}."
            )
    for name in ("bucket", "batch_size"):
        value = mode[name]
        if value is not None and _positive(value) is None:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {value!r}.")
    if window is not None and mode["bucket"] is not None:
        raise ValueError(
            "`bucket` is for whole images: windows are of one size anyway. Received: "
            f"window={window} and bucket={mode['bucket']}."
        )
    return mode


def _listed(value):
    """What is in a list, or the one value."""
    return value if np.iterable(value) and not isinstance(value, str) else [value]


def _positive(value):
    """The integer of at least 1 that a value is, or None."""
    try:
        return operator.index(value) if operator.index(value) >= 1 else None
    except TypeError:
        return None


def gives_probabilities(model):
    """Whether a model gives probabilities, not logits.

    True where it ends with a softmax or a sigmoid, followed at most by what keeps probabilities:
    resizing, cropping, reshaping, casting, the mean of several. False where it ends with another
    layer with an activation. None where that can't be seen: in a subclass of `keras.Model`, behind
    a layer of one's own or arithmetic.
    """
    try:
        outputs = model.output
    except (AttributeError, ValueError):
        return None
    output = outputs.get("logits") if isinstance(outputs, dict) else outputs
    return _is_probability(output) if isinstance(output, keras.KerasTensor) else None


# Names of Keras's layers, operations and activations.
_PROBABILITIES = {
    "HardSigmoid", "Sigmoid", "Softmax", "Sparsemax", "hard_sigmoid", "sigmoid", "softmax",
    "sparsemax",
}  # fmt: skip
_KEEPING = {
    "ActivityRegularization", "Average", "AveragePooling2D", "Cast", "Clip", "CropImages",
    "Cropping2D", "Dropout", "ExpandDims", "Flip", "GetItem", "Identity", "Permute", "Reshape",
    "Resize", "Resizing", "SegmentationOutput", "Squeeze", "Transpose", "UpSampling2D",
}  # fmt: skip


def _is_probability(tensor, calls=()):
    """`gives_probabilities` of a tensor of a functional model.

    Args: calls, of the models around it: each a pair of the model and the node that calls it.
    """
    operation, index, position = tensor._keras_history
    node = operation._inbound_nodes[index]
    if isinstance(operation, keras.layers.InputLayer):
        if not calls:
            return None
        model, node = calls[-1]
        outer = [id(x) for x in model.inputs].index(id(tensor))
        return _is_probability(node.input_tensors[outer], calls[:-1])
    if isinstance(operation, keras.Model):
        inner = getattr(operation, "outputs", None)
        return _is_probability(inner[position], (*calls, (operation, node))) if inner else None
    if type(operation).__module__.partition(".")[0] not in ("keras", "keras_sanet"):
        return None
    kind, activation = type(operation).__name__, getattr(operation, "activation", None)
    applied = getattr(activation, "__name__", type(activation).__name__)
    if {kind, applied} & _PROBABILITIES:
        return True if getattr(operation, "axis", -1) in (-1, len(tensor.shape) - 1) else None
    if kind in _KEEPING or (kind, applied) == ("Activation", "linear"):
        inputs = node.input_tensors[:1] if kind == "SegmentationOutput" else node.input_tensors
        known = {_is_probability(x, calls) for x in inputs}
        return known.pop() if len(known) == 1 else None
    return None if activation is None else False


def _predict(model, image, scales, flip, window, bucket, batch_size, from_logits):
    """`predict_probabilities` of an array."""
    image = np.asarray(image)
    of_floats, image = image.dtype.kind in "fb", image.astype("float32")
    channels = _input_shape(model)[-1] or 3
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        raise ValueError(
            f"`image` must be (height, width, {channels}) for this model. "
            f"Received: shape {image.shape}."
        )
    if not np.isfinite(image).all():
        raise ValueError("`image` must hold numbers. Received: NaN or infinite values in it.")
    if of_floats and 0 < image.max() <= 1:
        raise ValueError(
            "`image` must be of 0..255. Received: floats up to "
            f"{image.max():g}, as of 0..1. Multiply them by 255."
        )
    size, mean = image.shape[:2], _Mean()
    for scale in scales:
        scaled = _resize(image, tuple(max(1, round(n * scale)) for n in size))
        views = [scaled, scaled[:, ::-1]] if flip else [scaled]
        if window is None:
            predicted = (_whole(model, view, bucket, from_logits) for view in views)
        else:
            predicted = _by_windows(model, views, window, batch_size, from_logits)
        for mirror, probabilities in zip((1, -1), predicted):
            mean.add(_resize(probabilities[:, ::mirror], size))
    if np.isnan(mean.value).any():
        raise ValueError(
            "The model's logits are NaN or infinite. Were its weights trained to NaN, or do they "
            "overflow in float16?"
        )
    return mean.value


def _input_shape(model):
    """(height, width, channels) of the model's images, None where any will do."""
    shape = getattr(model, "input_shape", None)  # subclasses of `keras.Model` may have none
    return shape[1:] if isinstance(shape, tuple) and len(shape) == 4 else (None, None, None)


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


def _whole(model, image, bucket, from_logits):
    """Probabilities of an image in one piece."""
    height, width, channels = image.shape
    if bucket is not None:
        size = [-(-n // bucket) * bucket for n in (height, width)]
        padded = np.empty((*size, channels), "float32")
        padded[:] = 255 * np.array(statistics(channels)[0])
        padded[:height, :width] = image
        image = padded
    return _forward(model, image[None], from_logits)[0, :height, :width]


def _by_windows(model, views, window, batch_size, from_logits):
    """Yields the probabilities of each of several images of one size, computed by windows."""
    height, width = views[0].shape[:2]
    padding = [(0, max(0, w - n)) for n, w in zip((height, width), window)]
    views = [np.pad(view, (*padding, (0, 0)), mode="reflect") for view in views]
    places = [
        np.s_[top : top + window[0], left : left + window[1]]
        for top in _starts(views[0].shape[0], window[0])
        for left in _starts(views[0].shape[1], window[1])
    ]
    batch_size = batch_size or (1 if compiles_each_shape() and runs_on_cpu() else 4)
    pieces = [view[place] for view in views for place in places]
    predicted = _in_batches(model, pieces, batch_size, from_logits)
    for view in views:
        mean, count = None, np.zeros((*view.shape[:2], 1), "float32")
        for place, probabilities in zip(places, predicted):
            if mean is None:
                mean = np.zeros((*view.shape[:2], probabilities.shape[-1]), "float32")
            count[place] += 1
            mean[place] += (probabilities - mean[place]) / count[place]
        yield mean[:height, :width]


def _in_batches(model, images, batch_size, from_logits):
    """Yields the probabilities of each image. Where every shape is compiled, the last batch is
    filled up."""
    for start in range(0, len(images), batch_size):
        batch = np.stack(images[start : start + batch_size])
        count = len(batch)
        if compiles_each_shape():
            batch = np.pad(batch, [(0, batch_size - count), *[(0, 0)] * 3], mode="edge")
        yield from _forward(model, batch, from_logits)[:count]


def _starts(size, window):
    """First pixels of windows that cover `size`, the last one shifted inside."""
    stride = max(1, -(-2 * window // 3))
    return sorted({min(start, size - window) for start in range(0, size, stride)})


def _forward(model, images, from_logits):
    """Probabilities, (batch, height, width, channels)."""
    fixed = _input_shape(model)[:2]
    if any(a not in (None, b) for a, b in zip(fixed, images.shape[1:3])):
        window = tuple(a or b for a, b in zip(fixed, images.shape[1:3]))
        raise ValueError(
            f"The model takes images of {window[0]} x {window[1]} pixels (height x width) alone. "
            f"Pass window={window}. Received: {images.shape[1]} x {images.shape[2]}."
        )
    outputs = model.predict_on_batch(images)
    strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow
    if strategy is not None and strategy.num_replicas_in_sync > 1:  # each predicted all images
        outputs = tree.map_structure(lambda x: x[: len(images)], outputs)
    predicted = outputs.get("logits") if isinstance(outputs, dict) else outputs
    if getattr(predicted, "shape", ())[:-1] != images.shape[:-1]:
        found = tree.map_structure(lambda x: tuple(getattr(x, "shape", ())), outputs)
        raise ValueError(
            "The model must give logits of the image's size, (batch, height, width, classes), or "
            f'a dict with such "logits". Received: shape {found} for {images.shape}.'
        )
    predicted = ops.convert_to_numpy(predicted).astype("float32")
    if from_logits is None:
        told = gives_probabilities(model)
        if told is None and _may_be_probabilities(predicted):
            raise ValueError(
                "The model's numbers look like probabilities, and its layers do not tell whether "
                "they are. Pass from_logits=False for probabilities, from_logits=True for logits."
            )
        from_logits = not told
    if from_logits:
        return _probabilities(predicted)
    if np.abs(predicted - 0.5).max() > 0.6:  # resized with a cubic, some overshoot
        raise ValueError(
            "The model must give probabilities, 0 to 1, for from_logits=False. Received: numbers "
            f"from {predicted.min():g} to {predicted.max():g}."
        )
    return predicted


def _may_be_probabilities(x):
    if not (x.min() >= 0 and x.max() <= 1):
        return False
    return x.shape[-1] == 1 or bool(np.abs(x.sum(axis=-1) - 1).max() < 1e-2)


def _probabilities(logits):
    """Softmax of the last axis; of one logit z the second one of (0, z), its sigmoid."""
    channels = logits.shape[-1]
    if channels == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    with np.errstate(invalid="ignore"):  # infinite logits become NaN, an error later
        powers = logits - logits.max(axis=-1, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers[..., -channels:]


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
