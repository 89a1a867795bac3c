"""What the commands share: their parser, common options, and the data and models these name."""

import argparse
import ast
import contextlib
import glob
import inspect
import os
import re
import sys
import warnings
from pathlib import Path

import keras
from PIL import Image

from keras_sanet import backbones, datasets, inference, models, presets
from keras_sanet.datasets.files import by_number, frames
from keras_sanet.datasets.listing import LeftOutWarning, find_images

# Types of values, for argparse


def integer(text, least=1):
    """Reads an integer of 1 or more."""
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more, and is {text}")
    return value


def count(text):
    """Reads an integer of 0 or more."""
    return integer(text, least=0)


def seed(text):
    """Reads an integer from 0 to 2**32 - 1."""
    value = count(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"must be below 2**32, and is {text}")
    return value


def positive(text):
    """Reads a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, and is {text}")
    return value


def shard(text):
    """Reads I/N, two integers with 1 <= I <= N."""
    found = re.fullmatch("([0-9]+)/([0-9]+)", text)
    part = found and tuple(map(int, found.groups()))
    if not part or not 1 <= part[0] <= part[1]:
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, and is {text}")
    return part


SIZE = {"type": integer, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
RANGE = {"type": float, "nargs": 2, "metavar": ("LEAST", "MOST")}
VERBOSE = {"type": int, "choices": (0, 1, 2)}
KIND = "its format or name, see `keras-sanet datasets`"
_METAVARS = {int: "N", integer: "N", count: "N", seed: "N", float: "X", positive: "X"}


# The parser


class Parser(argparse.ArgumentParser):
    """A parser with one line of help an option. `rare` holds the help that --help-all alone shows,
    by option."""

    def __init__(self, **settings):
        formatter = argparse.RawDescriptionHelpFormatter
        settings["formatter_class"] = lambda prog: formatter(prog, max_help_position=38)
        super().__init__(**settings)
        self.rare = {}


class _HelpAll(argparse.Action):
    def __call__(self, parser, *_):
        for action, text in parser.rare.items():
            action.help = text
        parser.print_help()
        parser.exit()


class Group:
    """Options of a command under one title.

    Args:
        parser: the `Parser` of the command.
        title: of the group, None for the command's main options.
        functions: those that the options are arguments of. Their signatures hold the defaults.
        rare: whether --help-all alone shows the options.
    """

    def __init__(self, parser, title=None, *functions, rare=False):
        self._parser, self._rare = parser, rare
        self._group = parser.add_argument_group(title) if title else parser
        parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        if rare and not parser.rare:
            parser.add_argument(
                "--help-all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS,
                help="list all options, the rare ones too",
            )  # fmt: skip

    def add(self, name, help, **settings):
        """Adds an option.

        Args:
            name: of the argument; the option is named like it.
            help: one line.
            settings: for `add_argument`. The default is the function's unless it is given, and a
                default of False or True makes a switch.
        """
        default = settings.setdefault("default", self._defaults.get(name))
        if isinstance(default, bool):
            settings["action"] = argparse.BooleanOptionalAction if default else "store_true"
        elif "choices" not in settings:
            settings.setdefault("metavar", _METAVARS.get(settings.get("type"), "NAME"))
        action = self._group.add_argument(flag(name), dest=name, **settings)
        value = "" if isinstance(default, bool) or default in (None, (), []) else shown(default)
        action.help = f"{help} [{value}]" if value else help
        if self._rare:
            self._parser.rare[action] = action.help
            action.help = argparse.SUPPRESS


def add_command(commands, function, usage="", name=None):
    """Adds a command: its function, which takes the options, and its positional arguments in words.

    Returns:
        The `Parser` of its options.
    """
    name = name or function.__name__
    summary = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0]  # -OO leaves none
    parser = commands.add_parser(
        name, help=summary, description=summary, usage=f"keras-sanet {name} {usage}".strip()
    )
    parser.set_defaults(command=function)
    return parser


def flag(name):
    """The option of an argument: "batch_size" is "--batch-size"."""
    return f"--{name.replace('_', '-')}"


def shown(value):
    """A value as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


# Options of several commands


def add_dataset(parser, rare=False, default="auto"):
    """Adds the options that name a data set, those for slow or odd ones as rare ones if `rare`.

    A default other than "auto" holds without --data, too.

    Returns:
        The `Group` of the others.
    """
    group = Group(parser, "data")
    group.add("dataset", f"{KIND} [{default}]", choices=datasets.names(), metavar="KIND")
    if default != "auto":
        parser.set_defaults(dataset=default)
    add_folder(group, Group(parser, "reading of the data", rare=True) if rare else group)
    return group


def add_folder(group, rare):
    """Adds the options that say where a data set is to a group, and rare ones to another."""
    group.add(
        "data", "folder of the data set, or its name in TFDS; scenes need none", metavar="FOLDER"
    )
    rare.add("cache", "keep decoded pictures in this folder, for slow data sets", metavar="FOLDER")
    rare.add(
        "data_options", "arguments of its reader, as num_classes=13 for nyuv2",
        nargs="+", metavar="NAME=VALUE", default=[],
    )  # fmt: skip
    add_max_pixels(rare)


def add_max_pixels(group):
    """Adds the limit of pictures' sizes to a group."""
    limit = f"[{Image.MAX_IMAGE_PIXELS}]"
    group.add("max_pixels", f"refuse pictures with more pixels, 0 for none {limit}", type=count)


def add_saved_model(parser, **settings):
    """Adds the positional argument of a saved model."""
    what = "a preset or a saved model.keras"
    parser.add_argument("saved_model", metavar="MODEL", help=what, **settings)


def add_shard(add):
    """Adds the option by which several processes share the images."""
    what = "every N-th image from the I-th on, to share them among processes [all]"
    add("shard", what, type=shard, metavar="I/N", default=(1, 1))


def add_inference(parser):
    """Adds the options that say how to predict."""
    add = Group(parser, "prediction", inference.predict_probabilities).add
    add("scales", "image scales, averaged", type=float, nargs="+")
    add("flip", "average with the mirror image")
    add(
        "window", "predict in windows of this height and width, best the crops of the training",
        type=int, nargs="+", metavar="PIXELS",
    )  # fmt: skip
    add("bucket", "pad whole images to multiples of this", type=int, metavar="PIXELS")
    add("batch_size", "windows computed at once", type=int)


def add_backbone(group, name="backbone", more=(), **settings):
    """Adds the name of a backbone to a group."""
    names = [*backbones.names(), *more]
    group.add(name, ", ".join(names), choices=names, metavar="NAME", **settings)


# What the options name


def inference_mode(options):
    """How to predict, for `inference.predict_probabilities`."""
    names = ("scales", "flip", "window", "bucket", "batch_size")
    return inference.complete(**{name: getattr(options, name) for name in names})


def limit_pixels(options):
    """Applies --max-pixels to all pictures that are read."""
    if options.max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = options.max_pixels or None


def load_dataset(options, say_notes=True):
    """Loads the data set, says how it was read and, on stderr, what it leaves out."""
    limit_pixels(options)
    options.dataset = kind_of_data(options)
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
        with _left_out_on_stderr(say_notes):
            dataset = datasets.load(options.dataset, options.data, cache=options.cache, **settings)
    except TypeError as error:
        if not settings:
            raise
        raise ValueError(f"--data-options {' '.join(options.data_options)}: {error}.") from None
    if say_notes:
        for note in dataset.notes:
            print(f"{options.data}: {note}")
    return dataset


def kind_of_data(options):
    """The kind of data set that is asked for: "auto" where there is a folder alone."""
    if options.dataset is None and options.data is None:
        raise argparse.ArgumentError(None, "--dataset must be given, or --data alone")
    return options.dataset or "auto"


def load_model(preset, num_classes=None, load_weights=True):
    """Loads a preset or a saved model, without an auxiliary output."""
    model = presets.from_preset(preset, num_classes, load_weights=load_weights)
    return models.without_auxiliary(model)


def find_pictures(arguments):
    """The images that files, folders and patterns name: paths, or frames of a picture."""
    found = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            with _left_out_on_stderr():
                paths = find_images(path)
        elif path.is_file():
            paths = [path]
        else:
            matches = sorted(glob.glob(argument, recursive=True), key=by_number)
            paths = [Path(match) for match in matches if not Path(match).is_dir()]
        if not paths:
            hint = " In a pattern, a [ of a name is written [[]." if "[" in argument else ""
            raise FileNotFoundError(f"There is no image {argument}.{hint}")
        found += [frame for path in paths for frame in frames(path)]
    return found


@contextlib.contextmanager
def _left_out_on_stderr(say=True):
    """Context in which a line on stderr replaces Python's warning of files that are left out."""
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


# What is printed


def verbosity():
    """Keras's progress bar on a terminal, a line an epoch elsewhere."""
    return 1 if sys.stdout.isatty() else 2


def duration(seconds):
    """A time in words."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def machine():
    """Backend, device and cores in words."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        devices = [torch.cuda.get_device_name()] if torch.cuda.is_available() else ["cpu"]
    else:
        devices = keras.distribution.list_devices()
    return f"Keras {keras.__version__} on {backend}, {', '.join(devices)}, {os.cpu_count()} cores"
