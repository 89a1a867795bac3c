"""The commands `evaluate`, `compare` and `predict`."""

import argparse
import warnings
from pathlib import Path

from keras_sanet import datasets, evaluation, inference
from keras_sanet._labels import classes_of
from keras_sanet.cli.options import (
    Group,
    add_command,
    add_dataset,
    add_inference,
    add_max_pixels,
    add_saved_model,
    add_shard,
    find_pictures,
    inference_mode,
    kind_of_data,
    limit_pixels,
    load_dataset,
    load_model,
)


def add_commands(commands):
    """Adds the commands of this module."""
    usage = "MODEL --data FOLDER [options], or --join FOLDER ... --output FOLDER"
    parser = add_command(commands, evaluate, usage)
    add_saved_model(parser, nargs="?")
    add_dataset(parser)
    add = Group(parser, "evaluation", evaluation.evaluate).add
    add("split", "split of the data set", default="val")
    add("output", "folder of counts and report; the same call goes on", metavar="FOLDER")
    add_shard(add)
    add("join", "make one evaluation of all shards", nargs="+", metavar="FOLDER")
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
    kinds = (*inference.WRITABLE, *inference.LABELS)
    add(
        "write", f"some of: {', '.join(kinds)}", nargs="+", choices=kinds, metavar="KIND",
        default=("mask", "overlay"),
    )  # fmt: skip
    add(
        "ids", "ids in masks: classes, or the 34 that Cityscapes' server takes",
        choices=("classes", "cityscapes"), default="classes",
    )  # fmt: skip
    add_shard(add)
    add_max_pixels(group)
    add_inference(parser)


def evaluate(options):
    """Prints the metrics of a saved model on a split, at the full size of its masks.

    With --output, counts are kept image by image (images.jsonl), a run that was stopped goes on
    with the same command, and evaluation.json, .txt, classes.csv and report.html are written.
    """
    if options.join:
        print(evaluation.join(options.join, options.output))
        return
    if options.saved_model is None:
        raise argparse.ArgumentError(None, "MODEL must be given, or --join FOLDER ...")
    mode, options.dataset = inference_mode(options), kind_of_data(options)
    model = load_model(options.saved_model)
    dataset = load_dataset(options)
    with warnings.catch_warnings():  # the table says it, too
        warnings.simplefilter("ignore", evaluation.AbsentClasses)
        result = evaluation.evaluate(
            model,
            dataset,
            options.split,
            folder=options.output,
            shard=options.shard,
            absent_as_zero=options.absent_as_zero,
            verbose=True,
            **mode,
        )
    print(result)
    if options.output and options.shard[1] == 1:
        path = Path(options.output) / "report.html"
        evaluation.write_report(
            path, result, model, dataset, options.split, batch_size=options.batch_size
        )
        print(f"Report:    {path.resolve()}")


def compare(options):
    """Compares two evaluations of the same images, the outputs of `evaluate`."""
    first, second = evaluation.load(options.first), evaluation.load(options.second)
    for folder, result in ((options.first, first), (options.second, second)):
        print(f"{folder}: {len(result.images)} images of {result.source}, {result.mode}")
    for metric in evaluation.METRICS:
        print(evaluation.compare(first, second, metric=metric))


def predict(options):
    """Writes masks, overlays, colors or probabilities of images."""
    mode = inference_mode(options)
    limit_pixels(options)
    model = load_model(options.saved_model)
    images = find_pictures(options.images)[options.shard[0] - 1 :: options.shard[1]]
    label_ids = None
    if options.ids == "cityscapes":
        label_ids, classes = datasets.cityscapes.label_ids, classes_of(model.output.shape[-1])
        if classes != len(datasets.cityscapes.INFO.classes):
            raise ValueError(
                f"--ids cityscapes needs a model of 19 classes. This one has {classes}."
            )
    inference.predict_files(
        model,
        images,
        options.output,
        write=options.write,
        label_ids=label_ids,
        verbose=True,
        **mode,
    )
    output = Path(options.output).resolve()
    print(f"{', '.join(options.write)} of {len(images)} images are in {output}.")
