"""The commands `demo` and `train`."""

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
from keras_sanet.cli.config import (
    MODEL_DEFAULTS,
    NOT_KEPT,
    new_folder,
    read_arguments,
    train_options,
    typed_words,
)
from keras_sanet.cli.options import (
    RANGE,
    SIZE,
    VERBOSE,
    Group,
    add_backbone,
    add_command,
    add_dataset,
    count,
    flag,
    integer,
    load_dataset,
    load_model,
    positive,
    seed,
    shown,
    verbosity,
)
from keras_sanet.training import run_folder
from keras_sanet.training.loggers import LOGGERS

# Options of `train` that say where others come from.
SOURCES = ("recipe", "config", "resume")

# Options that `make_dataset` and `training.compile` take by the same names.
_AUGMENTATION = (
    "scale_range", "contrast_range", "flip", "rotation_range", "brightness_range",
    "saturation_range", "hue_range", "blur_range", "class_limit", "image_scale",
)  # fmt: skip
_COMPILE = (
    "learning_rate", "lovasz_learning_rate", "optimizer", "weight_decay",
    "head_learning_rate_multiple", "gradient_accumulation_steps", "global_clipnorm",
    "ema_momentum", "freeze_batch_norm",
)  # fmt: skip


def device_scope(options):
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
    output = new_folder(options.output)
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
        verbose=verbosity(),
    )
    _end(output)


def train(options):
    """Trains a model on a data set."""
    with contextlib.ExitStack() as held:
        if options.resume:
            options.output = _resumed(options)
            held.enter_context(_files.locked(options.output))
        elif options.dataset is None and options.data is None:
            raise ValueError("--dataset must be given, or --data alone (or --resume RUN).")
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
    dataset = load_dataset(options)
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
        model = load_model(options.output / run_folder.MODEL)
    elif options.preset:
        new = options.preset in presets.REFERENCES
        start = {"load_weights": False, "backbone_weights": options.weights} if new else {}
        model = presets.from_preset(options.preset, dataset.num_classes, **start, **classes)
    else:
        kwargs = {"backbone_weights": options.weights, **classes}
        if options.model == "sanet":
            kwargs["aggregator_filters"] = options.aggregator_filters
        model = _MODELS[options.model](dataset.num_classes, options.backbone, **kwargs)
    if not options.resume:
        kind = dataset.name if options.dataset == "auto" else options.dataset
        options.output = new_folder(options.output or f"runs/{kind}-{model.name}")
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
        verbose=verbosity() if options.verbose is None else options.verbose,
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
    run, path = Path(options.resume), Path(options.resume) / "config.json"
    if run_folder.is_finished(run):
        raise FileExistsError(f"The run {run} is finished; its model is {run / run_folder.MODEL}.")
    began = {**train_options(), **read_arguments(path)}
    given = _arguments(options)
    began["output"] = str(run.resolve())
    given["output"] = str(Path(options.output or run).resolve())
    other = run_folder.changed_arguments(began, given)
    if other:
        changes = "; ".join(
            f"{flag(name)} is {shown(began[name])}, not {shown(given[name])}" for name in other
        )
        default = train_options()
        again = " ".join(w for n in other for w in typed_words(n, given[n], default[n]))
        raise ValueError(
            f"A run goes on with the options that it began with: in {run} {changes}. Leave these "
            f"out, or begin another run: keras-sanet train --config {path} {again}"
            f"{'' if 'output' in other else ' --output FOLDER'}"
        )
    return run


def source_defaults(options):
    """What a recipe or a run's config.json says where an option is not given."""
    given = [name for name in SOURCES if getattr(options, name)]
    if len(given) > 1:
        raise ValueError(f"Give {' or '.join(map(flag, given))}, not both.")
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
        for name in (*MODEL_DEFAULTS, *(["weights"] if whole else [])):
            found.pop(name, None)
    return found


def _taken(options, path):
    """What is taken of a config.json, which may be a stranger's: no folder to write into."""
    found = read_arguments(path)
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
        presets.read_config(options.preset)  # an unknown one is told before all is read
    given = [
        name
        for name, value in MODEL_DEFAULTS.items()
        if getattr(options, name) not in (value, None)
    ]
    if options.weights and options.preset not in presets.REFERENCES:
        given.append("weights")
    if given:
        raise ValueError(
            f"--preset {options.preset} is a whole model. Leave out --"
            f"{', --'.join(name.replace('_', '-') for name in given)}."
        )
    for name in MODEL_DEFAULTS:
        setattr(options, name, None)


def _arguments(options):
    """The options of `train` that make a run what it is, paths as absolute ones."""
    arguments = {n: value for n, value in vars(options).items() if n not in NOT_KEPT}
    if arguments["lovasz_learning_rate"] is None:
        del arguments["lovasz_learning_rate"]  # `training.fit` has its own
    is_name = {
        "data": options.dataset == "tfds",
        "cache": False,
        "output": False,
        "weights": options.weights == "imagenet",
        "preset": options.preset in presets.list_presets(references=True)
        or "://" in str(options.preset),
    }
    for name in is_name:
        if arguments[name] is not None and not is_name[name]:
            arguments[name] = str(Path(arguments[name]).resolve())
    return arguments


# Options

_MODELS = {name.lower(): builder for name, builder in presets.BUILDERS.items()}


def add_commands(commands):
    """Adds the commands of this module."""
    parser = add_command(commands, demo, "[options]")
    add = Group(parser).add
    add("output", "folder of the results, new or empty", default="demo", metavar="FOLDER")
    add("epochs", "epochs with cross-entropy", type=count, default=6)
    add("lovasz_epochs", "epochs with Lovász-softmax, after", type=count, default=2)
    usage = "--data FOLDER [options], or --recipe NAME, --config FILE, --resume RUN"
    add_train_options(add_command(commands, train, usage))


def add_train_options(parser):
    """Adds the options of `train`."""
    functions = pipeline.make_dataset, training.compile, training.fit
    data = add_dataset(parser, rare=True)
    data.add("val_split", "split that chooses the checkpoint", default="val")
    add = Group(parser, "run").add
    add("output", "folder of the run, new or empty [runs/DATASET-MODEL]", metavar="FOLDER")
    names = recipes.names()
    add("recipe", f"take what is not given from: {', '.join(names)}", choices=names, metavar="NAME")
    add("config", "take what is not given from another run", metavar="RUN/config.json")
    add("resume", "go on with the run in this folder, with its options", metavar="RUN")
    add("devices", "auto, how many, or names such as gpu:0 gpu:1", nargs="+", default=["auto"])
    add("seed", "seed of weights, order and augmentation", type=seed, default=0)
    add("logger", "log to tensorboard, wandb or mlflow too", choices=LOGGERS, metavar="NAME")
    add("verbose", "no output, a progress bar, a line an epoch", **VERBOSE)
    group = Group(parser, "model")
    add = group.add
    add("model", "architecture", choices=_MODELS, default=MODEL_DEFAULTS["model"])
    add_backbone(group, default=MODEL_DEFAULTS["backbone"])
    add(
        "weights", "of the backbone: imagenet, the file of a checkpoint, or none",
        type=lambda value: None if value == "none" else value, metavar="FILE",
    )  # fmt: skip
    add("preset", "start from this preset or saved model, whatever its classes")
    add(
        "aggregator_filters", "channels c' of SANet", type=integer,
        default=MODEL_DEFAULTS["aggregator_filters"],
    )  # fmt: skip
    policies = ("float32", "mixed_bfloat16", "mixed_float16")
    add("precision", "dtype policy", choices=policies, default=policies[0])
    add = Group(parser, "training", *functions).add
    paper_crop = recipes.get("paper_ade20k")["crop_size"]
    add("crop_size", "training crop", default=paper_crop, **SIZE)
    add("batch_size", "training images a step", type=integer)
    add("epochs", "epochs with cross-entropy", type=count, default=30)
    add("steps", "batches in all, instead of --epochs", type=count)
    add("lovasz_epochs", "epochs with Lovász-softmax, after", type=count)
    add("learning_rate", "learning rate of the first step", type=positive)
    add("optimizer", "optimizer of all phases", choices=("adamw", "sgd"))
    add("image_scale", "factor on all images, 0.5 for half size", type=positive)
    add = Group(parser, "augmentation", *functions, rare=True).add
    add("scale_range", "random scaling", **RANGE)
    add("contrast_range", "random a of 127 + a (x - 127)", **RANGE)
    add("flip", "mirror half of the images")
    add("rotation_range", "random rotation, in degrees", **RANGE)
    add("brightness_range", "random factor of the brightness", **RANGE)
    add("saturation_range", "random factor of the saturation", **RANGE)
    add("hue_range", "random turn of the hues, in shares of the circle", **RANGE)
    add("blur_range", "random blur, its deviation in pixels", **RANGE)
    add("class_limit", "largest share of a crop that one class may take", type=positive)
    add = Group(parser, "optimizer", *functions, rare=True).add
    add(
        "lovasz_learning_rate", "of the second phase, a tenth of the first if absent", type=positive
    )
    add("weight_decay", "on all weights; semseg's for sgd is 1e-4", type=float)
    add("head_learning_rate_multiple", "factor on that of all but the backbone", type=float)
    add("gradient_accumulation_steps", "batches of one update, to save memory", type=int)
    add("global_clipnorm", "largest norm of all gradients together", type=float)
    add("ema_momentum", "validate and save an average of the weights, as 0.999", type=float)
    add("freeze_batch_norm", "keep the backbone's batch norms as they are")
    add = Group(parser, "validation and saving", *functions, rare=True).add
    add("val_crop_size", "validate on center crops, whole images if absent", default=None, **SIZE)
    add("val_batch_size", "validation images a step", type=integer, default=1)
    add("save_every", "save states inside of epochs too", type=count, metavar="STEPS")
    add("on_bad_image", "leave unreadable images out, or stop", choices=("error", "skip"))
    add("deterministic", "the same metrics to the last bit, on one device", default=False)
