"""Figures of a model on a split, at the full size of its masks (paper, Tables III-VI)."""

import dataclasses

import numpy as np
from keras import ops

from keras_sanet import metrics
from keras_sanet.inference import predict_mask


@dataclasses.dataclass
class Evaluation:
    """What `evaluate` counted.

    Attributes:
        confusion: int64 (classes, classes), pixels by true (rows) and predicted class.
        class_names: names by class id.
        images: number of images.
        source: of which data set and split.
    """

    confusion: np.ndarray
    class_names: list
    images: int
    source: str

    @property
    def iou_per_class(self):
        """IoU by class id; NaN for a class in neither truth nor prediction."""
        return ops.convert_to_numpy(metrics.iou_per_class(self._counts))

    @property
    def accuracy_per_class(self):
        """Accuracy by class id; NaN for a class that is not in the truth."""
        return ops.convert_to_numpy(metrics.accuracy_per_class(self._counts))

    @property
    def mean_iou(self):
        return float(metrics.mean_present(metrics.iou_per_class(self._counts)))

    @property
    def mean_accuracy(self):
        return float(metrics.mean_present(metrics.accuracy_per_class(self._counts)))

    @property
    def pixel_accuracy(self):
        return float(metrics.pixel_accuracy(self._counts))

    @property
    def _counts(self):
        return ops.convert_to_tensor(self.confusion, dtype="float32")

    def __str__(self):
        """A table: a line a class, and the means. Percent."""
        shares = 100 * self.confusion.sum(axis=1) / max(1, self.confusion.sum())
        columns = (shares, 100 * self.accuracy_per_class, 100 * self.iou_per_class)
        width = max(len("pixel accuracy"), *(len(name) for name in self.class_names))
        head = f"{'class':{width}}  {'pixels':>6}  {'accuracy':>8}  {'IoU':>6}"
        rule = "-" * len(head)
        mean_accuracy, mean_iou = 100 * self.mean_accuracy, 100 * self.mean_iou
        return "\n".join(
            [
                head,
                rule,
                *(
                    f"{name:{width}}  {share:6.2f}  {accuracy:8.2f}  {iou:6.2f}"
                    for name, share, accuracy, iou in zip(self.class_names, *columns)
                ),
                rule,
                f"{'mean':{width}}  {'':6}  {mean_accuracy:8.2f}  {mean_iou:6.2f}",
                f"{'pixel accuracy':{width}}  {'':6}  {100 * self.pixel_accuracy:8.2f}",
                f"{self.images} images of {self.source}; percent; void pixels do not count",
            ]
        )


def evaluate(model, dataset, split, scales=(1.0,), flip=False, window=None, track=iter):
    """Predicts every image of a split at its own size, and counts.

    Args:
        model: images to logits.
        dataset: from `datasets.load`. split: name of the split.
        scales, flip, window: see `inference.predict_probabilities`.
        track: a function around the list of samples, such as `rich.progress.track`.

    Returns: an `Evaluation`.

    Raises: ValueError where the model has not as many classes as the data set.
    """
    n = dataset.num_classes
    classes = model.get_layer("logits").output.shape[-1]
    if classes != n:
        raise ValueError(f"The model has {classes} classes, the data set {dataset.name!r} {n}.")
    samples = dataset.samples(split)
    confusion = np.zeros((n, n), "int64")
    for sample in track(samples):
        image, truth = dataset.read(sample)
        if truth is None:
            raise ValueError(f"{sample.image} has no mask; the split {split!r} is for prediction.")
        predicted = predict_mask(model, image, scales, flip, window)
        counts = truth != dataset.ignore_class
        cells = n * truth[counts].astype("int64") + predicted[counts]
        confusion += np.bincount(cells, minlength=n * n).reshape(n, n)
    source = f"{dataset.name}, {split}"
    return Evaluation(confusion, dataset.class_names, len(samples), source)
