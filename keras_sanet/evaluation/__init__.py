"""Metrics of a model over a split, image by image, with intervals and comparisons."""

from keras_sanet.evaluation.comparison import Comparison, compare
from keras_sanet.evaluation.evaluate import check_classes, evaluate, join, load, read_metrics
from keras_sanet.evaluation.report import write_report
from keras_sanet.evaluation.result import METRICS, AbsentClasses, Evaluation

__all__ = [
    "METRICS",
    "AbsentClasses",
    "Comparison",
    "Evaluation",
    "check_classes",
    "compare",
    "evaluate",
    "join",
    "load",
    "read_metrics",
    "write_report",
]
