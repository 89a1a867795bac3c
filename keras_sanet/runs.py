"""A training run's folder, and going on after whatever happened to the run.

What `training.fit` keeps in it (`<phase>` is cross_entropy or lovasz):

    config.json             arguments, versions, seeds, revision, data sets by count and digest
    data.json               the data sets file by file, to tell what changed
    <phase>.keras           the best model
    <phase>.csv             every figure of every epoch
    <phase>_state.keras     weights, optimizer, metrics and place to go on from
    skipped.txt             images that could not be read, and why
    .lock                   held by the process that trains (`_files.locked`)

Of several processes the first alone writes (`distribution.is_chief`). Each file is replaced whole.
At the end of an epoch the state is written last: a run that is killed before repeats the epoch, and
what the epoch wrote then.

A folder may be a stranger's: nothing is written through a link that leads out of it.
"""

import collections
import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
import zipfile
import zlib
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_sanet import _backend, _files, distribution, models, saving
from keras_sanet._files import replacing
from keras_sanet.metrics import assign_sum
from keras_sanet.optimizers import averaged_weights
from keras_sanet.version import __version__

_PACKAGES = ("numpy", "pillow", "h5py", "tensorflow", "jax", "torch")
_HEAD = 4096  # bytes of a file that its entry in data.json is made from


# The folder


def arguments_of(folder):
    """The arguments that a run's config.json keeps; {} where there is none.

    Raises: ValueError that names the file, where it is damaged.
    """
    return _read_config(folder)["arguments"] if (Path(folder) / "config.json").is_file() else {}


def _read_config(folder):
    path, way_out = Path(folder) / "config.json", "Start another run."
    found = _files.read_json(path, way_out)
    if not isinstance(found, dict) or not isinstance(found.get("arguments"), dict):
        raise ValueError(f"{path} is damaged: it holds no dict of arguments. {way_out}")
    return found


def write_config(folder, arguments, loaders):
    """Writes what makes a run what it is, or checks that it goes on with the same data.

    Args:
        folder: of the run.
        arguments: dict of JSON values; in place of those that were kept, if it has all of them.
        loaders: dict from a role ("train", "validation") to a data set of `pipeline.make_dataset`;
            others have no `plan`, and are not looked at.
    Raises: ValueError with the difference, where the run began with other files, another order of
        them, other classes, another batch size or augmentation; and where what says so is missing
        or damaged.
    """
    folder = Path(folder)
    plans = {role: loader.plan for role, loader in loaders.items() if hasattr(loader, "plan")}
    found = {
        role: {
            "batch_size": plan.batch_size,
            "class_names": list(plan.dataset.class_names),
            "augmentation": dataclasses.asdict(plan.augmentation),
            "files": files_of(plan.dataset.samples(plan.split)),
        }
        for role, plan in plans.items()
    }
    found = json.loads(json.dumps(found))  # tuples are lists
    config, data = folder / "config.json", folder / "data.json"
    missing = [path for path in (config, data) if not path.is_file()]
    if len(missing) == 1 and any(folder.glob("*_state.keras")):
        raise ValueError(
            f"{missing[0]} is missing, which says what the run began with. Put it back, or start "
            "another run."
        )
    if not missing:
        try:
            began = json.loads(data.read_text("utf-8"))
            changes = [
                f"{role}: {change}"
                for role in found.keys() & began.keys()
                for change in _changes(began[role], found[role])
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{data} is damaged: {error}. Start another run.") from error
        if changes:
            raise ValueError(
                f"The data changed since the run {folder} began: {'; '.join(sorted(changes))}. Put "
                "it back, or start another run."
            )
        kept, arguments = _read_config(folder), json.loads(json.dumps(arguments))
        changed = kept["arguments"] != arguments and kept["arguments"].keys() <= arguments.keys()
        if changed and distribution.is_chief():
            _write_json(config, {**kept, "arguments": arguments}, 2)
        return
    if not distribution.is_chief():
        return
    contents = {
        "arguments": arguments,
        "versions": {
            "keras_sanet": __version__,
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "python": ".".join(map(str, sys.version_info[:3])),
            **_versions(_PACKAGES),
        },
        "devices": _backend.devices(),
        "revision": _revision(),
        "data": {
            role: {
                "name": plan.dataset.name,
                "split": plan.split,
                "images": len(found[role]["files"]),
                "sha256": hashlib.sha256(json.dumps(found[role]["files"]).encode()).hexdigest(),
                "seed": plan.seed,
            }
            for role, plan in plans.items()
        },
    }
    _write_json(config, contents, 2)
    _write_json(data, found, 0)


def _write_json(target, content, indent):
    with replacing(target) as path:
        path.write_text(json.dumps(content, indent=indent) + "\n", "utf-8")


def files_of(samples):
    """What tells one set of samples from another, without reading all of it.

    Returns: dict from the image's name, below the folder that all files share, to the numbers of
        bytes of image and mask and a checksum of their first 4096.
    """
    paths = [getattr(sample.image, "file", sample.image) for sample in samples]
    root = os.path.commonpath([path.parent for path in paths])
    found = {}
    for sample, path in zip(samples, paths):
        name = os.path.relpath(path, root) + (f" [{sample.image.stem}]" * (path != sample.image))
        found[name] = " ".join(_entry(source) for source in (sample.image, sample.mask) if source)
    return found


def _entry(source):
    path = getattr(source, "file", source)
    try:
        with open(path, "rb") as file:
            return f"{path.stat().st_size}:{zlib.crc32(file.read(_HEAD)):08x}"
    except OSError:
        return "unreadable"


def _changes(began, now):
    """What differs between what two data.json say of a role, as texts."""
    for name in ("batch_size", "class_names"):
        if began[name] != now[name]:
            yield f"{name} {began[name]}, now {now[name]}"
    was, augmentation = began.get("augmentation", {}), now["augmentation"]
    for name in was.keys() & augmentation.keys():
        if was[name] != augmentation[name]:
            yield f"{name} {was[name]}, now {augmentation[name]}"
    began, now = _uncached(began["files"]), _uncached(now["files"])
    for what, names in (
        ("more", now.keys() - began.keys()),
        ("less", began.keys() - now.keys()),
        ("changed", {name for name in began.keys() & now.keys() if began[name] != now[name]}),
    ):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            yield f"{len(names)} {what} ({listed})"
    if began.keys() == now.keys() and list(began) != list(now):
        yield "another order"


def _uncached(files):
    """The same whether pictures are read through a cache, which names them "3.png [3]", or not."""
    return {re.sub(r"([^/\\]+)(\.\w+) \[\1\]$", r"\1\2", name): files[name] for name in files}


def _versions(packages):
    """Versions of the packages that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _revision():
    """The git revision of the package where it is a clone's, with "-dirty" after changes."""
    folder = Path(__file__).parent

    def git(*arguments):
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20
        )
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        if git("ls-files", "--error-unmatch", "version.py") is None:
            return None
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.TimeoutExpired):
        return None


# Where a run is

# Epochs that are done, steps of the next one, the steps that a phase had when it came to its end, a
# checksum of the figures of these epochs (None of older states), the metrics' values, and what
# dropout goes on from, which Keras does not save: its layers' seeds, and the backend's own
# generators.
_ARRAYS = ("metrics", "seeds", "generators")
Place = collections.namedtuple(
    "Place", ("epoch", "step", "ended", "figures", *_ARRAYS), defaults=(0, 0, 0, None, (), (), ())
)


def place(path):
    """The `Place` that a state file holds; the beginning where there is none.

    Raises: ValueError that names the file, where it is damaged; and the phase's CSV, where its
        figures are not those of the state.
    """
    path = Path(path)
    if not path.is_file():
        return Place()
    try:
        members = saving.check_state(path, (_PLACE, _ENDED))
        found = saving.arrays(members[_PLACE])
        numbers = dict(found)
        where = int(numbers["epoch"]), int(numbers["step"]), int(members.get(_ENDED, 0))
        if min(where) < 0:
            raise ValueError(f"it is of epoch {where[0]}, step {where[1]}")
        figures = int(numbers["figures"]) if "figures" in numbers else None
        arrays = {
            kind: [array for name, array in found if name.startswith(kind)] for kind in _ARRAYS
        }
        result = Place(*where, figures, **arrays)
    except Exception as error:  # whatever zipfile, h5py and NumPy make of damage
        raise _damaged(path, error) from error
    if result.figures not in (None, _figures(path, result.epoch)):
        raise ValueError(
            f"{_log_of(path)} has not the figures of the {result.epoch} epochs that {path.name} is "
            f"of. {_PUT_BACK}"
        )
    return result


def _log_of(state):
    return state.with_name(state.name.replace("_state.keras", ".csv"))


def _figures(state, epochs):
    """Checksum of the figures beside a state, of its phase's first epochs."""
    return zlib.crc32(json.dumps(rows(_log_of(Path(state)), epochs)).encode())


def save_state(model, path, epoch, step):
    """Writes weights, optimizer and metrics with the place: `epoch` epochs and `step` steps.

    (As .keras, which Keras makes in memory: HDF5 files are written in many small pieces, and a full
    disk may end the process in one of them.)
    """
    kinds = (model.metrics_variables if step else (), _seeds(model), _backend.random_states())
    arrays = {
        f"{kind}{i}": ops.convert_to_numpy(variable)
        for kind, variables in zip(_ARRAYS, kinds)
        for i, variable in enumerate(variables)
    }
    numbers = io.BytesIO()
    np.savez(numbers, epoch=epoch, step=step, figures=_figures(path, epoch), **arrays)
    with replacing(path) as written, distribution.alone():
        model.save(written)
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(_PLACE, numbers.getvalue())


def _remember_attributes():
    """Keeps for Keras which attributes of an optimizer it does not save.

    It makes an optimizer to find out, and looks for what it found under another name than it keeps
    it (`saving_attr_skiplist_...`, not `skipset`): one more optimizer at each save, of which
    TensorFlow holds 0.07 MB for good.
    """
    with contextlib.suppress(ImportError, AttributeError):  # Keras's own parts may change
        from keras.src.backend.common import global_state
        from keras.src.saving import saving_lib

        found = saving_lib.get_attr_skipset("Optimizer")
        global_state.set_global_attribute("saving_attr_skiplist_Optimizer", found)


def load_state(model, path):
    """Loads what `save_state` wrote, but for the metrics, which Keras resets at each epoch.

    Returns: the `Place`.
    Raises: ValueError that names the file, where it is damaged or another model's.
    """
    found = place(path)
    if found.epoch or found.step:
        try:
            with warnings.catch_warnings():  # Keras only warns where another optimizer was saved
                warnings.filterwarnings("error", "Skipping variable loading")
                model.load_weights(path)
            for variable, value in zip(_seeds(model), found.seeds, strict=True):
                variable.assign(value)
            _backend.set_random_states(found.generators)
        except Exception as error:  # of Keras, h5py and zipfile
            raise _damaged(path, error) from error
    return found


def resume_generators(path):
    """Sets the backend's generators to where a phase left them that another process trained."""
    _backend.set_random_states(place(path).generators)


def end(path, steps):
    """Notes in a state file that its phase, of so many steps, came to its end, early or not."""
    with replacing(path) as written:
        shutil.copy(path, written)
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(_ENDED, str(steps))


_PLACE, _ENDED = "place.npz", "ended"
_PUT_BACK = "Put it back; or delete it and the state beside it, and their phase begins anew."


def _seeds(model):
    """State variables of the random generators inside of a model."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _damaged(path, error):
    return ValueError(
        f"{path} can't be gone on from: it is damaged, or of another model or optimizer ({error}). "
        "Without it its phase of the training begins anew."
    )


def rows(path, epochs=None):
    """The rows of a phase's CSV, dicts of floats; those of the first `epochs` epochs if given."""
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        try:
            found = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
            return [row for row in found if epochs is None or row["epoch"] < epochs]
        except (TypeError, ValueError, KeyError, csv.Error) as error:
            raise ValueError(f"{path} is damaged: {error!r}. {_PUT_BACK}") from error


# Callbacks


class Best(keras.callbacks.ModelCheckpoint):
    """The best model of a phase, without an auxiliary output. Its file is the old or the new one
    whenever the run is killed.

    Args: path, of the file. log, the phase's CSV, whose best value is to be passed. monitor, mode:
        of `keras.callbacks.ModelCheckpoint`.
    """

    def __init__(self, path, log, monitor, mode):
        super().__init__(path, monitor=monitor, mode=mode, save_best_only=True)
        self._log, self._begun = log, False

    def set_model(self, model):
        self._trained = model
        super().set_model(models.without_auxiliary(model))

    def on_train_begin(self, logs=None):
        self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        if self._begun:
            return
        known = [row[self.monitor] for row in rows(self._log, epoch) if self.monitor in row]
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
            if distribution.is_chief() and not math.isnan((logs or {}).get(self.monitor, 0)):
                self._save_whole(epoch, logs)

    def _save_whole(self, epoch, logs):
        path = self.filepath
        try:
            with replacing(path) as written, distribution.alone():
                # Keras formats it; a folder's name may have braces.
                self.filepath = str(written).replace("{", "{{").replace("}", "}}")
                super().on_epoch_end(epoch, logs)
        finally:
            self.filepath = path


class OfLogits(keras.callbacks.Callback):
    """Names the figures of a model with several outputs as those of a model with logits alone, for
    the callbacks that follow: "val_logits_mean_iou" is "val_mean_iou"."""

    def on_epoch_end(self, epoch, logs=None):
        names = list(logs or ()) if isinstance(self.model.output, dict) else ()
        for name in names:
            plain = name.removeprefix("val_").removeprefix("logits_")
            plain = f"val_{plain}" if name.startswith("val_") else plain
            if plain not in logs:  # "loss" is of all outputs
                logs[plain] = logs.pop(name)


class Log(keras.callbacks.Callback):
    """Every figure of every epoch as CSV; an epoch that is repeated has one row.

    The file is read once and written whole: what happens to it meanwhile is mended.
    """

    def __init__(self, path):
        super().__init__()
        self._path, self._rows = path, None

    def on_train_begin(self, logs=None):
        self._rows = None

    def on_epoch_begin(self, epoch, logs=None):
        if self._rows is None:
            self._rows = rows(self._path, epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._rows.append({"epoch": epoch, **{k: float(v) for k, v in (logs or {}).items()}})
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        with replacing(self._path) as path, open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({**row, "epoch": int(row["epoch"])} for row in self._rows)


class Finite(keras.callbacks.Callback):
    """Stops at the first step whose loss is not a finite number, and where the weights are not when
    they are to be saved, so that nothing is kept of it.

    A step's loss is looked at after the next one was begun, so that no device waits for it.

    Args: train, the data set of `pipeline.make_dataset`, to name the step's files. folder, of the
        run.
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


class State(keras.callbacks.Callback):
    """Writes the state at the end of each epoch, and goes on from it.

    Args:
        path: of the state file.
        train: the data set. If it has `rest` (as those of `pipeline.make_dataset`), the state can
            be written inside of an epoch.
        finite: the `Finite` of the run, asked before the state is written.
        save_every: steps between states inside of an epoch; None for none.
        asked: list that is not empty when the run shall stop (`stoppable`).
    """

    def __init__(self, path, train, finite, save_every=None, asked=()):
        super().__init__()
        self._path, self._train, self._finite = path, train, finite
        self._save_every, self._asked = save_every, asked
        self._inside = hasattr(train, "rest")
        self._skip = train.plan.skip if self._inside else 0

    def on_train_begin(self, logs=None):
        _remember_attributes()
        self._place = load_state(self.model, self._path)
        if self._place.step != self._skip:
            raise ValueError(
                f"{self._path} is of step {self._place.step} in an epoch: go on with "
                "`training.fit`, or delete it."
            )
        self.model._initial_epoch = self._place.epoch  # as keras.callbacks.BackupAndRestore

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._done = epoch, self._place.step

    def on_train_batch_begin(self, batch, logs=None):
        if self._place.step:  # again: PyTorch's loader draws a number at the beginning of an epoch
            _backend.set_random_states(self._place.generators)

    def on_train_batch_end(self, batch, logs=None):
        if self._place.step:  # only now are there metrics on TensorFlow; all of them are sums
            variables = self.model.metrics_variables
            for variable, value in zip(variables, self._place.metrics, strict=True):
                assign_sum(variable, ops.convert_to_numpy(variable) + value)
        self._place = Place()
        step = self._done + batch + 1
        due = self._save_every and step % self._save_every == 0
        inside = self._inside and batch + 1 < len(self._train)
        if inside and (due or self._asked) and not self.model.stop_training:
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
        stop(self._asked, f"Stopped after {where}; {self._path} holds what the run goes on from.")


class Skipped(keras.callbacks.Callback):
    """Keeps the report of images that could not be read, skipped.txt.

    Args: path, of the report. loaders, data sets of `pipeline.make_dataset`.
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


class StopAt(keras.callbacks.Callback):
    """Ends training after so many steps in all.

    Args: steps; steps_per_epoch; skip, steps that the first epoch lacks.
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


def stop(asked, said):
    """Ends the run as the signal asks that `stoppable` has noted, if there is one."""
    if asked and asked[0] == signal.SIGTERM:
        print(said, file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)
    if asked:
        raise KeyboardInterrupt(said)


@contextlib.contextmanager
def stoppable():
    """Context in which Ctrl-C and SIGTERM wait until the run can stop; a second one acts at once.

    Yields: a list, which then has the signal's number.
    """
    asked = []
    # Signals come to the main thread alone; and processes that wait for each other stop together.
    if threading.current_thread() is not threading.main_thread() or _backend.process()[1] > 1:
        yield asked
        return
    # What is ignored stays so, as Ctrl-C by what a shell script has put into the background.
    left_alone = (signal.SIG_IGN, None)
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in left_alone
    ]

    def note(number, frame):
        asked.append(number)
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
        os.write(2, b"\nStopping after this step, or after validation. Once more: at once.\n")

    before = [signal.signal(number, note) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
