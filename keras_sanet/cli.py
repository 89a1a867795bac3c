"""The command line, `keras-sanet`: demo, train, evaluate, compare, predict, convert, export,
benchmark, summary, ablate, inspect, save-preset, datasets, presets, recipes."""

import argparse
import ast
import collections
import contextlib
import functools
import glob
import itertools
import json
import os
import re
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from rich.progress import track

from keras_sanet import (
    _backend,
    _files,
    ablation,
    backbones,
    datasets,
    distribution,
    evaluation,
    inference,
    models,
    pipeline,
    presets,
    recipes,
    report,
    runs,
    training,
    visualization,
    weights,
)
from keras_sanet._labels import classes_of
from keras_sanet.benchmark import Benchmark, measure
from keras_sanet.costs import TableII
from keras_sanet.datasets.files import UNREADABLE, by_number, frames, open_image
from keras_sanet.datasets.listing import LeftOutWarning, find_images
from keras_sanet.export import FORMATS, PRECISIONS
from keras_sanet.export import export as export_model
from keras_sanet.inspection import Inspection
from keras_sanet.summary import Summary
from keras_sanet.version import __version__

# Arguments of `train`: for `make_dataset`, for `training.compile`, and all that a preset keeps as
# its recipe.
_AUGMENTATION = ("scale_range", "contrast_range", "rotation_range", "blur_range", "image_scale")
_COMPILE = (
    "optimizer", "weight_decay", "head_learning_rate_multiple", "gradient_accumulation_steps",
    "global_clipnorm", "ema_momentum", "freeze_batch_norm",
)  # fmt: skip
_RECIPE = (
    "recipe", "dataset", "preset", "weights", *_AUGMENTATION, "batch_size", "epochs", "steps",
    "lovasz_epochs", "learning_rate", *_COMPILE, "precision", "seed",
)  # fmt: skip
# Options of `train` that say where others come from; that a config.json has not; and that may be
# others when a run goes on.
_SOURCES = ("recipe", "config", "resume")
_NO_ARGUMENTS = ("command", "config", "resume", "verbose", "devices")
_MAY_CHANGE = ("data", "cache", "max_pixels", "on_bad_image", "save_every")
_CONFIG_BYTES = 1 << 20
_PROTOCOL = list(ablation.PROTOCOLS["scenes"])  # options of `ablate`
_MODELS = {name.lower(): builder for name, builder in presets.BUILDERS.items()}
_MODEL_DEFAULTS = {"model": "sanet", "backbone": "resnext50", "aggregator_filters": 256}


def main(arguments=None):
    """Runs a command.

    Args: arguments, list of strings; those of the process if None.
    Returns: the exit code: 0, or 1 after an error that the user can mend and where `inspect` finds
        a problem (2 is argparse's, for a wrong usage).
    """
    options = _parser().parse_args(arguments)
    try:
        if any(getattr(options, name, None) for name in _SOURCES):
            # Their values come after those that are given.
            options = _parser(_defaults(options)).parse_args(arguments)
        with _scope(options) as devices, _pixel_limit():
            print(f"keras-sanet {__version__}, {_machine()}", flush=True)
            if len(devices) > 1:
                print(f"{len(devices)} replicas: {', '.join(devices)}", flush=True)
            return options.command(options) or 0
    except (ValueError, OSError, ImportError, MemoryError, ArithmeticError) as error:
        print(f"keras-sanet: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"keras-sanet: {error or 'interrupted'}", file=sys.stderr)
        return 130


def _scope(options):
    """The devices of `train`; before anything else, for a CPU can't be split later."""
    devices = getattr(options, "devices", None)
    if devices is None:
        return contextlib.nullcontext(())
    if len(devices) == 1:
        (devices,) = devices
        devices = int(devices) if devices.isdigit() else devices
        devices = [devices] if ":" in str(devices) else devices
    return distribution.scope(devices)


@contextlib.contextmanager
def _pixel_limit():
    """What a command changes with --max-pixels is as it was after it."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _limit_pixels(options):
    if options.max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = options.max_pixels or None


def demo(options):
    """Trains a small SANet on drawn street scenes, and shows what it learnt."""
    output = _new_folder(options.output)
    print(
        f"Trains a small SANet on {datasets.scenes.SPLITS['train']} drawn street scenes for "
        f"{options.epochs} epochs with cross-entropy and {options.lovasz_epochs} with "
        "Lovász-softmax: about 3 minutes on two cores.",
        flush=True,
    )
    dataset = datasets.load("scenes")  # draws them, the first time
    keras.utils.set_random_seed(0)
    train = pipeline.make_dataset(
        dataset, "train", (144, 192), batch_size=4, seed=0, scale_range=(0.8, 1.6)
    )
    val = pipeline.make_dataset(dataset, "val", batch_size=10, training=False)
    model = models.SANet(
        dataset.num_classes,
        "resnet_tiny",
        aggregator_filters=32,
        pyramid_filters=96,
        class_names=dataset.class_names,
        palette=dataset.palette,
    )
    model = training.fit(
        model,
        train,
        val,
        output,
        options.epochs,
        options.lovasz_epochs,
        learning_rate=3e-3,
        lovasz_learning_rate=1e-3,
        verbose=_verbosity(),
    )
    _finish(model, dataset, output, (1.0,))
    print(f"Use it:    keras-sanet predict {output / 'model.keras'} IMAGE ...")


def train(options):
    """Trains a model on a data set."""
    with contextlib.ExitStack() as held:
        if options.resume:
            options.output = _resumed(options)
            held.enter_context(_files.locked(options.output))
        elif options.dataset is None:
            raise ValueError("--dataset must be given (or --resume RUN).")
        elif options.preset:
            _check_preset(options)
        _train(options, held)


def _train(options, held):
    """Args: held, the `contextlib.ExitStack` that is to have the lock of the run's folder."""
    dataset = _load_dataset(options)
    keras.utils.set_random_seed(options.seed)
    if options.deterministic:
        _backend.make_deterministic()
    keras.config.set_dtype_policy(options.precision)
    train = pipeline.make_dataset(
        dataset,
        "train",
        tuple(options.crop),
        options.batch_size,
        seed=options.seed,
        on_bad_image=options.on_bad_image,
        **{name: getattr(options, name) for name in _AUGMENTATION},
    )
    val = pipeline.make_dataset(
        dataset,
        options.val_split,
        tuple(options.val_crop) if options.val_crop else None,
        options.val_batch_size,
        training=False,
        image_scale=options.image_scale,
        on_bad_image=options.on_bad_image,
    )
    if options.resume and (options.output / "model.keras").is_file():  # its evaluation is not
        loaders = {"train": train, "validation": val}
        runs.write_config(options.output, _arguments(options), loaders)
        return _finish_train(_load_model(options.output / "model.keras"), dataset, options)
    classes = {"class_names": dataset.class_names, "palette": dataset.palette}
    if options.preset:
        new = options.preset in presets.REFERENCES
        start = {"load_weights": False, "backbone_weights": options.weights} if new else {}
        model = presets.from_preset(options.preset, dataset.num_classes, **start, **classes)
    else:
        model = _build_model(
            options, dataset.num_classes, backbone_weights=options.weights, **classes
        )
    if not options.resume:
        options.output = _new_folder(options.output or f"runs/{options.dataset}-{model.name}")
        held.enter_context(_files.locked(options.output))
    by_epochs = options.steps is None
    length = options.epochs if by_epochs else f"{options.steps} steps"
    print(
        f"{model.name} with {model.count_params():,} parameters on {dataset.name}: "
        f"{len(dataset.samples('train'))} training and {len(dataset.samples(options.val_split))} "
        f"validation images; {len(train)} steps of {options.batch_size} an epoch, "
        f"{length} + {options.lovasz_epochs} epochs, learning rate "
        f"{options.learning_rate:g}.\nThe expected time follows after the first steps.",
        flush=True,
    )
    first = options.epochs * len(train) if by_epochs else options.steps
    model = training.fit(
        model,
        train,
        val,
        options.output,
        options.epochs if by_epochs else None,
        options.lovasz_epochs,
        options.learning_rate,
        steps=options.steps,
        save_every=options.save_every,
        arguments=_arguments(options),
        extra_callbacks=[_ExpectedTime(first + options.lovasz_epochs * len(train))],
        verbose=_verbosity() if options.verbose is None else options.verbose,
        **{name: getattr(options, name) for name in _COMPILE},
    )
    _finish_train(model, dataset, options)


def _finish_train(model, dataset, options):
    """Evaluates the model of a run and says where it is."""
    output, split = options.output, options.val_split
    if options.on_bad_image == "skip":
        dataset.splits[split] = [
            sample for sample in dataset.samples(split) if _opens(dataset, sample)
        ]
    _finish(model, dataset, output, (options.image_scale,), split)
    scales = "" if options.image_scale == 1 else f" --scales {options.image_scale:g}"
    print(f"Use it:    keras-sanet predict {output / 'model.keras'} IMAGE ...{scales}")


def _opens(dataset, sample):
    try:
        dataset.open(sample)
    except UNREADABLE:
        return False
    return True


def _resumed(options):
    """The folder of a run that is to go on.

    Raises: where it is finished; ValueError that names the options which a run can't change.
    """
    run, path = Path(options.resume), Path(options.resume) / "config.json"
    if (run / "evaluation.json").is_file():
        raise FileExistsError(f"The run {run} is finished; its model is {run / 'model.keras'}.")
    began = {**vars(_parser().parse_args(["train"])), **_arguments_of(path)}
    given = _arguments(options)
    began["output"] = str(run.resolve())
    given["output"] = str(Path(options.output or run).resolve())
    other = [
        name
        for name in given
        if name not in _MAY_CHANGE and _words(name, given[name]) != _words(name, began[name])
    ]
    if other:
        changes = "; ".join(
            f"{_flag(name)} is {_shown(began[name])}, not {_shown(given[name])}" for name in other
        )
        again = " ".join(word for name in other for word in _words(name, given[name]))
        raise ValueError(
            f"A run goes on with the options that it began with: in {run} {changes}. Leave these "
            f"out, or begin another run: keras-sanet train --config {path} {again}"
            f"{'' if 'output' in other else ' --output FOLDER'}"
        )
    return run


def _defaults(options):
    """What a recipe or a run's config.json says where an option is not given."""
    given = [name for name in _SOURCES if getattr(options, name)]
    if len(given) > 1:
        raise ValueError(f"Give {' or '.join(map(_flag, given))}, not both.")
    if options.recipe:
        found = recipes.get(options.recipe)
    elif options.config:
        found = _taken(options, Path(options.config))
    else:
        path = Path(options.resume) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{options.resume} holds no config.json, so there is no run to resume. Begin it "
                f"(again): keras-sanet train --output {options.resume} and its options."
            )
        return _taken(options, path)
    if options.preset:  # a whole model; the paper's have no weights yet
        whole = options.preset not in presets.REFERENCES
        for name in (*_MODEL_DEFAULTS, *(["weights"] if whole else [])):
            found.pop(name, None)
    return found


def _taken(options, path):
    """What is taken of a config.json, which may be a stranger's: no folder to write into."""
    found = _arguments_of(path)
    found.pop("output", None)
    cache = found.pop("cache", None)
    if cache is not None and options.cache is None:
        print(
            f"{path} says --cache {cache}. It is written to, and so not taken from a file: give "
            "--cache to have one.",
            file=sys.stderr,
        )
    dataset = options.dataset or found.get("dataset")
    drawn = dataset == "scenes" and options.data is None and found.get("data")
    prepared = dataset == "tfds" and not options.data_options and found.get("data_options")
    if drawn and not Path(drawn).is_dir():
        raise ValueError(f"{path} says --data {drawn}, where scenes would be drawn. Give --data.")
    if any(option.partition("=")[0].strip() == "data_dir" for option in prepared or ()):
        raise ValueError(
            f"{path} says --data-options {' '.join(prepared)}, a folder that TFDS writes to. Give "
            "--data-options yourself."
        )
    return found


def _check_preset(options):
    """A preset is a whole model: what else says which model it is must not be given."""
    if not options.preset.endswith(".keras"):
        presets.config(options.preset)  # an unknown one is told before all is read
    given = [
        name
        for name, value in _MODEL_DEFAULTS.items()
        if getattr(options, name) not in (value, None)
    ]
    if options.weights and options.preset not in presets.REFERENCES:
        given.append("weights")
    if given:
        raise ValueError(
            f"--preset {options.preset} is a whole model. Leave out --"
            f"{', --'.join(name.replace('_', '-') for name in given)}."
        )
    for name in _MODEL_DEFAULTS:
        setattr(options, name, None)


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


def _images(argument):
    """The images that an argument of `predict` names: paths, or frames of a picture."""
    path = Path(argument)
    if path.is_dir():
        with _said_on_stderr():
            found = find_images(path)
    elif path.is_file():
        found = [path]
    else:
        matches = sorted(glob.glob(argument, recursive=True), key=by_number)
        found = [Path(match) for match in matches if not Path(match).is_dir()]
    if not found:
        hint = " In a pattern, a [ of a name is written [[]." if "[" in argument else ""
        raise FileNotFoundError(f"There is no image {argument}.{hint}")
    return [frame for path in found for frame in frames(path)]


def _mode(options):
    """How to predict, for `inference.predict_probabilities`."""
    names = ("scales", "flip", "window", "bucket", "batch_size")
    return inference.complete(**{name: getattr(options, name) for name in names})


def convert(options):
    """Converts a torchvision or timm checkpoint to the .weights.h5 of a backbone."""
    backbone = backbones.build(options.backbone, (None, None, options.channels))
    print(weights.convert(backbone, options.checkpoint, options.output))
    print(f"Weights:   {Path(options.output).resolve()}")


def export(options):
    """Writes a saved model for another runtime: TensorFlow Serving, ONNX Runtime, OpenVINO, LiteRT.

    The backend must be able to: TensorFlow is for all formats, PyTorch for onnx and openvino, JAX
    for tf_saved_model.
    """
    _limit_pixels(options)
    model = _load_model(options.saved_model)
    images = [image for argument in options.calibration_images or () for image in _images(argument)]
    path = export_model(
        model,
        options.output,
        options.format,
        tuple(options.image_size) if options.image_size else None,
        options.batch_size or None,
        options.preprocessing,
        options.postprocessing,
        options.precision,
        [np.array(open_image(image)) for image in images] or None,
    )
    files = [p for p in (path, path.with_suffix(".bin")) if p.is_file()] or path.rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(f"{options.format}, {size / 1e6:.1f} MB: {path.resolve()}")


def benchmark(options):
    """Times a model's prediction and training step, part by part, on random images."""
    keras.config.set_dtype_policy(options.precision)
    model = _build_model(options, options.num_classes)
    print(Benchmark(model, tuple(options.size), options.batch_size, options.rounds))


def summary(options):
    """Counts a model's parameters and multiply-accumulates, layer by layer (paper, Table II)."""
    build = functools.partial(
        _load_model,
        options.saved_model,
        options.num_classes,
        load_weights=options.saved_model not in presets.REFERENCES,
    )
    counted = Summary(build(), options.size and tuple(options.size), options.batch_size)
    print(counted.table(options.depth or None))
    if options.measure:
        size = counted.image_shape[1:3]
        found = measure(build, size, options.batch_size, options.rounds)
        kind = {"resident": "memory", "gpu": "GPU memory"}[found.kind]
        memory = "unknown" if found.memory is None else f"{found.memory / 1e6:.0f} MB"
        print(
            f"A prediction in a process of its own: {1000 * found.seconds:.1f} ms (median of "
            f"{options.rounds}); {kind} to build the model and predict: {memory}"
        )


def ablate(options):
    """Tests the paper's claims: trains the rows of its tables and of some more with several seeds.

    All rows of a data set share one recipe, which the folder keeps. A row that is trained stays, so
    that the same command goes on after a stop, more experiments share rows with those before, and
    several processes, started with the same command, share the work. Writes results.json and, of
    each experiment, a table (.md), the differences from its first row and the curves (.png).
    Table II needs no training.
    """
    folder = Path(options.output or f"ablation/{options.dataset}")
    asked = list(dict.fromkeys(options.experiments))
    if "all" in asked:
        asked = [*ablation.EXPERIMENTS, "table2"]
    experiments = [name for name in asked if name != "table2"]
    if options.rows and (options.report or not experiments):
        raise ValueError("`--rows` says what to train, and not what --report or table2 shows.")
    if options.add and not (options.report and experiments):
        raise ValueError("`--add` is for --report of experiments that are trained.")
    if options.add and (folder / ablation.PROTOCOL).is_file():
        raise ValueError(
            f"`--add` needs a folder of results alone as --output, or a new one. {folder} has runs "
            "of its own, whose next report would leave the others out: add it too."
        )
    failed, left = [], []
    if experiments and not options.report:
        visualization.pyplot()  # or its error, before anything is trained
        dataset = _load_dataset(options)
        changes = {name: getattr(options, name) for name in _PROTOCOL}
        for name in ("weights", "other_weights"):
            if changes[name] not in (None, "imagenet", "none"):
                changes[name] = str(Path(changes[name]).resolve())
        protocol = ablation.begin(folder, dataset, **changes)
        rows = ablation.rows_of(experiments, protocol, options.rows)
        failed, left = _train_rows(dataset, rows, protocol, folder, options)
        if options.rounds and not left:
            print("Timing the rows' training steps ...", flush=True)
            for experiment in experiments:
                ablation.add_costs(folder, experiment, protocol, options.rounds)
    tables = _report(folder, experiments, options.add) if experiments else {}
    for table in tables.values():
        print(f"\n{table}", flush=True)
    if "table2" in asked and ((folder / "table2.md").is_file() or not options.report):
        tables["table2"] = _table2(folder, options)
        print(f"\n{tables['table2']}")
    absent = [name for name in asked if name not in tables]
    if not (tables or failed or left):
        raise FileNotFoundError(f"{folder} holds nothing of {', '.join(absent)} yet.")
    if absent:
        print(f"\nNothing there yet of {', '.join(absent)}.")
    for number, what in ((len(failed), "failed"), (len(left), "are other processes'")):
        if number:
            print(f"{number} runs {what}: the same command goes on with them.")
    print(f"Results:   {folder.resolve()}")
    return 1 if failed else 0


def _train_rows(dataset, rows, protocol, folder, options):
    """Trains what is not trained. Returns the runs that failed, and those of other processes."""
    failed, left = [], []
    todo = list(itertools.product(range(options.seeds), rows))
    for number, (seed, row) in enumerate(todo, start=1):
        label = f"{number}/{len(todo)} {ablation.ROWS[row].label} ({row}), seed {seed}"
        print(f"{label}: ", end="", flush=True)
        start = time.monotonic()
        try:
            figures = ablation.train(dataset, row, seed, protocol, folder, options.verbose)
        except FileExistsError:
            left.append(label)
            print("another process is at it", flush=True)
        except ArithmeticError as error:  # a loss that is not finite
            failed.append(label)
            print(error, flush=True)
        else:
            took = _duration(time.monotonic() - start)
            print(f"mean IoU {100 * figures['mean_iou']:.2f} %, {took}", flush=True)
    return failed, left


def _report(folder, experiments, others):
    """Writes what there is of experiments. Returns a dict from their names to their tables."""
    own = [] if others and not (folder / ablation.RESULTS).is_file() else [folder]
    results = ablation.Results.joined([*own, *others])
    visualization.pyplot()  # or its error, before anything is written
    there = [experiment for experiment in experiments if results.rows(experiment)]
    if there:
        folder.mkdir(parents=True, exist_ok=True)
        results.save(folder / ablation.RESULTS)
    tables = {experiment: results.write_table(folder, experiment) for experiment in there}
    for experiment in there:
        results.write_plots(folder, experiment)
    return tables


def _table2(folder, options):
    """Measures Table II, where its file is not there; returns it."""
    path = folder / "table2.md"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        table = TableII(
            measure=True,
            rounds=options.rounds or 1,
            track=lambda rows: _tracked(list(rows), "Measuring"),
        )
        for name, text in (
            ("table2.json", json.dumps(table.as_dict(), indent=1) + "\n"),
            ("table2.md", f"**Table II: what the models cost**\n\n{table}\n"),
        ):
            with _files.replacing(folder / name) as written:
                written.write_text(text, "utf-8")
    return path.read_text("utf-8")


def inspect(options):
    """Checks a data set before training: labels, sizes, shares of the classes, duplicates.

    The exit code is 1 where training would not be safe.
    """
    dataset = _load_dataset(options, left_out=False)  # it is among the notes
    if options.class_weights:
        dataset.samples(options.class_weights)  # an unknown split is told before all is read
    inspection = Inspection(dataset, track=lambda samples: _tracked(samples, "Inspecting"))
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
        print(f"    from     {info.url}\n    terms    {info.licence}\n    cite     {info.citation}")
    print("\ntfds: a set of TensorFlow Datasets, its name given as --data.")
    print("folder: your own images, masks and classes.txt.\nscenes: drawn by the package.")


def list_presets(options):
    """Lists the presets of the package: models by name, with their figures."""
    for name, what in presets.list_presets().items():
        print(f"{name:27} {what}")


def list_recipes(options):
    """Lists the recipes for `train`: their arguments and where these are from."""
    for name in recipes.names():
        print(f"\n{name}: {recipes.source(name)}")
        for argument, value in recipes.get(name).items():
            value = " ".join(map(str, value)) if isinstance(value, tuple) else value
            print(f"    --{argument.replace('_', '-')} {value}")


def save_preset(options):
    """Writes the model of a training run as a preset, a folder to share and to load by its path."""
    run = Path(options.run)
    for name in ("model.keras", "config.json", "evaluation.json"):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} is no finished `train` run: it holds no {name}.")
    versions = _read_json(run / "config.json", "arguments", "versions")["versions"]
    arguments = _arguments_of(run / "config.json")
    recipe = {name: arguments[name] for name in _RECIPE if arguments.get(name) is not None}
    for name in {"weights", "preset"} & recipe.keys():
        recipe[name] = Path(recipe[name]).name  # where the file lies is nobody's business
    presets.save_preset(
        _load_model(run / "model.keras"),
        options.output,
        figures=evaluation.read_figures(run / "evaluation.json"),
        recipe={**recipe, "versions": versions},
        crop=arguments.get("crop"),
        licence=options.licence,
        dtype=options.dtype,
    )
    print(f"Preset:    {Path(options.output).resolve()}")


@contextlib.contextmanager
def _said_on_stderr(say=True):
    """Files that were left out are said by a line in place of Python's warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeftOutWarning)
        yield
    for warning in caught:
        if not issubclass(warning.category, LeftOutWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        elif say:
            print(f"keras-sanet: {warning.message}", file=sys.stderr)


def _load_dataset(options, left_out=True):
    _limit_pixels(options)
    settings = {}
    for setting in options.data_options:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--data-options takes NAME=VALUE. Received: {setting!r}.")
        try:
            settings[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            settings[name] = value  # a word
    try:
        with _said_on_stderr(left_out):
            return datasets.load(options.dataset, options.data, options.cache, **settings)
    except TypeError as error:
        if not settings:
            raise
        raise ValueError(f"--data-options {' '.join(options.data_options)}: {error}.") from None


def _build_model(options, num_classes, **kwargs):
    if options.model == "sanet":
        kwargs["aggregator_filters"] = options.aggregator_filters
    return _MODELS[options.model](num_classes, options.backbone, **kwargs)


def _finish(model, dataset, output, scales, split="val"):
    """Saves the best model, prints its figures and draws a few results."""
    path = output / "model.keras"
    with _files.replacing(path) as written:
        model.save(written)
    for phase in training.PHASES:  # the best is saved: what resuming needed can go
        for name in (f"{phase}_state.keras", f"{phase}.keras"):
            (output / name).unlink(missing_ok=True)

    def track(samples):
        return _tracked(samples, "Evaluating")

    with _without_doubt():
        result = evaluation.evaluate(model, dataset, split, track=track, scales=scales)
    print(result)
    rows = []
    samples = dataset.samples(split)
    for sample in samples[:: max(1, len(samples) // 4)][:4]:
        image, truth = dataset.read(sample)
        mask = inference.predict_mask(model, image, scales=scales)
        overlay, colours = (
            visualization.overlay(image, mask, dataset.palette),
            visualization.colour_mask(truth, dataset.palette),
        )
        rows.append((image, colours, overlay))
    size = rows[0][0].shape
    rows = [row for row in rows if row[0].shape == size]
    titles = ("image", "truth", "prediction")
    page = visualization.sheet(rows, dataset.class_names, dataset.palette, titles)
    with _files.replacing(output / "overlays.png") as written:
        page.save(written)
    result.save(output)
    print(f"Model:     {path.resolve()}")
    print(f"Pictures:  {(output / 'overlays.png').resolve()}")
    print(f"Figures:   {(output / 'evaluation.txt').resolve()}")


@contextlib.contextmanager
def _without_doubt():
    """Context without the warning of `evaluation.evaluate` that its result says, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", evaluation.AbsentClasses)
        yield


def _tracked(items, title):
    """The items behind a progress bar; says the expected time after a few of them (the first one
    compiles, and several may be worked on at once)."""
    known, start = 2 * os.cpu_count(), None
    for index, item in enumerate(track(items, title, disable=not sys.stdout.isatty()), start=1):
        yield item
        if index == 1:
            start = time.monotonic()
        if index == known + 1 < len(items):
            expected = (time.monotonic() - start) / known * (len(items) - index)
            print(f"{title} {len(items)} images: about {_duration(expected)} to go.", flush=True)


class _ExpectedTime(keras.callbacks.Callback):
    """Says after a few steps how long the whole training takes."""

    _AFTER = 8  # steps, the first of which compiles

    def __init__(self, steps):
        super().__init__()
        self._steps, self._start, self._done = steps, None, 0

    def on_train_batch_end(self, batch, logs=None):
        self._done += 1
        if self._done == 1:
            self._start = time.monotonic()
        if self._done == self._AFTER:
            step = (time.monotonic() - self._start) / (self._AFTER - 1)
            rest = _duration(step * (self._steps - self._done))
            print(f"\n{step:.2f} s a step: about {rest} of training, and validation.", flush=True)


def _verbosity():
    """Keras's progress bar on a terminal, a line an epoch elsewhere."""
    return 1 if sys.stdout.isatty() else 2


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _machine():
    """Backend, device, cores."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        devices = [torch.cuda.get_device_name()] if torch.cuda.is_available() else ["cpu"]
    else:
        devices = keras.distribution.list_devices()
    return f"Keras {keras.__version__} on {backend}, {', '.join(devices)}, {os.cpu_count()} cores"


def _load_model(preset, num_classes=None, load_weights=True):
    return models.without_auxiliary(presets.from_preset(preset, num_classes, load_weights))


def _new_folder(path):
    path = Path(path)
    # A run that was killed before it had a config.json left no more than these.
    empty = re.compile(r"\.lock|\.new-[0-9]+-[0-9]+-config\.json").fullmatch
    if path.exists() and not all(empty(entry.name) for entry in path.iterdir()):
        resume = ""
        with contextlib.suppress(OSError, ValueError):  # no run, or of another program
            _arguments_of(path / "config.json")
            resume = f", or go on with this run: keras-sanet train --resume {path}"
        raise FileExistsError(f"{path} exists and is not empty. Give another --output{resume}.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _arguments(options):
    """The options of `train` that make a run what it is, paths as absolute ones."""
    arguments = {n: value for n, value in vars(options).items() if n not in _NO_ARGUMENTS}
    is_name = {
        "data": options.dataset == "tfds",
        "cache": False,
        "output": False,
        "weights": options.weights == "imagenet",
        "preset": options.preset in presets.list_presets() or "://" in str(options.preset),
    }
    for name in is_name:
        if arguments[name] is not None and not is_name[name]:
            arguments[name] = str(Path(arguments[name]).resolve())
    return arguments


def _arguments_of(path):
    """What `_arguments` gave, from a run's config.json: options of `train`, whose values are
    checked as if they had been typed."""
    if path.is_file() and path.stat().st_size > _CONFIG_BYTES:
        raise ValueError(f"{path} must have at most {_CONFIG_BYTES} bytes to be a run's.")
    found = _read_json(path, "arguments")["arguments"]
    if "val_split" not in found:
        raise ValueError(f"{path} is of no run of `keras-sanet train`: call again what wrote it.")
    absent = vars(_parser().parse_args(["train"]))
    unknown = [n for n in found if n not in absent or n in ("command", "config", "resume")]
    if unknown:
        raise ValueError(
            f"{path} holds what is no option of a run: {', '.join(map(repr, unknown[:5]))}. Take "
            "it out of the file."
        )
    try:
        words = [word for name, value in found.items() for word in _words(name, value)]
        typed = vars(_parser(kind=_Checker).parse_args(["train", *words]))
        for name, value in found.items():
            whole = name in _MODEL_DEFAULTS and typed["preset"] is not None
            if value is None and absent[name] is not None:
                if not whole:
                    raise ValueError(f"argument {_flag(name)}: must have a value, and is null")
                typed[name] = None
            if (value is False or value == []) and absent[name] != value:
                raise ValueError(f"argument {_flag(name)}: must have a value, and is {value}")
    except ValueError as error:
        raise ValueError(f"{path} is no run's: {error}.") from error
    return {n: typed[n] for n in found if n == "output" or n not in _NO_ARGUMENTS}


def _words(name, value):
    """An option as it is typed; nothing where it is not."""
    if value is None or value is False or value == []:
        return []
    if value is True:
        return [_flag(name)]
    words = []
    for part in value if isinstance(value, (list, tuple)) else [value]:
        text = isinstance(part, (str, Path))
        if isinstance(part, bool) or not (text or isinstance(part, (int, float))):
            raise ValueError(f"argument {_flag(name)}: must be a text or a number, and is {part!r}")
        if text and str(part).startswith("-"):
            raise ValueError(f"argument {_flag(name)}: {part!r} looks like an option")
        # As a number below 0, argparse knows "-0.00001" and not "-1e-05".
        number = isinstance(part, float)
        words.append(np.format_float_positional(part, trim="0") if number else str(part))
    return [_flag(name), *words]


def _shown(value):
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


class _Checker(argparse.ArgumentParser):
    """Of options that nobody typed: its errors are raised."""

    def error(self, message):
        raise ValueError(message)


def _read_json(path, *keys):
    """The dict in a file of a run, with dicts of these names in it."""
    found = _files.read_json(path, "Train anew.")
    parts = [found, *(found.get(key) for key in keys)] if isinstance(found, dict) else [found]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{path} is damaged: it must hold a dict of {keys or 'figures'}.")
    return found


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _count(text):
    """An integer of 0 or more, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, and is {text}")
    return value


def _seed(text):
    value = _count(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"must be below 2**32, and is {text}")
    return value


def _positive(text):
    """A finite number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, and is {text}")
    return value


def _parser(recipe=None, kind=argparse.ArgumentParser):
    """Args: recipe, dict of defaults of `train`; kind, of the parser."""
    parser = kind(
        prog="keras-sanet",
        description="Scene parsing with SANet. The backend is Keras's: set KERAS_BACKEND to "
        "tensorflow, jax or torch.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(function, name=None):
        words = function.__doc__ or ""  # `python -OO` has none
        sub = commands.add_parser(
            name or function.__name__,
            help=words.partition("\n")[0],
            description=words,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        sub.set_defaults(command=function)
        return sub

    sub = command(demo)
    sub.add_argument("--output", default="demo", help="folder of the results, new or empty")
    sub.add_argument("--epochs", type=_count, default=6, help="with cross-entropy")
    sub.add_argument("--lovasz-epochs", type=_count, default=2, help="with Lovász-softmax, after")

    sub = command(train)
    sub.add_argument(
        "--recipe",
        choices=recipes.names(),
        help="values of all options that are not given; `keras-sanet recipes` lists them",
    )
    _add_data(sub, required=False)
    sub.add_argument("--val-split", default="val", help="split that chooses the checkpoint")
    sub.add_argument("--output", help="folder of the run, new or empty [runs/DATASET-MODEL]")
    sub.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder, with its options"
    )
    sub.add_argument(
        "--config",
        metavar="RUN/config.json",
        help="another run's values of all options that are not given",
    )
    sub.add_argument(
        "--save-every",
        type=_count,
        metavar="STEPS",
        help="save what a run goes on from inside of epochs too, not only at their ends",
    )
    sub.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="what an unreadable image does; skip leaves it out and writes it to skipped.txt",
    )
    sub.add_argument(
        "--deterministic",
        action="store_true",
        help="the same figures to the last bit again, with the same backend on one device",
    )
    _add_model(sub)
    sub.add_argument("--preset", help="start from this preset or saved model, whatever its classes")
    sub.add_argument(
        "--weights",
        type=lambda value: None if value == "none" else value,
        help='of the backbone: "imagenet", the file of a torchvision or timm checkpoint, or "none"',
    )
    size = {"type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
    sub.add_argument("--crop", **size, default=(473, 473), help="training crop, in pixels")
    sub.add_argument("--val-crop", **size, help="validate on centre crops; whole images if absent")
    sub.add_argument("--batch-size", type=int, default=8, help="training images a step")
    sub.add_argument("--val-batch-size", type=int, default=1, help="validation images a step")
    sub.add_argument("--epochs", type=_count, default=30, help="with cross-entropy")
    sub.add_argument("--steps", type=_count, help="instead of --epochs: batches in all")
    sub.add_argument("--lovasz-epochs", type=_count, default=0, help="with Lovász-softmax, after")
    sub.add_argument("--learning-rate", type=_positive, default=1e-5, help="first; the paper's")
    sub.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="of all phases")
    sub.add_argument("--weight-decay", type=float, default=0.01, help="semseg's for sgd is 1e-4")
    sub.add_argument(
        "--head-learning-rate-multiple",
        type=float,
        default=1.0,
        help="factor on the rate of all that is not the backbone",
    )
    sub.add_argument(
        "--gradient-accumulation-steps",
        type=int,
        default=1,
        help="batches that make one update, for a larger batch in the same memory",
    )
    sub.add_argument("--global-clipnorm", type=float, help="largest norm of all gradients")
    sub.add_argument(
        "--ema-momentum", type=float, help="validate and save an average of the weights, as 0.999"
    )
    sub.add_argument(
        "--freeze-batch-norm", action="store_true", help="keep the backbone's as they are"
    )
    limits = {"type": float, "nargs": 2, "metavar": ("LEAST", "MOST")}
    sub.add_argument("--scale-range", **limits, default=(0.5, 2.0), help="random scaling")
    sub.add_argument(
        "--contrast-range", **limits, default=(0.75, 1.5), help="random a of 127 + a (x - 127)"
    )
    sub.add_argument(
        "--rotation-range", **limits, default=(0.0, 0.0), help="random rotation, in degrees"
    )
    sub.add_argument(
        "--blur-range", **limits, default=(0.0, 0.0), help="random blur, its deviation in pixels"
    )
    sub.add_argument(
        "--image-scale",
        type=_positive,
        default=1.0,
        help="factor on all images, as 0.5 for half size",
    )
    sub.add_argument(
        "--devices",
        nargs="+",
        default=["auto"],
        help="auto (all accelerators), the first so many (of a CPU without them too), or names "
        "such as gpu:0 gpu:1",
    )
    sub.add_argument("--seed", type=_seed, default=0, help="of weights, order and augmentation")
    sub.add_argument(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        help="no output, a progress bar (on terminals if absent), a line an epoch",
    )
    sub.set_defaults(**recipe or {})

    sub = command(evaluate)
    sub.add_argument("saved_model", metavar="MODEL", help="a preset, or a saved model.keras")
    _add_data(sub, required=True)
    sub.add_argument("--split", default="val", help="split of the data set")
    sub.add_argument("--output", help="folder of the counts and the report, to be resumed too")
    sub.add_argument(
        "--absent-as-zero",
        action="store_true",
        help="count classes in neither truth nor prediction as 0 instead of leaving them out",
    )
    _add_inference(sub)

    sub = command(compare)
    sub.add_argument("first", metavar="FOLDER", help="of one evaluation")
    sub.add_argument("second", metavar="FOLDER", help="of the other")

    sub = command(predict)
    sub.add_argument("saved_model", metavar="MODEL", help="a preset, or a saved model.keras")
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or patterns")
    sub.add_argument("--output", default="predictions", help="folder of the results")
    sub.add_argument(
        "--write",
        nargs="+",
        choices=("mask", "colour", "overlay", "probabilities"),
        default=("mask", "overlay"),
        help="PNGs of class ids, of colours, of colours over the image; float32 .npz",
    )
    sub.add_argument(
        "--ids",
        choices=("classes", "cityscapes"),
        default="classes",
        help="what masks hold: class ids, or the 34 label ids that Cityscapes' server takes",
    )
    _add_max_pixels(sub)
    _add_inference(sub)

    sub = command(convert)
    sub.add_argument(
        "checkpoint", metavar="CHECKPOINT", help=".pth, .safetensors or .safetensors.xz"
    )
    sub.add_argument("output", metavar="OUTPUT.weights.h5", help="file to write")
    sub.add_argument("--backbone", choices=backbones.names(), required=True, help="its network")
    sub.add_argument("--channels", type=int, default=3, help="of the images; 3 is RGB")

    sub = command(export)
    sub.add_argument("saved_model", metavar="MODEL", help="a preset, or a saved model.keras")
    sub.add_argument("output", metavar="OUTPUT", help=".onnx, .xml or .tflite, or a folder")
    sub.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    sub.add_argument("--image-size", **size, help="that it computes at; any if absent")
    sub.add_argument("--batch-size", type=int, default=1, help="images at once; 0 for any")
    sub.add_argument(
        "--preprocessing",
        action="store_true",
        help="take uint8 images of any size, and resize them to --image-size",
    )
    sub.add_argument(
        "--postprocessing",
        action="store_true",
        help="give the mask of class ids at the size of the image, instead of logits",
    )
    sub.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="float16 and int8 are for openvino and litert",
    )
    sub.add_argument(
        "--calibration-images",
        nargs="+",
        metavar="IMAGE",
        help="for int8, files, folders or patterns of some images as they will come",
    )
    _add_max_pixels(sub)

    sub = command(benchmark)
    _add_model(sub)
    sub.add_argument("--num-classes", type=int, default=40, help="classes of the random masks")
    sub.add_argument("--size", **size, default=(233, 233), help="of the images, in pixels")
    sub.add_argument("--batch-size", type=int, default=2, help="images a step")
    sub.add_argument("--rounds", type=int, default=5, help="timed runs of each step")

    sub = command(summary)
    sub.add_argument(
        "saved_model", metavar="MODEL", help="a preset, with weights or not, or a saved model.keras"
    )
    sub.add_argument("--size", **size, help="of the images; 473 473 if absent and any will do")
    sub.add_argument("--batch-size", type=int, default=1, help="images")
    sub.add_argument("--num-classes", type=int, help="another number of classes")
    sub.add_argument("--depth", type=_count, default=1, help="layers in layers; 0 for all")
    sub.add_argument(
        "--measure", action="store_true", help="time and memory of a prediction, in a fresh process"
    )
    sub.add_argument("--rounds", type=int, default=5, help="timed predictions of --measure")

    sub = command(ablate)
    titles = {name: experiment.title for name, experiment in ablation.EXPERIMENTS.items()}
    titles = {**titles, "table2": "Table II: what the models cost", "all": "all of them"}
    sub.add_argument(
        "experiments",
        nargs="+",
        choices=titles,
        metavar="EXPERIMENT",
        help="; ".join(f"{name}: {title}" for name, title in titles.items()),
    )
    _add_data(sub, required=False)
    sub.set_defaults(dataset="scenes")
    sub.add_argument("--output", help="folder, new or to go on with [ablation/DATASET]")
    sub.add_argument(
        "--rows",
        nargs="+",
        choices=ablation.ROWS,
        metavar="ROW",
        help=f"train only these of the experiments' rows: {', '.join(ablation.ROWS)}",
    )
    sub.add_argument(
        "--seeds", type=int, choices=range(1, 100), metavar="N", default=3, help="trainings a row"
    )
    sub.add_argument(
        "--rounds",
        type=_count,
        default=5,
        help="timed training steps of each row, 0 for none; of Table II predictions",
    )
    sub.add_argument("--verbose", type=int, choices=(0, 1, 2), default=0, help="as of `train`")
    sub.add_argument(
        "--report", action="store_true", help="train nothing; tables and plots of what is there"
    )
    sub.add_argument(
        "--add",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="with --report, join the results of these folders, as of several machines, in a new "
        "--output or with those that it holds",
    )
    shared = sub.add_argument_group(
        "protocol", "what all rows share; that of the data set if absent"
    )
    shared.add_argument("--backbone", choices=backbones.names())
    shared.add_argument("--other-backbone", choices=[*backbones.names(), "none"])
    for name in ("weights", "other_weights"):
        shared.add_argument(_flag(name), help='"imagenet", the file of a checkpoint, or "none"')
    shared.add_argument("--val-split", help="split of the figures")
    shared.add_argument("--aggregator-filters", type=int, help="channels c' of the aggregator")
    shared.add_argument("--head-filters", type=int, help="of the 3x3 before the classifier")
    for name in ("image_scale", "learning_rate", "head_learning_rate_multiple"):
        shared.add_argument(_flag(name), type=_positive)
    for name in ("batch_size", "val_batch_size", "epochs"):
        shared.add_argument(_flag(name), type=int)
    shared.add_argument("--crop", **size)
    shared.add_argument("--scale-range", **limits)

    sub = command(inspect)
    sub.add_argument("dataset", choices=datasets.names(), help="kind of data set")
    _add_folder(sub)
    sub.add_argument("--sheet", metavar="FILE.png", help="write a page of overlays to look at")
    sub.add_argument(
        "--class-weights", metavar="SPLIT", help="print median-frequency weights of this split"
    )
    command(list_datasets, "datasets")
    command(list_presets, "presets")
    command(list_recipes, "recipes")

    sub = command(save_preset, "save-preset")
    sub.add_argument("run", metavar="RUN", help="folder of a finished `train`")
    sub.add_argument("output", metavar="FOLDER", help="of the preset")
    sub.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="in file")
    sub.add_argument("--licence", help="of the weights, for the model card")
    return parser


def _add_model(parser):
    parser.add_argument("--model", choices=_MODELS, help="architecture")
    parser.add_argument("--backbone", choices=backbones.names(), help="stem")
    parser.add_argument("--aggregator-filters", type=int, help="channels c' of SANet")
    parser.set_defaults(**_MODEL_DEFAULTS)
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        default="float32",
        help="dtype policy",
    )


def _add_data(parser, required):
    parser.add_argument(
        "--dataset", choices=datasets.names(), required=required, help="kind of data set"
    )
    _add_folder(parser)


def _add_folder(parser):
    parser.add_argument("--data", help="its folder, or its name in TFDS; scenes need none")
    parser.add_argument("--cache", help="folder to keep decoded pictures in, for slow data sets")
    _add_max_pixels(parser)
    parser.add_argument(
        "--data-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="more for its reader, as num_classes=13 for nyuv2, or version='\"3.10\"' for tfds",
    )


def _add_max_pixels(parser):
    parser.add_argument(
        "--max-pixels",
        type=_count,
        metavar="PIXELS",
        help="largest picture that is read, against files that fill the memory; 0 for any "
        f"[{Image.MAX_IMAGE_PIXELS}]",
    )


def _add_inference(parser):
    parser.add_argument(
        "--scales", type=float, nargs="+", default=(1.0,), help="image scales, averaged"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument(
        "--window",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="predict by windows of this height and width (one number for both); best the crops "
        "of the training",
    )
    parser.add_argument(
        "--bucket", type=int, help="pad whole images to multiples of so many pixels"
    )
    parser.add_argument("--batch-size", type=int, help="windows computed at once")
