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
