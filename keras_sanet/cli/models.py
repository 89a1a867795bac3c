"""The commands `convert`, `export`, `summary`, `presets`, `save-preset` and `recipes`."""

import functools
from pathlib import Path

import numpy as np

from keras_sanet import backbones, presets, recipes, training, weights
from keras_sanet.cli.options import (
    SIZE,
    Group,
    add_backbone,
    add_command,
    add_max_pixels,
    add_saved_model,
    count,
    find_pictures,
    flag,
    integer,
    limit_pixels,
    load_model,
    shown,
)
from keras_sanet.datasets.files import open_image
from keras_sanet.export import FORMATS, PRECISIONS
from keras_sanet.export import export as export_model
from keras_sanet.measurement import measure
from keras_sanet.summary import Summary


def add_commands(commands):
    """Adds the commands of this module."""
    parser = add_command(commands, convert, "CHECKPOINT OUTPUT --backbone NAME [options]")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help=".pth, .safetensors or .safetensors.xz"
    )
    parser.add_argument("output", metavar="OUTPUT", help="file to write, .weights.h5")
    group = Group(parser)
    add_backbone(group, required=True)
    group.add("channels", "channels of the images; 3 is RGB", type=integer, default=3)

    parser = add_command(commands, export, "MODEL OUTPUT --format FORMAT [options]")
    add_saved_model(parser)
    parser.add_argument("output", metavar="OUTPUT", help=".onnx, .xml or .tflite, or a folder")
    add = Group(parser, None, export_model).add
    add("format", ", ".join(FORMATS), choices=FORMATS, required=True, metavar="FORMAT")
    add("image_size", "size that it computes at, any if absent", **SIZE)
    add("batch_size", "images at once, 0 for any number", type=count)
    add("preprocessing", "take uint8 images of any size, resize them to --image-size")
    add("postprocessing", "give a mask at the size of the image instead of logits")
    add("precision", "float16 and int8 are for openvino and litert", choices=PRECISIONS)
    add(
        "calibration_images", "some images as they will come, for int8", nargs="+",
        metavar="IMAGE",
    )  # fmt: skip
    add_max_pixels(Group(parser))

    parser = add_command(commands, summary, "MODEL [options]")
    add_saved_model(parser)
    add = Group(parser, None, Summary, measure).add
    add("image_size", "size of the images, 473 473 if any will do", default=None, **SIZE)
    add("batch_size", "images", type=integer)
    add("num_classes", "another number of classes", type=integer, default=None)
    add("depth", "layers in layers, 0 for all", type=count, default=1)
    add("measure", "time and memory of a prediction, in a fresh process", default=False)
    add("rounds", "timed predictions of --measure", type=integer)

    add_command(commands, list_presets, name="presets")
    parser = add_command(commands, save_preset, "RUN FOLDER [options]", "save-preset")
    parser.add_argument("run", metavar="RUN", help="folder of a finished `train`")
    parser.add_argument("output", metavar="FOLDER", help="folder of the preset")
    add = Group(parser, None, presets.save_preset).add
    add("dtype", "numbers in the file", choices=("float32", "float16"))
    add("license", "of the weights, for the model card", default=None, metavar="TEXT")
    add_command(commands, list_recipes, name="recipes")


def convert(options):
    """Converts a torchvision or timm checkpoint to the .weights.h5 of a backbone."""
    backbone = backbones.build(options.backbone, input_shape=(None, None, options.channels))
    print(weights.convert(backbone, options.checkpoint, options.output))
    print(f"Weights:   {Path(options.output).resolve()}")


def export(options):
    """Writes a saved model for another runtime: TensorFlow, ONNX, OpenVINO or LiteRT.

    The backend must be able to: TensorFlow is for all formats, PyTorch for onnx and openvino, JAX
    for tf_saved_model.
    """
    limit_pixels(options)
    images = find_pictures(options.calibration_images or ())
    path = export_model(
        load_model(options.saved_model),
        options.output,
        options.format,
        image_size=options.image_size and tuple(options.image_size),
        batch_size=options.batch_size or None,
        preprocessing=options.preprocessing,
        postprocessing=options.postprocessing,
        precision=options.precision,
        calibration_images=[np.array(open_image(image)) for image in images] or None,
    )
    files = [p for p in (path, path.with_suffix(".bin")) if p.is_file()] or path.rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(f"{options.format}, {size / 1e6:.1f} MB: {path.resolve()}")


def summary(options):
    """Counts a model's parameters and multiply-accumulates, layer by layer."""
    build = functools.partial(
        load_model,
        options.saved_model,
        options.num_classes,
        load_weights=options.saved_model not in presets.REFERENCES,
    )
    counted = Summary(
        build(), options.image_size and tuple(options.image_size), batch_size=options.batch_size
    )
    print(counted.table(options.depth or None))
    if options.measure:
        size = counted.image_shape[1:3]
        found = measure(build, size, batch_size=options.batch_size, rounds=options.rounds)
        kind = {"resident": "memory", "gpu": "GPU memory"}[found.kind]
        memory = "unknown" if found.memory is None else f"{found.memory / 1e6:.0f} MB"
        print(
            f"A prediction in a process of its own: {1000 * found.seconds:.1f} ms (median of "
            f"{options.rounds}); {kind} to build the model and predict: {memory}"
        )


def list_presets(options):
    """Lists the presets of the package: models by name, with their metrics."""
    for name, what in presets.list_presets(references=True).items():
        print(f"{name:27} {what}")


def list_recipes(options):
    """Lists the recipes for `train`: their arguments and where these are from."""
    for name in recipes.names():
        print(f"\n{name}: {recipes.source(name)}")
        for argument, value in recipes.get(name).items():
            print(f"    {flag(argument)} {shown(value)}")


def save_preset(options):
    """Writes the model of a finished run as a preset, a folder to share."""
    training.save_preset_from_run(
        options.run, options.output, dtype=options.dtype, license=options.license
    )
    print(f"Preset:    {Path(options.output).resolve()}")
