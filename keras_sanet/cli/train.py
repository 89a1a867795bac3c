import contextlib
import sys
from pathlib import Path

import keras

from keras_sanet import (
    _backend,
    _files,
    datasets,
    distribution,
    models,
    pipeline,
    presets,
    recipes,
    training,
)
from keras_sanet.cli.options import (
    _MODEL_DEFAULTS,
    _NO_ARGUMENTS,
    _arguments_of,
    _build_model,
    _flag,
    _load_dataset,
    _load_model,
    _new_folder,
    _shown,
    _verbosity,
    _words,
)
from keras_sanet.training import run_folder

# Options of `train` that say where others come from.
_SOURCES = ("recipe", "config", "resume")

# Options that `make_dataset` and `training.compile` take by the same names.
_AUGMENTATION = ("scale_range", "contrast_range", "rotation_range", "blur_range", "image_scale")
_COMPILE = (
    "learning_rate", "optimizer", "weight_decay", "head_learning_rate_multiple",
    "gradient_accumulation_steps", "global_clipnorm", "ema_momentum", "freeze_batch_norm",
)  # fmt: skip


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


def demo(options):
    """Trains a small SANet on drawn street scenes, and shows what it learnt."""
    _check_length(options.epochs, options.lovasz_epochs)
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
        dataset, "train", crop_size=(144, 192), batch_size=4, seed=0, scale_range=(0.8, 1.6)
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
    training.fit(
        model,
        train,
        val,
        folder=output,
        epochs=options.epochs,
        lovasz_epochs=options.lovasz_epochs,
        learning_rate=3e-3,
        lovasz_learning_rate=1e-3,
        verbose=_verbosity(),
    )
    _end(output)


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
        first = options.epochs if options.steps is None else options.steps
        _check_length(first, options.lovasz_epochs)
        _train(options, held)


def _check_length(epochs, lovasz_epochs):
    if not epochs and not lovasz_epochs:
        raise ValueError("--epochs, --steps or --lovasz-epochs must be above 0, or nothing trains.")


def _train(options, held):
    """Trains after the options were checked.

    Args:
        options: of the command.
        held: `contextlib.ExitStack` that is to have the lock of the run's folder.
    """
    dataset = _load_dataset(options)
    keras.utils.set_random_seed(options.seed)
    if options.deterministic:
        _backend.make_deterministic()
    keras.config.set_dtype_policy(options.precision)
    train = pipeline.make_dataset(
        dataset,
        "train",
        crop_size=tuple(options.crop_size),
        batch_size=options.batch_size,
        seed=options.seed,
        on_bad_image=options.on_bad_image,
        **{name: getattr(options, name) for name in _AUGMENTATION},
    )
    val = pipeline.make_dataset(
        dataset,
        options.val_split,
        crop_size=tuple(options.val_crop_size) if options.val_crop_size else None,
        batch_size=options.val_batch_size,
        training=False,
        image_scale=options.image_scale,
        on_bad_image=options.on_bad_image,
    )
    classes = {"class_names": dataset.class_names, "palette": dataset.palette}
    if options.resume and (options.output / run_folder.MODEL).is_file():  # to be evaluated
        model = _load_model(options.output / run_folder.MODEL)
    elif options.preset:
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
        f"{options.learning_rate:g}.",
        flush=True,
    )
    training.fit(
        model,
        train,
        val,
        folder=options.output,
        epochs=options.epochs if by_epochs else None,
        steps=options.steps,
        lovasz_epochs=options.lovasz_epochs,
        save_every=options.save_every,
        verbose=_verbosity() if options.verbose is None else options.verbose,
        logger=options.logger,
        arguments=_arguments(options),
        **{name: getattr(options, name) for name in _COMPILE},
    )
    _end(options.output, "" if options.image_scale == 1 else f" --scales {options.image_scale:g}")


def _end(output, scales=""):
    """Removes what a finished run needs no more, prints its metrics and says where things are."""
    run_folder.remove_states(output)
    print((output / "evaluation.txt").read_text("utf-8"), end="")
    print(f"Model:     {(output / run_folder.MODEL).resolve()}")
    print(f"Pictures:  {(output / 'overlays.png').resolve()}")
    print(f"Metrics:   {(output / 'evaluation.txt').resolve()}")
    print(f"Use it:    keras-sanet predict {output / run_folder.MODEL} IMAGE ...{scales}")


def _resumed(options):
    """The folder of a run that is to go on.

    Raises: where it is finished; ValueError that names the options which a run can't change.
    """
    from keras_sanet.cli import _parser

    run, path = Path(options.resume), Path(options.resume) / "config.json"
    if run_folder.is_finished(run):
        raise FileExistsError(f"The run {run} is finished; its model is {run / run_folder.MODEL}.")
    began = {**vars(_parser().parse_args(["train"])), **_arguments_of(path)}
    given = _arguments(options)
    began["output"] = str(run.resolve())
    given["output"] = str(Path(options.output or run).resolve())
    other = run_folder.changed_arguments(began, given)
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
