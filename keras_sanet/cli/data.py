from pathlib import Path

from keras_sanet import (
    _files,
    datasets,
)
from keras_sanet.cli.options import _load_dataset
from keras_sanet.inspection import Inspection


def inspect(options):
    """Checks a data set before training: labels, sizes, shares of the classes, duplicates.

    The exit code is 1 where training would not be safe.
    """
    dataset = _load_dataset(options, left_out=False)  # it is among the notes
    if options.class_weights:
        dataset.samples(options.class_weights)  # an unknown split is told before all is read
    inspection = Inspection(dataset, verbose=True)
    print(inspection)
    if options.class_weights:
        of_classes = inspection.class_weights(options.class_weights)
        print(f"class_weights=[{', '.join(f'{weight:.4g}' for weight in of_classes)}]")
    if options.sheet:
        with _files.replacing(options.sheet) as path:
            inspection.sheet().save(path)
        print(f"Overlays:  {Path(options.sheet).resolve()}")
    return 1 if inspection.problems else 0


def list_datasets(options):
    """Lists the known data sets: classes, images, files that are looked for, terms, source."""
    for info in datasets.infos():
        counts = ", ".join(f"{split} {count}" for split, count in info.counts.items())
        print(f"\n{info.name}: {info.title}, {len(info.classes)} classes; {counts}")
        for what in info.files:
            print(f"    files    {what}")
        print(f"    from     {info.url}\n    terms    {info.license}\n    cite     {info.citation}")
    print("\ntfds: a set of TensorFlow Datasets, its name given as --data.")
    print("folder: your own images, masks and classes.txt.\nscenes: drawn by the package.")
