"""A small training run and its data; a deterministic one that stops itself:

    small_run.py DATA RUN [WHERE]

WHERE is "kill" or "interrupt", after the second step of the second epoch, or an event and the end
of a path: the run is killed when Python is about to do this to a file of that name.
"""

import os
import signal
import sys

import keras
import numpy as np
from PIL import Image

from keras_sanet import FCN, _backend, datasets, layers, pipeline, training

CLASSES = 3
EPOCHS = 3


def write_pairs(root, count):
    """Writes so many training and 2 validation pairs of 24 x 32, each of rows of one class with its
    brightness, as a data set of the kind "folder"."""
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 2)):
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for i in range(number):
            mask = np.repeat(rng.integers(0, CLASSES, (24, 1), dtype="uint8"), 32, axis=1)
            mask[:, 0] = 255
            image = 80 * (mask[..., None] % 255) + rng.integers(0, 90, (24, 32, 3))
            Image.fromarray(image.astype("uint8")).save(root / f"images/{split}/{i}.png")
            Image.fromarray(mask).save(root / f"masks/{split}/{i}.png")
    (root / "classes.txt").write_text("low\nmiddle\nhigh\n", "utf-8")


def network():
    """A small FCN with batch norms and dropout."""
    image = keras.Input((24, 32, 3))
    x, taps = keras.layers.Rescaling(1 / 255)(image), {}
    for tap in ("s0", "s1", "s2"):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(x)
        taps[tap] = x = keras.layers.ReLU()(layers.BatchNormalization()(x))
    backbone = keras.Model(image, taps, name="backbone")
    return FCN(CLASSES, backbone, filters=8, dropout=0.5)


def run(root, folder, *callbacks, epochs=EPOCHS, on_bad_image="error", **kwargs):
    """Trains in steps of two images of a data set of the kind "folder"."""
    keras.utils.set_random_seed(0)
    dataset = datasets.load("folder", root)
    bad = {"on_bad_image": on_bad_image}
    train = pipeline.make_dataset(dataset, "train", crop_size=(24, 32), batch_size=2, seed=0, **bad)
    val = pipeline.make_dataset(dataset, "val", batch_size=2, training=False, **bad)
    kwargs = {"learning_rate": 1e-3, "verbose": 0, "callbacks": callbacks, **kwargs}
    return training.fit(network(), train, val, folder=folder, epochs=epochs, **kwargs)


class At(keras.callbacks.Callback):
    """Calls a function with the model at the end of a step of an epoch, both from 0."""

    def __init__(self, epoch, step, function):
        super().__init__()
        self.place, self.function = (epoch, step), function

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            self.function(self.model)


def stop(number):
    """A function that sends a signal to this process."""
    return lambda *_: os.kill(os.getpid(), number)


def watch(event, arguments):
    """Of renames the target; of what is opened, files to add to, as a whole .keras is to get the
    state's place."""
    kind, end = sys.argv[3:]
    if event == "open" and arguments[1] == "r+":
        path = arguments[0]
    elif event == "os.rename":
        path = arguments[1]
    else:
        return
    if event == kind and str(path).endswith(end):
        stop(signal.SIGKILL)()


if __name__ == "__main__":
    data, folder, *where = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    signals = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}
    callbacks = []
    if len(where) == 2:
        sys.addaudithook(watch)
    elif where:
        callbacks = [At(1, 1, stop(signals[where[0]]))]
    _backend.make_deterministic()
    run(data, folder, *callbacks, save_every=3)
