"""What labels and predictions mean, for losses and metrics alike.

A label is a class id, 0 .. classes - 1, or `ignore_class`, void. A pixel counts where its label is
a class id and its `sample_weight` is not 0; where that is 0 the label may be anything. Any other
label is an error, or makes NaN of the result in compiled code, which can't raise.

Predictions of one channel are of two classes, background and foreground: the logit z stands for the
logits (0, z), the probability p for (1 - p, p).
"""

import keras
import numpy as np
from keras import ops

_SHOWN = 10  # values that an error lists
_OVERSHOOT = 0.1  # of probabilities that were resized with a cubic


def classes_of(channels):
    """Number of classes that predictions of so many channels are of."""
    return 2 if channels == 1 else channels


def scores(y_pred, from_logits=True):
    """Predictions with a channel a class.

    Args:
        y_pred: logits or probabilities, (batch, height, width, channels).
        from_logits: False where they are probabilities.

    Returns:
        A tensor (batch, height, width, classes).

    Raises:
        ValueError: they are not of such a shape.
    """
    shape = tuple(y_pred.shape)
    if len(shape) != 4 or not shape[-1]:
        raise ValueError(
            "Predictions must be of shape (batch, height, width, classes). "
            f"Received: predictions {shape}."
        )
    if shape[-1] != 1:
        return y_pred
    background = ops.zeros_like(y_pred) if from_logits else 1 - ops.cast(y_pred, "float32")
    return ops.concatenate([background, ops.cast(y_pred, background.dtype)], axis=-1)


def no_probabilities(y_pred):
    """Whether some of the predictions can't be probabilities, a bool scalar."""
    return ops.any(ops.abs(y_pred - 0.5) > 0.5 + _OVERSHOOT)


def tensor(y_true):
    """Labels or ids as a tensor. (A NumPy array of wide integers as int32: JAX would cut them.)"""
    if isinstance(y_true, (list, tuple, np.ndarray)):
        array = np.asarray(y_true)
        if array.dtype.kind in "iu" and array.itemsize >= 4:
            limits = np.iinfo("int32")
            y_true = array.clip(limits.min, limits.max).astype("int32")
    return ops.convert_to_tensor(y_true)


def read(y_true, y_pred, num_classes, ignore_class=255, sample_weight=None):
    """The class id of every pixel that counts.

    Args:
        y_true: labels, integers, whole floats or bool, (batch, height, width) or (batch, height,
            width, 1).
        y_pred: of what is predicted only the shape counts, (batch, height, width) and classes.
        num_classes: number of classes.
        ignore_class: label of void pixels; None: there are none.
        sample_weight: weights of the images, (batch,), (batch, 1) or (batch, 1, 1), or of the
            pixels, (batch, height, width) or (batch, height, width, 1); None: all 1.

    Returns:
        int32 ids, (batch, height, width), -1 where a pixel does not count; the float32 weights of
        the pixels, of the same shape, or None; and whether a label is wrong, a bool scalar (for
        `refuse`; also where sizes differ that compiled code knows no sooner).

    Raises:
        ValueError: the shapes are not as above.
    """
    y_true = tensor(y_true)
    labels = without_channel(y_true)
    if not _fits(labels.shape, y_pred.shape[:3]):
        shapes = f"Received: labels {tuple(y_true.shape)}, predictions {tuple(y_pred.shape)}."
        if len(labels.shape) == 4:
            raise ValueError(
                "Labels must be class ids of shape (batch, height, width). Of one-hot masks "
                "`argmax(axis=-1)` makes them; `keras.losses.CategoricalCrossentropy` takes these "
                f"as they are. {shapes}"
            )
        raise ValueError(
            "Labels must be of shape (batch, height, width), the one of the predictions (batch, "
            f"height, width, classes). {shapes}"
        )
    dtype = keras.backend.standardize_dtype(labels.dtype)
    is_float = "float" in dtype
    wide = "int64" if dtype in ("int64", "uint32", "uint64") else "int32"
    labels = ops.cast(labels, "float32" if is_float else wide)
    counts = ops.logical_and(labels >= 0, labels < num_classes)
    if is_float:
        counts = ops.logical_and(counts, ops.equal(labels, ops.floor(labels)))
    known = counts
    if ignore_class is not None:
        void = ops.equal(labels, ignore_class)
        known = ops.logical_or(counts, void)
        counts = ops.logical_and(counts, ops.logical_not(void))
    unknown, weights = ops.logical_not(known), None
    if sample_weight is not None:
        weights = _of_pixels(sample_weight, labels)
        weighted = ops.not_equal(weights, 0)
        counts, unknown = ops.logical_and(counts, weighted), ops.logical_and(unknown, weighted)
    ids = ops.where(counts, ops.cast(labels, "int32"), -1)
    wrong = ops.any(unknown)
    for axis, sizes in enumerate(zip(labels.shape, y_pred.shape)):
        if None in sizes:  # known only as compiled code runs
            wrong = ops.logical_or(wrong, ops.shape(labels)[axis] != ops.shape(y_pred)[axis])
    return ids, weights, wrong


def refuse(*checks):
    """An error where something is wrong, or NaN in compiled code, which can't raise.

    Args:
        *checks: pairs of a bool scalar, whether it is wrong, and a function that gives the text.

    Returns:
        What to add to a result: 0, or in compiled code 0 or NaN.

    Raises:
        ValueError: something is wrong, outside of compiled code.
    """
    wrong = checks[0][0]
    for flag, _ in checks[1:]:
        wrong = ops.logical_or(wrong, flag)
    try:
        known = bool(wrong)
    except TypeError:  # traced by JAX or TensorFlow
        return ops.where(wrong, float("nan"), 0.0)
    if known:
        raise ValueError(next(text() for flag, text in checks if bool(flag)))
    return 0.0


def wrong_labels(y_true, num_classes, ignore_class=255, sample_weight=None):
    """The text of the error, for labels that are no class."""
    labels = without_channel(tensor(y_true))
    values = ops.convert_to_numpy(labels)
    if sample_weight is not None:
        values = values[ops.convert_to_numpy(_of_pixels(sample_weight, labels)) != 0]
    values = np.unique(values).astype("float64")
    whole = values == np.floor(values)
    known = whole & (values >= 0) & (values < num_classes) | (values == ignore_class)
    wrong = values[~known]
    listed = ", ".join(
        f"{value:.0f}" if value == np.floor(value) else f"{value:.4g}" for value in wrong[:_SHOWN]
    )
    more = ", ..." if len(wrong) > _SHOWN else ""
    way_out = f"Give void pixels the label {ignore_class}, or pass theirs as `ignore_class`."
    if not whole.all():
        way_out = "Ids are whole numbers: were the masks scaled, as by 1/255?"
    return (
        f"Labels must be class ids, 0 to {num_classes - 1}, or `ignore_class`, {ignore_class}. "
        f"Received: labels {listed}{more}. {way_out}"
    )


def without_channel(labels):
    """Labels or weights (batch, height, width) of those that may have an axis of one more."""
    if len(labels.shape) == 4 and labels.shape[-1] == 1:
        return ops.squeeze(labels, axis=-1)
    return labels


def _fits(shape, expected):
    """Whether two shapes are equal where both are known."""
    pairs = list(zip(shape, expected))
    return len(shape) == len(expected) and all(None in pair or len({*pair}) == 1 for pair in pairs)


def _of_pixels(sample_weight, labels):
    """Weights as float32 (batch, height, width)."""
    weights = without_channel(ops.cast(ops.convert_to_tensor(sample_weight), "float32"))
    of_images = len(weights.shape) in (1, 2, 3) and {*weights.shape[1:]} <= {1}
    if of_images and _fits(weights.shape[:1], labels.shape[:1]):
        return ops.broadcast_to(ops.reshape(weights, (-1, 1, 1)), ops.shape(labels))
    if _fits(weights.shape, labels.shape):
        return weights
    raise ValueError(
        "`sample_weight` must hold a weight an image, (batch,), or a weight a pixel, (batch, "
        f"height, width). Received: {tuple(sample_weight.shape)} for labels "
        f"{tuple(labels.shape)}. Keras's `fit(class_weight=)` makes such weights, and does not fit "
        "masks: use `SegmentationLoss(class_weights=...)`."
    )


def gives_probabilities(model):
    """Whether a model gives probabilities, not logits.

    Args:
        model: a Keras model of images, or of a dict with "logits".

    Returns:
        True where it ends with a softmax or a sigmoid, followed at most by what keeps
        probabilities: resizing, cropping, reshaping, casting, the mean of several. False where it
        ends with another layer with an activation. None where that can't be seen: in a subclass of
        `keras.Model`, behind a layer of one's own or arithmetic.
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

    Args:
        tensor: output of an operation.
        calls: pairs of a model around it and the node that calls that model.
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
