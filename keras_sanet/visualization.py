"""Masks as colours, over their images, and side by side (paper, Figures 4 and 5); curves of a
training (Figure 3), confusion matrices, and what the aggregator does with each tap (Eqs 2-8).

What starts with `plot_` needs matplotlib, the extra `plots`, and leaves showing and saving to the
caller.
"""

import contextlib
import csv
from pathlib import Path

import keras
import numpy as np
from keras import ops
from PIL import Image, ImageDraw, ImageFont

from keras_sanet._labels import classes_of
from keras_sanet.datasets.files import VOID
from keras_sanet.datasets.info import colour
from keras_sanet.layers import ConvLSTMAggregator

_DIM = 48  # least grey of `errors`, so that a dark pixel is not taken for void
_WRONG = (255, 0, 0)
_LINE = 18  # pixels of a line of text
# Pillow's own font knows ASCII alone. Names on Linux, macOS and Windows.
_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")
_WRITTEN = 20  # most classes whose shares are written into the cells of a confusion matrix
_NAMED = 60  # most classes whose names fit beside it


def palette(num_classes):
    """Colours for classes that have none: those of PASCAL VOC from 1 on, for void is black. One
    channel is of two classes.

    Returns: list of (red, green, blue) by class id, all distinct.
    Raises: ValueError where `num_classes` is not 1..255.
    """
    if not 1 <= num_classes <= VOID:
        raise ValueError(
            f"`num_classes` must be 1 to {VOID}, the ids of a mask. "
            f"Received: num_classes={num_classes}."
        )
    return [colour(index) for index in range(1, classes_of(num_classes) + 1)]


def colour_mask(mask, palette):
    """Colours of the classes, void black.

    Args: mask, integer (height, width); palette, (red, green, blue) by class id.
    Returns: uint8 (height, width, 3).
    """
    table = np.zeros((max(len(palette), VOID + 1), 3), "uint8")
    table[: len(palette)] = palette
    return table[np.asarray(mask)]


def overlay(image, mask, palette, alpha=0.5):
    """The image with the colours of the mask over it; void pixels stay as they are.

    Args: image, uint8 (height, width, 3); mask, integer (height, width); palette, (red, green,
        blue) by class id; alpha, share of the colour.
    Returns: uint8 (height, width, 3).
    """
    mixed = (1 - alpha) * image + alpha * colour_mask(mask, palette)
    return np.where((np.asarray(mask) == VOID)[..., None], image, np.rint(mixed)).astype("uint8")


def errors(image, truth, mask):
    """Where a prediction is wrong: red; the image in dim grey where it is right, void black.

    Grey is 48 plus half of the image's brightness (ITU-R 601), 48..175.

    Args: image, uint8 (height, width, 3); truth, mask, integer (height, width), true and predicted
        class ids; what is void (255) in the truth is neither right nor wrong.
    Returns: uint8 (height, width, 3).
    Raises: ValueError where the sizes differ.
    """
    image, truth, mask = np.asarray(image), np.asarray(truth), np.asarray(mask)
    if not image.shape[:2] == truth.shape == mask.shape:
        raise ValueError(
            "`image`, `truth` and `mask` must be of one height and width. "
            f"Received: shapes {image.shape}, {truth.shape}, {mask.shape}."
        )
    grey = _DIM + np.asarray(Image.fromarray(image).convert("L")) // 2
    picture = np.where((truth == mask)[..., None], grey[..., None], np.array(_WRONG, "uint8"))
    return np.where((truth == VOID)[..., None], 0, picture).astype("uint8")


def sheet(rows, class_names, palette, titles=None):
    """Rows of pictures, titles above the columns, and a legend below.

    Args: rows, list of lists of uint8 (height, width, 3), of one height a row and one width a
        column; class_names, palette, as for `legend`; titles, list of strings, one a column (what
        is wider than it loses its end), or None.
    Returns: `PIL.Image.Image`.
    Raises: ValueError that names the row whose pictures don't fit.
    """
    widths = _column_widths(rows)
    if titles is not None and len(titles) != len(widths):
        raise ValueError(
            f"`titles` must have one entry a column, {len(widths)}. Received: titles={titles}."
        )
    pictures = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    names = legend(class_names, palette, pictures.width)
    top = 0 if titles is None else _LINE
    page = Image.new("RGB", (pictures.width, top + pictures.height + names.height), "white")
    page.paste(pictures, (0, top))
    page.paste(names, (0, top + pictures.height))
    if titles is not None:
        font = _font(titles)
        for title, width, right in zip(titles, widths, np.cumsum(widths).tolist()):
            head = Image.new("RGB", (width, top), "white")
            left = max(2, (width - font.getlength(title)) / 2)
            ImageDraw.Draw(head).text((left, 2), title, "black", font)
            page.paste(head, (right - width, 0))
    return page


def legend(class_names, palette, width):
    """The colours of the classes and their names, in lines.

    Letters beyond ASCII are drawn where matplotlib is installed, or DejaVu Sans or Arial; those
    that the font lacks are boxes.

    Args: class_names, strings by class id; palette, (red, green, blue) by class id; width, pixels.
    Returns: `PIL.Image.Image`.
    """
    font = _font(class_names)
    entries, x, y = [], 6, 6
    for name, rgb in zip(class_names, palette):
        length = 30 + round(font.getlength(name))
        if x > 6 and x + length > width:
            x, y = 6, y + _LINE
        entries.append((x, y, name, tuple(rgb)))
        x += length
    page = Image.new("RGB", (width, y + _LINE + 6), "white")
    draw = ImageDraw.Draw(page)
    for x, y, name, rgb in entries:
        draw.rectangle((x, y, x + 12, y + 12), fill=rgb, outline="black")
        draw.text((x + 17, y), name, "black", font)
    return page


def plot_training_curves(logs, figure="val_mean_iou", ax=None):
    """One curve a training, over its epochs (Figure 3, which shows the validation mean accuracy).

    Args:
        logs: path of a CSV file as `training.callbacks` (or Keras's `CSVLogger`) writes it, a list
            of them, or a dict from a label to one, or to a list of those that follow each other:
            {"SANet": [run / "cross_entropy.csv", run / "lovasz.csv"]}. Where a resumed training
            wrote an epoch twice, the later row counts.
        figure: column of the files. Accuracies and IoUs are drawn in percent.
        ax: matplotlib `Axes` to draw on; new ones if None.

    Returns: the `Axes`; x is the epoch, from 1.

    Raises: ValueError that names the file where it has no epoch or no such figure.

    Reference: Figure 3.
    """
    plt = pyplot()
    if isinstance(logs, (str, Path)):
        logs = [logs]
    if not isinstance(logs, dict):
        logs = {str(path): path for path in logs}
    if not logs:
        raise ValueError(f"`logs` must hold one CSV file at least. Received: logs={logs}.")
    curves = {label: _curve(paths, figure) for label, paths in logs.items()}
    if ax is None:
        ax = plt.subplots(layout="constrained")[1]
    share = any(word in figure for word in ("accuracy", "iou"))
    for label, (epochs, values) in curves.items():
        values = np.multiply(100 if share else 1, values)
        ax.plot(epochs, values, marker=".", label=label)
    name = figure.replace("val_", "validation ").replace("iou", "IoU").replace("_", " ")
    ax.set(xlabel="epoch", ylabel=f"{name} (%)" if share else name)
    ax.locator_params(axis="x", integer=True)
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def plot_bands(curves, ylabel, ax=None):
    """Curves over the epochs of repeated trainings, each with its interval.

    Args:
        curves: dict from a label to (mean, low, high), a number an epoch each; NaN limits for none.
        ylabel: what they show.
        ax: matplotlib `Axes` to draw on; new ones if None.

    Returns: the `Axes`; x is the epoch, from 1.
    """
    if ax is None:
        ax = pyplot().subplots(layout="constrained")[1]
    for index, (label, (mean, low, high)) in enumerate(curves.items()):
        epochs, style = range(1, len(mean) + 1), "-" if index < 10 else "--"  # of ten colours
        (line,) = ax.plot(epochs, mean, style, marker=".", label=label)
        ax.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.locator_params(axis="x", integer=True)
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def plot_intervals(differences, xlabel, ax=None):
    """A dot and its interval in each line, beside 0.

    Args:
        differences: dict from a label to (mean, low, high); NaN limits for none.
        xlabel: what they show.
        ax: matplotlib `Axes` to draw on; new ones, high enough, if None.

    Returns: the `Axes`.
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


def plot_confusion_matrix(confusion, class_names, ax=None):
    """What the pixels of each class were taken for.

    Rows are true classes and add up to 100 %; a row without truth stays blank. Up to 20 classes
    have their percents written into the cells; more than 60 are numbered instead of named.

    Args: confusion, pixels by true (rows) and predicted class, (classes, classes), such as
        `Evaluation.confusion`; class_names, strings by class id; ax, matplotlib `Axes` to draw on;
        new ones, large enough, if None.
    Returns: the `Axes`.
    Raises: ValueError where `confusion` has not one row and one column a class.
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
        width = side if n <= _WRITTEN else 1.15 * side  # room for the colour bar
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


def aggregator_gates(model, image):
    """What the aggregator of a SANet does with each tap at each place of one image.

    "input", "forget" and "output" are the gates i_t, f_t and o_t, means over channels, 0..1. The
    first forget gate has nothing to forget (c_0 = 0).

    "contribution" is the share of the tap in the aggregate y. By Eq. 6 the cell holds, at step s,
    the sum over t <= s of what step t wrote and the later ones kept, and Eqs 7 and 8 pass it on by
    a factor; so y is, exactly, a sum over taps:

        y_t = 1/m sum_{s >= t} o_s . tanh(c_s)/c_s . f_s . ... . f_{t+1} . i_t . g_t
        y   = sum_t y_t
        contribution_t = sum |y_t| / sum_t sum |y_t|        (sums over channels)

    It is a share of size, without sign: parts of two taps may cancel. It says what was *written at
    step t*, not what would change without the tap: gates and candidates depend on earlier taps
    through h_{t-1}, and cells on their neighbours. Earlier taps are in more terms of Eq. 8's mean.
    Nor does it say what the head makes of y, or of the last tap, which it also gets directly.

    Args: model, from `SANet`; image, RGB 0..255, (height, width, 3), any size.
    Returns: dict of float32 (taps, height, width), in cells of the aggregator's grid: "input",
        "forget", "output", and "contribution", which adds up to 1 over the taps (equal shares
        where y_t = 0 for all of them).
    Raises: ValueError where the model has no aggregator, or the image is not of that shape.
    Reference: section III-A, Eqs 2-8.
    """
    aggregator = _aggregator(model)
    image = np.ascontiguousarray(image)  # PyTorch takes no negative strides
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"`image` must be (height, width, 3). Received: shape {image.shape}.")
    maps = keras.Model(model.input, aggregator.input).predict_on_batch(image[None])
    maps = [ops.convert_to_tensor(x) for x in keras.tree.flatten(maps)]  # one comes without a list
    gates = {
        name: ops.convert_to_numpy(ops.cast(gate, "float32"))[0]
        for name, gate in aggregator.gates(maps).items()
    }
    i, f, o, g = (gates[name] for name in ("input", "forget", "output", "candidate"))
    parts, written = np.zeros_like(g), np.zeros_like(g)  # m y_t; what of c_s step t wrote
    for s in range(len(g)):
        written *= f[s]
        written[s] = i[s] * g[s]
        c = written.sum(axis=0)  # Eq. 6
        parts += o[s] * np.divide(np.tanh(c), c, out=np.ones_like(c), where=c != 0) * written
    sizes = np.abs(parts).sum(axis=-1)
    total = sizes.sum(axis=0)
    shares = np.divide(sizes, total, out=np.full_like(sizes, 1 / len(sizes)), where=total > 0)
    means = {name: gates[name].mean(axis=-1) for name in ("input", "forget", "output")}
    return {**means, "contribution": shares}


def plot_gates(model, image):
    """The image, and its `aggregator_gates`: a row each, a column a tap.

    The panels of a row share one colour scale, from the least to the greatest value.

    Args, Raises: as `aggregator_gates`.
    Returns: the matplotlib `Figure`.
    """
    plt = pyplot()
    gates, taps = aggregator_gates(model, image), _tap_names(model)
    height, width = np.shape(image)[:2]
    size = (1.8 * (len(taps) + 1.5), len(gates) * (1.8 * height / width + 0.2) + 0.5)
    figure, axes = plt.subplots(len(gates), len(taps) + 1, figsize=size, layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    axes[0, 0].imshow(np.asarray(image).astype("uint8"))
    for title, ax in zip(("image", *taps), axes[0]):
        ax.set_title(title)
    for ax in axes[1:, 0]:
        ax.axis("off")
    for row, (name, maps) in zip(axes[:, 1:], gates.items()):
        row[0].set_ylabel(name)
        if name == "forget":
            maps[0] = np.nan
            row[0].text(0.5, 0.5, "$c_0 = 0$", transform=row[0].transAxes, ha="center", va="center")
        known = maps[~np.isnan(maps)]
        least, most = (known.min(), known.max()) if known.size else (0, 1)
        drawn = [ax.imshow(values, vmin=least, vmax=most) for ax, values in zip(row, maps)]
        figure.colorbar(drawn[0], ax=row.tolist())
    return figure


def save_plot(ax, path):
    """Writes the figure that matplotlib `Axes` are on, and closes it."""
    ax.figure.savefig(path, dpi=100)
    pyplot().close(ax.figure)


def pyplot():
    """The module matplotlib.pyplot.

    Raises: ImportError that says what to install.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plots need matplotlib: `pip install keras-sanet[plots]`.") from error
    return plt


def _font(texts):
    """A font for strings: Pillow's own, or for letters beyond ASCII the first that is found."""
    if all(text.isascii() for text in texts):
        return ImageFont.load_default()
    names = _FONTS
    with contextlib.suppress(ImportError):
        import matplotlib  # carries a font

        names = (f"{matplotlib.get_data_path()}/fonts/ttf/{names[0]}", *names)
    for name in names:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, 10)
    return ImageFont.load_default()


def _column_widths(rows):
    """Widths of the columns of pictures, or an error."""
    if len(rows) == 0 or len(rows[0]) == 0:
        raise ValueError(f"`rows` must hold a row of one picture at least. Received: rows={rows}.")
    widths = [np.shape(picture)[1] for picture in rows[0]]
    for index, row in enumerate(rows):
        sizes = [np.shape(picture)[:2] for picture in row]
        if [width for _, width in sizes] != widths or len({height for height, _ in sizes}) > 1:
            raise ValueError(
                "`rows` must hold pictures of one height a row and one width a column: "
                f"{widths}, as row 0. Received: row {index} with (height, width) {sizes}."
            )
    return widths


def _curve(paths, figure):
    """Epochs, from 1, and the figure there, of logs that follow each other."""
    epochs, values, done = [], [], 0
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError(f"{path} holds no epoch.")
        if figure not in rows[0]:
            there = ", ".join(name for name in rows[0] if name != "epoch")
            raise ValueError(f"{path} has no figure {figure!r}. It has: {there}.")
        by_epoch = {int(row["epoch"]): row[figure] for row in rows}  # the later row stays
        for epoch, value in sorted(by_epoch.items()):
            if value not in (None, "NA"):  # no validation in this epoch
                epochs.append(done + epoch + 1)
                values.append(float(value))
        done += max(by_epoch) + 1
    return epochs, values


def _aggregator(model):
    """The aggregator of a model, or an error."""
    layer = next((layer for layer in model.layers if layer.name == "aggregator"), None)
    if not isinstance(layer, ConvLSTMAggregator):
        raise ValueError(
            '`model` must have a ConvLSTMAggregator named "aggregator", as `SANet` has. '
            f"Received: {model.name!r} with the layers {', '.join(x.name for x in model.layers)}."
        )
    return layer


def _tap_names(model):
    """Names of the taps in the order the aggregator reads them, from those of its adapters."""
    names = {id(layer.output): layer.name for layer in model.layers}
    maps = keras.tree.flatten(_aggregator(model).input)
    return [names.get(id(x), f"map {t}").removeprefix("adapter_") for t, x in enumerate(maps)]
