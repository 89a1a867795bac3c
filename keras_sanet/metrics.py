"""Figures of the paper's tables (section IV-C), from one exact confusion matrix.

Rows are true classes, columns predicted ones; void pixels are in neither. A label that is neither a
class nor void is an error (`labels`), and so is such a predicted id where the label is a class; in
compiled code, which can't raise, the figures are NaN until `reset_state`. So they are everywhere
after a NaN prediction.
"""

import keras
import numpy as np
from keras import ops

from keras_sanet import _backend, _labels
from keras_sanet._arguments import integer
from keras_sanet.losses import cross_entropy_sums

# Counts are kept in two int32 words, low = count mod 2^12 and high = count div 2^12 summed apart:
# exact up to 2^43 pixels and for at least 2^19 updates, on backends without 64-bit integers too.
# The words are joined only when read, after replicas are summed.
_LOW = 1 << 12


def iou(hits, truth, predicted):
    """TP / (TP + FP + FN) of the pixels of a class that are right, true and predicted (tensors or
    NumPy arrays); NaN, 0 / 0, where it is in neither truth nor prediction."""
    return hits / (truth + predicted - hits)


def iou_per_class(confusion):
    """The IoU of each class, (classes,)."""
    return iou(ops.diagonal(confusion), ops.sum(confusion, axis=1), ops.sum(confusion, axis=0))


def accuracy(hits, truth):
    """TP / (TP + FN) of the pixels of a class that are right and true; NaN where none is true."""
    return hits / truth


def accuracy_per_class(confusion):
    """The accuracy of each class, (classes,)."""
    return accuracy(ops.diagonal(confusion), ops.sum(confusion, axis=1))


def pixel_accuracy(confusion):
    """Share of the pixels that are right; 0 without pixels."""
    return ops.divide_no_nan(ops.sum(ops.diagonal(confusion)), ops.sum(confusion))


def mean_present(values):
    """Mean over the classes that are not NaN; 0 without any."""
    present = ops.logical_not(ops.isnan(values))
    count = ops.sum(ops.cast(present, values.dtype))
    return ops.divide_no_nan(ops.sum(ops.where(present, values, 0.0)), count)


@_backend.jit("num_classes", "ignore_class", "sparse_y_pred", "from_logits")
def _count(y_true, y_pred, sample_weight, num_classes, ignore_class, sparse_y_pred, from_logits):
    """Pixels by true and predicted class, int32 (classes, classes); the same of weighted pixels,
    float32, NaN where there is something wrong; whether labels are, and whether predicted ids."""
    n = num_classes
    if not sparse_y_pred:
        y_pred = _labels.scores(y_pred, from_logits)
    ids, weights, wrong = _labels.read(y_true, y_pred, n, ignore_class, sample_weight)
    counts = ids >= 0
    if sparse_y_pred:
        predicted, _, wrong_ids = _labels.read(y_pred, ids, n, None, counts)
        counts, broken = predicted >= 0, ops.logical_or(wrong, wrong_ids)
    else:
        predicted, wrong_ids = _backend.argmax(y_pred), False
        broken = ops.logical_or(wrong, ops.isnan(ops.sum(ops.cast(y_pred, "float32"))))
    # Pixels that do not count go to a cell past the matrix.
    cells = ops.reshape(ops.where(counts, ids * n + predicted, n * n), (-1,))
    if weights is not None:
        weights = ops.reshape(weights, (-1,))
    matrix = ops.reshape(_backend.histogram(cells, n * n + 1, weights)[: n * n], (n, n))
    whole = ops.cast(matrix, "int32") if weights is None else ops.zeros((n, n), "int32")
    weighted = ops.zeros((n, n)) if weights is None else matrix
    return whole, ops.where(broken, float("nan"), weighted), wrong, wrong_ids


class _ConfusionMetric(keras.metrics.Metric):
    """A figure of the confusion matrix of all pixels seen since `reset_state`."""

    _direction = "up"  # for Keras's callbacks of mode "auto"

    def __init__(
        self,
        num_classes,
        ignore_class=255,
        sparse_y_pred=False,
        class_names=None,
        name=None,
        dtype=None,
        from_logits=True,
    ):
        super().__init__(name=name, dtype=dtype)
        num_classes = integer("num_classes", num_classes)
        classes = _labels.classes_of(num_classes)
        if class_names is not None and len(class_names) != classes:
            raise ValueError(
                f"`class_names` must have one entry a class, {classes}. "
                f"Received: {len(class_names)} entries."
            )
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.sparse_y_pred = sparse_y_pred
        self.class_names = class_names
        self.from_logits = from_logits
        self._classes, shape = classes, (classes, classes)
        self.low = self.add_variable(shape, "zeros", dtype="int32", name="low")
        self.high = self.add_variable(shape, "zeros", dtype="int32", name="high")
        self.weighted = self.add_variable(shape, "zeros", dtype="float32", name="weighted")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = _labels.tensor(y_true), _labels.tensor(y_pred)
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight)
        shape, n = tuple(y_pred.shape), self._classes
        if self.sparse_y_pred:
            y_pred = _labels.without_channel(y_pred)
            if len(y_pred.shape) != 3:
                raise ValueError(
                    "`y_pred` must be class ids, (batch, height, width), for sparse_y_pred=True. "
                    f"Received: shape {shape}."
                )
        elif len(shape) == 4 and _labels.classes_of(shape[-1]) != n:
            raise ValueError(
                f"`y_pred` must have {n} classes, `num_classes`. Received: shape {shape}."
            )
        whole, weighted, wrong, wrong_ids = _count(
            y_true,
            y_pred,
            sample_weight,
            num_classes=n,
            ignore_class=self.ignore_class,
            sparse_y_pred=self.sparse_y_pred,
            from_logits=self.from_logits,
        )
        _labels.refuse(
            (wrong, lambda: _labels.wrong_labels(y_true, n, self.ignore_class, sample_weight)),
            (
                wrong_ids,
                lambda: (
                    f"Predicted ids must be those of classes, 0 to {n - 1}, where labels are. "
                    f"Received: ids from {int(ops.min(y_pred))} to {int(ops.max(y_pred))}."
                ),
            ),
        )
        self.low.assign_add(whole % _LOW)
        self.high.assign_add(whole // _LOW)
        self.weighted.assign_add(weighted)

    def result(self):
        confusion = ops.cast(self.low, "float32") + ops.cast(self.high, "float32") * float(_LOW)
        broken = ops.isnan(ops.sum(self.weighted))
        return ops.where(broken, float("nan"), self.figure(confusion + self.weighted))

    def confusion_matrix(self):
        """The counts, a NumPy array (classes, classes): int64, or float64 with weighted pixels.

        It is NaN where the figures are.
        """
        low, high, weighted = (
            ops.convert_to_numpy(v) for v in (self.low, self.high, self.weighted)
        )
        matrix = low.astype("int64") + _LOW * high.astype("int64")
        return matrix + weighted.astype("float64") if weighted.any() else matrix

    def set_confusion_matrix(self, matrix):
        """Restores counts, as `confusion_matrix` gives them; under several replicas too."""
        matrix = np.asarray(matrix)
        if matrix.shape != (self._classes, self._classes) or matrix.min() < 0:
            raise ValueError(
                f"`matrix` must hold ({self._classes}, {self._classes}) counts, none "
                f"negative. Received: shape {matrix.shape}, least {matrix.min()}."
            )
        whole = matrix.astype("int64")
        assign_sum(self.low, (whole % _LOW).astype("int32"))
        assign_sum(self.high, (whole // _LOW).astype("int32"))
        assign_sum(self.weighted, (matrix - whole).astype("float32"))

    def per_class(self):
        """Dict from class name (or id) to its figure, Python floats; NaN for an absent class."""
        values = ops.convert_to_numpy(
            self.figure_per_class(ops.convert_to_tensor(self.confusion_matrix(), "float32"))
        )
        return dict(zip(self.class_names or range(self._classes), values.tolist()))

    def get_config(self):
        return {
            "name": self.name,
            "dtype": self.dtype,
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
            "sparse_y_pred": self.sparse_y_pred,
            "class_names": self.class_names,
            "from_logits": self.from_logits,
        }


def assign_sum(variable, value):
    """Assigns the sum over replicas: all of it to the first. (Assigned from outside, TensorFlow
    gives each of n replicas value // n and so loses odd counts.)"""
    replicas = getattr(variable.value, "values", None)
    replicas = replicas if isinstance(replicas, tuple) else [variable]  # PyTorch has a method
    for index, replica in enumerate(replicas):
        replica.assign(value if index == 0 else np.zeros_like(value))


@keras.saving.register_keras_serializable(package="keras_sanet")
class MeanIoU(_ConfusionMetric):
    """Mean over classes of TP / (TP + FP + FN), without those in neither truth nor prediction.

    Args:
        num_classes: number of classes, void not counted. 1: predictions of one channel, which are
            of two classes, background and foreground (as they are with 2).
        ignore_class: label of void pixels; None: there are none.
        sparse_y_pred: True where predictions are class ids, False where logits or probabilities.
        class_names: names by class id, for `per_class`.
        from_logits: False where predictions of one channel are probabilities, 0.5 the threshold.

    Call arguments of `update_state`:
        y_true: labels, (batch, height, width) or (batch, height, width, 1).
        y_pred: (batch, height, width, classes), or ids of the shape of y_true.
        sample_weight: a weight an image, (batch,), or a pixel, (batch, height, width), or None.
            Weighted pixels are added up in float32, and so lose the exactness of the others past
            2^24 pixels; void needs no weights.
    """

    def __init__(self, num_classes, name="mean_iou", **kwargs):
        super().__init__(num_classes, name=name, **kwargs)

    figure_per_class = staticmethod(iou_per_class)

    def figure(self, confusion):
        return mean_present(iou_per_class(confusion))


@keras.saving.register_keras_serializable(package="keras_sanet")
class MeanAccuracy(_ConfusionMetric):
    """Mean over classes of TP / (TP + FN); classes that are not in the truth left out.

    Args, call arguments: those of `MeanIoU`.
    """

    def __init__(self, num_classes, name="mean_accuracy", **kwargs):
        super().__init__(num_classes, name=name, **kwargs)

    figure_per_class = staticmethod(accuracy_per_class)

    def figure(self, confusion):
        return mean_present(accuracy_per_class(confusion))


@keras.saving.register_keras_serializable(package="keras_sanet")
class PixelAccuracy(_ConfusionMetric):
    """Share of the pixels that are right; `per_class` gives each class's accuracy.

    Args, call arguments: those of `MeanIoU`.
    """

    def __init__(self, num_classes, name="pixel_accuracy", **kwargs):
        super().__init__(num_classes, name=name, **kwargs)

    figure_per_class = staticmethod(accuracy_per_class)

    def figure(self, confusion):
        return pixel_accuracy(confusion)


@keras.saving.register_keras_serializable(package="keras_sanet")
class CrossEntropy(keras.metrics.Metric):
    """Cross-entropy, the mean over all valid pixels of the set.

    Unlike the mean of batch losses in Keras's logs, each pixel weighs the same: what the paper's
    checkpoints are chosen by (section IV-C).

    Args: ignore_class, label of void pixels, None: there are none; from_logits, False where
        predictions are probabilities.
    Call arguments of `update_state`: as those of `MeanIoU`, without ids.
    """

    _direction = "down"  # for Keras's callbacks of mode "auto"

    def __init__(self, ignore_class=255, name="cross_entropy", dtype=None, from_logits=True):
        super().__init__(name=name, dtype=dtype)
        self.ignore_class = ignore_class
        self.from_logits = from_logits
        self.total = self.add_variable((), "zeros", dtype="float32", name="total")
        self.pixels = self.add_variable((), "zeros", dtype="float32", name="pixels")

    def update_state(self, y_true, y_pred, sample_weight=None):
        total, pixels = cross_entropy_sums(
            y_true,
            ops.convert_to_tensor(y_pred),
            self.ignore_class,
            sample_weight,
            self.from_logits,
        )
        self.total.assign_add(total)
        self.pixels.assign_add(pixels)

    def result(self):
        return ops.divide_no_nan(self.total, self.pixels)

    def get_config(self):
        return {
            "name": self.name,
            "dtype": self.dtype,
            "ignore_class": self.ignore_class,
            "from_logits": self.from_logits,
        }
