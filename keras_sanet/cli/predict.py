"""The commands `evaluate`, `compare` and `predict`."""

import collections
from pathlib import Path

import numpy as np
from PIL import Image

from keras_sanet import _files, datasets, evaluation, inference, visualization
from keras_sanet._labels import classes_of
from keras_sanet.cli.options import (
    Group,
    add_command,
    add_dataset,
    add_inference,
    add_max_pixels,
    add_saved_model,
    find_pictures,
    inference_mode,
    limit_pixels,
    load_dataset,
    load_model,
    tracked,
    without_doubt,
)
from keras_sanet.datasets.files import open_image
from keras_sanet.evaluation import report


def add_commands(commands):
    """Adds the commands of this module."""
    parser = add_command(commands, evaluate, "MODEL --dataset KIND [options]")
    add_saved_model(parser)
    add_dataset(parser)
    add = Group(parser, "evaluation", evaluation.evaluate).add
    add("split", "split of the data set", default="val")
    add("output", "folder of counts and report; the same call goes on", metavar="FOLDER")
    add("absent_as_zero", "count classes in neither truth nor prediction as 0")
    add_inference(parser)

    parser = add_command(commands, compare, "FOLDER FOLDER")
    parser.add_argument("first", metavar="FOLDER", help="output of one evaluation")
    parser.add_argument("second", metavar="FOLDER", help="output of the other")

    parser = add_command(commands, predict, "MODEL IMAGE ... [options]")
    add_saved_model(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help='files, folders, patterns such as "frames/*.png"; all frames of a GIF or TIFF',
    )  # fmt: skip
    group = Group(parser, "output")
    add = group.add
    add("output", "folder of the results", default="predictions", metavar="FOLDER")
    kinds = ("mask", "color", "overlay", "probabilities")
    add(
        "write", f"some of: {', '.join(kinds)} (.npz)", nargs="+", choices=kinds, metavar="KIND",
        default=("mask", "overlay"),
    )  # fmt: skip
    add(
        "ids", "ids in masks: classes, or the 34 that Cityscapes' server takes",
        choices=("classes", "cityscapes"), default="classes",
    )  # fmt: skip
    add_max_pixels(group)
    add_inference(parser)


def evaluate(options):
    """Prints the metrics of a saved model on a split, at the full size of its masks.

    With --output, counts are kept image by image (images.jsonl), a run that was stopped goes on
    with the same command, and evaluation.json, .txt, classes.csv and report.html are written.
    """
    mode = inference_mode(options)
    model = load_model(options.saved_model)
    dataset = load_dataset(options)
    with without_doubt():
        result = evaluation.evaluate(
            model,
            dataset,
            options.split,
            folder=options.output,
            absent_as_zero=options.absent_as_zero,
            track=lambda samples: tracked(samples, "Evaluating"),
            **mode,
        )
    print(result)
    if options.output:
        path = Path(options.output) / "report.html"
        report.write(path, result, model, dataset, options.split, options.batch_size)
        print(f"Report:    {path.resolve()}")


def compare(options):
    """Compares two evaluations of the same images, the outputs of `evaluate`."""
    first, second = evaluation.load(options.first), evaluation.load(options.second)
    for folder, result in ((options.first, first), (options.second, second)):
        print(f"{folder}: {len(result.images)} images of {result.source}, {result.mode}")
    for figure in evaluation.FIGURES:
        print(evaluation.compare(first, second, figure))


def predict(options):
    """Writes masks, overlays, colors or probabilities of images."""
    mode = inference_mode(options)
    limit_pixels(options)
    model = load_model(options.saved_model)
    images = find_pictures(options.images)
    stems = collections.Counter(image.stem for image in images)
    twice = sorted(stem for stem, count in stems.items() if count > 1)
    if twice:
        raise ValueError(
            f"Images of one name would overwrite each other's results: {', '.join(twice)}. "
            "Predict them into different folders."
        )
    layer, classes = model.get_layer("logits"), classes_of(model.output.shape[-1])
    if options.ids == "cityscapes" and classes != len(datasets.cityscapes.INFO.classes):
        raise ValueError(f"--ids cityscapes needs a model of 19 classes. This one has {classes}.")
    names = getattr(layer, "class_names", None) or []
    palette = getattr(layer, "palette", None)
    if palette is None and {"color", "overlay"} & set(options.write):
        palette = visualization.palette(classes)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    for source in tracked(images, "Predicting"):
        image = np.array(open_image(source))
        try:
            probabilities = inference.predict_probabilities(model, image, **mode)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        mask = inference.mask_of(probabilities)
        for kind in options.write:
            suffix = "npz" if kind == "probabilities" else "png"
            with _files.replacing(output / f"{source.stem}_{kind}.{suffix}") as path:
                if kind == "probabilities":
                    np.savez(path, probabilities=probabilities, class_names=names)
                    continue
                if kind == "overlay":
                    pixels = visualization.overlay(image, mask, palette)
                elif kind == "color":
                    pixels = visualization.colour_mask(mask, palette)
                elif options.ids == "cityscapes":
                    pixels = datasets.cityscapes.label_ids(mask)
                else:
                    pixels = mask
                Image.fromarray(pixels).save(path)
    print(f"{', '.join(options.write)} of {len(images)} images are in {output.resolve()}.")
