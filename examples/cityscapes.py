"""Cityscapes from the downloaded folder to a deployed file, command by command.

    python examples/cityscapes.py --data CITYSCAPES

CITYSCAPES holds `leftImg8bit/` and `gtFine/` as leftImg8bit_trainvaltest.zip and
gtFine_trainvaltest.zip unpack. Each command is printed before it runs: copy those that you need.
All is written to --output. The same call again goes on with steps 2 and 3 where they stopped, and
repeats the others. Options that --help does not list go to `keras-sanet train`, over
the values of the recipe: `--epochs 2 --lovasz-epochs 1 --backbone resnet18` for a first try.

| step | gives | costs, with the paper's network and all images |
|---|---|---|
| 1 inspect | what is wrong with the files, `labels.png` | 3,475 pictures and masks are read |
| 2 train | `run/`: model, curves (CSV), overlays | 240 epochs of 371 steps of 6 TMAC, and of 500 |
| | | validation images of 2.3 TMAC |
| 3 evaluate | the server's four metrics, `report.html` | 500 images of 4.4 TMAC, at one scale |
| 4 predict | masks for the server, `masks.zip` | 1,525 images of 4.4 TMAC |
| 5 save-preset | `preset/`: weights, recipe, metrics, card | seconds |
| 6 export | `model.onnx`, or `saved_model/` on JAX | two minutes, 18 GB of memory; 229 MB |
| 7 run | masks of that file, `deployed.png` | 0.6 TMAC an image at 512x1024 |

(TMAC: 10^12 products. The network takes 0.247 for a picture of 473x473, three times that to train;
batches are of 8, and an image of 1024x2048 is 18 windows of 473x473. Two cores of an Intel Xeon
compute some 0.09 TMAC a second at best: a minute for 18 windows, and months for step 2, which is
work for GPUs. Step 7 took 10 to 14 seconds an image on them while they had other work too.)

Not measured: training for so long, and thus what step 3 prints then (the paper's Table VII: 80.9 %
mean IoU on the test images); GPUs; the server's own answer. Tested: the whole walk, with a tiny
network on a tiny tree of the same layout.
"""

import argparse
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_sanet import cli, datasets, recipes, visualization

RECIPE = "paper_cityscapes"
FORMATS = {  # backend -> what it can export, and the name of it
    "tensorflow": ("onnx", "model.onnx"),
    "torch": ("onnx", "model.onnx"),
    "jax": ("tf_saved_model", "saved_model"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder of leftImg8bit and gtFine")
    parser.add_argument("--output", type=Path, default=Path("runs/cityscapes-walk"), help="folder")
    parser.add_argument(
        "--crop-size",
        type=int,
        nargs=2,
        default=recipes.get(RECIPE)["crop_size"],
        help="height and width of training crops and prediction windows, in pixels",
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        help="of steps 3 and 4; the paper predicts at several, which costs so many times as much",
    )
    parser.add_argument(
        "--split",
        choices=("test", "val"),
        default="test",
        help="that step 4 predicts; val where the test images are not there",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        default=(512, 1024),
        help="height and width that the exported file computes at",
    )
    options, training_options = parser.parse_known_args()
    output, run, preset = options.output, options.output / "run", options.output / "preset"
    output.mkdir(parents=True, exist_ok=True)
    dataset = datasets.load("cityscapes", options.data)
    data_options = ["--dataset", "cityscapes", "--data", options.data]
    window_options = ["--window", *options.crop_size, "--scales", *options.scales]

    title("1. Inspect: is the download whole, and do labels lie on their pictures?")
    command("inspect", "cityscapes", "--data", options.data, "--sheet", output / "labels.png")

    title("2. Train, by the paper's recipe")
    if not (run / "config.json").is_file():
        where = ["--data", options.data, "--output", run]
        crop_size = ["--crop-size", *options.crop_size]
        command("train", "--recipe", RECIPE, *where, *crop_size, *training_options)
    elif not (run / "evaluation.json").is_file():
        command("train", "--resume", run)
    else:
        print(f"{run} is finished.")

    title("3. Evaluate: IoU and iIoU of classes and of categories, as the server counts them")
    model = run / "model.keras"
    command("evaluate", model, *data_options, *window_options, "--output", output / "evaluation")

    title("4. Predict what the server takes: one PNG of the 34 label ids an image")
    split = options.split if options.split in dataset.splits else "val"
    pattern = options.data / "leftImg8bit" / split / "*" / "*_leftImg8bit.png"
    masks = output / "masks"
    written = ["--write", "mask", "--ids", "cityscapes", "--output", masks]
    command("predict", model, pattern, *window_options, *written)
    with zipfile.ZipFile(output / "masks.zip", "w") as archive:
        for path in sorted(masks.glob("*_mask.png")):
            archive.write(path, path.name)  # which begins with the frame's city and numbers
    print(f"Upload {output / 'masks.zip'} ({split}) on {datasets.cityscapes.INFO.url}")

    title("5. Save the preset, to share")
    command("save-preset", run, preset, "--dtype", "float16")

    title("6. Export a file that computes the whole picture at once")
    kind, name = FORMATS[keras.backend.backend()]
    exported = output / name
    size = ["--image-size", *options.image_size]
    inside = ["--preprocessing", "--postprocessing"]
    command("export", preset, exported, "--format", kind, *size, *inside)

    title("7. Run that file without Keras and keras_sanet")
    samples = dataset.samples(split)[:3]
    images, deployed = [sample.image for sample in samples], output / "deployed"
    program = Path(__file__).with_name("run_exported.py")
    execute([sys.executable, program, exported, *images, "--output", deployed])
    compare(dataset, images, masks, deployed, output / "deployed.png")


def title(text):
    print(f"\n{text}", flush=True)


def command(*arguments):
    """Prints a command of keras-sanet and runs it; ends where it fails."""
    arguments = [str(argument) for argument in arguments]
    print(f"$ keras-sanet {shlex.join(arguments)}", flush=True)
    if code := cli.main(arguments):
        sys.exit(code)


def execute(arguments):
    """Prints the command of another process and runs it."""
    arguments = [str(argument) for argument in arguments]
    print(f"$ python {shlex.join(arguments[1:])}", flush=True)
    subprocess.run(arguments, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})


def compare(dataset, images, masks, deployed, path):
    """Draws the masks of steps 4 and 7 beside each other, and says how many pixels agree."""
    rows, equal = [], []
    for image in images:
        name = f"{image.stem}_mask.png"
        by_windows = dataset.classes_of(np.array(Image.open(masks / name)))  # from label ids
        at_once = np.array(Image.open(deployed / name))
        equal.append(np.mean(by_windows == at_once))
        picture = np.array(Image.open(image).convert("RGB"))
        overlays = (
            visualization.overlay(picture, ids, dataset.palette) for ids in (by_windows, at_once)
        )
        small = (Image.fromarray(array).resize((512, 256)) for array in (picture, *overlays))
        rows.append([np.array(page) for page in small])
    titles = ["image", "by windows (step 4)", "deployed (step 7)"]
    visualization.sheet(rows, dataset.class_names, dataset.palette, titles=titles).save(path)
    print(f"{100 * np.mean(equal):.1f} % of the pixels are of the class of step 4. See {path}")


if __name__ == "__main__":
    main()
