"""Statistics of trained rows, and their tables and plots.

A row's mean has the 95 % interval of Student's t over seeds, and so has its difference from the
baseline, seed by seed: with three seeds and more it is called clear where its interval leaves 0
out. (So is one in twenty of the rows that differ by nothing, and those of a table share the runs of
the baseline; and the interval is of trainings, not of other images.)
"""

import json
import math
import re
from pathlib import Path

import numpy as np

from keras_sanet import visualization
from keras_sanet._files import is_dict, remove, replacing
from keras_sanet.experiments.protocol import (
    COSTS,
    FIGURES,
    PROTOCOL,
    RESULTS,
    as_stored,
    read_costs,
    read_json,
    read_protocol,
    read_results,
    without_folders,
)
from keras_sanet.experiments.rows import EXPERIMENTS, ROWS, list_rows
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
        protocol: what all rows share, a dict.
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
        """Reads the finished runs of a folder, or results.json.

        Args:
            path: a folder that `train` made, a file results.json, or a folder that holds one and no
                runs.

        Raises:
            FileNotFoundError: there are no experiments.
            ValueError: a file is damaged; it names the file.
        """
        path = Path(path)
        if not (path / PROTOCOL).is_file() and (path / RESULTS).is_file():
            path /= RESULTS
        if path.is_file():
            return cls(*read_results(path))
        protocol, runs, made = read_protocol(path / PROTOCOL), {}, []
        for row in ROWS:
            for folder in sorted((path / row).glob("seed-*")):
                seed = re.fullmatch(r"seed-(\d+)", folder.name)
                if seed and (figures := read_figures(folder, protocol["epochs"])):
                    runs.setdefault(row, {})[int(seed[1])] = figures
                    config = read_json(folder / "config.json", {"versions": ("a dict", is_dict)})
                    by = {name: config.get(name) for name in ("versions", "devices", "revision")}
                    made += [by] if by not in made else []
        return cls(protocol, runs, read_costs(path / COSTS), made)

    @classmethod
    def join(cls, paths):
        """Results of machines that shared the work, of several paths as `load` reads them.

        What a row costs is taken from the first path that says it.

        Raises:
            ValueError: a path has another protocol, or a run that was there before with other
                figures; it names the path.
        """
        found = cls.load(paths[0])
        for path in paths[1:]:
            try:
                found._add(cls.load(path))
            except ValueError as error:
                raise ValueError(f"{path} can't be added to {paths[0]}: {error}") from error
        return found

    def _add(self, other):
        mine, others = without_folders(self.protocol), without_folders(other.protocol)
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
        for first, costs in other.costs.items():
            self.costs[first] = {**costs, **self.costs.get(first, {})}
        self.made += [by for by in other.made if by not in self.made]

    def save(self, path):
        """Writes results.json, in which weights are named without their folder."""
        protocol = as_stored(without_folders(self.protocol))
        found = {"protocol": protocol, "made": self.made, "costs": self.costs, "runs": self.runs}
        text = json.dumps(found, indent=1)
        text = re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), text)
        with replacing(path) as written:
            written.write_text(text + "\n", "utf-8")

    def values(self, row, figure, baseline=None):
        """A figure after the last epoch, one number a seed.

        Args:
            row: its name.
            figure: name of `FIGURES`.
            baseline: a row whose figure with the same seed is taken off; seeds that it lacks are
                left out.

        Returns:
            Array, (seeds,).
        """
        last = {seed: figures[figure][-1] for seed, figures in self.runs.get(row, {}).items()}
        if baseline is None:
            return np.array([*last.values()])
        others = self.runs.get(baseline, {})
        return np.array([v - others[s][figure][-1] for s, v in last.items() if s in others])

    def epochs_to_reach(self, row, baseline="fcn", figure="mean_accuracy"):
        """Epochs after which a row has reached the best that the baseline ever has (Figure 3).

        Returns:
            List of integers, None where the row never does; by seeds that both have.
        """
        found, others = [], self.runs.get(baseline, {})
        for seed, figures in self.runs.get(row, {}).items():
            if seed in others:
                best = max(others[seed][figure])
                reached = (e for e, value in enumerate(figures[figure], 1) if value >= best)
                found.append(next(reached, None))
        return found

    def table(self, experiment):
        """Markdown: figures of an experiment's rows, and their differences from the first."""
        title, (first, *_), note = EXPERIMENTS[experiment]
        rows, costs = self.trained_rows(experiment), self.costs.get(first, {})
        timed = any(row in costs for row in rows if row != first)
        head = ["", "seeds"]
        if timed:
            head += ["M parameters", "GMAC", f"train step / {self.label(first)}'s"]
        head += [what for what, _, _ in FIGURES.values()]
        head += [f"mean IoU less {self.label(first)}'s", f"epochs to {self.label(first)}'s best"]
        lines = [head, ["---"] * len(head)]
        for row in rows:
            cells = [self.label(row), str(len(self.runs[row]))]
            if timed:
                cost, units = costs.get(row), {"parameters": 1e6, "macs": 1e9, "step_ratio": 1}
                cells += [f"{cost[n] / unit:.2f}" if cost else "" for n, unit in units.items()]
            for figure, (_, factor, digits) in FIGURES.items():
                cells.append(_format_mean(factor * self.values(row, figure), digits))
            if row != first and first in rows:
                cells.append(_format_difference(100 * self.values(row, "mean_iou", first)))
                cells.append(", ".join(str(e or "never") for e in self.epochs_to_reach(row, first)))
            else:
                cells += ["", ""]
            lines.append(cells)
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        absent = [self.label(row) for row in self._rows(experiment) if row not in self.runs]
        missing = f" Not trained: {', '.join(absent)}." if absent else ""
        note = note and f" {note}"
        return f"**{title}**\n\n{table}\n\n{self.caption()}{note}{missing}\n"

    def caption(self):
        """What the figures of a table are."""
        p = self.protocol
        scale = "" if p["image_scale"] == 1 else f" at {p['image_scale']:g} of their size"
        return (
            f"Whole images of {p['dataset']}, {p['val_split']}{scale}, after the last of "
            f"{p['epochs']} epochs on crops of {'x'.join(map(str, p['crop_size']))}, in percent "
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

    def trained_rows(self, experiment):
        """Names of an experiment's rows that are trained; in Figure 3 the best of their kinds."""
        return [row for row in self._rows(experiment) if row in self.runs]

    def _rows(self, experiment):
        """Names of an experiment's rows, trained or not."""
        rows = list_rows([experiment], self.protocol)
        return [self._best(row) for row in rows] if experiment == "figure3" else rows

    def _best(self, row):
        """Of the trained rows of its kind ("skip" of "skip_s4") the one of most seeds, then of most
        mean IoU."""
        kind, _, tap = row.partition("_")
        alike = [other for other in self.runs if tap and other.startswith(f"{kind}_")]
        ious = {row: self.values(row, "mean_iou") for row in alike}
        return max(alike, key=lambda row: (len(ious[row]), ious[row].mean()), default=row)

    def plot_curves(self, experiment):
        """Figure 3: the mean accuracy over the epochs, mean and interval of the seeds.

        Returns:
            matplotlib `Axes`.
        """
        curves = {}
        for row in self.trained_rows(experiment):
            values = [figures["mean_accuracy"] for figures in self.runs[row].values()]
            curves[self.label(row)] = interval(100 * np.array(values))
        return visualization.plot_bands(curves, "mean accuracy (%)")

    def plot_differences(self, experiment):
        """The mean IoU of each row less the first one's, mean and interval of the seeds.

        Returns:
            matplotlib `Axes`; None where no row has a seed in common with the first one.
        """
        first = EXPERIMENTS[experiment].rows[0]
        rows = [row for row in self.trained_rows(experiment) if row != first]
        values = {self.label(row): 100 * self.values(row, "mean_iou", first) for row in rows}
        differences = {label: interval(found) for label, found in values.items() if len(found)}
        if not differences:
            return None
        xlabel = f"mean IoU less {self.label(first)}'s, points"
        return visualization.plot_intervals(differences, xlabel)

    def write(self, folder, experiment):
        """Writes an experiment's table and plots.

        The table is EXPERIMENT.md, the curves are EXPERIMENT_curves.png, the differences, if any,
        EXPERIMENT.png.

        Returns:
            The table.
        """
        table, path = self.table(experiment), Path(folder) / f"{experiment}.png"
        with replacing(path.with_suffix(".md")) as written:
            written.write_text(table, "utf-8")
        with replacing(path.with_stem(f"{experiment}_curves")) as written:
            visualization.save_plot(self.plot_curves(experiment), written)
        if axes := self.plot_differences(experiment):
            with replacing(path) as written:
                visualization.save_plot(axes, written)
        else:
            remove(path)
        return table


def interval(values):
    """Mean over the first axis, and the limits of its 95 % interval by Student's t.

    Args:
        values: (seeds, ...).

    Returns:
        Mean, low and high, (...); the limits are NaN for one seed.
    """
    values = np.asarray(values, "float64")
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        return mean, mean * np.nan, mean * np.nan
    t = _T[min(n - 2, len(_T) - 1)]
    half = t * values.std(axis=0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def _format_mean(values, digits):
    mean, low, high = interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(low) else f" ± {high - mean:.{digits}f}")


def _format_difference(values):
    if not len(values):
        return ""
    mean, low, high = interval(values)
    seeds = f"{len(values)} seed{'s' * (len(values) > 1)}"
    if math.isnan(low):
        return f"{mean:+.2f} ({seeds})"
    clear = ", clear" if len(values) >= _CLEAR and (low > 0 or high < 0) else ""
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}, {seeds}){clear}"


def read_figures(folder, epochs):
    """Figures of a run, epoch by epoch: dict from their names to lists; {} of an unfinished one."""
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
