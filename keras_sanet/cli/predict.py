import collections
from pathlib import Path

import numpy as np
from PIL import Image

from keras_sanet import (
    _files,
    datasets,
    evaluation,
    inference,
    visualization,
)
from keras_sanet._labels import classes_of
from keras_sanet.cli.options import (
    _images,
    _limit_pixels,
    _load_dataset,
    _load_model,
    _tracked,
    _without_doubt,
)
from keras_sanet.datasets.files import open_image
from keras_sanet.evaluation import report


def evaluate(options):
    """Prints the figures of a saved model on a split, at the full size of its masks.

    With --output, counts are kept image by image (images.jsonl), a run that was stopped goes on
    with the same command, and evaluation.json, .txt, classes.csv and report.html are written.
    """
    mode = _mode(options)
    model = _load_model(options.saved_model)
    dataset = _load_dataset(options)
    with _without_doubt():
        result = evaluation.evaluate(
            model,
            dataset,
            options.split,
            options.output,
            options.absent_as_zero,
            track=lambda samples: _tracked(samples, "Evaluating"),
            **mode,
        )
    print(result)
    if options.output:
        path = Path(options.output) / "report.html"
        report.write(path, result, model, dataset, options.split, options.batch_size)
        print(f"Report:    {path.resolve()}")


def compare(options):
    """Compares two evaluations of the same images, the folders that `evaluate --output` wrote."""
    first, second = evaluation.load(options.first), evaluation.load(options.second)
    for folder, result in ((options.first, first), (options.second, second)):
        print(f"{folder}: {len(result.images)} images of {result.source}, {result.mode}")
    for figure in evaluation.FIGURES:
        print(evaluation.compare(first, second, figure))


def predict(options):
    """Writes the mask, an overlay or more of each image.

    Images are files, folders, patterns such as "frames/*.png", or pictures of several frames (GIF,
    TIFF); numbers in their names are in order.
    """
    mode = _mode(options)
    _limit_pixels(options)
    model = _load_model(options.saved_model)
    images = [image for argument in options.images for image in _images(argument)]
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
    palette, names = getattr(layer, "palette", None), getattr(layer, "class_names", None)
    if palette is None and {"colour", "overlay"} & set(options.write):
        palette = visualization.palette(classes)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    for source in _tracked(images, "Predicting"):
        image = np.array(open_image(source))
        try:
            probabilities = inference.predict_probabilities(model, image, **mode)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        mask = inference.mask_of(probabilities)
        for kind in options.write:
            name = f"{source.stem}_{kind}"
            if kind == "probabilities":
                with _files.replacing(output / f"{name}.npz") as path:
                    np.savez(path, probabilities=probabilities, class_names=names or [])
                continue
            if kind == "mask":
                ids = datasets.cityscapes.label_ids(mask) if options.ids == "cityscapes" else mask
            elif kind == "colour":
                ids = visualization.colour_mask(mask, palette)
            else:
                ids = visualization.overlay(image, mask, palette)
            with _files.replacing(output / f"{name}.png") as path:
                Image.fromarray(ids).save(path)
    print(f"{', '.join(options.write)} of {len(images)} images are in {output.resolve()}.")


def _mode(options):
    """How to predict, for `inference.predict_probabilities`."""
    names = ("scales", "flip", "window", "bucket", "batch_size")
    return inference.complete(**{name: getattr(options, name) for name in names})
