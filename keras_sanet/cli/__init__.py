"""The command line, `keras-sanet`. Each module has some commands: their options and actions."""

import argparse
import contextlib
import re
import sys

from PIL import Image

from keras_sanet.cli import ablate, data, models, predict, train
from keras_sanet.cli.options import Parser, flag, machine
from keras_sanet.version import __version__

__all__ = ["main"]


def main(arguments=None):
    """Runs a command.

    Args:
        arguments: list of strings; those of the process if None.

    Returns:
        The exit code: 0, or 1 after an error that the user can mend and where `inspect` finds a
        problem. (A wrong usage exits with 2, by argparse.)
    """
    options = parser().parse_args(arguments)
    try:
        if any(getattr(options, name, None) for name in train.SOURCES):
            # What these say comes after what is given.
            options = parser(train.source_defaults(options)).parse_args(arguments)
        with train.device_scope(options) as devices, _pixel_limit():
            print(f"keras-sanet {__version__}, {machine()}", flush=True)
            if len(devices) > 1:
                print(f"{len(devices)} replicas: {', '.join(devices)}", flush=True)
            return options.command(options) or 0
    except (ValueError, OSError, ImportError, MemoryError, ArithmeticError) as error:
        print(f"keras-sanet: error: {_as_typed(error, options)}", file=sys.stderr)
        return 1
    except argparse.ArgumentError as error:
        parser().error(str(error))  # exits
    except KeyboardInterrupt as error:
        print(f"keras-sanet: {error or 'interrupted'}", file=sys.stderr)
        return 130


def parser(train_defaults=None):
    """The parser of all commands, with other defaults of the options of `train`."""
    parser = Parser(
        prog="keras-sanet",
        usage="keras-sanet COMMAND [options]",
        description="Scene parsing with SANet. The backend is Keras's: set KERAS_BACKEND to "
        "tensorflow, jax or torch.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (train, predict, models, data, ablate):
        module.add_commands(commands)
    commands.choices["train"].set_defaults(**train_defaults or {})
    return parser


def _as_typed(error, options):
    """An error's text with options as they are typed: `batch_size` is --batch-size."""
    known = vars(options)
    return re.sub("`([a-z_]+)`", lambda m: flag(m[1]) if m[1] in known else m[0], str(error))


@contextlib.contextmanager
def _pixel_limit():
    """Context after which the limit that --max-pixels changes is as it was."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
