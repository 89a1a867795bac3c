"""The paper's training (section IV-C): AdamW, poly decay, cross-entropy, then Lovász-softmax."""

import contextlib
import inspect
import math
from pathlib import Path

import keras
import numpy as np

from keras_sanet import _backend, _files, distribution, models, saving, summary
from keras_sanet._arguments import integer
from keras_sanet.evaluation import check_classes
from keras_sanet.training import callbacks, run_folder, signals, state
from keras_sanet.training.callbacks import PHASES, Skipped, StopAt, _Occurring
from keras_sanet.training.compile import compile

# What `compile` takes beside the model and what `fit` tells it, with its defaults.
_COMPILE = {
    name: parameter.default
    for name, parameter in inspect.signature(compile).parameters.items()
    if parameter.default is not parameter.empty and name not in ("learning_rate", "loss")
}


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
    with _files.locked(folder), signals.stoppable() as asked, _causes(loaders.values()):
        _check_arguments(folder, own)
        for phase, count, rate in phases:
            given, validated = (_for_outputs(model, data) for data in loaders.values())
            compile(model, count, rate, loss=phase, **kwargs)
            _check_batch_norms(model, train)
            run_folder.write_config(folder, arguments, loaders)
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
                        StopAt(count, len(train), len(train) - len(data)),
                        Skipped(skipped, loaders.values()),
                        occurring,
                        renaming,
                        *extra_callbacks,
                        *kept,
                    ],
                    verbose=verbose,
                )
                signals.stop(asked, f"Stopped; {folder} holds what the run goes on from.")
                if model.stop_training:
                    if distribution.is_chief():
                        state.end(folder / f"{phase}_state.keras", count)
                    break
            distribution.wait()
            state.resume_generators(folder / f"{phase}_state.keras")
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
    began = run_folder.arguments_of(folder)

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
    path = folder / f"{phase}_state.keras"
    place = state.place(path)
    if place.ended == steps:
        return
    epochs = math.ceil(steps / len(train))
    if place.step:
        if not hasattr(train, "rest"):
            raise ValueError(
                f"{path} is of step {place.step} in an epoch, and `train` has no `rest`: go on "
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
