"""Does the aggregation help? The paper's comparisons (Tables I and III, Figure 3) and those that it
leaves out, as experiments: rows of a table that one recipe trains with several seeds.

With the same seed all rows see the same crops in the same order. Figures are those of the last
epoch, when the learning rate has come to 0, on the validation split; no epoch is chosen by them. A
row's mean has the 95 % interval of Student's t over seeds, and so has its difference from the
baseline, seed by seed: with three seeds and more it is called clear where its interval leaves 0
out. (So is one in twenty of the rows that differ by nothing, and those of a table share the runs of
the baseline; and the interval is of trainings, not of other images.) The learning rate is one for
all rows, and tuned for none.
"""

import functools
import hashlib
import json
import math
import re
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from keras_sanet import _files, models, pipeline, runs, training, visualization
from keras_sanet._arguments import integer, sides
from keras_sanet._files import is_dict, is_dict_of, is_int, is_list, is_text, remove, replacing
from keras_sanet.layers import BatchNormalization, Conv2D, ConvLSTMAggregator
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


class Row(NamedTuple):
    """One configuration.

    label: what it is. function: of `models`. arguments: of it. width: factor on the protocol's c'.
    aggregator: function from c' to the aggregator. stem: the entry of the protocol.
    """

    label: str
    function: str
    arguments: dict = {}
    width: float = 1
    aggregator: object = None
    stem: str = "backbone"


ROWS = {
    "stem": Row("FCN", "FCN", stem="other_backbone"),
    "fcn": Row("FCN", "FCN"),
    "psp": Row("FCN + PSP", "PSPNet", {"bins": (1, 2, 3, 4, 6)}),
    "aggregation": Row("FCN + aggregation", "SANet", {"bins": None}),
    "sanet": Row("FCN + PSP + aggregation (SANet)", "SANet"),
    **{f"skip_{tap}": Row(f"skip connection {tap}", "FCN", {"skip": tap}) for tap in _TAPS},
    **{
        f"auxiliary_{tap}": Row(f"auxiliary loss {tap}", "FCN", {"auxiliary": tap}) for tap in _TAPS
    },
    "coarse_to_fine": Row("taps s4 to s0", "SANet", {"taps": _TAPS[::-1]}),
    "mean": Row("mean of the adapted maps", "SANet", aggregator=_mean),
    "sum": Row("sum, three convolutions", "SANet", aggregator=_convolved(False)),
    "concatenate": Row("concatenation, three convolutions", "SANet", aggregator=_convolved(True)),
    "dilation_1": Row("both convolutions undilated", "SANet", {"aggregator_dilation_rate": 1}),
    "recurrent_1": Row("recurrence undilated", "SANet", aggregator=_plain_recurrence),
    **{
        f"without_{tap}": Row(
            f"without {tap}", "SANet", {"taps": tuple(other for other in _TAPS if other != tap)}
        )
        for tap in _TAPS
    },
    "only_s4": Row("s4 alone", "SANet", {"taps": ("s4",)}),
    "grid_s1": Row("on the grid of s1, 1/4", "SANet", {"grid": "s1"}),
    "normalized": Row("batch norm after each adapter", "SANet", {"normalize_taps": True}),
    "plain_branches": Row("branches without batch norm", "SANet", {"normalize_branches": False}),
    "plain_psp": Row(
        "FCN + PSP, branches without batch norm", "PSPNet",
        {"bins": (1, 2, 3, 4, 6), "normalize_branches": False},
    ),
    "add": Row("joined by adding", "SANet", {"fusion": "add"}),
    "aggregated": Row("aggregated map alone", "SANet", {"fusion": "aggregated"}),
    **{f"width_x{factor}": Row(f"c' x {factor}", "SANet", width=factor) for factor in (0.5, 2, 4)},
}  # fmt: skip


_SKIP_NOTE = (
    "A skip connection meets the last 1x1 convolution alone, as the paper is read here; the "
    "aggregator's map the 3x3 before it too."
)


class Experiment(NamedTuple):
    """A question. rows: the first is the baseline. note: what a reader of the table must know."""

    title: str
    rows: tuple
    note: str = ""


EXPERIMENTS = {
    "table1": Experiment(
        "Table I: one skip connection or auxiliary loss, against none and the aggregator",
        (
            "fcn", *(f"skip_{tap}" for tap in _TAPS), *(f"auxiliary_{tap}" for tap in _TAPS),
            "aggregation",
        ),
        _SKIP_NOTE,
    ),
    "table3": Experiment(
        "Table III: what pyramid and aggregator add",
        ("fcn", "stem", "psp", "aggregation", "sanet"),
    ),
    "with_psp": Experiment("What the aggregator adds to a pyramid", ("psp", "sanet")),
    "branches": Experiment(
        "Pyramid branches with batch norm (PSPNet's) or without", ("sanet", "plain_branches")
    ),
    "psp_branches": Experiment(
        "Pyramid branches with batch norm or without, no aggregator", ("psp", "plain_psp")
    ),
    # Of the skips and the auxiliary losses, those that Table I has best on NYU Depth v2, Figure 3's
    # data set; where others are trained too, the best of all.
    "figure3": Experiment(
        "Figure 3: mean accuracy over the epochs, best skip connection and auxiliary loss",
        ("fcn", "skip_s4", "auxiliary_s2", "aggregation"),
        "Skip connection and auxiliary loss are, of those with most seeds, the ones of most mean "
        f"IoU: where several are trained, that choice favours them. {_SKIP_NOTE}",
    ),
    "order": Experiment(
        "Fine to coarse (the paper's) or coarse to fine", ("sanet", "coarse_to_fine")
    ),
    "recurrence": Experiment(
        "The ConvLSTM, a mean, or as many multiplications without recurrence",
        ("sanet", "mean", "sum", "concatenate"),
        "Sum and concatenation have 4.5 times as many weights as the ConvLSTM, which uses its own "
        "at every step, and batch norms.",
    ),
    "dilation": Experiment(
        "Dilation 2 (the paper's) or 1", ("sanet", "dilation_1", "recurrent_1")
    ),
    "taps": Experiment(
        "Which taps matter", ("sanet", *(f"without_{tap}" for tap in _TAPS), "only_s4")
    ),
    "grid": Experiment(
        "Aggregated at 1/8 (the paper's) or 1/4",
        ("sanet", "grid_s1"),
        "At 1/4 a 3x3 reaches half as far.",
    ),
    "width": Experiment(
        "Channels c' of the aggregator", ("sanet", *(f"width_x{f}" for f in (0.5, 2, 4)))
    ),
    "adapters": Experiment(
        "Adapters without batch norm (the paper's) or with", ("sanet", "normalized")
    ),
    "fusion": Experiment("How y joins the last map", ("sanet", "add", "aggregated")),
}  # fmt: skip

# What all rows of a data set share. `head_filters` are those of the 3x3 before the classifier and
# of the pyramid's branches; `other_backbone` is the stem of one row more of Table III.
PROTOCOLS = {
    "scenes": {
        "val_split": "val", "backbone": "resnet_tiny", "weights": None, "other_backbone": None,
        "other_weights": None, "aggregator_filters": 32, "head_filters": 96, "image_scale": 1.0,
        "crop": (144, 192), "scale_range": (0.8, 1.6), "batch_size": 4, "val_batch_size": 10,
        "epochs": 8, "learning_rate": 3e-3, "head_learning_rate_multiple": 1.0,
    },
    "camvid": {
        "val_split": "val", "backbone": "resnet18", "weights": "imagenet", "other_backbone": None,
        "other_weights": "imagenet", "aggregator_filters": 128, "head_filters": 256,
        "image_scale": 0.5, "crop": (120, 160), "scale_range": (0.75, 1.5), "batch_size": 8,
        "val_batch_size": 4, "epochs": 14, "learning_rate": 2e-4,
        "head_learning_rate_multiple": 5.0,
    },
}  # fmt: skip
_DEFAULT = {  # the paper's stems and crop
    **PROTOCOLS["camvid"], "backbone": "resnext50", "other_backbone": "resnet50",
    "aggregator_filters": 256, "head_filters": 512, "image_scale": 1.0, "crop": (473, 473),
    "scale_range": (0.5, 2.0), "val_batch_size": 1, "epochs": 80, "learning_rate": 1e-4,
}  # fmt: skip
PROTOCOLS |= {name: {**_DEFAULT, "val_split": "test"} for name in ("nyuv2", "sunrgbd")}  # no val
_KEPT = (*_DEFAULT, "dataset", "images", "backend")  # what a folder keeps of its protocol
_WHOLE = ("aggregator_filters", "head_filters", "batch_size", "val_batch_size", "epochs")

RESULTS, PROTOCOL, _COSTS = "results.json", "protocol.json", "costs.json"

FIGURES = {  # of the validation split: title, factor, digits
    "pixel_accuracy": ("pixel accuracy", 100, 2),
    "mean_accuracy": ("mean accuracy", 100, 2),
    "mean_iou": ("mean IoU", 100, 2),
    "cross_entropy": ("cross-entropy", 1, 3),
}

# 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom; the last serves beyond.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_CLEAR = 3  # least number of seeds of a clear difference


def protocol(dataset, **changes):
    """What all rows share on a data set: its entry of `PROTOCOLS`, or the paper's stems and crop.

    Args: dataset, its name; changes, other values by name, None for no change, "none" for no
        weights and no other stem.
    Raises: ValueError for a name that a protocol does not have, and a number that is not positive.
    """
    known = PROTOCOLS.get(dataset, _DEFAULT)
    changes = {
        name: None if value == "none" else value
        for name, value in changes.items()
        if value is not None
    }
    for name in changes:
        if name not in known:
            raise ValueError(f"A protocol has no {name!r}. It has: {', '.join(known)}.")
    found = {"dataset": dataset, **known, **changes}
    if "weights" in changes and "other_weights" not in changes:
        found["other_weights"] = changes["weights"]
        if found["other_backbone"] and changes["weights"] not in ("imagenet", None):
            raise ValueError(
                "`other_weights` must be given with a file as `weights`: the other stem needs its "
                f"own. Received: weights={changes['weights']}."
            )
    whole = {name: integer(name, found[name]) for name in _WHOLE}
    return {**found, **whole, "crop": sides("crop", found["crop"])}


def begin(folder, dataset, **changes):
    """The protocol of a folder of experiments, which it keeps from its first run on.

    Args:
        folder: of experiments, new or not.
        dataset: the data set.
        changes: of `protocol`.

    Raises: ValueError where the experiments began with another value (a file of weights by its
        name, for it may lie elsewhere now), other images or masks or on another backend, and where
        the folder holds results without their runs; as `protocol`.
    """
    folder = Path(folder)
    images = {"classes": dataset.num_classes}
    found = _files.plain(protocol(dataset.name, **changes))
    if any(folder.glob("*/seed-*/config.json")):
        asked, found = found, _read_protocol(folder)
        given = [name for name, value in changes.items() if value is not None]
        for name in ("dataset", *given):
            if _portable(asked)[name] != _portable(found)[name]:
                raise ValueError(
                    f"The experiments in {folder} began with {name} {found[name]}, and their rows "
                    f"can't be compared with others. Received: {asked[name]}. Give another folder."
                )
            found[name] = asked[name]
    elif (folder / RESULTS).is_file():
        raise ValueError(
            f"{folder / RESULTS} is of runs that are not there, and would be lost. Give another "
            "folder."
        )
    else:
        remove(folder / _COSTS)
    for split in ("train", found["val_split"]):
        listed = json.dumps(runs.files_of(dataset.samples(split)))
        images[split] = hashlib.sha256(listed.encode()).hexdigest()
    backend = keras.backend.backend()
    if found.setdefault("backend", backend) != backend:
        raise ValueError(
            f"The experiments in {folder} began on {found['backend']}, and their rows can't be "
            f"compared with others. The backend is {backend}. Give another folder."
        )
    if found.setdefault("images", images) != images:
        raise ValueError(
            f"The experiments in {folder} began with other images, masks or classes of "
            f"{dataset.name}, and their rows can't be compared with others. Give another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PROTOCOL) as path:
        path.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return found


def rows_of(experiments, protocol, only=None):
    """Names of the rows of some experiments, each once; the other stem's where it is another one.

    Args: experiments, names; protocol; only, names of the rows that are meant, None for all.
    Raises: ValueError for an unknown experiment, and a row that stands in none of these.
    """
    found = {}
    for name in experiments:
        if name not in EXPERIMENTS:
            raise ValueError(f"Unknown experiment {name!r}. Known: {', '.join(EXPERIMENTS)}.")
        found.update(dict.fromkeys(EXPERIMENTS[name].rows))
    other = protocol["other_backbone"], protocol["other_weights"]
    if other[0] is None or other == (protocol["backbone"], protocol["weights"]):
        found.pop("stem", None)
    for row in only or ():
        if row not in found:
            raise ValueError(
                f"{row!r} is no row of {', '.join(experiments)} with this protocol. "
                f"Rows: {', '.join(found)}."
            )
    return [row for row in found if only is None or row in only]


def build(row, num_classes, protocol):
    """The model of a row.

    Args: row, of `ROWS`; num_classes; protocol.
    Raises: ValueError for an unknown row.
    """
    if row not in ROWS:
        raise ValueError(f"Unknown row {row!r}. Known: {', '.join(ROWS)}.")
    _, function, arguments, width, aggregator, stem = ROWS[row]
    arguments = {**arguments, "backbone": protocol[stem]}
    arguments["backbone_weights"] = protocol[stem.replace("backbone", "weights")]
    arguments["filters" if function == "FCN" else "pyramid_filters"] = protocol["head_filters"]
    if function == "SANet":
        c = round(width * protocol["aggregator_filters"])
        arguments["aggregator_filters"] = c
        arguments["aggregator"] = aggregator and aggregator(c)
    return getattr(models, function)(num_classes, **arguments)


def train(dataset, row, seed, protocol, folder, verbose=0):
    """Trains a row with a seed, or goes on with it; what is finished stays.

    Keras's session is cleared before, and its seeds are set.

    Args:
        dataset: with the splits train and that of the protocol.
        row, protocol: see `build`.
        seed: of new weights, dropout, order and crops.
        folder: of the experiments; the run is in its ROW/seed-SEED (see `runs`), and keeps
            config.json, data.json and the figures of each epoch.
        verbose: of `model.fit`.

    Returns: the figures of the last epoch, a dict by the names of `FIGURES`.

    Raises: FileExistsError where another process is at it; as `training.fit`.
    """
    folder = Path(folder) / row / f"seed-{seed}"
    with _files.locked(folder):
        if not _figures(folder, protocol["epochs"]):
            keras.utils.clear_session()
            keras.utils.set_random_seed(seed)
            scale = {"image_scale": protocol["image_scale"]}
            data = pipeline.make_dataset(
                dataset, "train", tuple(protocol["crop"]), protocol["batch_size"], seed=seed,
                scale_range=protocol["scale_range"], **scale,
            )  # fmt: skip
            val = pipeline.make_dataset(
                dataset, protocol["val_split"], None, protocol["val_batch_size"], training=False,
                **scale,
            )  # fmt: skip
            training.fit(
                build(row, dataset.num_classes, protocol), data, val, folder, protocol["epochs"],
                learning_rate=protocol["learning_rate"],
                head_learning_rate_multiple=protocol["head_learning_rate_multiple"],
                arguments={"row": row, "seed": seed, **protocol}, verbose=verbose,
            )  # fmt: skip
        for name in ("cross_entropy.keras", "cross_entropy_state.keras", "tensorboard"):
            remove(folder / name)
        found = _figures(folder, protocol["epochs"])
    return {name: values[-1] for name, values in found.items()}


def add_costs(folder, experiment, protocol, rounds=5):
    """Adds what the rows of an experiment's table cost to a folder's costs.json, if it lacks them.

    Times are relative to the experiment's first row, trained or not; experiments that begin with
    the same one share them.
    """
    path, first = Path(folder) / _COSTS, EXPERIMENTS[experiment].rows[0]
    known = _read_costs(path)
    of_rows = known.setdefault(first, {})
    missing = [row for row in Results.load(folder).rows(experiment) if row not in of_rows]
    if missing:
        rows = list(dict.fromkeys([first, *missing]))
        of_rows.update(costs(rows, protocol["images"]["classes"], protocol, rounds))
        with replacing(path) as written:
            written.write_text(json.dumps(known, indent=1) + "\n", "utf-8")


def costs(rows, num_classes, protocol, rounds=5):
    """What each row costs: parameters, multiply-accumulates, time of a training step.

    Its steps are timed in turn with those of the first row, for a machine that is slower for a
    while is so for both.

    Args: rows, names; num_classes, protocol, see `build`; rounds, timed steps of each, after two.
    Returns: dict from a row to its "parameters", "macs" (of the prediction of one crop) and
        "step_ratio" (of medians, to the first row's).
    """
    rng, shape = np.random.default_rng(0), (protocol["batch_size"], *protocol["crop"])
    image = rng.integers(0, 256, (*shape, 3)).astype("uint8")
    mask = rng.integers(0, num_classes, shape).astype("uint8")
    found, first = {}, None
    for row in rows:
        model = build(row, num_classes, {**protocol, "weights": None, "other_weights": None})
        counted = Summary(models.without_auxiliary(model), tuple(protocol["crop"]))
        training.compile(model, 1000)
        target = dict.fromkeys(model.output, mask) if isinstance(model.output, dict) else mask
        step = functools.partial(model.train_on_batch, image, target)
        first = first or step
        seconds = {first: [], step: []}
        for _ in range(2 + rounds):
            for timed, took in seconds.items():
                start = time.perf_counter()
                timed()
                took.append(time.perf_counter() - start)
        medians = {timed: np.median(took[2:]) for timed, took in seconds.items()}
        found[row] = {
            "parameters": counted.parameters,
            "macs": counted.macs,
            "step_ratio": round(float(medians[step] / medians[first]), 3),
        }
    return found


class Results:
    """Figures of trained rows, epoch by epoch.

    Args:
        protocol: what all rows share.
        runs: dict from a row to a dict from a seed to a dict from a figure of `FIGURES` to a list
            of its values, one an epoch.
        costs: dict from the first row of experiments to what `costs` says of it and others.
        made: list of dicts, by what the runs were made: backend, versions, devices, revision.
    """

    def __init__(self, protocol, runs, costs=None, made=()):
        self.protocol, self.costs, self.made = protocol, costs or {}, list(made)
        self.runs = {row: dict(sorted(seeds.items())) for row, seeds in runs.items()}

    @classmethod
    def load(cls, path):
        """Reads the finished runs of a folder that `train` made, or results.json, the file or in a
        folder without runs.

        Raises: FileNotFoundError, ValueError that names the file.
        """
        path = Path(path)
        if not (path / PROTOCOL).is_file() and (path / RESULTS).is_file():
            path /= RESULTS
        if path.is_file():
            found = _read_json(path, "protocol", "runs", "costs", "made")
            protocol = _check_protocol(path, found["protocol"])
            _check_costs(path, found["costs"])
            _check(path, found, {"made": ("a list of dicts", lambda v: is_list(v, is_dict))})
            _check_runs(path, found["runs"], protocol["epochs"])
            of_rows = {
                row: {int(seed): figures for seed, figures in seeds.items()}
                for row, seeds in found["runs"].items()
            }
            return cls(protocol, of_rows, found["costs"], found["made"])
        protocol, of_rows, made = _read_protocol(path), {}, []
        for row in ROWS:
            for folder in sorted((path / row).glob("seed-*")):
                seed = re.fullmatch(r"seed-(\d+)", folder.name)
                if seed and (figures := _figures(folder, protocol["epochs"])):
                    of_rows.setdefault(row, {})[int(seed[1])] = figures
                    config = _read_json(folder / "config.json", "versions")
                    by = {name: config.get(name) for name in ("versions", "devices", "revision")}
                    made += [by] if by not in made else []
        costs = _read_costs(path / _COSTS)
        return cls(protocol, of_rows, costs, made)

    @classmethod
    def joined(cls, paths):
        """Results of several places, each as `load` reads it, as of machines that shared the work.

        What a row costs is taken from the first place that says it.

        Raises: ValueError that names the place, where its protocol is another one, and where it has
            a run that was there before, with other figures; as `load`.
        """
        found = cls.load(paths[0])
        for path in paths[1:]:
            try:
                found._add(cls.load(path))
            except ValueError as error:
                raise ValueError(f"{path} can't be added to {paths[0]}: {error}") from error
        return found

    def _add(self, other):
        mine, others = _portable(self.protocol), _portable(other.protocol)
        for name in mine:
            if mine[name] != others.get(name):
                values = "" if name == "images" else f" ({others.get(name)}, not {mine[name]})"
                raise ValueError(
                    f"it differs in its {name}{values}, so that their rows can't be compared. "
                    "Train both with one protocol, on the same images."
                )
        for row, seeds in other.runs.items():
            known = self.runs.setdefault(row, {})
            for seed, figures in seeds.items():
                if known.setdefault(seed, figures) != figures:
                    raise ValueError(
                        f"{row} with seed {seed} is there already, with other figures. Keep one of "
                        "the two."
                    )
            self.runs[row] = dict(sorted(known.items()))
        for first, of_rows in other.costs.items():
            self.costs[first] = {**of_rows, **self.costs.get(first, {})}
        self.made += [by for by in other.made if by not in self.made]

    def save(self, path):
        """Writes results.json, in which weights are named without their folder."""
        found = {
            "protocol": _portable(self.protocol), "made": self.made, "costs": self.costs,
            "runs": self.runs,
        }  # fmt: skip
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
        first, rows = EXPERIMENTS[experiment].rows[0], self.rows(experiment)
        costs = self.costs.get(first, {})
        timed = any(row in costs for row in rows if row != first)
        head = ["", "seeds"]
        if timed:
            head += ["M parameters", "GMAC", f"train step / {self.label(first)}'s"]
        head += [what for what, _, _ in FIGURES.values()]
        head += [f"mean IoU less {self.label(first)}'s", f"epochs to {self.label(first)}'s best"]
        lines = [head, ["---"] * len(head)]
        for row in rows:
            cells = [self.label(row), str(len(self.runs[row]))]
            if timed and row in costs:
                cost = costs[row]
                cells += [f"{cost['parameters'] / 1e6:.2f}", f"{cost['macs'] / 1e9:.2f}"]
                cells.append(f"{cost['step_ratio']:.2f}")
            elif timed:
                cells += [""] * 3
            for figure, (_, factor, digits) in FIGURES.items():
                cells.append(_interval(factor * self.values(row, figure), digits))
            if row != first and first in rows:
                cells.append(_difference(100 * self.values(row, "mean_iou", first)))
                cells.append(_epochs(self.epochs_to_reach(row, first)))
            else:
                cells += ["", ""]
            lines.append(cells)
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        absent = [self.label(row) for row in self._asked(experiment) if row not in self.runs]
        missing = f" Not trained: {', '.join(absent)}." if absent else ""
        note = EXPERIMENTS[experiment].note and f" {EXPERIMENTS[experiment].note}"
        title = EXPERIMENTS[experiment].title
        return f"**{title}**\n\n{table}\n\n{self.caption()}{note}{missing}\n"

    def caption(self):
        """What the figures of a table are."""
        p = self.protocol
        scale = "" if p["image_scale"] == 1 else f" at {p['image_scale']:g} of their size"
        return (
            f"Whole images of {p['dataset']}, {p['val_split']}{scale}, after the last of "
            f"{p['epochs']} epochs on crops of {'x'.join(map(str, p['crop']))}, in percent "
            f"(cross-entropy: nats a pixel); {p['backbone']}, c' = {p['aggregator_filters']}, "
            f"{p['backend']}. Mean ± half of the 95 % interval over seeds "
            "(Student's t), which is of trainings, not of other images. Differences are seed by "
            f"seed, of {_CLEAR} seeds or more clear where the interval leaves 0 out; so is one in "
            "twenty of those that differ by nothing, and all share the runs of the first row. "
            "Epochs: to the best mean accuracy, seed by seed. GMAC: one crop's prediction."
        )

    def label(self, row):
        """What a row is."""
        if ROWS[row].stem == "other_backbone":
            return f"{ROWS[row].label}, {self.protocol['other_backbone']}"
        return ROWS[row].label

    def rows(self, experiment):
        """Names of an experiment's rows that are trained; in Figure 3 the best of their kinds."""
        return [row for row in self._asked(experiment) if row in self.runs]

    def _asked(self, experiment):
        """Names of an experiment's rows, trained or not."""
        rows = rows_of([experiment], self.protocol)
        return [self._best(row) for row in rows] if experiment == "figure3" else rows

    def _best(self, row):
        """Of the trained rows of its kind, as "skip" of "skip_s4", that of most mean IoU, among
        those of most seeds."""
        kind, _, tap = row.partition("_")
        alike = [other for other in self.runs if tap and other.startswith(f"{kind}_")]

        def rank(row):
            values = self.values(row, "mean_iou")
            return len(values), values.mean()

        return max(alike, key=rank, default=row)

    def plot_curves(self, experiment, figure="mean_accuracy"):
        """Figure 3: a figure over the epochs, mean and interval of the seeds.

        Returns: matplotlib `Axes`.
        """
        curves = {}
        for row in self.rows(experiment):
            values = np.array([figures[figure] for figures in self.runs[row].values()])
            curves[self.label(row)] = interval(FIGURES[figure][1] * values)
        name, factor, _ = FIGURES[figure]
        return visualization.plot_bands(curves, f"{name} (%)" if factor == 100 else name)

    def differences(self, experiment, figure="mean_iou"):
        """Each row less the first one: dict from its label to mean, low and high."""
        first = EXPERIMENTS[experiment].rows[0]
        return {
            self.label(row): interval(FIGURES[figure][1] * values)
            for row in self.rows(experiment)
            if row != first and len(values := self.values(row, figure, first))
        }

    def plot_differences(self, experiment, figure="mean_iou"):
        """Each row less the first one, mean and interval of the seeds.

        Returns: matplotlib `Axes`.
        """
        first = EXPERIMENTS[experiment].rows[0]
        name, factor, _ = FIGURES[figure]
        unit = ", points" if factor == 100 else ""
        xlabel = f"{name} less {self.label(first)}'s{unit}"
        return visualization.plot_intervals(self.differences(experiment, figure), xlabel)

    def write_table(self, folder, experiment):
        """Writes the table as EXPERIMENT.md, and returns it."""
        table = self.table(experiment)
        with replacing(Path(folder) / f"{experiment}.md") as path:
            path.write_text(table, "utf-8")
        return table

    def write_plots(self, folder, experiment):
        """Writes the curves as EXPERIMENT_curves.png and, if any, differences as EXPERIMENT.png."""
        path = Path(folder) / f"{experiment}.png"
        with replacing(path.with_stem(f"{experiment}_curves")) as written:
            visualization.save_plot(self.plot_curves(experiment), written)
        if not self.differences(experiment):
            remove(path)
            return
        with replacing(path) as written:
            visualization.save_plot(self.plot_differences(experiment), written)


def interval(values):
    """Mean over the first axis, and the limits of its 95 % interval by Student's t.

    Args: values, (seeds, ...).
    Returns: mean, low and high, (...); the limits are NaN for one seed.
    """
    values = np.asarray(values, "float64")
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        return mean, mean * np.nan, mean * np.nan
    t = _T[min(n - 2, len(_T) - 1)]
    half = t * values.std(axis=0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def _interval(values, digits):
    mean, low, high = interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(low) else f" ± {high - mean:.{digits}f}")


def _difference(values):
    if not len(values):
        return ""
    mean, low, high = interval(values)
    seeds = f"{len(values)} seed{'s' * (len(values) > 1)}"
    if math.isnan(low):
        return f"{mean:+.2f} ({seeds})"
    clear = ", clear" if len(values) >= _CLEAR and (low > 0 or high < 0) else ""
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}, {seeds}){clear}"


def _epochs(found):
    return ", ".join("never" if epoch is None else str(epoch) for epoch in found)


def _figures(folder, epochs):
    """Figures of a run, epoch by epoch; none where it is not finished."""
    log = folder / "cross_entropy.csv"
    rows = runs.rows(log)
    if len(rows) < epochs:
        return {}
    try:
        return {name: [round(row[f"val_{name}"], 6) for row in rows] for name in FIGURES}
    except KeyError as error:
        raise ValueError(
            f"{log} lacks {error} in a row: delete its folder, to train anew."
        ) from None


def _portable(protocol):
    """A protocol as results.json has it: weights are named without their folder."""
    names = {name: protocol[name] for name in ("weights", "other_weights")}
    return _files.plain(
        {**protocol, **{name: file and Path(file).name for name, file in names.items()}}
    )


def _read_protocol(folder):
    path = Path(folder) / PROTOCOL
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no experiments: there is no {path}.")
    return _check_protocol(path, _read_json(path))


def _read_costs(path):
    return _check_costs(path, _read_json(path)) if path.is_file() else {}


def _read_json(path, *keys):
    """The dict in a file, which has these keys."""
    return _with_keys(path, _files.read_json(path, _WAY_OUT), keys)


def _with_keys(path, found, keys):
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing or not isinstance(found, dict):
        named = ", ".join(missing) or "object"
        raise ValueError(f"{path} is no such file, or of another version: no {named}.")
    return found


# What files may hold


_WAY_OUT = "Give another, or make it anew."


def _is_number(value):
    """NaN is a figure of nothing."""
    return type(value) in (int, float) and (value != value or abs(value) < 1e39)


def _is_positive(value):
    return _is_number(value) and value > 0


def _is_text_or_none(value):
    return value is None or is_text(value)


_POSITIVE_INT = ("an integer of 1 or more", lambda v: is_int(v, 1))
_POSITIVE = ("a number above 0", _is_positive)
_PROTOCOL = {
    **dict.fromkeys(("dataset", "val_split", "backbone", "backend"), ("text", is_text)),
    **dict.fromkeys(
        ("weights", "other_backbone", "other_weights"), ("text, or null", _is_text_or_none)
    ),
    **dict.fromkeys(_WHOLE, _POSITIVE_INT),
    **dict.fromkeys(("image_scale", "learning_rate", "head_learning_rate_multiple"), _POSITIVE),
    "crop": ("two integers of 1 or more", lambda v: is_list(v, is_int, 1) and len(v) == 2),
    "scale_range": ("two numbers above 0", lambda v: is_list(v, _is_positive) and len(v) == 2),
    "images": (
        "a dict with the number of classes",
        lambda v: is_dict(v) and is_int(v.get("classes"), 1),
    ),
}
_COST = {**dict.fromkeys(("parameters", "macs"), ("an integer", is_int)), "step_ratio": _POSITIVE}


def _check(path, found, schema, what=""):
    _files.check(found, schema, f"{path} is damaged:{what}", _WAY_OUT)


def _check_protocol(path, found):
    _check(path, _with_keys(path, found, _KEPT), _PROTOCOL)
    return found


def _check_costs(path, found):
    _check(path, {"costs": found}, {"costs": ("a dict of dicts", lambda v: is_dict_of(v, is_dict))})
    for of_rows in found.values():
        for row, cost in of_rows.items():
            _check(path, cost, _COST, f" costs of {row!r}:")
    return found


def _check_runs(path, found, epochs):
    schema = {
        "runs": (
            f"dicts by rows, of {', '.join(ROWS)}",
            lambda v: is_dict_of(v, is_dict) and v.keys() <= ROWS.keys(),
        )
    }
    _check(path, {"runs": found}, schema)
    rule = (f"a list of {epochs} numbers", lambda v: is_list(v, _is_number) and len(v) == epochs)
    for row, seeds in found.items():
        for seed, figures in seeds.items():
            if not re.fullmatch("0|[1-9][0-9]{0,17}", seed):
                raise ValueError(f"{path} is damaged: {row} has a seed {seed!r:.40}. {_WAY_OUT}")
            _check(path, figures, dict.fromkeys(FIGURES, rule), f" {row} with seed {seed}:")
