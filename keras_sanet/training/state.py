"""What a phase of a run goes on from: its state file, and the metrics of its epochs (CSV)."""

import collections
import contextlib
import csv
import io
import json
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from keras import ops

from keras_sanet import _backend, distribution, saving
from keras_sanet._files import replacing

_NUMBERS, _ENDED = "place.npz", "ended"  # what a state file holds beside a .keras file's members
# Values of the metrics, and what dropout goes on from, which Keras does not save: the seeds of its
# layers, and the backend's own generators.
_ARRAYS = ("metrics", "seeds", "generators")
_PUT_BACK = "Put it back; or delete it and the state beside it, and their phase begins anew."

# `epoch` epochs are done, and `step` steps of the next one; `ended` is the number of steps that the
# phase had when it came to its end; `log_checksum` is of the CSV's rows of these epochs.
RunState = collections.namedtuple(
    "RunState",
    ("epoch", "step", "ended", "log_checksum", *_ARRAYS),
    defaults=(0, 0, 0, None, (), (), ()),
)


def read_state(path):
    """Reads where a phase is: the `RunState` in a state file, or the beginning without a file.

    Raises:
        ValueError: that names the file, where it is damaged; or the phase's CSV, where its metrics
            are not those of the state.
    """
    path = Path(path)
    if not path.is_file():
        return RunState()
    try:
        members = saving.check_state(path, (_NUMBERS, _ENDED))
        found = saving.arrays(members[_NUMBERS])
        numbers = dict(found)
        done = int(numbers["epoch"]), int(numbers["step"]), int(members.get(_ENDED, 0))
        if min(done) < 0:
            raise ValueError(f"it is of epoch {done[0]}, step {done[1]}")
        checksum = int(numbers["figures"]) if "figures" in numbers else None
        arrays = ([array for name, array in found if name.startswith(kind)] for kind in _ARRAYS)
        state = RunState(*done, checksum, *arrays)
    except Exception as error:  # whatever zipfile, h5py and NumPy make of damage
        raise _damaged(path, error) from error
    log = _log_of(path)
    if state.log_checksum not in (None, _checksum(log, state.epoch)):
        raise ValueError(
            f"{log} has not the figures of the {state.epoch} epochs that {path.name} is of. "
            f"{_PUT_BACK}"
        )
    return state


def save_state(model, path, epoch, step):
    """Writes weights, optimizer and metrics after `epoch` epochs and `step` steps.

    (As .keras, which Keras makes in memory: HDF5 files are written in many small pieces, and a full
    disk may end the process in one of them.)
    """
    kinds = (model.metrics_variables if step else (), _seeds(model), _backend.random_states())
    arrays = {
        f"{kind}{i}": ops.convert_to_numpy(variable)
        for kind, variables in zip(_ARRAYS, kinds)
        for i, variable in enumerate(variables)
    }
    numbers, checksum = io.BytesIO(), _checksum(_log_of(Path(path)), epoch)
    np.savez(numbers, epoch=epoch, step=step, figures=checksum, **arrays)
    with replacing(path) as written, distribution.alone():
        model.save(written)
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(_NUMBERS, numbers.getvalue())


def load_state(model, path):
    """Loads what `save_state` wrote, but for the metrics, which Keras resets at each epoch.

    Returns:
        The `RunState`.

    Raises:
        ValueError: that names the file, where it is damaged or another model's.
    """
    state = read_state(path)
    if state.epoch or state.step:
        try:
            with warnings.catch_warnings():  # Keras only warns where another optimizer was saved
                warnings.filterwarnings("error", "Skipping variable loading")
                model.load_weights(path)
            restore_generators(model, state)
        except Exception as error:  # of Keras, h5py and zipfile
            raise _damaged(path, error) from error
    return state


def restore_generators(model, state):
    """Sets the random generators of a model and of the backend to those of a `RunState`."""
    for variable, value in zip(_seeds(model), state.seeds, strict=True):
        variable.assign(value)
    _backend.set_random_states(state.generators)


def mark_ended(path, steps):
    """Notes in a state file that its phase, of so many steps, came to its end, early or not."""
    with replacing(path) as written:
        shutil.copy(path, written)
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(_ENDED, str(steps))


def read_log(path, epochs=None):
    """Reads a phase's CSV.

    Args:
        path: of the file; without one there are no rows.
        epochs: number of the first epochs to read; None for all.

    Returns:
        List of a dict of floats for each epoch.

    Raises:
        ValueError: that names the file, where it is damaged.
    """
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        try:
            rows = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
            return [row for row in rows if epochs is None or row["epoch"] < epochs]
        except (TypeError, ValueError, KeyError, csv.Error) as error:
            raise ValueError(f"{path} is damaged: {error!r}. {_PUT_BACK}") from error


def keep_skipped_attributes():
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


def _log_of(state):
    return state.with_name(state.name.replace("_state.keras", ".csv"))


def _checksum(log, epochs):
    return zlib.crc32(json.dumps(read_log(log, epochs)).encode())


def _seeds(model):
    """State variables of the random generators inside of a model."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _damaged(path, error):
    return ValueError(
        f"{path} can't be gone on from: it is damaged, or of another model or optimizer ({error}). "
        "Without it its phase of the training begins anew."
    )
