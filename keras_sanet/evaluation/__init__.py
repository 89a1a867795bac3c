"""Metrics of a model over a split, image by image, with intervals and comparisons."""

from keras_sanet.evaluation.evaluate import check_classes, evaluate, load, read_figures
from keras_sanet.evaluation.figures import FIGURES, AbsentClasses, Comparison, Evaluation, compare

__all__ = [
    "FIGURES",
    "AbsentClasses",
    "Comparison",
    "Evaluation",
    "check_classes",
    "compare",
    "evaluate",
    "load",
    "read_figures",
]
