"""Training and timing of rows.

With the same seed all rows see the same crops in the same order. Figures are those of the last
epoch, when the learning rate has come to 0, on the validation split; no epoch is chosen by them.
The learning rate is one for all rows, and tuned for none.
"""

import functools
import hashlib
import json
import time
from pathlib import Path

import keras
import numpy as np

from keras_sanet import _files, models, pipeline, training
from keras_sanet._files import remove, replacing
from keras_sanet.experiments.protocol import (
    COSTS,
    PROTOCOL,
    RESULTS,
    as_stored,
    protocol,
    read_costs,
    read_protocol,
    without_folders,
)
from keras_sanet.experiments.results import Results, read_figures
from keras_sanet.experiments.rows import EXPERIMENTS, build
from keras_sanet.summary import Summary
from keras_sanet.training import run_folder


def begin(folder, dataset, **changes):
    """The protocol of a folder of experiments, which it keeps from its first run on.

    Args:
        folder: of experiments, new or not.
        dataset: the data set.
        **changes: of `protocol`.

    Raises:
        ValueError: the experiments began with another value (a file of weights by its name, for it
            may lie elsewhere now), other images or masks, or on another backend; the folder holds
            results without their runs; as `protocol`.
    """
    folder = Path(folder)
    found = _files.plain(protocol(dataset.name, **changes))
    if any(folder.glob("*/seed-*/config.json")):
        wanted, found = found, read_protocol(folder / PROTOCOL)
        given = [name for name, value in changes.items() if value is not None]
        for name in ("dataset", *given):
            if without_folders(wanted)[name] != without_folders(found)[name]:
                raise ValueError(
                    f"The experiments in {folder} began with {name} {found[name]}, and their rows "
                    f"can't be compared with others. Received: {wanted[name]}. Give another folder."
                )
            found[name] = wanted[name]
    elif (folder / RESULTS).is_file():
        raise ValueError(
            f"{folder / RESULTS} is of runs that are not there, and would be lost. Give another "
            "folder."
        )
    else:
        remove(folder / COSTS)
    images = {"classes": dataset.num_classes}
    for split in ("train", found["val_split"]):
        listed = json.dumps(run_folder.files_of(dataset.samples(split)))
        images[split] = hashlib.sha256(listed.encode()).hexdigest()
    backend, words = keras.backend.backend(), f"The experiments in {folder} began"
    if found.setdefault("backend", backend) != backend:
        raise ValueError(
            f"{words} on {found['backend']}, and their rows can't be compared with others. The "
            f"backend is {backend}. Give another folder."
        )
    if found.setdefault("images", images) != images:
        raise ValueError(
            f"{words} with other images, masks or classes of {dataset.name}, and their rows can't "
            "be compared with others. Give another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PROTOCOL) as path:
        path.write_text(json.dumps(as_stored(found), indent=2) + "\n", "utf-8")
    return found


def train(dataset, row, seed, protocol, folder, *, verbose=0):
    """Trains a row with a seed, or goes on with it; what is finished stays.

    Keras's session is cleared before, and its seeds are set. The run is in ROW/seed-SEED of the
    folder, and keeps config.json, data.json and the figures of each epoch.

    Args:
        dataset: with the splits train and that of the protocol.
        row: name of `ROWS`.
        seed: of new weights, dropout, order and crops.
        protocol: what `begin` returns.
        folder: of the experiments.
        verbose: of `model.fit`.

    Returns:
        The figures of the last epoch, a dict by the names of `FIGURES`.

    Raises:
        FileExistsError: another process is at it.
        ArithmeticError: the loss is not finite.
    """
    folder, epochs = Path(folder) / row / f"seed-{seed}", protocol["epochs"]
    with _files.locked(folder):
        if not read_figures(folder, epochs):
            keras.utils.clear_session()
            keras.utils.set_random_seed(seed)
            make = functools.partial(
                pipeline.make_dataset, dataset, image_scale=protocol["image_scale"]
            )
            data = make(
                split="train", crop_size=tuple(protocol["crop_size"]), seed=seed,
                batch_size=protocol["batch_size"], scale_range=protocol["scale_range"],
            )  # fmt: skip
            val = make(
                split=protocol["val_split"], batch_size=protocol["val_batch_size"], training=False
            )
            training.fit(
                build(row, dataset.num_classes, protocol), data, val, folder=folder, epochs=epochs,
                evaluate=False, learning_rate=protocol["learning_rate"],
                head_learning_rate_multiple=protocol["head_learning_rate_multiple"],
                arguments={"row": row, "seed": seed, **as_stored(protocol)}, verbose=verbose,
            )  # fmt: skip
        for name in ("cross_entropy.keras", "cross_entropy_state.keras", "model.keras"):
            remove(folder / name)
        found = read_figures(folder, epochs)
    return {name: values[-1] for name, values in found.items()}


def add_costs(folder, experiment, protocol, rounds=5):
    """Adds what the rows of an experiment's table cost to a folder's costs.json, if it lacks them.

    Times are relative to the experiment's first row, trained or not; experiments that begin with
    the same one share them.
    """
    path, first = Path(folder) / COSTS, EXPERIMENTS[experiment].rows[0]
    known = read_costs(path)
    shared = known.setdefault(first, {})
    missing = [row for row in Results.load(folder).trained_rows(experiment) if row not in shared]
    if missing:
        rows = list(dict.fromkeys([first, *missing]))
        shared.update(costs(rows, protocol["images"]["classes"], protocol, rounds))
        with replacing(path) as written:
            written.write_text(json.dumps(known, indent=1) + "\n", "utf-8")


def costs(rows, num_classes, protocol, rounds=5):
    """What each row costs: parameters, multiply-accumulates, time of a training step.

    Its steps are timed in turn with those of the first row, for a machine that is slower for a
    while is so for both.

    Args:
        rows: their names.
        num_classes: number of classes.
        protocol: see `protocol`.
        rounds: timed steps of each, after two.

    Returns:
        Dict from a row to its "parameters", "macs" (of the prediction of one crop) and
        "step_ratio" (of medians, to the first row's).
    """
    rng, shape = np.random.default_rng(0), (protocol["batch_size"], *protocol["crop_size"])
    image = rng.integers(0, 256, (*shape, 3)).astype("uint8")
    mask = rng.integers(0, num_classes, shape).astype("uint8")
    found, first = {}, None
    for row in rows:
        model = build(row, num_classes, {**protocol, "weights": None, "other_weights": None})
        counted = Summary(models.without_auxiliary(model), protocol["crop_size"])
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
