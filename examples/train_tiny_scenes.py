"""Trains `sanet_tiny_scenes` anew, the preset that the package carries.

    python examples/train_tiny_scenes.py            about 15 minutes on two cores

`keras_sanet.from_preset("./sanet_tiny_scenes")`, the folder that it writes, then gives the model.
A run that was stopped goes on with the same command. Expect a mean IoU of some 76 % on the 60
held-out scenes; figures differ a little between backends and machines. Not measured: photographs,
which it never saw.
"""

import argparse
from pathlib import Path

import keras

import keras_sanet

CROP = (144, 192)
RECIPE = {
    "batch_size": 4,
    "scale_range": [0.8, 1.6],
    "optimizer": "AdamW, poly decay, weight decay 0.01",
    "cross_entropy": {"epochs": 40, "learning_rate": 3e-3},
    "lovasz": {"epochs": 8, "learning_rate": 1e-3},
    "seed": 0,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="sanet_tiny_scenes", help="folder of the preset")
    parser.add_argument(
        "--run", default="runs/sanet_tiny_scenes", help="folder of checkpoints and logs"
    )
    parser.add_argument("--epochs", type=int, nargs=2, help="of the two phases, to try it out")
    options = parser.parse_args()
    epochs = options.epochs or (RECIPE["cross_entropy"]["epochs"], RECIPE["lovasz"]["epochs"])

    keras.utils.set_random_seed(RECIPE["seed"])
    data = keras_sanet.datasets.load("scenes")  # drawn by the package, the first time
    train = keras_sanet.pipeline.make_dataset(
        data,
        "train",
        crop_size=CROP,
        batch_size=RECIPE["batch_size"],
        seed=RECIPE["seed"],
        scale_range=tuple(RECIPE["scale_range"]),
    )
    val = keras_sanet.pipeline.make_dataset(data, "val", batch_size=10, training=False)
    model = keras_sanet.SANet(
        data.num_classes,
        "resnet_tiny",
        aggregator_filters=32,
        pyramid_filters=96,
        class_names=data.class_names,
        palette=data.palette,
    )
    keras_sanet.training.fit(
        model,
        train,
        val,
        folder=options.run,
        epochs=epochs[0],
        lovasz_epochs=epochs[1],
        learning_rate=RECIPE["cross_entropy"]["learning_rate"],
        lovasz_learning_rate=RECIPE["lovasz"]["learning_rate"],
        verbose=2,
    )

    # Weights of half precision, half the file. The figures are those of what the file holds.
    keras_sanet.save_preset(model, options.output, dtype="float16")
    model = keras_sanet.from_preset(Path(options.output).resolve())
    result = keras_sanet.evaluation.evaluate(model, data, "val")
    print(result)
    keras_sanet.save_preset(
        model,
        options.output,
        metrics=result.as_dict(),
        recipe={**RECIPE, "dataset": "scenes, train", "program": "examples/train_tiny_scenes.py"},
        crop_size=CROP,
        license="Apache-2.0",
        dtype="float16",
    )
    print(f"Preset: {options.output}")


if __name__ == "__main__":
    main()
