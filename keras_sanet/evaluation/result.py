"""What an evaluation tells: metrics, intervals, tables."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from keras_sanet import metrics
from keras_sanet._files import replacing
from keras_sanet._tables import html_lines, html_table, percent, rich_cells

# Name of a metric -> what it is in words.
METRICS = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_iou": "mean IoU",
    "frequency_weighted_iou": "frequency-weighted IoU",
}

_NAMED = 10  # absent classes that are named
_CHUNK = 50  # bootstrap samples drawn at once, which bounds the memory


class AbsentClasses(UserWarning):
    """Classes never occur in the truth; see `Evaluation.doubt`."""


@dataclasses.dataclass(repr=False)
class Evaluation:
    """Counts of a split, and the metrics that follow from them, from 0 to 1.

    Attributes:
        class_names: names by class id.
        palette: colors by class id.
        source: which data set and split.
        mode: dict, how it was predicted.
        categories: dict from a category to its class ids; empty if there is none.
        absent_as_zero: whether a class that is absent counts as 0 in the means.
        images: names of the images that were counted.
        confusion: int64 (classes, classes), pixels by true (rows) and predicted class.
        counts: list of int64 (3, classes), an image each: pixels that are right, true and
            predicted.
        instances: float64 (classes, 3), of instances: weighted pixels, those of the right class,
            those of the right category; None where the data set has none.
    """

    class_names: list
    palette: list
    source: str
    mode: dict = dataclasses.field(default_factory=dict)
    categories: dict = dataclasses.field(default_factory=dict)
    absent_as_zero: bool = False
    images: list = dataclasses.field(default_factory=list)
    confusion: np.ndarray = None
    counts: list = dataclasses.field(default_factory=list)
    instances: np.ndarray = None

    def __post_init__(self):
        if self.confusion is None:
            self.confusion = np.zeros((len(self.class_names),) * 2, "int64")

    def add(self, image, confusion, instances=None):
        """Counts an image.

        Args:
            image: its name.
            confusion: integers (classes, classes), pixels by true (rows) and predicted class.
            instances: what `Dataset.count_instances` gave, or None.
        """
        cells = np.flatnonzero(confusion)
        self.add_cells(image, cells, confusion.reshape(-1)[cells], instances)

    def add_cells(self, image, cells, pixels, instances=None):
        """`add` of the pixels in some cells of the matrix, by their indices row by row."""
        true, predicted = np.divmod(cells, len(self.class_names))
        self.confusion[true, predicted] += pixels
        counts, right = np.zeros((3, len(self.class_names)), "int64"), true == predicted
        np.add.at(counts[0], true[right], pixels[right])
        np.add.at(counts[1], true, pixels)
        np.add.at(counts[2], predicted, pixels)
        self.images.append(image)
        self.counts.append(counts)
        if instances is not None:
            self.instances = instances + (0 if self.instances is None else self.instances)

    @property
    def pixel_accuracy(self):
        """Share of the pixels that are right."""
        return self._metric("pixel_accuracy")

    @property
    def mean_accuracy(self):
        """Mean of the accuracies of the classes."""
        return self._metric("mean_accuracy")

    @property
    def mean_iou(self):
        """Mean of the IoUs of the classes."""
        return self._metric("mean_iou")

    @property
    def frequency_weighted_iou(self):
        """Mean IoU weighted by the true pixels of the classes (Long et al., 2015)."""
        return self._metric("frequency_weighted_iou")

    def _metric(self, name):
        return float(_metric(name, _counts(self.confusion), self.absent_as_zero))

    @property
    def iou_per_class(self):
        """IoU by class id; NaN for a class in neither truth nor prediction."""
        return _iou(_counts(self.confusion))

    @property
    def accuracy_per_class(self):
        """Accuracy by class id; NaN for a class that is not in the truth."""
        return _divide(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @property
    def iou_per_image(self):
        """Mean IoU of each image by itself; NaN for one that is void."""
        return _metric("mean_iou", self._counts_per_image, False)

    @property
    def iou_per_category(self):
        """IoU of the categories, whose classes count as one; NaN for an absent one."""
        return _iou(_counts(self._by_category()))

    @property
    def instance_iou_per_class(self):
        """Cityscapes' iIoU: true pixels weighted by the mean size of instances over their own;
        NaN for classes without instances."""
        pixels, right, _ = self._instances.T
        _, _, predicted = counts = _counts(self.confusion)
        return _divide(right, pixels + predicted - counts[0])

    @property
    def instance_iou_per_category(self):
        """iIoU of the categories all of whose classes have instances; NaN for others."""
        hits, _, predicted = _counts(self._by_category())
        ids = self.categories.values()
        pixels, _, right = np.transpose([self._instances[i].sum(axis=0) for i in ids])
        return _divide(right, pixels + predicted - hits)

    @property
    def doubt(self):
        """What to know before one trusts the means: which classes never occur in the truth, and
        whether only one does, so that a model of nothing else is perfect. None if all occur."""
        occurs = self.confusion.sum(axis=1) > 0
        if occurs.all() or not occurs.any():
            return None
        absent = [name for name, found in zip(self.class_names, occurs) if not found]
        more = ", ..." if len(absent) > _NAMED else ""
        text = (
            f"{len(absent)} of {len(occurs)} classes never occur in the masks of {self.source}: "
            f"{', '.join(absent[:_NAMED])}{more}."
        )
        if occurs.sum() > 1:
            return text
        return (
            f"{text} Only {self.class_names[occurs.argmax()]} does, so the metrics say nothing of "
            "the others: are the ids in the masks those of the classes? (255 is void.)"
        )

    def interval(self, metric="mean_iou", *, level=0.95, samples=1000, seed=0):
        """Bootstrap over images: how far a metric might be off with others of their kind.

        Args:
            metric: one of `METRICS`.
            level: share of the bootstrap samples inside.
            samples: how often as many images are drawn with replacement.
            seed: of the draws.

        Returns:
            The lower and the upper limit, floats. Both are NaN without images.
        """
        return limits(self.bootstrap(metric, samples, seed), level)

    def bootstrap(self, metric="mean_iou", samples=1000, seed=0):
        """A metric of each bootstrap sample, (samples,); arguments as for `interval`."""
        if metric not in METRICS:
            raise ValueError(f"Unknown metric {metric!r}. Known: {', '.join(METRICS)}.")
        count = len(self.images)
        if count == 0:
            return np.full(samples, np.nan)
        rng, counts, values = np.random.default_rng(seed), self._counts_per_image, []
        for start in range(0, samples, _CHUNK):
            size = min(_CHUNK, samples - start)
            draws = rng.multinomial(count, np.full(count, 1 / count), size)  # how often each image
            drawn = np.tensordot(draws.astype("float64"), counts, 1)
            values.append(_metric(metric, drawn, self.absent_as_zero))
        return np.concatenate(values)

    def save(self, folder):
        """Writes `evaluation.txt` (the table), `classes.csv`, and last `evaluation.json` (every
        metric), which says that all is there.

        Args:
            folder: folder to write into, made where it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "evaluation.txt") as path:
            path.write_text(f"{self}\n", "utf-8", "backslashreplace")
        classes = self._classes()
        with (
            replacing(folder / "classes.csv") as path,
            open(path, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, classes[0])
            writer.writeheader()
            writer.writerows(_without_nan(classes))
        text = json.dumps(self.as_dict(), indent=1)
        with replacing(folder / "evaluation.json") as path:
            path.write_text(f"{text}\n", "utf-8")

    def as_dict(self):
        """All of it for JSON; what is not defined is None."""
        result = {
            "source": self.source,
            "mode": self.mode,
            "images": len(self.images),
            "absent_as_zero": self.absent_as_zero,
            **{name: getattr(self, name) for name in METRICS},
            "intervals_95": {name: self.interval(name) for name in METRICS},
            "classes": self._classes(),
            "iou_per_image": [
                {"image": image, "mean_iou": iou}
                for image, iou in zip(self.images, self.iou_per_image.tolist())
            ],
            "confusion": self.confusion.tolist(),
        }
        if self.categories:
            result["iou_per_category"] = dict(zip(self.categories, self.iou_per_category.tolist()))
            result["mean_category_iou"] = _mean(self.iou_per_category)
        if self.instances is not None:
            values = self.instance_iou_per_category
            result["instance_iou_per_category"] = dict(zip(self.categories, values.tolist()))
            result["mean_instance_iou"] = _mean(self.instance_iou_per_class)
            result["mean_category_instance_iou"] = _mean(values)
        return _without_nan(result)

    def __repr__(self):
        values = ", ".join(
            f"{METRICS[name]} {100 * getattr(self, name):.2f} %"
            for name in ("mean_iou", "pixel_accuracy")
        )
        return f"<Evaluation of {self.source}: {len(self.images)} images, {values}>"

    def __rich__(self):
        table, lines = self._table()
        return Group(table, Text("\n".join(lines)))

    def _repr_html_(self):
        table, lines = self._table()
        return html_table(*rich_cells(table)) + html_lines(lines)

    def __str__(self):
        # In a notebook rich would show the table, and leave nothing for `print` and files.
        console = Console(file=io.StringIO(), width=120, color_system=None, force_jupyter=False)
        console.print(self.__rich__())
        lines = (line.rstrip() for line in console.file.getvalue().splitlines())
        return "\n".join(lines).strip("\n")

    def _table(self):
        """A line a class and a category, the means and their intervals, percent; and its notes."""
        with_instances = self.instances is not None
        table = Table(box=SIMPLE, pad_edge=False)
        table.add_column("class")
        for title in ("pixels", "accuracy", "IoU", *["iIoU"] * with_instances):
            table.add_column(title, justify="right")

        def add(name, pixels=None, accuracy=None, iou=None, instance_iou=None):
            values = [pixels, accuracy, iou, *[instance_iou] * with_instances]
            table.add_row(Text(name), *("" if v is None else percent(v) for v in values))

        total = max(1, self.confusion.sum())
        for row in self._classes():
            add(row.pop("class"), row.pop("pixels") / total, **row)
        table.add_section()
        mean = _mean(self.instance_iou_per_class) if with_instances else None
        add("mean", None, self.mean_accuracy, self.mean_iou, mean)
        add("frequency-weighted", iou=self.frequency_weighted_iou)
        add("pixel accuracy", accuracy=self.pixel_accuracy)
        if self.categories:
            table.add_section()
            columns = [self.iou_per_category]
            columns += [self.instance_iou_per_category] if with_instances else []
            for name, *values in zip(self.categories, *columns):
                add(name, None, None, *values)
            add("mean of categories", None, None, *map(_mean, columns))
        intervals = ", ".join(
            f"{METRICS[name]} {' to '.join(map(percent, self.interval(name)))}"
            for name in ("mean_iou", "pixel_accuracy")
        )
        absent = "absent classes count as 0" if self.absent_as_zero else "absent classes left out"
        lines = [
            f"{len(self.images)} images of {self.source}; percent; void pixels do not count, "
            f"{absent}.",
            f"95 % of bootstrap samples: {intervals}.",
        ]
        return table, [*lines, *([self.doubt] if self.doubt else [])]

    def _classes(self):
        """A dict a class."""
        columns = {
            "class": self.class_names,
            "pixels": self.confusion.sum(axis=1).tolist(),
            "accuracy": self.accuracy_per_class.tolist(),
            "iou": self.iou_per_class.tolist(),
        }
        if self.instances is not None:
            columns["instance_iou"] = self.instance_iou_per_class.tolist()
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    @property
    def _counts_per_image(self):
        """(images, 3, classes)."""
        return np.reshape(self.counts, (-1, 3, len(self.class_names)))

    def _by_category(self):
        """The confusion matrix of the categories."""
        classes = range(len(self.class_names))
        member = np.array([np.isin(classes, ids) for ids in self.categories.values()], "int64")
        return member @ self.confusion @ member.T

    @property
    def _instances(self):
        if self.instances is None:
            raise ValueError(f"No instances were counted: {self.source} has none.")
        return self.instances


def _counts(confusion):
    """Pixels of each class that are right, true and predicted, (3, classes)."""
    return np.stack([confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)])


@np.errstate(divide="ignore", invalid="ignore")
def _divide(a, b):
    return a / b


@np.errstate(invalid="ignore")
def _iou(counts):
    """IoU by class of (..., 3, classes): pixels that are right, true and predicted."""
    return metrics.iou(*np.moveaxis(counts, -2, 0))


def _metric(name, counts, absent_as_zero):
    """A metric of (..., 3, classes) counts, (...)."""
    hits, truth, _ = np.moveaxis(counts, -2, 0)
    if name == "pixel_accuracy":
        return _divide(hits.sum(axis=-1), truth.sum(axis=-1))
    if name == "frequency_weighted_iou":
        return _divide(np.nansum(truth * _iou(counts), axis=-1), truth.sum(axis=-1))
    values = _iou(counts) if name == "mean_iou" else _divide(hits, truth)
    return _mean(values, absent_as_zero)


def _mean(values, absent_as_zero=False):
    """Mean over the last axis without NaN, or with 0 in its place; NaN where nothing is left."""
    absent = np.isnan(values)
    count = values.shape[-1] if absent_as_zero else np.sum(~absent, axis=-1)
    return _divide(np.where(absent, 0, values).sum(axis=-1), count)


def limits(values, level):
    """Lower and upper limit of the middle share `level` of values; NaN where there are none."""
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1. Received: level={level}.")
    tail = (1 - level) / 2
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def _without_nan(value):
    """The same with None for NaN, which JSON does not know, and Python's numbers for NumPy's."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return None if np.isnan(value) else float(value)
    return value
