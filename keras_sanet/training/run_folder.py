"""A training run's folder, and going on after whatever happened to the run.

What `training.fit` keeps in it (`<phase>` is cross_entropy or lovasz):

    config.json             arguments, versions, seeds, revision, data sets by count and digest
    data.json               the data sets file by file, to tell what changed
    <phase>.keras           the best model of the phase
    <phase>.csv             every metric of every epoch
    <phase>_state.keras     weights, optimizer, metrics and position to go on from
    skipped.txt             images that could not be read, and why
    tensorboard/<phase>     with logger="tensorboard"
    .lock                   held by the process that trains (`_files.locked`)

and of a finished run also

    model.keras             the best model of the last phase, without an auxiliary output
    evaluation.json, .txt   its metrics at the full size of the validation images
    classes.csv             the same class by class
    overlays.png            a few of its predictions

A finished run may be made longer as long as its states are there; `keras-sanet train` removes them
(`remove_states`), since it never makes a run longer.

Of several processes the first alone writes (`distribution.is_chief`). Each file is replaced whole.
At the end of an epoch the state is written last: a run that is killed before repeats the epoch, and
what the epoch wrote then. A folder may be a stranger's: nothing is written through a link that
leads out of it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from importlib import metadata
from pathlib import Path

import keras

from keras_sanet import _backend, _files, distribution
from keras_sanet.training.callbacks import PHASES
from keras_sanet.version import __version__

MODEL, EVALUATION = "model.keras", "evaluation.json"
# Arguments of `keras-sanet train` that may differ when a run goes on, for they change no metric.
MAY_CHANGE = ("data", "cache", "max_pixels", "on_bad_image", "save_every", "logger")

_RENAMED = {"crop": "crop_size", "val_crop": "val_crop_size"}  # arguments of 0.1.0
_PACKAGES = ("numpy", "pillow", "h5py", "tensorflow", "jax", "torch")
_HEAD = 4096  # bytes of a file that its entry in data.json is made from


def read_config(path):
    """Reads a run's config.json, of this version or 0.1.0, of whatever source.

    Args:
        path: of the file.

    Returns:
        Dict with at least a dict of "arguments", named as in this version.

    Raises:
        FileNotFoundError: without one.
        ValueError: that names the file, where it is damaged.
    """
    way_out = "Start another run."
    config = _files.read_json(path, way_out)
    if not isinstance(config, dict) or not isinstance(config.get("arguments"), dict):
        raise ValueError(f"{path} is damaged: it holds no dict of arguments. {way_out}")
    renamed = {_RENAMED.get(name, name): value for name, value in config["arguments"].items()}
    return {**config, "arguments": renamed}


def is_trained(folder):
    """Tells whether a run was trained to its end and holds no states to make it longer."""
    return (folder / MODEL).is_file() and not any(folder.glob("*_state.keras"))


def is_finished(folder):
    """Tells whether a run was trained and evaluated to its end."""
    return all((Path(folder) / name).is_file() for name in (MODEL, EVALUATION))


def remove_results(folder):
    """Removes what says that a run is finished, before it is trained on."""
    if distribution.is_chief():
        for name in (EVALUATION, MODEL):
            (folder / name).unlink(missing_ok=True)


def remove_states(folder):
    """Removes what only going on needs, the states and best models of a finished run's phases."""
    for phase in PHASES:
        for name in (f"{phase}_state.keras", f"{phase}.keras"):
            (Path(folder) / name).unlink(missing_ok=True)


def changed_arguments(began, now):
    """Names of the arguments that differ and would make another run."""
    names = [name for name in now if name not in MAY_CHANGE]
    return [name for name in names if _files.plain(now[name]) != _files.plain(began[name])]


def check_arguments(folder, now):
    """Refuses other arguments of `fit` than those that a run began with, but for a longer run.

    Args:
        folder: of the run, new or not.
        now: dict of arguments; those alone are compared that config.json has too.

    Raises:
        ValueError: that says both values.
    """
    config = folder / "config.json"
    began = read_config(config)["arguments"] if config.is_file() else {}

    def is_longer(name):
        values = began[name], now[name]
        return all(isinstance(value, int) for value in values) and values[0] < values[1]

    length = "epochs" if began.get("steps") is None else "steps"
    # The second phase begins with the best of the first.
    may_grow = [length] * (not (folder / "lovasz_state.keras").is_file()) + ["lovasz_epochs"]
    may_grow = [] if is_trained(folder) else may_grow
    names = now.keys() & began.keys() - ({"epochs", "steps"} - {length})
    other = [
        name
        for name in sorted(names)
        if now[name] != began[name] and not (name in may_grow and is_longer(name))
    ]
    if other:
        differences = "; ".join(f"`{name}` {began[name]}, now {now[name]}" for name in other)
        raise ValueError(
            f"The run {folder} began with other arguments: {differences}. Give those that it began "
            "with, or another folder. (`epochs` and `steps` may become more before Lovász-softmax "
            "begins, `lovasz_epochs` always, as long as the run's states are there.)"
        )


def write_config(folder, arguments, loaders):
    """Writes what makes a run what it is, or checks that it goes on with the same data.

    Args:
        folder: of the run.
        arguments: dict of JSON values; in place of those that were kept, if it has all of them.
        loaders: dict from a role ("train", "validation") to a data set of `pipeline.make_dataset`;
            others have no `plan`, and are not looked at.

    Raises:
        ValueError: with the difference, where the run began with other files, another order of
            them, other classes, another batch size or augmentation; and where what says so is
            missing or damaged.
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
    found, arguments = _files.plain(found), _files.plain(arguments)
    config, data = folder / "config.json", folder / "data.json"
    missing = [path for path in (config, data) if not path.is_file()]
    if not missing:
        _check_data(folder, found)
        kept = read_config(config)
        grown = kept["arguments"] != arguments and kept["arguments"].keys() <= arguments.keys()
        if grown and distribution.is_chief():
            _write_json(config, {**kept, "arguments": arguments}, 2)
        return
    if len(missing) == 1 and any(folder.glob("*_state.keras")):
        raise ValueError(
            f"{missing[0]} is missing, which says what the run began with. Put it back, or start "
            "another run."
        )
    if not distribution.is_chief():
        return
    versions = {
        "keras_sanet": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    contents = {
        "arguments": arguments,
        "versions": versions,
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


def files_of(samples):
    """What tells one set of samples from another, without reading all of it.

    Args:
        samples: list of `datasets.Sample`.

    Returns:
        Dict from the image's name, below the folder that all files share, to the numbers of bytes
        of image and mask and a checksum of their first 4096.
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


def _check_data(folder, found):
    path = folder / "data.json"
    try:
        began = json.loads(path.read_text("utf-8"))
        changes = [
            f"{role}: {change}"
            for role in found.keys() & began.keys()
            for change in _changes(began[role], found[role])
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}. Start another run.") from error
    if changes:
        raise ValueError(
            f"The data changed since the run {folder} began: {'; '.join(sorted(changes))}. Put it "
            "back, or start another run."
        )


def _changes(began, now):
    """What differs between what two data.json say of a role, as texts."""
    settings = [(name, began[name], now[name]) for name in ("batch_size", "class_names")]
    before, augmentation = began.get("augmentation", {}), now["augmentation"]
    settings += [(n, before[n], augmentation[n]) for n in before.keys() & augmentation.keys()]
    for name, old, new in settings:
        if old != new:
            yield f"{name} {old}, now {new}"
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


def _revision():
    """The git revision of the package where it is a clone's, with "-dirty" after changes."""
    file = Path(__file__)

    def git(*arguments):
        command = ["git", "-C", str(file.parent), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return run.stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")


def _write_json(target, content, indent):
    with _files.replacing(target) as path:
        path.write_text(json.dumps(content, indent=indent) + "\n", "utf-8")
