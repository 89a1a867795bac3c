import csv
from pathlib import Path

import numpy as np

_WRITTEN = 20  # most classes whose shares are written into the cells of a confusion matrix

_NAMED = 60  # most classes whose names fit beside it


def plot_training_curves(logs, metric="val_mean_iou", *, ax=None):
    """One curve a training, over its epochs (Figure 3, which shows the validation mean accuracy).

    Args:
        logs: path of a CSV file as `training.callbacks` (or Keras's `CSVLogger`) writes it, a list
            of them, or a dict from a label to one, or to a list of those that follow each other:
            {"SANet": [run / "cross_entropy.csv", run / "lovasz.csv"]}. Where a resumed training
            wrote an epoch twice, the later row counts.
        metric: column of the files. Accuracies and IoUs are drawn in percent.
        ax: matplotlib `Axes` to draw on; new ones if None.

    Returns:
        The `Axes`; x is the epoch, from 1.

    Raises:
        ValueError: a file, which it names, has no epoch or no such metric.

    Reference: Figure 3.
    """
    plt = pyplot()
    if isinstance(logs, (str, Path)):
        logs = [logs]
    if not isinstance(logs, dict):
        logs = {str(path): path for path in logs}
    if not logs:
        raise ValueError(f"`logs` must hold one CSV file at least. Received: logs={logs}.")
    curves = {label: _curve(paths, metric) for label, paths in logs.items()}
    if ax is None:
        ax = plt.subplots(layout="constrained")[1]
    share = any(word in metric for word in ("accuracy", "iou"))
    for label, (epochs, values) in curves.items():
        values = np.multiply(100 if share else 1, values)
        ax.plot(epochs, values, marker=".", label=label)
    name = metric.replace("val_", "validation ").replace("iou", "IoU").replace("_", " ")
    return _over_epochs(ax, f"{name} (%)" if share else name)


def plot_bands(curves, ylabel, *, ax=None):
    """Curves over the epochs of repeated trainings, each with its interval.

    Args:
        curves: dict from a label to (mean, low, high), a number an epoch each; NaN limits for none.
        ylabel: what they show.
        ax: matplotlib `Axes` to draw on; new ones if None.

    Returns:
        The `Axes`; x is the epoch, from 1.
    """
    if ax is None:
        ax = pyplot().subplots(layout="constrained")[1]
    for index, (label, (mean, low, high)) in enumerate(curves.items()):
        epochs, style = range(1, len(mean) + 1), "-" if index < 10 else "--"  # of ten colors
        (line,) = ax.plot(epochs, mean, style, marker=".", label=label)
        ax.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    return _over_epochs(ax, ylabel)


def plot_intervals(differences, xlabel, *, ax=None):
    """A dot and its interval in each line, beside 0.

    Args:
        differences: dict from a label to (mean, low, high); NaN limits for none.
        xlabel: what they show.
        ax: matplotlib `Axes` to draw on; new ones, high enough, if None.

    Returns:
        The `Axes`.
    """
    if ax is None:
        size = (6.4, 1.0 + 0.32 * len(differences))
        ax = pyplot().subplots(figsize=size, layout="constrained")[1]
    for line, (mean, low, high) in enumerate(differences.values()):
        ax.plot([low, high], [line, line], color="tab:blue", linewidth=2)
        ax.plot([mean], [line], "o", color="tab:blue")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(xlabel, loc="right")  # beside long labels there is more room to its left
    ax.set_ylim(len(differences) - 0.5, -0.5)
    ax.set_yticks(range(len(differences)), list(differences))
    ax.grid(alpha=0.3, axis="x")
    return ax


def plot_confusion_matrix(confusion, class_names, *, ax=None):
    """What the pixels of each class were taken for.

    Rows are true classes and add up to 100 %; a row without truth stays blank. Up to 20 classes
    have their percents written into the cells; more than 60 are numbered instead of named.

    Args:
        confusion: pixels by true (rows) and predicted class, (classes, classes), such as
            `Evaluation.confusion`.
        class_names: strings by class id.
        ax: matplotlib `Axes` to draw on; new ones, large enough, if None.

    Returns:
        The `Axes`.

    Raises:
        ValueError: `confusion` has not one row and one column a class.
    """
    plt = pyplot()
    confusion, n = np.asarray(confusion, "float64"), len(class_names)
    if confusion.shape != (n, n):
        raise ValueError(
            f"`confusion` must be ({n}, {n}), a row and a column for each of `class_names`. "
            f"Received: shape {confusion.shape}."
        )
    pixels = confusion.sum(axis=1, keepdims=True)
    percent = np.divide(100 * confusion, pixels, out=np.full((n, n), np.nan), where=pixels > 0)
    if ax is None:
        side = np.clip(2.5 + 0.4 * n, 4, 12)
        width = side if n <= _WRITTEN else 1.15 * side  # room for the color bar
        ax = plt.subplots(figsize=(width, side), layout="constrained")[1]
    drawn = ax.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    ax.set(xlabel="predicted class", ylabel="true class")
    if n <= _NAMED:
        size = 10 if n <= _WRITTEN else 7
        ax.set_xticks(range(n), class_names, rotation=90, fontsize=size)
        ax.set_yticks(range(n), class_names, fontsize=size)
    if n <= _WRITTEN:
        for (row, column), value in np.ndenumerate(percent):
            if not np.isnan(value):
                ink = "white" if value > 60 else "black"
                ax.text(column, row, f"{value:.0f}", color=ink, ha="center", va="center", size=8)
    else:
        ax.figure.colorbar(drawn, ax=ax, label="% of the true pixels", shrink=0.8)
    return ax


def save_plot(ax, path):
    """Writes the figure that matplotlib `Axes` are on, and closes it."""
    ax.figure.savefig(path, dpi=100)
    pyplot().close(ax.figure)


def pyplot():
    """The module matplotlib.pyplot.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plots need matplotlib: `pip install keras-sanet[plots]`.") from error
    return plt


def _over_epochs(ax, ylabel):
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.locator_params(axis="x", integer=True)
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def _curve(paths, metric):
    """Epochs, from 1, and the metric there, of logs that follow each other."""
    epochs, values, done = [], [], 0
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError(f"{path} holds no epoch.")
        if metric not in rows[0]:
            there = ", ".join(name for name in rows[0] if name != "epoch")
            raise ValueError(f"{path} has no metric {metric!r}. It has: {there}.")
        by_epoch = {int(row["epoch"]): row[metric] for row in rows}  # the later row stays
        for epoch, value in sorted(by_epoch.items()):
            if value not in (None, "NA"):  # no validation in this epoch
                epochs.append(done + epoch + 1)
                values.append(float(value))
        done += max(by_epoch) + 1
    return epochs, values
