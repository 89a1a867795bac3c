"""Two evaluations of the same images."""

from dataclasses import dataclass

import numpy as np

from keras_sanet._tables import html_lines, html_table
from keras_sanet.evaluation.result import METRICS, limits


@dataclass
class Comparison:
    """A metric of two models on the same images; see `compare`.

    Attributes:
        metric: its name.
        first: its value of the first model.
        second: its value of the second.
        difference: second - first.
        low: lower limit of the difference's interval.
        high: upper limit.
        level: share of the bootstrap samples inside.
    """

    metric: str
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
        titles = ["percent", "first", "second", "difference", "lower limit", "upper limit"]
        share = f"{100 * self.level:g} % of bootstrap samples: {self._verdict}"
        return html_table(titles, [[METRICS[self.metric], *cells]]) + html_lines([share])

    def __str__(self):
        return (
            f"{METRICS[self.metric]}: {100 * self.first:.2f} and {100 * self.second:.2f} %, "
            f"difference {100 * self.difference:+.2f} ({100 * self.low:+.2f} to "
            f"{100 * self.high:+.2f} in {100 * self.level:g} % of bootstrap samples): "
            f"{self._verdict}"
        )


def compare(first, second, *, metric="mean_iou", level=0.95, samples=1000, seed=0):
    """Two evaluations of the same images, paired: each bootstrap sample draws the same images for
    both, so that what makes an image hard for both cancels out.

    Args:
        first: an `Evaluation`.
        second: another.
        metric: one of `METRICS`.
        level: share of the bootstrap samples inside the interval.
        samples: how often as many images are drawn with replacement.
        seed: of the draws.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: the images, the classes or the rule for absent ones are not the same.
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
    differences = second.bootstrap(metric, samples, seed) - first.bootstrap(metric, samples, seed)
    values = getattr(first, metric), getattr(second, metric)
    return Comparison(metric, *values, values[1] - values[0], *limits(differences, level), level)
