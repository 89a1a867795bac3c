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
from keras_sanet._files import replacing
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


# Callbacks
