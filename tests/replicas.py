"""What one or several devices make of the same batches, for `tests/test_distribution.py`.

    python tests/replicas.py DEVICES DATA FOLDER
    python tests/replicas.py auto DATA FOLDER HOST:PORT PROCESS      is one of two processes

trains in a fresh process, where the CPU can still be split, and writes FOLDER/figures.npz and
FOLDER/model.keras. Void lies in few images. On TensorFlow the last batch is of one image, and so
leaves one of two replicas without any; on JAX `make_dataset` loads each process's share.
"""

import sys

import keras
import numpy as np

from keras_sanet import SANet, datasets, distribution, layers, losses, metrics, pipeline

TENSORFLOW = keras.backend.backend() == "tensorflow"
LOSSES = {
    "cross_entropy": losses.SegmentationLoss(lovasz_weight=0.0),
    "class_weights": losses.SegmentationLoss(
        lovasz_weight=0.0, class_weights=[1, 2, 3, 4], reduction="sum"
    ),
    "binned": losses.LovaszSoftmax(num_bins=16),
    "binned_sum": losses.LovaszSoftmax(num_bins=16, reduction="sum"),
    "binned_none": losses.LovaszSoftmax(num_bins=16, reduction=None),
    "binned_two_classes": losses.LovaszSoftmax(num_bins=16, classes=[0, 1]),
    "per_image": losses.LovaszSoftmax(per_image=True, num_bins=None),
    "per_image_sum": losses.LovaszSoftmax(num_bins=16, per_image=True, reduction="sum"),
}


def pairs():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 16, 16, 3)).astype("float32")
    labels = rng.integers(0, 4, (9, 16, 16)).astype("int32")
    labels[0], labels[3, :, 5:], labels[5, 2:], labels[6] = 255, 255, 255, 0
    return images, labels


def sanet():
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x, taps = keras.layers.Rescaling(1 / 255)(image), {}
    for tap in ("s0", "s1"):
        x = layers.Conv2D(8, 3, strides=2, padding="same", groups=2 if taps else 1)(x)
        taps[tap] = x = keras.layers.ReLU()(layers.BatchNormalization(name=f"bn_{tap}")(x))
    backbone = keras.Model(image, taps, name="backbone")
    return SANet(
        4, backbone, taps=tuple(taps), aggregator_filters=4, bins=(1, 2), pyramid_filters=4,
        dropout=0.0,
    )  # fmt: skip


def one_convolution():
    """A network that has no statistics, so that a step shows the loss's gradient alone."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Conv2D(4, 1)(keras.layers.Rescaling(1 / 255)(image)))


def fit(model, loss, rate, epochs=1, figures=(), train=None, val=None, eagerly=True):
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    compiled = {"run_eagerly": eagerly, "jit_compile": not TENSORFLOW}
    model.compile(optimizer, loss, metrics=list(figures), **compiled)
    data = dict(zip("xy", pairs()), batch_size=4) if train is None else {"x": train}
    if train is not None:
        tell = keras.callbacks.LambdaCallback(on_epoch_begin=lambda n, logs: train.set_epoch(n))
        data["callbacks"] = [tell]
    fitted = model.fit(**data, validation_data=val, epochs=epochs, shuffle=False, verbose=0)
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return {**fitted.history, "weights": weights}


def statistics(model):
    """Moving means and variances of the second batch norm, (2, channels)."""
    norm = model.get_layer("backbone").get_layer("bn_s1")
    moving = (norm.moving_mean, norm.moving_variance)
    return np.stack([keras.ops.convert_to_numpy(variable) for variable in moving])


def main(devices, data, folder, address=None, process=0):
    results = {}
    if address:
        keras.distribution.initialize(address, 2, int(process))
    with distribution.scope(int(devices) if devices.isdigit() else devices) as names:
        results["devices"] = len(names)
        dataset = datasets.load("folder", data)  # of 5 images in "val": the last batch has one
        val = pipeline.make_dataset(dataset, "val", batch_size=4, training=False)
        single = pipeline.make_dataset(dataset, "val", batch_size=1, training=False)
        train = None
        if not TENSORFLOW:
            train = pipeline.make_dataset(dataset, "train", crop_size=16, batch_size=4, seed=0)
        figures = metrics.MeanIoU(4), metrics.PixelAccuracy(4), metrics.CrossEntropy()
        model, loss = sanet(), losses.SegmentationLoss(num_bins=64)
        results["sanet"] = fit(model, loss, 0.05, 2, figures, train, val, eagerly=False)
        results["sanet"]["statistics"] = statistics(model)
        if distribution.is_chief():
            with distribution.alone():
                model.save(f"{folder}/model.keras")
        small = one_convolution()
        small.compile("sgd", loss, metrics=[metrics.CrossEntropy()], jit_compile=not TENSORFLOW)
        results["single"] = small.evaluate(single, return_dict=True, verbose=0)
        if not address:  # 3 images
            results["predicted"] = {"logits": small.predict(pairs()[0][:3], verbose=0)}
        if TENSORFLOW:
            for name, loss in LOSSES.items():
                results[name] = fit(one_convolution(), loss, 1.0)
            keras.config.set_dtype_policy("mixed_bfloat16")
            mixed = sanet()
            results["mixed"] = fit(mixed, LOSSES["cross_entropy"], 0.05)
            results["mixed"]["statistics"] = statistics(mixed)
    flat = {}
    for name, figures in results.items():
        figures = figures if isinstance(figures, dict) else {"": figures}
        flat |= {f"{name}/{key}": np.asarray(value) for key, value in figures.items()}
    np.savez(f"{folder}/figures.npz", **flat)


if __name__ == "__main__":
    main(*sys.argv[1:])
