"""Does the aggregation help? The paper's comparisons (Tables I and III, Figure 3) and those that it
leaves out, as experiments: rows of a table that one recipe trains with several seeds.

A row differs from the others in what its name says and in nothing else: with the same seed all rows
see the same crops in the same order. Figures are those of the last epoch, when the learning rate
has come to 0, on the validation split; no epoch is chosen by them. A row's mean has the 95 %
interval of Student's t over seeds, and so has its difference from the baseline, seed by seed: a
difference is called clear where its interval leaves 0 out. (Of many rows at 95 %, one in twenty is
clear by chance.)
"""

import functools
import json
import math
import re
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

from keras_sanet import models, pipeline, runs, training, visualization
from keras_sanet.datasets.files import by_number
from keras_sanet.layers import BatchNormalization, Conv2D, ConvLSTMAggregator
from keras_sanet.saving import remove, replacing
from keras_sanet.summary import Summary

_TAPS = ("s0", "s1", "s2", "s3", "s4")


def _convolved(concatenate):
    """Function from c' to an aggregator without recurrence that multiplies as much as the ConvLSTM.

    The sum of m maps, or all of them side by side (n = 1 or m times c' channels), goes through
    three 3x3 convolutions of dilation 2 with k, k and c' filters, each with batch norm and ReLU.
    Multiplications a cell are 9 (n c' k + k k + k c'), the ConvLSTM's 9 x 4 c' c' (2 m - 1).
    """

    def of_filters(filters):
        def aggregate(maps):
            m, n = len(maps), len(maps) if concatenate else 1
            half = (n + 1) / 2
            k = round(filters * (math.sqrt(half**2 + 4 * (2 * m - 1)) - half))
            x = maps[0]
            if m > 1:
                x = layers.Concatenate()(maps) if concatenate else layers.Add()(maps)
            for width in (k, k, filters):
                x = Conv2D(width, 3, padding="same", dilation_rate=2, use_bias=False)(x)
                x = layers.ReLU()(BatchNormalization()(x))
            return x

        return aggregate

    return of_filters


def _mean(filters):
    return layers.Average(name="mean")


def _plain_recurrence(filters):
    return ConvLSTMAggregator(filters, recurrent_dilation_rate=1, name="aggregator")


# Name: what it is, function of `models`, its arguments. "aggregator" is a function of the
# protocol's c', "aggregator_filters" a factor on it; "backbone" is an entry of the protocol.
ROWS = {
    "stem": ("FCN, the other stem", "FCN", {"backbone": "other_backbone"}),
    "fcn": ("FCN", "FCN", {}),
    "psp": ("FCN + PSP", "PSPNet", {"bins": (1, 2, 3, 4, 6)}),
    "aggregation": ("FCN + aggregation", "SANet", {"bins": None}),
    "sanet": ("FCN + PSP + aggregation (SANet)", "SANet", {}),
    **{f"skip_{tap}": (f"skip connection {tap}", "FCN", {"skip": tap}) for tap in _TAPS},
    **{f"auxiliary_{tap}": (f"auxiliary loss {tap}", "FCN", {"auxiliary": tap}) for tap in _TAPS},
    "coarse_to_fine": ("taps s4 to s0", "SANet", {"taps": _TAPS[::-1]}),
    "mean": ("mean of the adapted maps", "SANet", {"aggregator": _mean}),
    "sum": ("sum, three convolutions", "SANet", {"aggregator": _convolved(False)}),
    "concatenate": ("concatenation, three convolutions", "SANet", {"aggregator": _convolved(True)}),
    "dilation_1": ("both convolutions undilated", "SANet", {"aggregator_dilation_rate": 1}),
    "recurrent_1": ("recurrence undilated", "SANet", {"aggregator": _plain_recurrence}),
    **{
        f"without_{tap}": (f"without {tap}", "SANet", {"taps": tuple(t for t in _TAPS if t != tap)})
        for tap in _TAPS
    },
    "only_s4": ("s4 alone", "SANet", {"taps": ("s4",)}),
    "grid_s1": ("on the grid of s1, 1/4", "SANet", {"grid": "s1"}),
    "normalized": ("batch norm after each adapter", "SANet", {"normalize_taps": True}),
    "add": ("joined by adding", "SANet", {"fusion": "add"}),
    "aggregated": ("aggregated map alone", "SANet", {"fusion": "aggregated"}),
    **{
        f"filters_x{factor}": (f"c' x {factor}", "SANet", {"aggregator_filters": factor})
        for factor in (0.5, 2, 4)
    },
}  # fmt: skip

# Name: what it asks, and its rows, of which the first is the baseline.
EXPERIMENTS = {
    "table1": (
        "Table I: one skip connection or auxiliary loss, against none and the aggregator",
        (
            "fcn", *(f"skip_{tap}" for tap in _TAPS), *(f"auxiliary_{tap}" for tap in _TAPS),
            "aggregation",
        ),
    ),
    "table3": (
        "Table III: what pyramid and aggregator add",
        ("fcn", "stem", "psp", "aggregation", "sanet"),
    ),
    "figure3": (
        "Figure 3: mean accuracy over the epochs",
        ("fcn", "skip_s1", "auxiliary_s2", "aggregation"),
    ),
    "order": ("Fine to coarse (the paper's) or coarse to fine", ("sanet", "coarse_to_fine")),
    "recurrence": (
        "The ConvLSTM, or as many multiplications without recurrence",
        ("sanet", "mean", "sum", "concatenate"),
    ),
    "dilation": ("Dilation 2 (the paper's) or 1", ("sanet", "dilation_1", "recurrent_1")),
    "taps": ("Which taps matter", ("sanet", *(f"without_{tap}" for tap in _TAPS), "only_s4")),
    "grid": ("Aggregated at 1/8 (the paper's) or 1/4", ("sanet", "grid_s1")),
    "width": ("Channels c' of the aggregator", ("sanet", *(f"filters_x{f}" for f in (0.5, 2, 4)))),
    "adapters": ("Adapters without batch norm (the paper's) or with", ("sanet", "normalized")),
    "fusion": ("How y joins the last map", ("sanet", "add", "aggregated")),
}  # fmt: skip

# What all rows of a data set share. `filters` is c'; `head_filters` those of the 3x3 before the
# classifier and of the pyramid's branches.
PROTOCOLS = {
    "scenes": {
        "backbone": "resnet_tiny", "weights": None, "other_backbone": None, "other_weights": None,
        "filters": 32, "head_filters": 96, "image_scale": 1.0, "crop": (144, 192),
        "scale_range": (0.8, 1.6), "batch_size": 4, "val_batch_size": 10, "epochs": 12,
        "learning_rate": 3e-3, "head_learning_rate_multiple": 1.0,
    },
    "camvid": {
        "backbone": "resnet18", "weights": "imagenet", "other_backbone": None,
        "other_weights": None, "filters": 128, "head_filters": 256, "image_scale": 0.5,
        "crop": (120, 160), "scale_range": (0.75, 1.5), "batch_size": 8, "val_batch_size": 4,
        "epochs": 14, "learning_rate": 2e-4, "head_learning_rate_multiple": 5.0,
    },
}  # fmt: skip
_DEFAULT = {  # the paper's stems and crop
    **PROTOCOLS["camvid"], "backbone": "resnext50", "other_backbone": "resnet50",
    "other_weights": "imagenet", "filters": 256, "head_filters": 512, "image_scale": 1.0,
    "crop": (473, 473), "scale_range": (0.5, 2.0), "val_batch_size": 1, "epochs": 80,
    "learning_rate": 1e-4,
}  # fmt: skip

_PROTOCOL, _COSTS = "protocol.json", "costs.json"

FIGURES = {  # of the validation split: title, factor, digits
    "pixel_accuracy": ("pixel accuracy", 100, 2),
    "mean_accuracy": ("mean accuracy", 100, 2),
    "mean_iou": ("mean IoU", 100, 2),
    "cross_entropy": ("cross-entropy", 1, 3),
}

# 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom; beyond 30 the normal's serves.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def protocol(dataset, folder=None, **changes):
    """What all rows share on a data set: its entry of `PROTOCOLS`, or the paper's stems and crop.

    Args:
        dataset: its name.
        folder: of experiments. It keeps the protocol they began with, which then holds.
        changes: other values by name, None for no change.

    Raises: ValueError for a name that a protocol does not have, and where the folder's experiments
        began with other values than those of `changes`.
    """
    known = {"dataset": dataset, **PROTOCOLS.get(dataset, _DEFAULT)}
    changes = {name: value for name, value in changes.items() if value is not None}
    for name in changes:
        if name not in known:
            raise ValueError(f"A protocol has no {name!r}. It has: {', '.join(known)}.")
    if folder is None:
        return {**known, **changes}
    path = Path(folder) / _PROTOCOL
    if path.is_file():
        began = _read_protocol(folder)
        for name, value in {**changes, "dataset": dataset}.items():
            if _plain(value) != _plain(began[name]):
                raise ValueError(
                    f"The experiments in {folder} began with {name} {began[name]}, and their rows "
                    f"can't be compared with others. Received: {value}. Give another folder."
                )
        return began
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as written:
        written.write_text(json.dumps({**known, **changes}, indent=2) + "\n", "utf-8")
    return _read_protocol(folder)


def rows_of(experiments, protocol):
    """Names of the rows of some experiments, each once; without the other stem where there is none.

    Raises: ValueError for an unknown experiment.
    """
    found = {}
    for name in experiments:
        if name not in EXPERIMENTS:
            raise ValueError(f"Unknown experiment {name!r}. Known: {', '.join(EXPERIMENTS)}.")
        found.update(dict.fromkeys(EXPERIMENTS[name][1]))
    if protocol["other_backbone"] is None:
        found.pop("stem", None)
    return list(found)


def build(row, num_classes, protocol, **kwargs):
    """The model of a row.

    Args: row, of `ROWS`; num_classes; protocol; kwargs, more arguments of the model's function.
    """
    if row not in ROWS:
        raise ValueError(f"Unknown row {row!r}. Known: {', '.join(ROWS)}.")
    _, function, changes = ROWS[row]
    backbone, weights = protocol["backbone"], protocol["weights"]
    if "backbone" in changes:
        backbone, weights = protocol["other_backbone"], protocol["other_weights"]
    filters = "filters" if function == "FCN" else "pyramid_filters"
    arguments = {**kwargs, **changes, "backbone": backbone, filters: protocol["head_filters"]}
    if function == "SANet":
        c = round(changes.get("aggregator_filters", 1) * protocol["filters"])
        arguments["aggregator_filters"] = c
        if "aggregator" in changes:
            arguments["aggregator"] = changes["aggregator"](c)
    return getattr(models, function)(num_classes, backbone_weights=weights, **arguments)


def train(dataset, row, seed, protocol, folder):
    """Trains a row with a seed, or goes on with it; what is finished stays.

    Args:
        dataset: with splits train and val.
        row, protocol: see `build`.
        seed: of new weights, dropout, order and crops.
        folder: of the experiments; the run is in its ROW/seed-SEED (see `runs`), and keeps
            config.json, data.json and the figures of each epoch.

    Returns: the figures of the last epoch, a dict by the names of `FIGURES`.

    Raises: FileExistsError where another process is at it; as `training.fit`.
    """
    folder = Path(folder) / row / f"seed-{seed}"
    if found := _figures(folder, protocol["epochs"]):
        return {name: values[-1] for name, values in found.items()}
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    scale = {"image_scale": protocol["image_scale"]}
    data = pipeline.make_dataset(
        dataset, "train", protocol["crop"], protocol["batch_size"], seed=seed,
        scale_range=protocol["scale_range"], **scale,
    )  # fmt: skip
    val = pipeline.make_dataset(
        dataset, "val", batch_size=protocol["val_batch_size"], training=False, **scale
    )
    training.fit(
        build(row, dataset.num_classes, protocol), data, val, folder, protocol["epochs"],
        learning_rate=protocol["learning_rate"],
        head_learning_rate_multiple=protocol["head_learning_rate_multiple"],
        arguments={"row": row, "seed": seed, **protocol}, verbose=0,
    )  # fmt: skip
    for name in ("cross_entropy.keras", "cross_entropy_state.keras", "tensorboard"):
        remove(folder / name)
    found = _figures(folder, protocol["epochs"])
    return {name: values[-1] for name, values in found.items()}


def measure(experiment, num_classes, protocol, folder, rounds=5):
    """Adds what the rows of an experiment cost to the folder's costs.json, if it is not there."""
    path, rows = Path(folder) / _COSTS, rows_of([experiment], protocol)
    known = _read_json(path) if path.is_file() else {}
    if list(known.get(experiment, ())) != rows:
        known[experiment] = costs(rows, num_classes, protocol, rounds)
        with replacing(path) as written:
            written.write_text(json.dumps(known, indent=1) + "\n", "utf-8")


def costs(rows, num_classes, protocol, rounds=5):
    """What each row costs: parameters, multiply-accumulates, seconds of a training step.

    Steps run in turn, so that a machine that is slower for a while is so for all rows.

    Args: rows, names; num_classes, protocol, see `build`; rounds, timed steps of each, after two.
    Returns: dict from a row to its "parameters", "macs" (of the prediction of one crop) and
        "step_seconds" (median, of a batch).
    """
    rng, shape = np.random.default_rng(0), (protocol["batch_size"], *protocol["crop"])
    image = rng.integers(0, 256, (*shape, 3)).astype("uint8")
    mask = rng.integers(0, num_classes, shape).astype("uint8")
    found, steps, seconds = {}, {}, {row: [] for row in rows}
    for row in rows:
        model = build(row, num_classes, {**protocol, "weights": None, "other_weights": None})
        counted = Summary(models.without_auxiliary(model), tuple(protocol["crop"]))
        found[row] = {"parameters": counted.parameters, "macs": counted.macs}
        training.compile(model, 1000)
        target = dict.fromkeys(model.output, mask) if isinstance(model.output, dict) else mask
        steps[row] = functools.partial(model.train_on_batch, image, target)
    for _ in range(2 + rounds):
        for row, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[row].append(time.perf_counter() - start)
    for row in rows:
        found[row]["step_seconds"] = float(np.median(seconds[row][2:]))
    return found


class Results:
    """Figures of trained rows, epoch by epoch.

    Args:
        protocol: what all rows share, with the name of the "dataset".
        runs: dict from a row to a dict from a seed to a dict from a figure of `FIGURES` to a list
            of its values, one an epoch.
        costs: dict from an experiment to what `costs` says of its rows.
    """

    def __init__(self, protocol, runs, costs=None):
        self.protocol, self.runs, self.costs = protocol, runs, costs or {}

    @classmethod
    def load(cls, path):
        """Reads results.json, or the runs of a folder that `train` made: those that are finished.

        Raises: FileNotFoundError, ValueError that names the file.
        """
        path = Path(path)
        if path.is_dir():
            protocol = _read_protocol(path)
            found = {
                row: {
                    int(folder.name.removeprefix("seed-")): _figures(folder, protocol["epochs"])
                    for folder in sorted((path / row).glob("seed-*"), key=by_number)
                }
                for row in ROWS
            }
            found = {row: {s: f for s, f in seeds.items() if f} for row, seeds in found.items()}
            costs = _read_json(path / _COSTS) if (path / _COSTS).is_file() else {}
            return cls(protocol, {row: seeds for row, seeds in found.items() if seeds}, costs)
        found = _read_json(path)
        of_rows = {
            row: {int(seed): figures for seed, figures in seeds.items()}
            for row, seeds in found["runs"].items()
        }
        return cls(found["protocol"], of_rows, found["costs"])

    def save(self, path):
        """Writes results.json."""
        protocol = dict(self.protocol)
        for name in ("weights", "other_weights"):  # where a file lies is nobody's business
            protocol[name] = protocol[name] and Path(protocol[name]).name
        found = {"protocol": protocol, "costs": self.costs, "runs": self.runs}
        text = json.dumps(found, indent=1)
        text = re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), text)
        with replacing(path) as written:
            written.write_text(text + "\n", "utf-8")

    def values(self, row, figure, baseline=None):
        """A figure after the last epoch, one number a seed, (seeds,).

        Args: baseline, a row whose figure with the same seed is taken off; seeds that it lacks are
            left out.
        """
        seeds = self.runs.get(row, {})
        if baseline is None:
            return np.array([figures[figure][-1] for figures in seeds.values()])
        others = self.runs.get(baseline, {})
        return np.array(
            [seeds[s][figure][-1] - others[s][figure][-1] for s in seeds if s in others]
        )

    def epochs_to_reach(self, row, baseline="fcn", figure="mean_accuracy"):
        """Epochs after which a row has reached the best that the baseline ever has, by seed.

        Returns: list of integers, None where the row never does; by seeds that both have.
        Reference: Figure 3.
        """
        found, others = [], self.runs.get(baseline, {})
        for seed, figures in self.runs.get(row, {}).items():
            if seed in others:
                best = max(others[seed][figure])
                reached = [e for e, value in enumerate(figures[figure], 1) if value >= best]
                found.append(reached[0] if reached else None)
        return found

    def table(self, experiment):
        """Markdown: figures of an experiment's rows, and their differences from the first."""
        title, rows = EXPERIMENTS[experiment][0], self._rows(experiment)
        costs, first = self.costs.get(experiment, {}), self.label(rows[0])
        head = ["", "seeds"]
        if costs:
            head += ["M parameters", "GMAC", f"train step / that of {first}"]
        head += [what for what, _, _ in FIGURES.values()]
        head += [f"mean IoU less that of {first}", "epochs to its best mean accuracy"]
        lines = [head, ["---"] * len(head)]
        for row in rows:
            cells = [self.label(row), str(len(self.runs[row]))]
            if row in costs:
                cost = costs[row]
                cells += [f"{cost['parameters'] / 1e6:.2f}", f"{cost['macs'] / 1e9:.2f}"]
                cells.append(f"{cost['step_seconds'] / costs[rows[0]]['step_seconds']:.2f}")
            elif costs:
                cells += [""] * 3
            for figure, (_, factor, digits) in FIGURES.items():
                cells.append(_interval(factor * self.values(row, figure), digits))
            if row == rows[0]:
                cells += ["", ""]
            else:
                cells.append(_difference(100 * self.values(row, "mean_iou", rows[0])))
                cells.append(_epochs(self.epochs_to_reach(row, rows[0])))
            lines.append(cells)
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"**{title}**\n\n{table}\n\n{self.caption()}\n"

    def caption(self):
        """What the figures of a table are."""
        p = self.protocol
        scale = "" if p["image_scale"] == 1 else f" at {p['image_scale']:g} of their size"
        return (
            f"Validation images of {p['dataset']}{scale} after the last of {p['epochs']} epochs, "
            f"in percent (cross-entropy: nats a pixel); {p['backbone']}, c' = {p['filters']}. Mean "
            "± half of the 95 % interval over seeds (Student's t); differences are seed by seed, "
            "clear where their interval leaves 0 out."
        )

    def label(self, row):
        """What a row is."""
        return ROWS[row][0]

    def plot_curves(self, experiment, figure="mean_accuracy"):
        """Figure 3: a figure over the epochs, mean and interval of the seeds.

        Returns: matplotlib `Axes`.
        """
        curves = {}
        for row in self._rows(experiment):
            values = np.array([figures[figure] for figures in self.runs[row].values()])
            curves[self.label(row)] = interval(FIGURES[figure][1] * values)
        name, factor, _ = FIGURES[figure]
        return visualization.plot_bands(curves, f"{name} (%)" if factor == 100 else name)

    def plot_differences(self, experiment, figure="mean_iou"):
        """Each row less the first one, mean and interval of the seeds.

        Returns: matplotlib `Axes`.
        """
        first, *others = self._rows(experiment)
        name, factor, _ = FIGURES[figure]
        differences = {
            self.label(row): interval(factor * self.values(row, figure, first)) for row in others
        }
        unit = ", points" if factor == 100 else ""
        return visualization.plot_intervals(
            differences, f"{name} less that of {self.label(first)}{unit}"
        )

    def write_table(self, folder, experiment):
        """Writes the table as EXPERIMENT.md, and returns it."""
        table = self.table(experiment)
        with replacing(Path(folder) / f"{experiment}.md") as path:
            path.write_text(table, "utf-8")
        return table

    def write_plots(self, folder, experiment):
        """Writes the curves as EXPERIMENT_curves.png, and the differences as EXPERIMENT.png."""
        plots = {f"{experiment}_curves.png": self.plot_curves}
        if len(self._rows(experiment)) > 1:
            plots[f"{experiment}.png"] = self.plot_differences
        for name, plot in plots.items():
            with replacing(Path(folder) / name) as path:
                visualization.save_plot(plot(experiment), path)

    def _rows(self, experiment):
        rows = [row for row in EXPERIMENTS[experiment][1] if row in self.runs]
        if not rows:
            raise ValueError(f"No row of {experiment} is trained yet.")
        return rows


def interval(values):
    """Mean over the first axis, and the limits of its 95 % interval by Student's t.

    Args: values, (seeds, ...).
    Returns: mean, low and high, (...); the limits are NaN for one seed.
    """
    values = np.asarray(values, "float64")
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        return mean, mean * np.nan, mean * np.nan
    t = _T[n - 2] if n - 2 < len(_T) else 1.96
    half = t * values.std(axis=0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def _interval(values, digits):
    mean, low, high = interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(low) else f" ± {high - mean:.{digits}f}")


def _difference(values):
    if not len(values):
        return ""
    mean, low, high = interval(values)
    if math.isnan(low):
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" + (", clear" if low > 0 or high < 0 else "")


def _epochs(found):
    return ", ".join("never" if epoch is None else str(epoch) for epoch in found)


def _figures(folder, epochs):
    """Figures of a run, epoch by epoch; none where it is not finished."""
    rows = runs.rows(folder / "cross_entropy.csv")
    if len(rows) < epochs:
        return {}
    return {name: [round(row[f"val_{name}"], 6) for row in rows] for name in FIGURES}


def _plain(value):
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value))


def _read_protocol(folder):
    path = Path(folder) / _PROTOCOL
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no experiments: there is no {path}.")
    return _read_json(path)


def _read_json(path):
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
