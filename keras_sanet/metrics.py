"""Metrics of the paper's tables (section IV-C), from one exact confusion matrix.

Rows are true classes, columns predicted ones; void pixels are in neither. A label that is neither a
class nor void is an error (`labels`), and so is such a predicted id where the label is a class; in
compiled code, which can't raise, the metrics are NaN until `reset_state`. So they are everywhere
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
    """Intersection over union, TP / (TP + FP + FN), of each class.

    Args:
        hits: pixels of a class that are right, (..., classes), a tensor or NumPy array.
        truth: pixels that are of the class.
        predicted: pixels that are taken for it.

    Returns:
        An array of that shape; NaN, 0 / 0, where a class is in neither truth nor prediction.
    """
    return hits / (truth + predicted - hits)


def accuracy(hits, truth):
    """Accuracy, TP / (TP + FN), of each class; arguments and result as for `iou`."""
    return hits / truth


@_backend.jit("num_classes", "ignore_class", "sparse_y_pred", "from_logits")
def _count(y_true, y_pred, sample_weight, num_classes, ignore_class, sparse_y_pred, from_logits):
    """Counts pixels by true and predicted class.

    Returns:
        Low and high words of the counts, int32 (classes, classes); weighted pixels, float32, NaN
        where something is wrong; whether labels are wrong, and whether predicted ids are.
    """
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
    weighted = ops.where(broken, float("nan"), weighted)
    return whole % _LOW, whole // _LOW, weighted, wrong, wrong_ids


class _ConfusionMetric(keras.metrics.Metric):
    """A metric of the confusion matrix of all pixels seen since `reset_state`."""

    _direction = "up"  # for Keras's callbacks of mode "auto"
    _default_name = None

    def __init__(
        self,
        num_classes,
        *,
        ignore_class=255,
        sparse_y_pred=False,
        class_names=None,
        from_logits=True,
        name=None,
        dtype=None,
    ):
        super().__init__(name=name or self._default_name, dtype=dtype)
        self.num_classes = integer("num_classes", num_classes)
        classes = self._classes = _labels.classes_of(self.num_classes)
        if class_names is not None and len(class_names) != classes:
            raise ValueError(
                f"`class_names` must have one entry a class, {classes}. "
                f"Received: {len(class_names)} entries."
            )
        self.ignore_class = ignore_class
        self.sparse_y_pred = sparse_y_pred
        self.class_names = class_names
        self.from_logits = from_logits
        shape = (classes, classes)
        self.low = self.add_variable(shape, "zeros", dtype="int32", name="low")
        self.high = self.add_variable(shape, "zeros", dtype="int32", name="high")
        self.weighted = self.add_variable(shape, "zeros", dtype="float32", name="weighted")

    def _by_class(self, hits, truth, predicted):
        """The metric of each class, (classes,), NaN where a class is absent."""
        return accuracy(hits, truth)

    def _of_all(self, hits, truth, predicted):
        """The mean over the classes that are not absent; 0 without any."""
        values = self._by_class(hits, truth, predicted)
        present = ops.logical_not(ops.isnan(values))
        count = ops.sum(ops.cast(present, values.dtype))
        return ops.divide_no_nan(ops.sum(ops.where(present, values, 0.0)), count)

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
        low, high, weighted, wrong, wrong_ids = _count(
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
        self.low.assign_add(low)
        self.high.assign_add(high)
        self.weighted.assign_add(weighted)

    def result(self):
        confusion = ops.cast(self.low, "float32") + ops.cast(self.high, "float32") * float(_LOW)
        broken = ops.isnan(ops.sum(self.weighted))
        return ops.where(broken, float("nan"), self._of_all(*_sums(confusion + self.weighted)))

    def confusion_matrix(self):
        """The counts by true (rows) and predicted class.

        Returns:
            NumPy array (classes, classes): int64, or float64 with weighted pixels. It is NaN where
            the metric is.
        """
        low, high, weighted = (
            ops.convert_to_numpy(v) for v in (self.low, self.high, self.weighted)
        )
        matrix = low.astype("int64") + _LOW * high.astype("int64")
        return matrix + weighted.astype("float64") if weighted.any() else matrix

    def per_class(self):
        """Dict from class name (or id) to its metric, Python floats; NaN for an absent class."""
        matrix = ops.convert_to_tensor(self.confusion_matrix(), "float32")
        values = ops.convert_to_numpy(self._by_class(*_sums(matrix)))
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


def _sums(confusion):
    """Pixels of each class that are right, true and predicted."""
    return ops.diagonal(confusion), ops.sum(confusion, axis=1), ops.sum(confusion, axis=0)


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
        name: name in the logs, "mean_iou" by default.
        dtype: as of every Keras metric; counts are integers whatever it is.

    Call arguments of `update_state`:
        y_true: labels, (batch, height, width) or (batch, height, width, 1).
        y_pred: (batch, height, width, classes), or ids of the shape of y_true.
        sample_weight: a weight an image, (batch,), or a pixel, (batch, height, width), or None.
            Weighted pixels are added up in float32, and so lose the exactness of the others past
            2^24 pixels; void needs no weights.
    """

    _default_name = "mean_iou"

    def _by_class(self, hits, truth, predicted):
        return iou(hits, truth, predicted)


@keras.saving.register_keras_serializable(package="keras_sanet")
class MeanAccuracy(_ConfusionMetric):
    """Mean over classes of TP / (TP + FN); classes that are not in the truth left out.

    Arguments and call arguments are those of `MeanIoU`; the name is "mean_accuracy" by default.
    """

    _default_name = "mean_accuracy"


@keras.saving.register_keras_serializable(package="keras_sanet")
class PixelAccuracy(_ConfusionMetric):
    """Share of the pixels that are right; 0 without pixels. `per_class` gives the accuracies.

    Arguments and call arguments are those of `MeanIoU`; the name is "pixel_accuracy" by default.
    """

    _default_name = "pixel_accuracy"

    def _of_all(self, hits, truth, predicted):
        return ops.divide_no_nan(ops.sum(hits), ops.sum(truth))


@keras.saving.register_keras_serializable(package="keras_sanet")
class CrossEntropy(keras.metrics.Metric):
    """Cross-entropy, the mean over all valid pixels of the set.

    Unlike the mean of batch losses in Keras's logs, each pixel weighs the same: what the paper's
    checkpoints are chosen by (section IV-C).

    Args:
        ignore_class: label of void pixels; None: there are none.
        from_logits: False where predictions are probabilities.
        name: name in the logs.
        dtype: as of every Keras metric; sums are float32.

    Call arguments of `update_state` are those of `MeanIoU`, without ids.
    """

    _direction = "down"  # for Keras's callbacks of mode "auto"

    def __init__(self, *, ignore_class=255, from_logits=True, name="cross_entropy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.ignore_class = ignore_class
        self.from_logits = from_logits
        self.total = self.add_variable((), "zeros", dtype="float32", name="total")
        self.pixels = self.add_variable((), "zeros", dtype="float32", name="pixels")

    def update_state(self, y_true, y_pred, sample_weight=None):
        total, pixels = cross_entropy_sums(
            y_true,
            ops.convert_to_tensor(y_pred),
            ignore_class=self.ignore_class,
            sample_weight=sample_weight,
            from_logits=self.from_logits,
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
