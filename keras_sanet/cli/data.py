"""The commands `inspect` and `datasets`."""

from pathlib import Path

from keras_sanet import _files, datasets
from keras_sanet.cli.options import KIND, Group, add_command, add_folder, load_dataset
from keras_sanet.inspection import Inspection


def add_commands(commands):
    """Adds the commands of this module."""
    parser = add_command(commands, inspect, "[KIND] --data FOLDER [options]")
    parser.add_argument("dataset", nargs="?", choices=datasets.names(), metavar="KIND", help=KIND)
    group = Group(parser)
    add_folder(group, group)
    add = group.add
    add("sheet", "write a page of overlays to look at", metavar="FILE.png")
    add("class_weights", "print median-frequency weights of this split", metavar="SPLIT")
    add_command(commands, list_datasets, name="datasets")


def inspect(options):
    """Checks a data set before training: labels, sizes, shares of classes, duplicates.

    The exit code is 1 where training would not be safe.
    """
    dataset = load_dataset(options, say_notes=False)  # it is among the notes
    if options.class_weights:
        dataset.samples(options.class_weights)  # an unknown split is told before all is read
    inspection = Inspection(dataset, verbose=True)
    print(inspection)
    if options.class_weights:
        class_weights = inspection.class_weights(options.class_weights)
        print(f"class_weights=[{', '.join(f'{weight:.4g}' for weight in class_weights)}]")
    if options.sheet:
        with _files.replacing(options.sheet) as path:
            inspection.sheet().save(path)
        print(f"Overlays:  {Path(options.sheet).resolve()}")
    return 1 if inspection.problems else 0


def list_datasets(options):
    """Lists the known data sets: classes, images, files, terms, source."""
    for info in datasets.infos():
        counts = ", ".join(f"{split} {count}" for split, count in info.counts.items())
        print(f"\n{info.name}: {info.title}, {len(info.classes)} classes; {counts}")
        for what in info.files:
            print(f"    files    {what}")
        print(f"    from     {info.url}\n    terms    {info.license}\n    cite     {info.citation}")
    print(
        "\nYour own: folder (images, masks, a file of classes), coco, labelme, cvat,\n"
        "label_studio, supervisely, hf (Hugging Face: a folder or owner/name); auto: any of them.\n"
        "tfds: a set of TensorFlow Datasets, its name given as --data.\n"
        "scenes: drawn by the package."
    )
