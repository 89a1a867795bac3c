"""Probabilities and masks at the image's own size (paper, section IV-C: several scales).

The protocols, all of which average class probabilities of equal weight (softmax of logits, sigmoid
where there is one channel; those of the model itself where it gives them):

- whole image: one prediction. Exact; JAX compiles it anew for every size of image.
- `bucket`: the same, padded right and below with ImageNet's mean color to multiples of `bucket`
  pixels, so that few sizes are compiled. Padding changes what the pyramid pools and what the
  convolutions see at the border: metrics differ from those of the whole image.
- `window`: windows of one size with a stride of two thirds of it, the last ones shifted inside,
  averaged where they overlap; an image smaller than the window is reflected. Compiled once.
- `scales`, `flip`: one of the above for each size of the image, and for its mirror image.

What happens to probabilities outside of the model is computed by NumPy, in float32: the same on
every backend, and never compiled. Means are running ones, and resizing adds to one neighbour its
weighted difference from the other, so that equal numbers stay what they are to the last bit.
"""

import collections
import contextlib
import inspect
from pathlib import Path

import numpy as np
from keras import ops, tree
from PIL import Image

from keras_sanet import visualization
from keras_sanet._arguments import integer, sides
from keras_sanet._backend import compiles_each_shape, runs_on_cpu
from keras_sanet._files import replacing
from keras_sanet._labels import classes_of, gives_probabilities
from keras_sanet._progress import track
from keras_sanet.backbones.preprocessing import statistics
from keras_sanet.datasets import prelabels
from keras_sanet.datasets.files import VOID, Frame, read_image
from keras_sanet.datasets.listing import find_images

WRITABLE = ("mask", "color", "overlay", "probabilities")
LABELS = tuple(prelabels.WRITERS)  # of annotation tools


def predict_probabilities(
    model,
    image,
    *,
    scales=(1.0,),
    flip=False,
    window=None,
    bucket=None,
    batch_size=None,
    from_logits=None,
    verbose="auto",
):
    """Class probabilities of every pixel, averaged over scales and mirror images.

    Args:
        model: images to logits or probabilities, or to a dict with "logits".
        image: one picture, a list of pictures of any sizes, or a batch (batch, height, width,
            channels). A picture is an array of 0..255, (height, width, channels of the model), a
            Pillow image, or the path of a file, read as RGB.
        scales: factors of the image's size (bilinear, no antialiasing).
        flip: also predict the mirror image of each.
        window: (height, width) or one number for both, in pixels: predict by windows of this size.
            Best that of the training crops. None: the whole image.
        bucket: pad the whole image to multiples of so many pixels; None: don't.
        batch_size: windows computed at once, which bounds the memory. None: 4, and 1 with JAX on a
            CPU. Whole images and their mirror images are computed one after the other.
        from_logits: whether the model gives logits, or else probabilities. None: as its last
            operations tell.
        verbose: whether several pictures have a progress bar; "auto": on a terminal.

    Returns:
        Of one picture float32 (height, width, channels of the model's output), the size of the
        image whatever the scales. One channel is the probability of the second of two classes. Of
        a list, a list of these; of a batch, one array of them.

    Raises:
        ValueError: a picture (named by its path if it has one) is not of that shape, holds NaN or
            floats of 0..1, or is of a size that the model does not take; the model does not give
            predictions of the image's size, or gives NaN, or it can't be told whether they are
            probabilities; another argument is not as above.
    """
    mode = complete(
        scales=scales,
        flip=flip,
        window=window,
        bucket=bucket,
        batch_size=batch_size,
        from_logits=from_logits,
    )
    return _map(lambda picture: _predict(model, picture, **mode), image, verbose)


def predict_mask(model, image, *, verbose="auto", **mode):
    """Class ids of every pixel.

    Args:
        model: as for `predict_probabilities`.
        image: one picture, a list or a batch of them, as for `predict_probabilities`.
        verbose: as for `predict_probabilities`.
        **mode: `scales`, `flip`, `window`, `bucket`, `batch_size`, `from_logits`: see there.

    Returns:
        Of one picture (height, width): uint8, or uint16 for more than 255 classes (255 is void). Of
        one channel it is 1 above 0.5, and else 0. Of a list, a list of these; of a batch, one
        array of them.

    Raises:
        ValueError: as `predict_probabilities`.
    """
    mode = complete(**mode)
    return _map(lambda picture: mask_of(_predict(model, picture, **mode)), image, verbose)


def _map(predict, image, verbose):
    """What `predict` gives of one picture, or of each of several."""
    if isinstance(image, (list, tuple)):
        return [predict(picture) for picture in track(image, "Predicting", verbose)]
    if not isinstance(image, (str, Path, Frame, Image.Image)):
        image = ops.convert_to_numpy(image)
        if image.ndim == 4 and len(image) > 0:
            return np.stack([predict(picture) for picture in track(image, "Predicting", verbose)])
    return predict(image)


def mask_of(probabilities):
    """The most probable class of every pixel, as `predict_mask` returns it."""
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > 0.5).astype("uint8")
    dtype = "uint8" if probabilities.shape[-1] <= VOID else "uint16"
    return probabilities.argmax(axis=-1).astype(dtype)


def predict_files(
    model, images, output, *, write=("mask", "overlay"), label_ids=None, verbose="auto", **mode
):
    """Predicts image files one by one, and writes what is asked for of each.

    Args:
        model: as for `predict_probabilities`. Class names and colors are those of its layer
            "logits", if it has them.
        images: paths of images, or a folder of them.
        output: folder to write into, made where it is missing.
        write: which of `WRITABLE`: "mask", ids of the classes; "color", their colors; "overlay",
            these over the image (all PNG); "probabilities", with the class names (NPZ); and one of
            `LABELS`, to be corrected in that tool: "coco", "labelme" or "cvat".
        label_ids: function from a mask of class ids to the ids that are written, such as
            `datasets.cityscapes.label_ids`; None: the class ids.
        verbose: whether to show a progress bar; "auto": on a terminal.
        **mode: as for `predict_mask`.

    Returns:
        Paths of the files, `NAME_mask.png` and so on.

    Raises:
        ValueError: two images have one name, an image is not to be predicted (it is named), or
            `write` holds something else.
    """
    mode = complete(**mode)
    if isinstance(images, (str, Path)):
        images = find_images(images)
    images = [Path(image) if isinstance(image, str) else image for image in images]
    if unknown := sorted(set(write) - {*WRITABLE, *LABELS}):
        known = ", ".join((*WRITABLE, *LABELS))
        raise ValueError(f"`write` must be of {known}. Received: {unknown}.")
    stems = collections.Counter(image.stem for image in images)
    twice = sorted(stem for stem, count in stems.items() if count > 1)
    if twice:
        raise ValueError(
            f"Images of one name would overwrite each other's results: {', '.join(twice)}. "
            "Predict them into different folders."
        )
    labels = [kind for kind in write if kind in LABELS]
    if len(labels) > 1:
        raise ValueError(f"`write` may hold one of {', '.join(labels)} at a time.")
    layer = next((x for x in getattr(model, "layers", ()) if x.name == "logits"), None)
    palette, names = getattr(layer, "palette", None), getattr(layer, "class_names", None)
    if labels and (names is None or any(isinstance(image, Frame) for image in images)):
        raise ValueError(
            f"`write` has {labels[0]}, which needs images in files of their own, and a model with "
            f"`class_names`. Class names: {names}."
        )
    output, written = Path(output), []
    output.mkdir(parents=True, exist_ok=True)

    def predicted():
        for source in track(images, "Predicting", verbose):
            image = read_image(source)
            with named(source):
                probabilities = _predict(model, image, **mode)
            mask = mask_of(probabilities)
            colors = palette or visualization.palette(classes_of(probabilities.shape[-1]))
            for kind in [kind for kind in write if kind in WRITABLE]:
                suffix = "npz" if kind == "probabilities" else "png"
                written.append(output / f"{source.stem}_{kind}.{suffix}")
                with replacing(written[-1]) as path:
                    if kind == "probabilities":
                        np.savez(path, probabilities=probabilities, class_names=names or [])
                        continue
                    picture = label_ids(mask) if label_ids else mask
                    if kind != "mask":
                        picture = visualization.color_mask(mask, colors)
                    if kind == "overlay":
                        picture = visualization.overlay(image, mask, colors)
                    Image.fromarray(picture).save(path)
            yield source, mask

    if labels:
        written += prelabels.write(labels[0], output, predicted(), names, palette)
    else:
        collections.deque(predicted(), maxlen=0)
    return written


def complete(**mode):
    """All arguments of `predict_probabilities` that say how to predict, checked.

    Args:
        **mode: some of them.

    Returns:
        Dict of all with their defaults, in plain Python: `scales` a tuple of floats, `window` one
        of two integers.

    Raises:
        TypeError: an unknown name.
        ValueError: a value is not as it should be.
    """
    parameters = inspect.signature(predict_probabilities).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    del defaults["verbose"]
    unknown = sorted(mode.keys() - defaults)
    if unknown:
        raise TypeError(f"Unknown arguments {', '.join(unknown)}. Known: {', '.join(defaults)}.")
    mode = {**defaults, **mode}
    scales, window, bucket = mode["scales"], mode["window"], mode["bucket"]
    try:
        mode["scales"] = tuple(map(float, scales if np.iterable(scales) else [scales]))
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
        one = np.iterable(window) and len(window) == 1
        mode["window"] = sides("window", window[0] if one else window)
    for name in ("bucket", "batch_size"):
        if mode[name] is not None:
            mode[name] = integer(name, mode[name])
    if window is not None and bucket is not None:
        raise ValueError(
            "`bucket` is for whole images: windows are of one size anyway. Received: "
            f"window={window} and bucket={bucket}."
        )
    return mode


@contextlib.contextmanager
def named(image):
    """Context in which a ValueError names the file of an image."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from error


def _predict(model, image, scales, flip, window, bucket, batch_size, from_logits):
    """`predict_probabilities` of one picture, whose mode is complete."""
    mode = (scales, flip, window, bucket, batch_size, from_logits)
    channels = _input_shape(model)[-1] or 3
    if isinstance(image, (str, Path, Frame)):
        pixels = read_image(image)
        with named(image):
            return _predict(model, pixels, *mode)
    if isinstance(image, Image.Image):
        image = np.atleast_3d(image.convert({1: "L", 3: "RGB"}.get(channels, image.mode)))
    image = np.asarray(image)
    kind, image = image.dtype.kind, image.astype("float32")
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        raise ValueError(
            f"`image` must be (height, width, {channels}) for this model. "
            f"Received: shape {image.shape}."
        )
    if not np.isfinite(image).all():
        raise ValueError("`image` must hold numbers. Received: NaN or infinite values in it.")
    # Whole numbers are of a dark image; of 0 and 1 alone only a mask is.
    if image.max() <= 1 and (image.any() if kind == "b" else kind == "f" and (image % 1).any()):
        raise ValueError(
            f"`image` must be of 0..255. Received: numbers from {image.min():g} to "
            f"{image.max():g}, as of 0..1. Multiply them by 255."
        )
    size, mean, count = image.shape[:2], np.float32(0), 0
    for scale in scales:
        scaled = _resize(image, tuple(max(1, round(n * scale)) for n in size))
        views = [scaled, scaled[:, ::-1]] if flip else [scaled]
        if window is None:
            predicted = (_whole(model, view, bucket, from_logits) for view in views)
        else:
            predicted = _by_windows(model, views, window, batch_size, from_logits)
        for mirror, probabilities in zip((1, -1), predicted):
            count += 1
            mean = mean + (_resize(probabilities[:, ::mirror], size) - mean) / np.float32(count)
    if np.isnan(mean).any():
        raise ValueError(
            "The model's logits are NaN or infinite. Were its weights trained to NaN, or do they "
            "overflow in float16?"
        )
    return mean


def _input_shape(model):
    """(height, width, channels) of the model's images, None where any will do."""
    shape = getattr(model, "input_shape", None)  # subclasses of `keras.Model` may have none
    return shape[1:] if isinstance(shape, tuple) and len(shape) == 4 else (None, None, None)


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
    """Bilinear, of (height, width, channels) to `size`: half-pixel centers, no antialiasing."""
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
