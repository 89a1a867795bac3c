"""The paper's training (section IV-C): AdamW, poly decay, cross-entropy, then Lovász-softmax."""

import contextlib
import importlib.util
import inspect
import math
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_sanet import _backend, _files, distribution, models, runs, saving, summary
from keras_sanet._arguments import integer
from keras_sanet.evaluation import check_classes
from keras_sanet.inference import gives_probabilities
from keras_sanet.losses import LovaszSoftmax, SegmentationLoss
from keras_sanet.metrics import CrossEntropy, MeanAccuracy, MeanIoU, PixelAccuracy
from keras_sanet.optimizers import SGD, AdamW, AveragedValidation
from keras_sanet.schedules import poly_decay

# Phase -> the validation figure that chooses its checkpoint, and what is better.
PHASES = {"cross_entropy": ("val_cross_entropy", "min"), "lovasz": ("val_mean_iou", "max")}
_LOVASZ_BINS = 1024  # value within 1e-5 and gradient within 0.2 % of the exact loss
_AUXILIARY_WEIGHT = 0.4  # PSPNet
_SHOWN = 10  # classes named in a warning


def compile(
    model,
    decay_steps,
    learning_rate=1e-5,
    weight_decay=0.01,
    loss="cross_entropy",
    ignore_class=255,
    optimizer="adamw",
    head_learning_rate_multiple=1.0,
    gradient_accumulation_steps=1,
    global_clipnorm=None,
    ema_momentum=None,
    freeze_batch_norm=False,
    **kwargs,
):
    """Compiles a model with the paper's recipe.

    Args:
        model: images to logits (or probabilities, as its last layer tells), or to {"logits",
            "auxiliary"} (whose targets are then a dict too).
        decay_steps: steps (batches, accumulated or not) until the learning rate is 0, epochs x
            steps an epoch.
        learning_rate: of the first step. The paper's 1e-5 suits long runs from pretrained weights;
            short ones need some 1e-4, networks from scratch 1e-3.
        weight_decay: on all weights; 0.01 is PyTorch's default for AdamW (Keras's is 0.004).
        loss: "cross_entropy", "lovasz", or a `keras.losses.Loss`.
        ignore_class: label of void pixels.
        optimizer: "adamw" (the paper's), or "sgd" with momentum 0.9 as PyTorch's (semseg's).
        head_learning_rate_multiple: factor on the rate of all that is not the layer "backbone";
            semseg's is 10.
        gradient_accumulation_steps: batches whose mean gradient makes one update. (Batch norms see
            each batch by itself, and what is left over at the end makes no update.)
        global_clipnorm: largest norm of all gradients together, as in Pascanu et al. (2013). (Under
            `MirroredStrategy` Keras clips each replica's share.)
        ema_momentum: of an average of the trained weights, moved on after each batch (Polyak and
            Juditsky, 1992); see `averaged_weights`.
        freeze_batch_norm: whether the backbone's batch norms keep their statistics, scales and
            shifts, and use them in training too, as DeepLab's do for small batches. They stay so.
        kwargs: for `model.compile`.

    Raises: ValueError for an unknown loss or optimizer, where an argument is out of its range, and
        where a loss has `from_logits` other than the model.
    """
    if optimizer not in ("adamw", "sgd"):
        raise ValueError(f"Unknown optimizer {optimizer!r}. Known: adamw, sgd.")
    accumulated = integer("gradient_accumulation_steps", gradient_accumulation_steps)
    for name, value in (
        ("head_learning_rate_multiple", head_learning_rate_multiple),
        ("global_clipnorm", global_clipnorm),
    ):
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be above 0. Received: {name}={value!r}.")
    probabilities = gives_probabilities(model)
    if probabilities is None:  # can't be told: as the loss reads them
        probabilities = not getattr(loss, "from_logits", True)
    read = {"ignore_class": ignore_class, "from_logits": not probabilities}
    losses = {
        "cross_entropy": SegmentationLoss(lovasz_weight=0.0, **read),
        "lovasz": LovaszSoftmax(num_bins=_LOVASZ_BINS, **read),
    }
    if isinstance(loss, str):
        if loss not in losses:
            raise ValueError(f"Unknown loss {loss!r}. Known: {', '.join(losses)}.")
        loss = losses[loss]
    elif getattr(loss, "from_logits", read["from_logits"]) != read["from_logits"]:
        raise ValueError(
            f"The model gives {'logits' if read['from_logits'] else 'probabilities'}: pass a loss "
            f"with from_logits={read['from_logits']}. Received: loss={loss.name}, with from_logits="
            f"{loss.from_logits}."
        )
    num_classes = models.without_auxiliary(model).output.shape[-1]
    named = [layer for layer in model.layers if layer.name == "logits"]
    class_names = getattr(named[0], "class_names", None) if named else None
    metrics = [
        CrossEntropy(**read),
        PixelAccuracy(num_classes, **read),
        MeanAccuracy(num_classes, **read),
        MeanIoU(num_classes, class_names=class_names, **read),
    ]
    if isinstance(model.output, dict):
        kwargs = {"loss_weights": {"logits": 1.0, "auxiliary": _AUXILIARY_WEIGHT}, **kwargs}
        loss, metrics = {"logits": loss, "auxiliary": loss}, {"logits": metrics}
    on_cpu = keras.backend.backend() != "jax" and _backend.runs_on_cpu()
    if on_cpu and any(layer.compute_dtype == "float16" for layer in model._flatten_layers()):
        warnings.warn(
            "A CPU takes several times as long in float16 as in float32. Before you make the model "
            'call keras.config.set_dtype_policy("mixed_bfloat16"), or "float32".',
            stacklevel=2,
        )
    if freeze_batch_norm:
        for layer in model.get_layer("backbone")._flatten_layers():  # inside layers too
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # which is inference mode too, in Keras
    multiples = None
    if head_learning_rate_multiple != 1:
        slow = {id(variable) for variable in model.get_layer("backbone").trainable_variables}
        variables = model.trainable_variables
        multiples = [1 if id(v) in slow else head_learning_rate_multiple for v in variables]
    accumulated = accumulated if accumulated > 1 else None
    settings = {
        "learning_rate": poly_decay(learning_rate, decay_steps),
        "weight_decay": weight_decay,
        "rate_multiples": multiples,
        "gradient_accumulation_steps": accumulated,
        "global_clipnorm": global_clipnorm,
        "use_ema": ema_momentum is not None,
        "ema_momentum": ema_momentum or 0.0,
    }
    if optimizer == "adamw":
        optimizer = AdamW(epsilon=1e-8, **settings)
    else:
        optimizer = SGD(momentum=0.9, **settings)
    strategy = getattr(optimizer, "_distribution_strategy", None)  # TensorFlow's
    if accumulated and strategy and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`gradient_accumulation_steps` above 1 does not run under MirroredStrategy: TensorFlow "
            "can't exchange gradients in some steps alone. Received: gradient_accumulation_steps="
            f"{accumulated} on {strategy.num_replicas_in_sync} devices. Take one device, or JAX."
        )
    model.compile(optimizer, loss, metrics=metrics, **kwargs)
    # Else TensorFlow creates the optimizer's variables inside the step, and traces it twice.
    model.optimizer.build(model.trainable_variables)


# What `compile` takes beside the model and what `fit` tells it, with its defaults.
_COMPILE = {
    name: parameter.default
    for name, parameter in inspect.signature(compile).parameters.items()
    if parameter.default is not parameter.empty and name not in ("learning_rate", "loss")
}


def callbacks(folder, phase="cross_entropy", train=None, save_every=None, asked=()):
    """What a run keeps in its folder (see `runs`), and going on from it in another `fit`.

    Args:
        folder: the run's folder.
        phase: "cross_entropy" (the best model has the least pixel-weighted validation
            cross-entropy) or "lovasz" (the best mean IoU).
        train: the data set of `pipeline.make_dataset`, told the epoch so that a resumed run sees
            the draws it would have seen.
        save_every: steps between states inside of an epoch, None for none; for `fit`, which can go
            on inside of one.
        asked: of `runs.stoppable`.
    """
    if phase not in PHASES:
        raise ValueError(f"Unknown phase {phase!r}. Known: {', '.join(PHASES)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    log, finite = folder / f"{phase}.csv", runs.Finite(train, folder)
    best = runs.Best(folder / f"{phase}.keras", log, *PHASES[phase])
    kept = [runs.OfLogits(), AveragedValidation(), finite, best]
    if distribution.is_chief():
        kept.append(runs.Log(log))
    kept.append(runs.State(folder / f"{phase}_state.keras", train, finite, save_every, asked))
    if hasattr(train, "set_epoch"):
        kept.append(
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: train.set_epoch(epoch)
            )
        )
    tensorboard = all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard"))
    if tensorboard and distribution.is_chief():
        kept.append(keras.callbacks.TensorBoard(folder / "tensorboard" / phase))
    return kept


def fit(
    model,
    train,
    validation,
    folder,
    epochs=None,
    lovasz_epochs=0,
    learning_rate=1e-5,
    lovasz_learning_rate=None,
    steps=None,
    save_every=None,
    extra_callbacks=(),
    verbose="auto",
    arguments=None,
    **kwargs,
):
    """Both phases of the paper: cross-entropy, then Lovász-softmax from the best checkpoint.

    Calling it again with the same folder resumes: finished epochs are not repeated, and after
    Ctrl-C, SIGTERM or `save_every` finished steps neither. A run that was killed, or whose disk was
    full, goes on from the last state. With deterministic operations its figures are those of a run
    that nothing happened to. The arguments must be those that it began with, but for those that
    change no figure; and it may be made longer, at the learning rates of the longer run.

    Args:
        model: images to logits, or to {"logits", "auxiliary"}; it is compiled here. The auxiliary
            output takes part in the first phase's training alone.
        train, validation: from `pipeline.make_dataset`; others give targets by output themselves,
            where there are two.
        folder: see `runs`.
        epochs, lovasz_epochs: of the two phases; 0 leaves a phase out.
        learning_rate: of the first phase. lovasz_learning_rate: of the second; a tenth of it if
            None.
        steps: of the first phase, instead of `epochs`; its last epoch is shorter.
        save_every: steps between states inside of an epoch; None for one an epoch.
        extra_callbacks: more Keras callbacks. verbose: of `model.fit`.
        arguments: dict that config.json keeps, instead of those given here; of these, only what is
            in it is compared when the run goes on.
        kwargs: for `compile`.

    Returns: the best model of the last phase, images to logits, not compiled.

    Raises:
        FileExistsError where another process trains into the folder.
        ValueError where its run began with other data or arguments, where a file of it is missing,
            damaged or a link that leads out of it, where `epochs` and `steps` are both given, or
            the model is not for the classes of the data.
        FloatingPointError that names the images of the step, where the loss is not finite.
        KeyboardInterrupt, SystemExit after the state was written.

    Warns of classes that never occur in the first epoch's training and validation masks.
    """
    if validation is None:
        raise ValueError("`validation` must be given: it chooses the best model.")
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"`epochs` must be given, or `steps`, not both. Received: {epochs=}, {steps=}."
        )
    if epochs is not None:
        epochs = integer("epochs", epochs, least=0)
    if steps is not None:
        steps = integer("steps", steps, least=0)
    lovasz_epochs = integer("lovasz_epochs", lovasz_epochs, least=0)
    if lovasz_learning_rate is None:
        lovasz_learning_rate = learning_rate / 10
    own = {
        "epochs": epochs, "steps": steps, "lovasz_epochs": lovasz_epochs,
        "learning_rate": learning_rate,
        # All that is known of a data set that is not ours.
        **({} if hasattr(train, "plan") else {"steps_per_epoch": len(train)}),
        **({"lovasz_learning_rate": lovasz_learning_rate} if lovasz_epochs else {}),
        **{name: kwargs.get(name, default) for name, default in _COMPILE.items()},
    }  # fmt: skip
    own = {name: v.item() if isinstance(v, np.generic) else v for name, v in own.items()}
    more = {name: value for name, value in kwargs.items() if isinstance(value, (int, float, str))}
    arguments = arguments or {**more, **own}
    phases = [
        ("cross_entropy", steps if epochs is None else epochs * len(train), learning_rate),
        ("lovasz", lovasz_epochs * len(train), lovasz_learning_rate),
    ]
    phases = [phase for phase in phases if phase[1]]
    if not phases:
        return models.without_auxiliary(model)
    loaders, folder = {"train": train, "validation": validation}, Path(folder)
    channels = models.without_auxiliary(model).output.shape[-1]
    for loader in loaders.values():
        if hasattr(loader, "plan"):
            check_classes(channels, loader.plan.dataset)
    skipped, occurring = folder / "skipped.txt", _Occurring()
    with _files.locked(folder), runs.stoppable() as asked, _causes(loaders.values()):
        _check_arguments(folder, own)
        for phase, count, rate in phases:
            given, validated = (_for_outputs(model, data) for data in loaders.values())
            compile(model, count, rate, loss=phase, **kwargs)
            _check_batch_norms(model, train)
            runs.write_config(folder, arguments, loaders)
            for data, first, last in _parts(given, folder, phase, count):
                distribution.wait()
                renaming, *kept = callbacks(folder, phase, data, save_every, asked)
                model.fit(
                    data,
                    validation_data=validated,
                    initial_epoch=first,
                    epochs=last,
                    shuffle=False,  # the data set shuffles
                    callbacks=[
                        runs.StopAt(count, len(train), len(train) - len(data)),
                        runs.Skipped(skipped, loaders.values()),
                        occurring,
                        renaming,
                        *extra_callbacks,
                        *kept,
                    ],
                    verbose=verbose,
                )
                runs.stop(asked, f"Stopped; {folder} holds what the run goes on from.")
                if model.stop_training:
                    if distribution.is_chief():
                        runs.end(folder / f"{phase}_state.keras", count)
                    break
            distribution.wait()
            runs.resume_generators(folder / f"{phase}_state.keras")
            best = folder / f"{phase}.keras"
            if not best.is_file():
                raise FileNotFoundError(
                    f"There is no {best}: no epoch's {PHASES[phase][0]} was a number (see "
                    f"{phase}.csv), or the file was removed."
                )
            # The config in the file may be anybody's, and that of the model is at hand.
            model = models.without_auxiliary(model)
            model = type(model).from_config(model.get_config())
            saving.load_weights(model, best)
    if skipped.is_file():
        count = len(skipped.read_text("utf-8", "replace").splitlines())
        print(f"{count} images could not be read and did not count: {skipped}")
    return model


def _check_arguments(folder, now):
    """Refuses other arguments than those that a run began with, but for more epochs or steps."""
    began = runs.arguments_of(folder)

    def longer(name):
        values = began[name], now[name]
        return all(isinstance(value, int) for value in values) and values[0] < values[1]

    length = "epochs" if began.get("steps") is None else "steps"
    names = now.keys() & began.keys() - ({"epochs", "steps"} - {length})
    other = [name for name in sorted(names) if now[name] != began[name]]
    fixed = (folder / "lovasz_state.keras").is_file()  # which began with the first phase's best
    may = [name for name in other if name == "lovasz_epochs" or (name == length and not fixed)]
    other = [name for name in other if name not in may or not longer(name)]
    if other:
        differences = "; ".join(f"`{name}` {began[name]}, now {now[name]}" for name in other)
        raise ValueError(
            f"The run {folder} began with other arguments: {differences}. Give those that it began "
            "with, or another folder. (`epochs` and `steps` may become more before Lovász-softmax "
            "begins, `lovasz_epochs` always.)"
        )


class _Occurring(keras.callbacks.Callback):
    """Warns once of classes that never occur in the truth, as the metrics have counted it."""

    def __init__(self):
        super().__init__()
        self._looked = set()

    def on_test_begin(self, logs=None):  # the metrics still hold what training counted
        self._look("training", "nothing can be learned from them")

    def on_test_end(self, logs=None):
        self._look("validation", "its figures say nothing")

    def _look(self, which, so):
        if which in self._looked or not distribution.is_chief():
            return
        self._looked.add(which)
        metrics = [one for part in self.model.metrics for one in getattr(part, "metrics", [part])]
        metrics = [metric for metric in metrics if hasattr(metric, "confusion_matrix")]
        pixels = metrics[0].confusion_matrix().sum(axis=1)
        names = next((metric.class_names for metric in metrics if metric.class_names), ())
        names = names if len(names) == len(pixels) else [f"class {i}" for i in range(len(pixels))]
        occurs = [name for name, count in zip(names, pixels) if count]
        absent = [name for name, count in zip(names, pixels) if not count]
        masks = f"this epoch's {which} masks"
        if not occurs:
            said = f"No pixel of {masks} has a class, all are void: {so}."
        elif len(occurs) == 1:
            said = (
                f"Only one class occurs in {masks}, {occurs[0]!r}: {so}. (Are they of 0 and 255? "
                "Masks of two classes hold 0 and 1; 255 is void.)"
            )
        elif absent:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            listed = f"{', '.join(absent[:_SHOWN])}{more}"
            said = f"{len(absent)} classes never occur in {masks}: {listed}."
        else:
            return
        warnings.warn(f"{said} `keras-sanet inspect` shows what masks hold.", stacklevel=2)


def _check_batch_norms(model, train):
    """Refuses batches of which a stock batch norm would learn nothing."""
    plan = getattr(train, "plan", None)
    if plan is None:
        return
    rest = 0 if plan.drop_remainder else len(plan.samples) % plan.batch_size
    # Stock layers of TensorFlow's replicas see a replica's share each.
    replicas = _backend.devices() if keras.backend.backend() == "tensorflow" else 1
    batch = max(1, (rest or plan.batch_size) // replicas)
    shape = (batch, *plan.augmentation.crop_size, model.input_shape[-1])
    found = summary.norms_of_one_value(model, shape)
    if found:
        raise ValueError(
            f"On {batch} image of {shape[1]} x {shape[2]} pixels a step, the layer {found[0]!r} "
            f"({len(found)} of them) has one value a channel, of which "
            "`keras.layers.BatchNormalization` learns nothing. Take larger batches or crops, "
            "`keras_sanet.layers.BatchNormalization`, or freeze_batch_norm=True."
        )


def _for_outputs(model, data):
    """The data set with targets for each of a model's outputs, where it has several."""
    if isinstance(model.output, dict) and hasattr(data, "for_outputs"):
        return data.for_outputs(model.output)
    return data


def _parts(train, folder, phase, steps):
    """What is left of a phase: data, and the first epoch and the one to end before. The rest of an
    epoch that a run stopped in is a part of its own."""
    state = folder / f"{phase}_state.keras"
    place = runs.place(state)
    if place.ended == steps:
        return
    epochs = math.ceil(steps / len(train))
    if place.step:
        if not hasattr(train, "rest"):
            raise ValueError(
                f"{state} is of step {place.step} in an epoch, and `train` has no `rest`: go on "
                "with a data set of `pipeline.make_dataset` as it is, or delete the file."
            )
        yield train.rest(place.step), place.epoch, place.epoch + 1
        place = place._replace(epoch=place.epoch + 1)
    if place.epoch < epochs:
        yield train, place.epoch, epochs


@contextlib.contextmanager
def _causes(loaders):
    """Context that raises the error of a data set as it was. (tf.data's are TensorFlow's.)"""
    plans = [loader.plan for loader in loaders if hasattr(loader, "plan")]
    for plan in plans:
        plan.raised.clear()
    try:
        yield
    except Exception:
        for plan in plans:
            if plan.raised:
                raise plan.raised[0] from None
        raise
