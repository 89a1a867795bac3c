"""The package's side of the benchmarks, on the backend of KERAS_BACKEND."""

import numpy as np

import keras_sanet


def train_step(size, batch_size, num_classes=40, metrics=False):
    model = keras_sanet.SANet(num_classes)
    keras_sanet.training.compile(model, 1000)
    if not metrics:
        model.compile(model.optimizer, model.loss, jit_compile=model.jit_compile)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, size, size, 3)).astype("uint8")
    labels = rng.integers(0, num_classes, (batch_size, size, size)).astype("uint8")

    return lambda: model.train_on_batch(image, labels)


def prediction(size, batch_size=1, num_classes=40):
    model = keras_sanet.SANet(num_classes)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, size, size, 3)).astype("uint8")

    return lambda: model.predict_on_batch(image).argmax(-1)
