"""Puts the aggregator into somebody's own network, in five lines.

    python examples/drop_in.py                             about a minute on two cores
    KERAS_BACKEND=torch python examples/drop_in.py         or jax

A plain Keras FCN is trained on drawn street scenes without the aggregator and with it (paper,
section III-A: it goes into any FCN). The last lines are the mean IoUs on held-out scenes; expect
0.52 and 0.53 (TensorFlow, one seed each: too small a network and too short a run to tell more than
that it fits in).
"""

import argparse

import keras
from keras import layers

import keras_sanet


def own_fcn(num_classes, aggregate):
    """A small FCN as anybody may have one. Ours is what is between the lines, and the end."""
    image = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    maps = []
    for filters, strides in ((16, 2), (32, 2), (64, 2), (96, 1)):  # 1/2, 1/4, 1/8, 1/8
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        maps.append(x)
    # ---------------------------------------------------------------------------------------------
    if aggregate:
        adapted = [keras_sanet.layers.FeatureAdapter(32)(m, target=x) for m in maps]  # Eq. 1
        y = keras_sanet.layers.ConvLSTMAggregator(32)(adapted)  # Eqs 2-8
        x = layers.Concatenate()([x, y])
    # ---------------------------------------------------------------------------------------------
    x = layers.Conv2D(num_classes, 1)(x)
    return keras.Model(image, keras_sanet.layers.SegmentationOutput()(x, image))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of drawn scenes; kept in the cache if absent")
    parser.add_argument("--crop", type=int, nargs=2, default=(96, 128))
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()

    data = keras_sanet.datasets.load("scenes", options.data)
    train = keras_sanet.pipeline.make_dataset(
        data, "train", crop_size=tuple(options.crop), batch_size=8
    )
    val = keras_sanet.pipeline.make_dataset(
        data, "val", crop_size=tuple(options.crop), batch_size=8, training=False
    )
    results = {}
    for name, aggregate in (("without", False), ("with", True)):
        keras.utils.set_random_seed(0)
        model = own_fcn(data.num_classes, aggregate)
        steps = options.epochs * len(train)
        model.compile(
            keras.optimizers.AdamW(keras_sanet.schedules.poly_decay(3e-3, steps)),
            keras_sanet.losses.SegmentationLoss(num_bins=256),
            metrics=[keras_sanet.metrics.MeanIoU(data.num_classes, name="mean_iou")],
        )
        model.fit(train, epochs=options.epochs, verbose=2)
        results[name] = model.evaluate(val, verbose=0, return_dict=True)["mean_iou"]
    for name, mean_iou in results.items():
        print(f"{name} the aggregator: mean IoU {mean_iou:.3f}")


if __name__ == "__main__":
    main()
