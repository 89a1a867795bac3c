"""Metrics of a model on a split, at the full size of its masks (paper, Tables III-VII).

As in mmsegmentation: void pixels never count, and a class in neither truth nor prediction is left
out of the mean IoU, one that is not in the truth out of the mean accuracy. `absent_as_zero` counts
it as 0, as semseg (PSPNet's authors) does.
"""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np

from keras_sanet import _files
from keras_sanet._files import is_dict, is_dict_of, is_int, is_list, is_text
from keras_sanet._labels import classes_of
from keras_sanet._progress import track
from keras_sanet.evaluation.journal import Entry, Journal, check_header
from keras_sanet.evaluation.result import METRICS, AbsentClasses, Evaluation
from keras_sanet.inference import complete, mask_of, named, predict_probabilities


def evaluate(
    model,
    dataset,
    split,
    *,
    folder=None,
    shard=(1, 1),
    absent_as_zero=False,
    verbose="auto",
    **mode,
):
    """Predicts every image of a split at its own size, and counts.

    Args:
        model: images to logits or probabilities; of one channel for a data set of two classes.
        dataset: from `datasets.load`.
        split: name of the split.
        folder: where to keep the counts of each image as it is done (`images.jsonl`) and the
            results. Called again with the same folder, model and arguments, it goes on after the
            last image. None: nothing is kept.
        shard: (I, N): every N-th image from the I-th on, so that N processes share a split, each
            with a folder of its own. `join` makes one evaluation of these.
        absent_as_zero: whether a class that is absent counts as 0 in the means.
        verbose: whether to show a progress bar; "auto": on a terminal.
        **mode: `scales`, `flip`, `window`, ...: see `inference.predict_probabilities`.

    Returns:
        An `Evaluation`. Warns (`AbsentClasses`) of its `doubt`.

    Raises:
        ValueError: the mask of an image, which it names, is missing, of another size or holds an
            unknown id; the model gives NaN; it has not as many classes as the data set, or that
            has one alone; the folder holds the evaluation of something else.
    """
    mode, shard = complete(**mode), check_shard(shard)
    output = getattr(model, "output", None)  # subclasses of `keras.Model` have none
    output = output.get("logits") if isinstance(output, dict) else output
    if hasattr(output, "shape"):
        check_classes(output.shape[-1], dataset)
    result = Evaluation(
        dataset.class_names,
        dataset.palette,
        f"{dataset.name}, {split}",
        # `from_logits` where it was given; else the model tells it.
        {k: v for k, v in mode.items() if k != "batch_size" and (k, v) != ("from_logits", None)},
        dataset.categories,
        absent_as_zero,
    )
    samples = _of_shard(dataset.samples(split), shard)
    if folder is None:
        _count(result, model, dataset, split, samples, verbose, mode)
    else:
        with _files.locked(folder):
            keep = _resume(result, model, dataset, split, shard, folder)
            _count(result, model, dataset, split, samples, verbose, mode, keep)
            result.source = _source(result.source, shard)
            result.save(folder)
    if result.doubt:
        warnings.warn(result.doubt, AbsentClasses, stacklevel=2)
    return result


def check_shard(shard):
    """(I, N) of integers, 1 <= I <= N."""
    given = list(shard) if isinstance(shard, (list, tuple)) else []
    if not is_list(given, is_int, 1) or len(given) != 2 or given[0] > given[1]:
        raise ValueError(f"`shard` must be (I, N) with 1 <= I <= N. Received: {shard}.")
    return tuple(shard)


def _of_shard(items, shard):
    """Every N-th item from the I-th on."""
    return items[shard[0] - 1 :: shard[1]]


def _source(source, shard):
    """What a result is of, in words."""
    return source if shard[1] == 1 else f"{source}, shard {shard[0]}/{shard[1]}"


def _count(result, model, dataset, split, samples, verbose, mode, keep=None):
    """Adds the samples that a result lacks, after they were given to `keep`."""
    n, samples = dataset.num_classes, samples[len(result.images) :]
    for sample in track(samples, "Evaluating", verbose):
        image, truth = dataset.read(sample)
        if truth is None:
            raise ValueError(f"{sample.image} has no mask; the split {split!r} is for prediction.")
        with named(sample.image):
            probabilities = predict_probabilities(model, image, **mode)
        check_classes(probabilities.shape[-1], dataset)
        predicted = mask_of(probabilities)
        counts = truth != dataset.ignore_class
        pixels = np.bincount(n * truth[counts].astype("int64") + predicted[counts], minlength=n * n)
        instances = None
        if dataset.count_instances is not None:
            instances = dataset.count_instances(sample, predicted)
        cells = np.flatnonzero(pixels)
        if keep is not None:
            keep(sample.image.stem, cells, pixels[cells], instances)
        result.add_cells(sample.image.stem, cells, pixels[cells], instances)


def load(folder):
    """The `Evaluation` that `evaluate` left in a folder, of whatever source.

    Args:
        folder: folder that holds `images.jsonl`.

    Returns:
        An `Evaluation`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it was stopped before it was complete, or its file is damaged (with the line).
    """
    header, entries = _read(folder)
    _check_images(entries, header, folder)
    result = _evaluation(header, entries)
    result.source = _source(result.source, header.get("shard", (1, 1)))
    return result


def join(folders, folder=None):
    """The evaluation of a split of which each folder holds a shard: the same as one of all images.

    Args:
        folders: all shards of one evaluation, in any order.
        folder: where to keep the result, as `evaluate` does; None: nowhere.

    Returns:
        An `Evaluation`.

    Raises:
        FileNotFoundError, ValueError: as `load`; the folders hold shards of different evaluations,
            not all of one, or one twice.
    """
    found = {}
    for path in folders:
        header, entries = _read(path)
        _check_images(entries, header, path)
        shard = tuple(header.pop("shard", (1, 1)))
        if found and header != next(iter(found.values()))[0]:
            raise ValueError(
                f"{path} holds a shard of another evaluation than {folders[0]}: of another model, "
                "mode or data set."
            )
        if shard in found:
            raise ValueError(f"{path} holds the shard {shard[0]}/{shard[1]}, as a folder before.")
        found[shard] = header, entries
    counts = {count for _, count in found}
    missing = {(i, n) for n in counts for i in range(1, n + 1)} - found.keys()
    if len(counts) != 1 or missing:
        lacking = ", ".join(f"{i}/{n}" for i, n in sorted(missing)) or "none"
        raise ValueError(
            f"`folders` must be all shards of one evaluation. Missing: {lacking}; given: "
            f"{', '.join(f'{i}/{n}' for i, n in sorted(found)) or 'none'}."
        )
    (count,) = counts
    header, first = found[1, count]
    parts = [found[i, count][1] for i in range(1, count + 1)]
    entries = [part[i] for i in range(len(first)) for part in parts if i < len(part)]
    _check_images(entries, header, folders[0])
    result = _evaluation(header, entries)
    if folder is not None:
        with _files.locked(folder):
            journal = Journal(folder)
            if next(journal.read(), None) is not None:
                raise ValueError(f"{journal.path} is there. Remove it, or give another folder.")
            for line in (header, *map(_line, entries)):
                journal.append(line)
            result.save(folder)
    return result


def _read(folder):
    """The header of a journal, and the list of its entries."""
    journal = Journal(folder)
    found = list(journal.read())
    if not found:
        raise FileNotFoundError(f"{folder} holds no evaluation, {journal.path.name}.")
    return found[0], found[1:]


def _evaluation(header, entries):
    result = Evaluation(**{name: header[name] for name in _KEPT})
    for entry in entries:
        result.add_cells(*entry)
    return result


def _check_images(entries, header, folder):
    """Raises ValueError where images of an evaluation, or of its shard, are missing or others."""
    shard, images = header.get("shard", (1, 1)), [entry.image for entry in entries]
    count = len(_of_shard(range(header["samples"]), shard))
    if len(images) < count:
        raise ValueError(
            f"{folder} holds {len(images)} of the {count} images: the evaluation is still running, "
            "or was stopped. Run it again with the same arguments and folder, and it goes on."
        )
    if shard[1] == 1 and _digest_of(images) != header["images"]:
        raise Journal(folder).damaged(
            "its images are not those that its first line says, in their order."
        )


def read_metrics(path):
    """The metrics in an evaluation.json, of whatever source.

    Args:
        path: the file.

    Returns:
        What `Evaluation.as_dict` says, but for single images and the confusion matrix.

    Raises:
        FileNotFoundError: there is none.
        ValueError: an entry of the file, which it names, is not what it should be.
    """

    def is_share(value):
        return value is None or type(value) in (int, float) and 0 <= value < 1 + 1e-9

    def is_interval(value):
        return is_list(value, is_share) and len(value) == 2

    def are_intervals(value):
        return is_dict_of(value, is_interval) and value.keys() == METRICS.keys()

    def is_class(row):
        return is_dict(row) and (
            is_text(row.get("class"))
            and is_int(row.get("pixels"), most=2**63 - 1)
            and all(is_share(row.get(name)) for name in ("accuracy", "iou", "instance_iou"))
        )

    share = ("a number from 0 to 1, or null", is_share)
    shares = (
        f"a dict from categories to {share[0]}",
        lambda value: value is None or is_dict_of(value, is_share),
    )
    schema = {
        "source": ("text", is_text),
        "mode": ("a dict", is_dict),
        "images": ("an integer, 0 or more", is_int),
        "absent_as_zero": ("true or false", lambda value: isinstance(value, bool)),
        **dict.fromkeys(METRICS, share),
        "intervals_95": (f"the two limits of each of {', '.join(METRICS)}", are_intervals),
        "classes": ("a list of classes with their metrics", lambda v: v and is_list(v, is_class)),
        **dict.fromkeys(
            ("mean_category_iou", "mean_instance_iou", "mean_category_instance_iou"), share
        ),
        **dict.fromkeys(("iou_per_category", "instance_iou_per_category"), shares),
    }
    way_out = "Evaluate anew."
    found = _files.read_json(path, way_out)
    _files.check(found, schema, f"{path} is damaged:", way_out)
    return {name: found[name] for name in schema if name in found}


_KEPT = ("class_names", "palette", "source", "mode", "categories", "absent_as_zero")


def _resume(result, model, dataset, split, shard, folder):
    """Adds what an earlier run counted, and returns a function that keeps another image."""
    if not model.built:
        raise ValueError(
            "The model has no weights yet, so that a stopped evaluation could not be told from "
            "another model's. Call it on an image before, or evaluate without `folder`."
        )
    journal, samples = Journal(folder), dataset.samples(split)
    names = [sample.image.stem for sample in samples]
    header = {
        **{name: getattr(result, name) for name in _KEPT},
        "model": _digest(
            json.dumps(model.get_config(), default=str).encode(),
            *(value.tobytes() for value in model.get_weights()),
        ),
        "samples": len(samples),
        "images": _digest_of(names),
        "masks": _digest_of([Path(str(sample.mask)).name for sample in samples]),
        "class_ids": _digest_of(dataset.class_ids),
        **({"shard": shard} if shard != (1, 1) else {}),
    }
    header = _files.plain(header)
    check_header(header, f"{journal.path} can't keep this evaluation:", "Leave `folder` out.")
    entries = journal.read()
    found = next(entries, None)
    entries_of = dict.fromkeys((*header, "shard"))
    different = [name for name in entries_of if found and header.get(name) != found.get(name)]
    if different:
        raise ValueError(
            f"{folder} holds an evaluation of another {' and '.join(different)}. Give another "
            "folder, or remove it."
        )
    for entry in entries:
        result.add_cells(*entry)
    if result.images != _of_shard(names, shard)[: len(result.images)]:
        raise journal.damaged(
            f"its images are not the first ones of {result.source}, in their order. Did two "
            "processes write it?"
        )

    if not found and not _of_shard(names, shard):  # the others are joined with it
        journal.append(header)

    def keep(image, cells, pixels, instances):
        if not found and not result.images:
            journal.append(header)
        journal.append(_line(Entry(image, cells, pixels, instances)))

    return keep


def _line(entry):
    """What a journal holds of an `Entry`."""
    line = {"image": entry.image, "cells": entry.cells.tolist(), "pixels": entry.pixels.tolist()}
    return line if entry.instances is None else {**line, "instances": entry.instances.tolist()}


def _digest(*parts):
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _digest_of(names):
    return _digest(repr(names).encode())


def check_classes(channels, dataset):
    """Checks that a model of so many output channels is for the classes of a data set.

    Args:
        channels: number of the model's output channels.
        dataset: from `datasets.load`.

    Raises:
        ValueError: it is not, or the data set has one class alone.
    """
    if dataset.num_classes == 1:
        raise ValueError(
            f"The data set {dataset.name!r} has one class, {dataset.class_names[0]!r}, so that "
            "every pixel that is not void is right. Name two, background and the class, with ids "
            "of their own in the masks."
        )
    if classes_of(channels) != dataset.num_classes:
        raise ValueError(
            f"The model has {classes_of(channels)} classes, the data set {dataset.name!r} "
            f"{dataset.num_classes}."
        )
