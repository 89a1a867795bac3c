"""What many test files need."""

import contextlib
import io
from pathlib import Path

import keras

from keras_sanet import cli

# Samples of real data sets, whose terms keep them out of the repository. They are looked at where
# they lie beside it; what must be shown is shown without them.
SHARED = Path(__file__).parents[2] / "shared"


def call(*arguments):
    """Runs a command in this process. Returns its exit code, stdout and stderr."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exited:  # argparse's
            code = exited.code
    return code, out.getvalue(), error.getvalue()


def to_numpy(tensor):
    """A tensor of any backend and any type of floats as a float32 array."""
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def maps(rng, shape=(2, 5, 7), classes=4):
    """Labels, some of them void, and logits."""
    labels = rng.integers(0, classes + 1, shape)
    labels[labels == classes] = 255
    return labels.astype("uint8"), rng.standard_normal((*shape, classes)).astype("float32")
