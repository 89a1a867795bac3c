"""The folder and the config.json of a run of `train`, which may be a stranger's."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np

from keras_sanet.cli.options import Parser, flag
from keras_sanet.training import run_folder

MODEL_DEFAULTS = {"model": "sanet", "backbone": "resnext50", "aggregator_filters": 256}
NOT_KEPT = ("command", "config", "resume", "verbose", "devices")  # options that no config.json has
_MOST_BYTES = 1 << 20


class _Checker(Parser):
    """A parser of options that nobody typed: its errors are raised."""

    def error(self, message):
        raise ValueError(message)


def train_options(words=()):
    """The options of `train` with their defaults, as a dict.

    Raises:
        ValueError: for words that could not be typed.
    """
    from keras_sanet.cli.train import add_train_options

    parser = _Checker()
    add_train_options(parser)
    return vars(parser.parse_args(words))


def typed_words(name, value, default=None):
    """An option with its value as the words of a command line; none where it is not given."""
    if value is None or value is False or value == []:
        return [f"--no{flag(name)[1:]}"] if value is False and default is True else []
    if value is True:
        return [flag(name)]
    words = []
    for part in value if isinstance(value, (list, tuple)) else [value]:
        is_text = isinstance(part, (str, Path))
        if isinstance(part, bool) or not isinstance(part, (str, Path, int, float)):
            raise ValueError(f"argument {flag(name)}: must be a text or a number, and is {part!r}")
        if is_text and str(part).startswith("-"):
            raise ValueError(f"argument {flag(name)}: {part!r} looks like an option")
        # As a number below 0, argparse knows "-0.00001" and not "-1e-05".
        is_float = isinstance(part, float)
        words.append(np.format_float_positional(part, trim="0") if is_float else str(part))
    return [flag(name), *words]


def read_arguments(path):
    """Reads the options of `train` from a run's config.json, and checks them as if they were typed.

    Raises:
        FileNotFoundError: without the file.
        ValueError: that names the file, and the option where it is one's.
    """
    if path.is_file() and path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} must have at most {_MOST_BYTES} bytes to be a run's.")
    found = run_folder.read_config(path)["arguments"]
    if "val_split" not in found:
        raise ValueError(f"{path} is of no run of `keras-sanet train`: call again what wrote it.")
    absent = train_options()
    unknown = [n for n in found if n not in absent or n in ("config", "resume")]
    if unknown:
        raise ValueError(
            f"{path} holds what is no option of a run: {', '.join(map(repr, unknown[:5]))}. Take "
            "it out of the file."
        )
    try:
        words = [w for name, value in found.items() for w in typed_words(name, value, absent[name])]
        typed = train_options(words)
        for name, value in found.items():
            if value is None and name in MODEL_DEFAULTS and typed["preset"] is not None:
                typed[name] = None  # the preset says it
            elif (value is None or value is False or value == []) and value != typed[name]:
                given = json.dumps(value)
                raise ValueError(f"argument {flag(name)}: must have a value, and is {given}")
    except ValueError as error:
        raise ValueError(f"{path} is no run's: {error}.") from error
    return {n: typed[n] for n in found if n == "output" or n not in NOT_KEPT}


def new_folder(path):
    """Makes the folder of a new run.

    Raises:
        FileExistsError: where it holds something, with the ways out.
    """
    path = Path(path)
    # A run that was killed before it had a config.json left no more than these.
    is_left = re.compile(r"\.lock|\.new-[0-9]+-[0-9]+-config\.json").fullmatch
    if path.exists() and not all(is_left(entry.name) for entry in path.iterdir()):
        resume = ""
        with contextlib.suppress(OSError, ValueError):  # no run, or of another program
            read_arguments(path / "config.json")
            resume = f", or go on with this run: keras-sanet train --resume {path}"
        raise FileExistsError(f"{path} exists and is not empty. Give another --output{resume}.")
    path.mkdir(parents=True, exist_ok=True)
    return path
