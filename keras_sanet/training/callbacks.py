"""Keras callbacks of a run: best model, metrics, state, and what ends or warns."""

import csv
import math
import os
import re
import warnings
from pathlib import Path

import keras
from keras import ops

from keras_sanet import _backend, distribution, models
from keras_sanet._files import replacing
from keras_sanet.metrics import assign_sum
from keras_sanet.optimizers import AveragedValidation, averaged_weights
from keras_sanet.training.loggers import check_logger, logger_callbacks
from keras_sanet.training.signals import stop_if_signaled
from keras_sanet.training.state import (
    RunState,
    keep_skipped_attributes,
    load_state,
    read_log,
    save_state,
)

# Phase -> the validation metric that chooses its checkpoint, and what is better.
PHASES = {"cross_entropy": ("val_cross_entropy", "min"), "lovasz": ("val_mean_iou", "max")}
_SHOWN = 10  # classes named in a warning


def callbacks(
    folder, *, phase="cross_entropy", train=None, save_every=None, logger=None, signals=()
):
    """Makes the callbacks that keep a run in its folder and go on from it in another `fit`.

    Args:
        folder: of the run (see `training.run_folder`).
        phase: "cross_entropy" (the best model has the least pixel-weighted validation
            cross-entropy) or "lovasz" (the best mean IoU).
        train: data set of `pipeline.make_dataset`, told the epoch so that a resumed run sees the
            draws it would have seen.
        save_every: steps between states inside of an epoch, None for none; for `training.fit`,
            which can go on inside of one.
        logger: "tensorboard", "wandb", "mlflow" or None.
        signals: list of `signals.deferred_signals`.

    Returns:
        List of Keras callbacks, for `model.fit`.

    Raises:
        ValueError: for an unknown phase or logger.
        ImportError: where the logger's package is missing.
    """
    if phase not in PHASES:
        raise ValueError(f"Unknown phase {phase!r}. Known: {', '.join(PHASES)}.")
    check_logger(logger)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    finite = CheckFinite(train, folder)
    state = SaveState(folder / f"{phase}_state.keras", train, finite, save_every, signals)
    kept = [RenameMetrics(), AveragedValidation(), finite, SaveBest(folder, phase)]
    if distribution.is_chief():
        kept.append(LogMetrics(folder / f"{phase}.csv"))
    kept.append(state)
    return kept + (logger_callbacks(logger, folder, phase) if distribution.is_chief() else [])


class SaveBest(keras.callbacks.ModelCheckpoint):
    """Saves the best model of a phase, without an auxiliary output. The file is the old or the new
    one whenever the run is killed.

    Args:
        folder: of the run, whose CSV holds the best value of the epochs before.
        phase: name of the phase.
    """

    def __init__(self, folder, phase):
        metric, mode = PHASES[phase]
        super().__init__(folder / f"{phase}.keras", metric, mode=mode, save_best_only=True)
        self._log, self._begun = folder / f"{phase}.csv", False

    def set_model(self, model):
        self._trained = model
        super().set_model(models.without_auxiliary(model))

    def on_train_begin(self, logs=None):
        self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        if self._begun:
            return
        known = [row.get(self.monitor, math.nan) for row in read_log(self._log, epoch)]
        best = min if self.mode == "min" else max
        self.best = best((value for value in known if not math.isnan(value)), default=None)
        if self.best is not None and not os.path.isfile(self.filepath):
            raise FileNotFoundError(
                f"There is no {self.filepath}, the best model of {epoch} epochs. Put it back; or "
                f"delete {self._log.name} and the state beside it, and their phase begins anew."
            )
        self._begun = True

    def on_epoch_end(self, epoch, logs=None):
        with averaged_weights(self._trained):  # in all processes, for they share the weights
            if not distribution.is_chief() or math.isnan((logs or {}).get(self.monitor, 0)):
                return
            path = self.filepath
            try:
                with replacing(path) as written, distribution.alone():
                    # Keras formats it; a folder's name may have braces.
                    self.filepath = str(written).replace("{", "{{").replace("}", "}}")
                    super().on_epoch_end(epoch, logs)
            finally:
                self.filepath = path


class RenameMetrics(keras.callbacks.Callback):
    """Names the metrics of a model with several outputs as those of a model with logits alone, for
    the callbacks that follow: "val_logits_mean_iou" is "val_mean_iou"."""

    def on_epoch_end(self, epoch, logs=None):
        for name in list(logs or ()) if isinstance(self.model.output, dict) else ():
            renamed = re.sub("^(val_)?logits_", r"\1", name)
            if renamed not in logs:  # "loss" is of all outputs
                logs[renamed] = logs.pop(name)


class LogMetrics(keras.callbacks.Callback):
    """Writes the metrics of every epoch as CSV; an epoch that is repeated has one row.

    The file is read once and written whole: what happens to it meanwhile is mended.
    """

    def __init__(self, path):
        super().__init__()
        self._path, self._rows = path, None

    def on_train_begin(self, logs=None):
        self._rows = None

    def on_epoch_begin(self, epoch, logs=None):
        if self._rows is None:
            self._rows = read_log(self._path, epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._rows.append({"epoch": epoch, **{k: float(v) for k, v in (logs or {}).items()}})
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        with replacing(self._path) as path, open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({**row, "epoch": int(row["epoch"])} for row in self._rows)


class CheckFinite(keras.callbacks.Callback):
    """Stops at the first step whose loss is not a finite number, and where the weights are not when
    they are to be saved, so that nothing is kept of it.

    A step's loss is looked at after the next one was begun, so that no device waits for it.

    Args:
        train: data set of `pipeline.make_dataset`, to name the step's files.
        folder: of the run.
    """

    def __init__(self, train, folder):
        super().__init__()
        self._train, self._folder, self._last = train, folder, None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        last, self._last = self._last, (batch, (logs or {}).get("loss"))
        self._check_loss(last)

    def on_epoch_end(self, epoch, logs=None):
        self.check()

    def check(self):
        """Looks at the last step's loss and weights."""
        last, self._last = self._last, None
        self._check_loss(last)
        weights = self.model.trainable_variables
        if last and not all(bool(ops.isfinite(ops.sum(weight))) for weight in weights):
            raise self._error("The weights are not finite", last[0])

    def _check_loss(self, last):
        if last and last[1] is not None and not math.isfinite(last[1]):
            raise self._error(f"The loss is {float(last[1])}", last[0])

    def _error(self, what, batch):
        plan = getattr(self._train, "plan", None)
        named = f", at the images {', '.join(plan.files(self._epoch, batch))}" if plan else ""
        return FloatingPointError(
            f"{what} in epoch {self._epoch + 1}{named}. What {self._folder} keeps is of before. A "
            "label that is no class of the model does so; else a lower `learning_rate`, "
            "`global_clipnorm`, or float32 instead of float16 may help; they make another run."
        )


class SaveState(keras.callbacks.Callback):
    """Writes the state at the end of each epoch, and goes on from it.

    Args:
        path: of the state file.
        train: the data set, told the epoch if it has `set_epoch`. If it has `rest` (as those of
            `pipeline.make_dataset`), the state can be written inside of an epoch.
        finite: `CheckFinite`, which looks at loss and weights before the state is written.
        save_every: steps between states inside of an epoch; None for none.
        signals: list that is not empty when the run shall stop (`signals.deferred_signals`).
    """

    def __init__(self, path, train, finite, save_every=None, signals=()):
        super().__init__()
        self._path, self._train, self._finite = path, train, finite
        self._save_every, self._signals = save_every, signals
        self._inside = hasattr(train, "rest")
        self._skip = train.plan.skip if self._inside else 0

    def on_train_begin(self, logs=None):
        keep_skipped_attributes()
        self._from = load_state(self.model, self._path)
        if self._from.step != self._skip:
            raise ValueError(
                f"{self._path} is of step {self._from.step} in an epoch: go on with "
                "`training.fit`, or delete it."
            )
        self.model._initial_epoch = self._from.epoch  # as keras.callbacks.BackupAndRestore

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._done = epoch, self._from.step
        if hasattr(self._train, "set_epoch"):
            self._train.set_epoch(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if self._from.step:  # again: PyTorch's loader draws a number at the beginning of an epoch
            _backend.set_random_states(self._from.generators)

    def on_train_batch_end(self, batch, logs=None):
        if self._from.step:  # only now are there metrics on TensorFlow; all of them are sums
            variables = self.model.metrics_variables
            for variable, value in zip(variables, self._from.metrics, strict=True):
                assign_sum(variable, ops.convert_to_numpy(variable) + value)
        self._from = RunState()
        step = self._done + batch + 1
        due = self._save_every and step % self._save_every == 0
        inside = self._inside and batch + 1 < len(self._train)
        if inside and (due or self._signals) and not self.model.stop_training:
            self._finite.check()
            self._save(self._epoch, step)
            self._stop(f"step {step} of epoch {self._epoch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        self._save(epoch + 1, 0)
        self._stop(f"epoch {epoch + 1}")

    def on_train_end(self, logs=None):
        self.model._initial_epoch = 0

    def _save(self, epoch, step):
        if distribution.is_chief():
            save_state(self.model, self._path, epoch, step)

    def _stop(self, where):
        stop_if_signaled(
            self._signals, f"Stopped after {where}; {self._path} holds what the run goes on from."
        )


class ReportSkipped(keras.callbacks.Callback):
    """Keeps the report of images that could not be read, skipped.txt.

    Args:
        path: of the report.
        loaders: data sets of `pipeline.make_dataset`.
    """

    def __init__(self, path, loaders):
        super().__init__()
        self._path = path
        self._plans = [loader.plan for loader in loaders if hasattr(loader, "plan")]

    def on_epoch_end(self, epoch, logs=None):
        there = self._path.is_file()
        known = self._path.read_text("utf-8", "replace").splitlines() if there else []
        errors = [str(error) for plan in self._plans for error in list(plan.errors.values())]
        new = [error for error in errors if error not in known]
        if new and distribution.is_chief():
            with replacing(self._path) as path:
                path.write_text("".join(f"{line}\n" for line in [*known, *new]), "utf-8")


class StopAtStep(keras.callbacks.Callback):
    """Ends training after so many steps in all.

    Args:
        steps: in all.
        steps_per_epoch: of a whole epoch.
        skip: steps that the first epoch lacks.
    """

    def __init__(self, steps, steps_per_epoch, skip=0):
        super().__init__()
        self._steps, self._steps_per_epoch, self._skip = steps, steps_per_epoch, skip

    def on_epoch_begin(self, epoch, logs=None):
        self._before = epoch * self._steps_per_epoch + self._skip
        self._skip = 0

    def on_train_batch_end(self, batch, logs=None):
        if self._before + batch + 1 >= self._steps:
            self.model.stop_training = True


class WarnOfAbsentClasses(keras.callbacks.Callback):
    """Warns once of classes that never occur in the truth, as the metrics have counted it."""

    def __init__(self):
        super().__init__()
        self._looked = set()

    def on_test_begin(self, logs=None):  # the metrics still hold what training counted
        self._look("training", "nothing can be learned from them")

    def on_test_end(self, logs=None):
        self._look("validation", "its figures say nothing")

    def _look(self, which, consequence):
        if which in self._looked or not distribution.is_chief():
            return
        self._looked.add(which)
        metrics = [one for part in self.model.metrics for one in getattr(part, "metrics", [part])]
        metrics = [metric for metric in metrics if hasattr(metric, "confusion_matrix")]
        pixels = metrics[0].confusion_matrix().sum(axis=1)
        names = next((metric.class_names for metric in metrics if metric.class_names), ())
        names = names if len(names) == len(pixels) else [f"class {i}" for i in range(len(pixels))]
        absent = [name for name, count in zip(names, pixels) if not count]
        masks = f"this epoch's {which} masks"
        if not absent:
            return
        if len(absent) == len(names):
            said = f"No pixel of {masks} has a class, all are void: {consequence}."
        elif len(absent) == len(names) - 1:
            (only,) = set(names) - set(absent)
            said = (
                f"Only one class occurs in {masks}, {only!r}: {consequence}. (Are they of 0 and "
                "255? Masks of two classes hold 0 and 1; 255 is void.)"
            )
        else:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            listed = f"{', '.join(absent[:_SHOWN])}{more}"
            said = f"{len(absent)} classes never occur in {masks}: {listed}."
        warnings.warn(f"{said} `keras-sanet inspect` shows what masks hold.", stacklevel=2)
