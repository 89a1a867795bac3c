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
from keras_sanet._tables import html_lines, html_table, rich_cells

# Name of a figure -> what it is in words.
FIGURES = {
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
    """Counts of a split, and the figures that follow from them, from 0 to 1.

    Attributes:
        class_names: names by class id. palette: their colours.
        source: of which data set and split. mode: how it was predicted, a dict.
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
        """Counts an image: its name, its confusion matrix, and what `count_instances` gave."""
        cells = np.flatnonzero(confusion)
        self._add(image, cells, confusion.reshape(-1)[cells], instances)

    def _add(self, image, cells, pixels, instances):
        """The same of the pixels in some cells of the matrix, by their indices row by row."""
        true, predicted = np.divmod(cells, len(self.class_names))
        self.confusion[true, predicted] += pixels
        counts, right = np.zeros((3, len(self.class_names)), "int64"), true == predicted
        for row, ids, of_ids in zip(
            counts, (true[right], true, predicted), (pixels[right], pixels, pixels)
        ):
            np.add.at(row, ids, of_ids)
        self.images.append(image)
        self.counts.append(counts)
        if instances is not None:
            self.instances = instances + (0 if self.instances is None else self.instances)

    @property
    def pixel_accuracy(self):
        return float(self._figure("pixel_accuracy"))

    @property
    def mean_accuracy(self):
        return float(self._figure("mean_accuracy"))

    @property
    def mean_iou(self):
        return float(self._figure("mean_iou"))

    @property
    def frequency_weighted_iou(self):
        """The mean IoU weighted by the true pixels of the classes (Long et al., 2015)."""
        return float(self._figure("frequency_weighted_iou"))

    @property
    def iou_per_class(self):
        """IoU by class id; NaN for a class in neither truth nor prediction."""
        return _iou(self._total)

    @property
    def accuracy_per_class(self):
        """Accuracy by class id; NaN for a class that is not in the truth."""
        return _accuracy(self._total)

    @property
    def iou_per_image(self):
        """Mean IoU of each image by itself; NaN for one that is void."""
        return _figure("mean_iou", self._counts, False)

    @property
    def iou_per_category(self):
        """IoU of categories, as of classes that are the union of theirs: Cityscapes."""
        confusion = self._by_category()
        return _iou(np.stack([confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)]))

    @property
    def instance_iou_per_class(self):
        """Cityscapes' iIoU: true pixels weighted by the mean size of instances over their own;
        NaN for classes without instances."""
        pixels, right, _ = self._instances.T
        wrong = self.confusion.sum(axis=0) - self.confusion.diagonal()
        return _divide(right, pixels + wrong)

    @property
    def instance_iou_per_category(self):
        """iIoU of the categories all of whose classes have instances; NaN for others."""
        confusion = self._by_category()
        wrong = confusion.sum(axis=0) - confusion.diagonal()
        pixels, _, right = np.transpose(
            [self._instances[ids].sum(axis=0) for ids in self.categories.values()]
        )
        return _divide(right, pixels + wrong)

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
            f"{text} Only {self.class_names[occurs.argmax()]} does, so the figures say nothing of "
            "the others: are the ids in the masks those of the classes? (255 is void.)"
        )

    def interval(self, figure="mean_iou", level=0.95, samples=1000, seed=0):
        """Bootstrap over images: how far the figure might be off with others of their kind.

        Args:
            figure: one of `FIGURES`. level: share of the bootstrap samples inside.
            samples: how often as many images are drawn with replacement. seed: of the draws.
        Returns: the lower and the upper end. Both are NaN without images.
        """
        return _interval(self._bootstrap(figure, samples, seed), level)

    def save(self, folder):
        """Writes `evaluation.txt` (the table), `classes.csv`, and last `evaluation.json` (every
        figure), which says that all is there.

        Args: folder, made where it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "evaluation.txt") as path:
            path.write_text(f"{self}\n", "utf-8", "backslashreplace")
        rows = self._rows()
        with (
            replacing(folder / "classes.csv") as path,
            open(path, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(_without_nan(rows))
        text = json.dumps(self.as_dict(), indent=1)
        with replacing(folder / "evaluation.json") as path:
            path.write_text(f"{text}\n", "utf-8")

    def as_dict(self):
        """All of it for JSON; what is not defined is None."""
        figures = {name: getattr(self, name) for name in FIGURES}
        result = {
            "source": self.source,
            "mode": self.mode,
            "images": len(self.images),
            "absent_as_zero": self.absent_as_zero,
            **figures,
            "intervals_95": {name: self.interval(name) for name in FIGURES},
            "classes": self._rows(),
            "iou_per_image": [
                {"image": image, "mean_iou": iou}
                for image, iou in zip(self.images, self.iou_per_image.tolist())
            ],
            "confusion": self.confusion.tolist(),
        }
        if self.categories:
            names = [*self.categories]
            result["iou_per_category"] = dict(zip(names, self.iou_per_category.tolist()))
            result["mean_category_iou"] = _mean(self.iou_per_category, False)
        if self.instances is not None:
            values = self.instance_iou_per_category.tolist()
            result["instance_iou_per_category"] = dict(zip(self.categories, values))
            result["mean_instance_iou"] = _mean(self.instance_iou_per_class, False)
            result["mean_category_instance_iou"] = _mean(self.instance_iou_per_category, False)
        return _without_nan(result)

    def __repr__(self):
        figures = ", ".join(
            f"{FIGURES[name]} {100 * getattr(self, name):.2f} %"
            for name in ("mean_iou", "pixel_accuracy")
        )
        return f"<Evaluation of {self.source}: {len(self.images)} images, {figures}>"

    def __rich__(self):
        table, lines = self._table()
        return Group(table, Text(lines))

    def _repr_html_(self):
        table, lines = self._table()
        return html_table(*rich_cells(table)) + html_lines(lines.splitlines())

    def _table(self):
        """A line a class and a category, the means and their intervals, percent; and its notes."""
        total = max(1, self.confusion.sum())
        with_instances = self.instances is not None
        table = Table(box=SIMPLE, pad_edge=False)
        table.add_column("class")
        for title in ("pixels", "accuracy", "IoU", *(["iIoU"] if with_instances else [])):
            table.add_column(title, justify="right")

        def add(name, *values):
            table.add_row(Text(name), *("" if v is None else f"{100 * v:.2f}" for v in values))

        for row in self._rows():
            values = [row["iou"], *([row["instance_iou"]] if with_instances else [])]
            add(row["class"], row["pixels"] / total, row["accuracy"], *values)
        table.add_section()
        mean = [_mean(self.instance_iou_per_class, False)] if with_instances else []
        add("mean", None, self.mean_accuracy, self.mean_iou, *mean)
        add("frequency-weighted", None, None, self.frequency_weighted_iou)
        add("pixel accuracy", None, self.pixel_accuracy)
        if self.categories:
            table.add_section()
            ious = self.iou_per_category
            columns = [self.instance_iou_per_category] if with_instances else []
            for index, name in enumerate(self.categories):
                add(name, None, None, ious[index], *(column[index] for column in columns))
            means = [_mean(column, False) for column in columns]
            add("mean of categories", None, None, _mean(ious, False), *means)
        intervals = ", ".join(
            f"{FIGURES[name]} {100 * low:.2f} to {100 * high:.2f}"
            for name in ("mean_iou", "pixel_accuracy")
            for low, high in [self.interval(name)]
        )
        absent = "absent classes count as 0" if self.absent_as_zero else "absent classes left out"
        lines = (
            f"{len(self.images)} images of {self.source}; percent; void pixels do not count, "
            f"{absent}.\n95 % of bootstrap samples: {intervals}."
        )
        lines += f"\n{self.doubt}" if self.doubt else ""
        return table, lines

    def __str__(self):
        # In a notebook rich would show the table, and leave nothing for `print` and files.
        console = Console(file=io.StringIO(), width=120, color_system=None, force_jupyter=False)
        console.print(self.__rich__())
        lines = (line.rstrip() for line in console.file.getvalue().splitlines())
        return "\n".join(lines).strip("\n")

    def _rows(self):
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
    def _total(self):
        """(3, classes): pixels that are right, true and predicted."""
        return self._counts.sum(axis=0)

    @property
    def _counts(self):
        """The same of every image, (images, 3, classes)."""
        return np.reshape(self.counts, (-1, 3, len(self.class_names)))

    def _figure(self, name):
        return _figure(name, self._total, self.absent_as_zero)

    def _bootstrap(self, figure, samples, seed):
        """The figure of each bootstrap sample, (samples,)."""
        if figure not in FIGURES:
            raise ValueError(f"Unknown figure {figure!r}. Known: {', '.join(FIGURES)}.")
        count = len(self.images)
        if count == 0:
            return np.full(samples, np.nan)
        rng, counts, values = np.random.default_rng(seed), self._counts, []
        for start in range(0, samples, _CHUNK):
            size = min(_CHUNK, samples - start)
            draws = rng.multinomial(count, np.full(count, 1 / count), size)  # how often each image
            drawn = np.tensordot(draws.astype("float64"), counts, 1)
            values.append(_figure(figure, drawn, self.absent_as_zero))
        return np.concatenate(values)

    def _by_category(self):
        of_category = np.zeros((len(self.categories), len(self.class_names)), "int64")
        for row, ids in zip(of_category, self.categories.values()):
            row[ids] = 1
        return of_category @ self.confusion @ of_category.T

    @property
    def _instances(self):
        if self.instances is None:
            raise ValueError(f"No instances were counted: {self.source} has none.")
        return self.instances


@dataclasses.dataclass
class Comparison:
    """A figure of two models on the same images; see `compare`.

    Attributes: figure, its name; first, second, its values; difference, second - first; low, high,
        the ends of the difference's interval; level, of the interval.
    """

    figure: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float

    @property
    def _verdict(self):
        if np.isnan(self.difference):
            return "not defined"
        return "differ" if self.low > 0 or self.high < 0 else "may be equal"

    def _repr_html_(self):
        cells = [f"{100 * value:.2f}" for value in (self.first, self.second)]
        cells += [f"{100 * value:+.2f}" for value in (self.difference, self.low, self.high)]
        titles = ["percent", "first", "second", "difference", "lower end", "upper end"]
        share = f"{100 * self.level:g} % of bootstrap samples: {self._verdict}"
        return html_table(titles, [[FIGURES[self.figure], *cells]]) + html_lines([share])

    def __str__(self):
        return (
            f"{FIGURES[self.figure]}: {100 * self.first:.2f} and {100 * self.second:.2f} %, "
            f"difference {100 * self.difference:+.2f} ({100 * self.low:+.2f} to "
            f"{100 * self.high:+.2f} in {100 * self.level:g} % of bootstrap samples): "
            f"{self._verdict}"
        )


def compare(first, second, figure="mean_iou", level=0.95, samples=1000, seed=0):
    """Two evaluations of the same images, paired: each bootstrap sample draws the same images for
    both, so that what makes an image hard for both cancels out.

    Args: first, second, an `Evaluation` each; the others as for `Evaluation.interval`.
    Returns: a `Comparison`.
    Raises: ValueError where the images, the classes or the rule for absent ones are not the same.
    """
    if first.class_names != second.class_names:
        raise ValueError("The two evaluations have different classes; they can't be compared.")
    if first.images != second.images:
        only = sorted(set(first.images) ^ set(second.images))[:3]
        raise ValueError(
            f"The two evaluations are not of the same images: {len(first.images)} of "
            f"{first.source} and {len(second.images)} of {second.source}; only in one of them: "
            f"{', '.join(only) or 'none, but their order differs'}."
        )
    if first.absent_as_zero != second.absent_as_zero:
        raise ValueError(
            "One evaluation counts absent classes as 0 and the other leaves them out; evaluate "
            "both with the same `absent_as_zero`."
        )
    differences = second._bootstrap(figure, samples, seed) - first._bootstrap(figure, samples, seed)
    values = getattr(first, figure), getattr(second, figure)
    return Comparison(figure, *values, values[1] - values[0], *_interval(differences, level), level)


def _divide(a, b):
    with np.errstate(divide="ignore", invalid="ignore"):
        return a / b


def _iou(counts):
    """IoU by class of (..., 3, classes): pixels that are right, true and predicted."""
    with np.errstate(invalid="ignore"):
        return metrics.iou(*np.moveaxis(counts, -2, 0))


def _accuracy(counts):
    with np.errstate(invalid="ignore"):
        return metrics.accuracy(*np.moveaxis(counts, -2, 0)[:2])


def _figure(name, counts, absent_as_zero):
    """A figure of (..., 3, classes) counts, (...)."""
    hits, truth, _ = np.moveaxis(counts, -2, 0)
    if name == "pixel_accuracy":
        return _divide(hits.sum(axis=-1), truth.sum(axis=-1))
    if name == "frequency_weighted_iou":
        weighted = np.nansum(truth * _iou(counts), axis=-1)
        return _divide(weighted, truth.sum(axis=-1))
    values = _iou(counts) if name == "mean_iou" else _accuracy(counts)
    return _mean(values, absent_as_zero)


def _mean(values, absent_as_zero):
    """Mean over the last axis without NaN, or with 0 in its place; NaN where nothing is left."""
    absent = np.isnan(values)
    count = values.shape[-1] if absent_as_zero else np.sum(~absent, axis=-1)
    return _divide(np.where(absent, 0, values).sum(axis=-1), count)


def _interval(values, level):
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
