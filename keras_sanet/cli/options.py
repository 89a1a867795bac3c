import argparse
import ast
import contextlib
import glob
import os
import re
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from rich.progress import track

from keras_sanet import (
    backbones,
    datasets,
    evaluation,
    models,
    presets,
)
from keras_sanet.datasets.files import by_number, frames
from keras_sanet.datasets.listing import LeftOutWarning, find_images
from keras_sanet.training import run_folder

_MODELS = {name.lower(): builder for name, builder in presets.BUILDERS.items()}

_MODEL_DEFAULTS = {"model": "sanet", "backbone": "resnext50", "aggregator_filters": 256}


def _limit_pixels(options):
    if options.max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = options.max_pixels or None


def _images(argument):
    """The images that an argument of `predict` names: paths, or frames of a picture."""
    path = Path(argument)
    if path.is_dir():
        with _said_on_stderr():
            found = find_images(path)
    elif path.is_file():
        found = [path]
    else:
        matches = sorted(glob.glob(argument, recursive=True), key=by_number)
        found = [Path(match) for match in matches if not Path(match).is_dir()]
    if not found:
        hint = " In a pattern, a [ of a name is written [[]." if "[" in argument else ""
        raise FileNotFoundError(f"There is no image {argument}.{hint}")
    return [frame for path in found for frame in frames(path)]


@contextlib.contextmanager
def _said_on_stderr(say=True):
    """Files that were left out are said by a line in place of Python's warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeftOutWarning)
        yield
    for warning in caught:
        if not issubclass(warning.category, LeftOutWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        elif say:
            print(f"keras-sanet: {warning.message}", file=sys.stderr)


def _load_dataset(options, left_out=True):
    _limit_pixels(options)
    settings = {}
    for setting in options.data_options:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--data-options takes NAME=VALUE. Received: {setting!r}.")
        try:
            settings[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            settings[name] = value  # a word
    try:
        with _said_on_stderr(left_out):
            return datasets.load(options.dataset, options.data, cache=options.cache, **settings)
    except TypeError as error:
        if not settings:
            raise
        raise ValueError(f"--data-options {' '.join(options.data_options)}: {error}.") from None


def _build_model(options, num_classes, **kwargs):
    if options.model == "sanet":
        kwargs["aggregator_filters"] = options.aggregator_filters
    return _MODELS[options.model](num_classes, options.backbone, **kwargs)


@contextlib.contextmanager
def _without_doubt():
    """Context without the warning of `evaluation.evaluate` that its result says, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", evaluation.AbsentClasses)
        yield


def _tracked(items, title):
    """The items behind a progress bar; says the expected time after a few of them (the first one
    compiles, and several may be worked on at once)."""
    known, start = 2 * os.cpu_count(), None
    for index, item in enumerate(track(items, title, disable=not sys.stdout.isatty()), start=1):
        yield item
        if index == 1:
            start = time.monotonic()
        if index == known + 1 < len(items):
            expected = (time.monotonic() - start) / known * (len(items) - index)
            print(f"{title} {len(items)} images: about {_duration(expected)} to go.", flush=True)


def _verbosity():
    """Keras's progress bar on a terminal, a line an epoch elsewhere."""
    return 1 if sys.stdout.isatty() else 2


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _machine():
    """Backend, device, cores."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        devices = [torch.cuda.get_device_name()] if torch.cuda.is_available() else ["cpu"]
    else:
        devices = keras.distribution.list_devices()
    return f"Keras {keras.__version__} on {backend}, {', '.join(devices)}, {os.cpu_count()} cores"


def _load_model(preset, num_classes=None, load_weights=True):
    return models.without_auxiliary(
        presets.from_preset(preset, num_classes, load_weights=load_weights)
    )


def _new_folder(path):
    path = Path(path)
    # A run that was killed before it had a config.json left no more than these.
    empty = re.compile(r"\.lock|\.new-[0-9]+-[0-9]+-config\.json").fullmatch
    if path.exists() and not all(empty(entry.name) for entry in path.iterdir()):
        resume = ""
        with contextlib.suppress(OSError, ValueError):  # no run, or of another program
            _arguments_of(path / "config.json")
            resume = f", or go on with this run: keras-sanet train --resume {path}"
        raise FileExistsError(f"{path} exists and is not empty. Give another --output{resume}.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _words(name, value):
    """An option as it is typed; nothing where it is not."""
    if value is None or value is False or value == []:
        return []
    if value is True:
        return [_flag(name)]
    words = []
    for part in value if isinstance(value, (list, tuple)) else [value]:
        text = isinstance(part, (str, Path))
        if isinstance(part, bool) or not (text or isinstance(part, (int, float))):
            raise ValueError(f"argument {_flag(name)}: must be a text or a number, and is {part!r}")
        if text and str(part).startswith("-"):
            raise ValueError(f"argument {_flag(name)}: {part!r} looks like an option")
        # As a number below 0, argparse knows "-0.00001" and not "-1e-05".
        number = isinstance(part, float)
        words.append(np.format_float_positional(part, trim="0") if number else str(part))
    return [_flag(name), *words]


def _shown(value):
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


class _Checker(argparse.ArgumentParser):
    """Of options that nobody typed: its errors are raised."""

    def error(self, message):
        raise ValueError(message)


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _count(text):
    """An integer of 0 or more, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, and is {text}")
    return value


def _seed(text):
    value = _count(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"must be below 2**32, and is {text}")
    return value


def _positive(text):
    """A finite number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, and is {text}")
    return value


def _add_model(parser):
    parser.add_argument("--model", choices=_MODELS, help="architecture")
    parser.add_argument("--backbone", choices=backbones.names(), help="stem")
    parser.add_argument("--aggregator-filters", type=int, help="channels c' of SANet")
    parser.set_defaults(**_MODEL_DEFAULTS)
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        default="float32",
        help="dtype policy",
    )


def _add_data(parser, required):
    parser.add_argument(
        "--dataset", choices=datasets.names(), required=required, help="kind of data set"
    )
    _add_folder(parser)


def _add_folder(parser):
    parser.add_argument("--data", help="its folder, or its name in TFDS; scenes need none")
    parser.add_argument("--cache", help="folder to keep decoded pictures in, for slow data sets")
    _add_max_pixels(parser)
    parser.add_argument(
        "--data-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="more for its reader, as num_classes=13 for nyuv2, or version='\"3.10\"' for tfds",
    )


def _add_max_pixels(parser):
    parser.add_argument(
        "--max-pixels",
        type=_count,
        metavar="PIXELS",
        help="largest picture that is read, against files that fill the memory; 0 for any "
        f"[{Image.MAX_IMAGE_PIXELS}]",
    )


def _add_inference(parser):
    parser.add_argument(
        "--scales", type=float, nargs="+", default=(1.0,), help="image scales, averaged"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument(
        "--window",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="predict by windows of this height and width (one number for both); best the crops "
        "of the training",
    )
    parser.add_argument(
        "--bucket", type=int, help="pad whole images to multiples of so many pixels"
    )
    parser.add_argument("--batch-size", type=int, help="windows computed at once")


_CONFIG_BYTES = 1 << 20


def _arguments_of(path):
    """What `_arguments` gave, from a run's config.json: options of `train`, whose values are
    checked as if they had been typed."""
    from keras_sanet.cli import _parser

    if path.is_file() and path.stat().st_size > _CONFIG_BYTES:
        raise ValueError(f"{path} must have at most {_CONFIG_BYTES} bytes to be a run's.")
    found = run_folder.read_config(path)["arguments"]
    if "val_split" not in found:
        raise ValueError(f"{path} is of no run of `keras-sanet train`: call again what wrote it.")
    absent = vars(_parser().parse_args(["train"]))
    unknown = [n for n in found if n not in absent or n in ("command", "config", "resume")]
    if unknown:
        raise ValueError(
            f"{path} holds what is no option of a run: {', '.join(map(repr, unknown[:5]))}. Take "
            "it out of the file."
        )
    try:
        words = [word for name, value in found.items() for word in _words(name, value)]
        typed = vars(_parser(kind=_Checker).parse_args(["train", *words]))
        for name, value in found.items():
            whole = name in _MODEL_DEFAULTS and typed["preset"] is not None
            if value is None and absent[name] is not None:
                if not whole:
                    raise ValueError(f"argument {_flag(name)}: must have a value, and is null")
                typed[name] = None
            if (value is False or value == []) and absent[name] != value:
                raise ValueError(f"argument {_flag(name)}: must have a value, and is {value}")
    except ValueError as error:
        raise ValueError(f"{path} is no run's: {error}.") from error
    return {n: typed[n] for n in found if n == "output" or n not in _NO_ARGUMENTS}


_NO_ARGUMENTS = ("command", "config", "resume", "verbose", "devices")
