import json
import math
import re
from pathlib import Path

import numpy as np

from keras_sanet import visualization
from keras_sanet._files import is_dict, is_list, remove, replacing
from keras_sanet.experiments.protocol import (
    _COSTS,
    FIGURES,
    PROTOCOL,
    RESULTS,
    _check,
    _check_costs,
    _check_protocol,
    _check_runs,
    _portable,
    _read_costs,
    _read_json,
    _read_protocol,
)
from keras_sanet.experiments.rows import EXPERIMENTS, ROWS, rows_of
from keras_sanet.training import state

# 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom; the last serves beyond.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

_CLEAR = 3  # least number of seeds of a clear difference


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
    rows = state.read_log(log)
    if len(rows) < epochs:
        return {}
    try:
        return {name: [round(row[f"val_{name}"], 6) for row in rows] for name in FIGURES}
    except KeyError as error:
        raise ValueError(
            f"{log} lacks {error} in a row: delete its folder, to train anew."
        ) from None
