from pathlib import Path

from keras_sanet import (
    datasets,
    evaluation,
    inference,
)
from keras_sanet._labels import classes_of
from keras_sanet.cli.options import (
    _images,
    _limit_pixels,
    _load_dataset,
    _load_model,
    _without_doubt,
)


def evaluate(options):
    """Prints the metrics of a saved model on a split, at the full size of its masks.

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
            folder=options.output,
            absent_as_zero=options.absent_as_zero,
            verbose=True,
            **mode,
        )
    print(result)
    if options.output:
        path = Path(options.output) / "report.html"
        evaluation.write_report(
            path, result, model, dataset, options.split, batch_size=options.batch_size
        )
        print(f"Report:    {path.resolve()}")


def compare(options):
    """Compares two evaluations of the same images, the folders that `evaluate --output` wrote."""
    first, second = evaluation.load(options.first), evaluation.load(options.second)
    for folder, result in ((options.first, first), (options.second, second)):
        print(f"{folder}: {len(result.images)} images of {result.source}, {result.mode}")
    for metric in evaluation.METRICS:
        print(evaluation.compare(first, second, metric=metric))


def predict(options):
    """Writes the mask, an overlay or more of each image.

    Images are files, folders, patterns such as "frames/*.png", or pictures of several frames (GIF,
    TIFF); numbers in their names are in order.
    """
    mode = _mode(options)
    _limit_pixels(options)
    model = _load_model(options.saved_model)
    images = [image for argument in options.images for image in _images(argument)]
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


def _mode(options):
    """How to predict, for `inference.predict_probabilities`."""
    names = ("scales", "flip", "window", "bucket", "batch_size")
    return inference.complete(**{name: getattr(options, name) for name in names})
