"""Trains a small SANet on all devices of several hosts, with JAX.

    python examples/several_hosts.py --address HOST:PORT --processes 2 --process 0
    python examples/several_hosts.py --address HOST:PORT --processes 2 --process 1

Run the first on the host of the address, the others on theirs; or, to try it, all of them on one
machine with --address localhost:9876. Expect the same figures from all, those of one process with
the same batches, to rounding. The same commands again go on with a run that ended. Not measured:
several hosts with GPUs.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"  # alone has several hosts in Keras

import keras
import numpy as np

import keras_sanet


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", metavar="HOST:PORT", help="of process 0")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0, help="0 to --processes - 1")
    parser.add_argument("--data", help="folder of the scenes; drawn if absent")
    parser.add_argument("--crop", type=int, nargs=2, default=(144, 192))
    parser.add_argument("--batch-size", type=int, default=8, help="over all processes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--output", default="runs/hosts", help="folder of the run, on a shared disk"
    )
    options = parser.parse_args()

    keras.utils.set_random_seed(0)  # the same first weights everywhere
    if options.processes > 1:  # before anything is computed
        keras.distribution.initialize(options.address, options.processes, options.process)
    data = keras_sanet.datasets.load("scenes", options.data)
    with keras_sanet.distribution.scope("auto") as devices:
        print(f"process {options.process}: {len(devices)} devices")
        # Both load this process's share of each batch, with the same draws as one process.
        crop = tuple(options.crop)
        train = keras_sanet.pipeline.make_dataset(
            data, "train", crop_size=crop, batch_size=options.batch_size, seed=0
        )
        val = keras_sanet.pipeline.make_dataset(
            data, "val", crop_size=crop, batch_size=options.batch_size, training=False
        )
        model = keras_sanet.SANet(
            data.num_classes,
            backbone="resnet_tiny",
            aggregator_filters=32,
            pyramid_filters=96,
            class_names=data.class_names,
            palette=data.palette,
        )
        # Process 0 alone writes; all read, so that the folder must be on a disk that they share.
        keras_sanet.training.fit(
            model,
            train,
            val,
            folder=options.output,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            verbose=2,
        )
    total = sum(np.abs(weight).sum() for weight in model.get_weights())
    print(f"process {options.process}: the weights' absolute sum is {total:.6f}")


if __name__ == "__main__":
    main()
