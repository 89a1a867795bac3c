"""Trains SANet on all devices: compile and fit, AdamW, Lovász-softmax, MeanIoU, tf.data.

    python examples/train.py                       drawn street scenes, all GPUs, or the CPU
    python examples/train.py --dataset camvid --data CAMVID --backbone resnext50
    python examples/train.py --devices 2 --epochs 1 --steps 2

The last line runs two replicas on one CPU where there is no GPU, as the tests do. Expect the
validation mean IoU to rise from epoch to epoch. Not measured: several GPUs.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # tf.data's `take` is used below

import keras

import keras_sanet


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="scenes", choices=keras_sanet.datasets.names())
    parser.add_argument("--data", help="folder of the data set")
    parser.add_argument("--backbone", default="resnet_tiny")
    parser.add_argument("--crop", type=int, nargs=2, default=(144, 192))
    parser.add_argument("--batch-size", type=int, default=8, help="over all devices")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="an epoch; all if absent")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--devices", type=int, help="the first so many; all GPUs if absent")
    parser.add_argument("--output", default="sanet.keras")
    options = parser.parse_args()

    with keras_sanet.distribution.scope(options.devices or "auto") as devices:
        print(f"{len(devices)} replicas")
        train(options)


def train(options):
    data = keras_sanet.datasets.load(options.dataset, options.data)
    dataset = keras_sanet.pipeline.make_dataset(
        data,
        "train",
        crop_size=tuple(options.crop),
        batch_size=options.batch_size,
        loader="tf.data",
    )
    val = keras_sanet.pipeline.make_dataset(
        data,
        "val",
        crop_size=tuple(options.crop),
        batch_size=options.batch_size,
        training=False,
        loader="tf.data",
    )
    steps = options.steps or len(dataset)
    model = keras_sanet.SANet(
        data.num_classes,
        backbone=options.backbone,
        aggregator_filters=64,
        pyramid_filters=128,
        class_names=data.class_names,
        palette=data.palette,
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(
            keras_sanet.schedules.poly_decay(options.learning_rate, options.epochs * steps),
            weight_decay=0.01,
        ),
        # Lovász-softmax alone learns badly from scratch; with cross-entropy it does well.
        loss=keras_sanet.losses.SegmentationLoss(
            cross_entropy_weight=1.0, lovasz_weight=1.0, num_bins=256
        ),
        metrics=[keras_sanet.metrics.MeanIoU(data.num_classes)],
    )
    model.fit(
        dataset.take(steps),
        validation_data=val.take(options.steps or len(val)),
        epochs=options.epochs,
        verbose=2,
    )
    model.save(options.output)
    print(f"Saved {options.output}")


if __name__ == "__main__":
    main()
