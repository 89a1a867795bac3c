"""Both phases of the paper's training (section IV-C), which go on after what stopped them."""

import contextlib
import inspect
import math
from pathlib import Path

import keras

from keras_sanet import _backend, _files, distribution, models, saving, summary
from keras_sanet._arguments import integer
from keras_sanet.evaluation import check_classes
from keras_sanet.training import run_folder, state
from keras_sanet.training.callbacks import PHASES, ReportSkipped, StopAtStep, WarnOfAbsentClasses
from keras_sanet.training.callbacks import callbacks as run_callbacks
from keras_sanet.training.compile import compile
from keras_sanet.training.finish import finish
from keras_sanet.training.loggers import check_logger
from keras_sanet.training.signals import deferred_signals, stop_if_signaled


def fit(
    model,
    train,
    validation_data,
    *,
    folder,
    epochs=None,
    steps=None,
    lovasz_epochs=0,
    learning_rate=1e-4,
    lovasz_learning_rate=None,
    save_every=None,
    callbacks=(),
    verbose="auto",
    logger=None,
    evaluate=True,
    arguments=None,
    **compile_arguments,
):
    """Trains with cross-entropy, then with Lovász-softmax from the best checkpoint.

    Afterwards the model has the weights of the best epoch of the last phase, ready for `predict`,
    `evaluate` and `save`, and the folder holds them as model.keras, their evaluation on the
    validation images, and overlays (see `training.run_folder`). The model stays compiled with the
    recipe of the last phase, whose learning rate has come to 0: compile it anew to train it
    further. (One with an auxiliary output stays compiled for the first phase; its auxiliary
    weights are those of that phase's last epoch.)

    Calling it again with the same folder resumes: finished epochs are not repeated, and after
    Ctrl-C, SIGTERM or `save_every` finished steps neither. A run that was killed, or whose disk was
    full, goes on from the last state. With deterministic operations its metrics are those of a run
    that nothing happened to. The arguments must be those that it began with, but for those that
    change no metric; and it may be made longer, at the learning rates of the longer run.

    Args:
        model: images to logits, or to {"logits", "auxiliary"}; it is compiled here. The auxiliary
            output takes part in the first phase alone.
        train: batches from `pipeline.make_dataset`; others give targets by output themselves,
            where there are two.
        validation_data: likewise; it chooses the best epochs. Others than from
            `pipeline.make_dataset` are not evaluated in the end.
        folder: of the run, new or to go on with.
        epochs: of the first phase; 0 leaves it out.
        steps: of the first phase, instead of `epochs`; its last epoch is shorter.
        lovasz_epochs: of the second phase; 0 leaves it out.
        learning_rate: of the first phase's first step.
        lovasz_learning_rate: of the second phase's; a tenth of `learning_rate` if None.
        save_every: steps between states inside of an epoch; None for one an epoch.
        callbacks: more Keras callbacks.
        verbose: of `model.fit`.
        logger: "tensorboard", "wandb" or "mlflow", which get the metrics too; None for CSV alone.
        evaluate: whether to evaluate the best model and to draw overlays in the end.
        arguments: dict that config.json keeps, instead of those given here; of these, only what is
            in it is compared when the run goes on.
        compile_arguments: for `training.compile`.

    Returns:
        `keras.callbacks.History` of all epochs of both phases, those before a resume too. `epoch`
        counts on through the second phase; `history` has a list for each metric with a number for
        each epoch, NaN where an epoch lacks it (as the auxiliary loss in the second phase). "loss"
        and "val_loss" are of the phase's own loss.

    Raises:
        FileExistsError: where another process trains into the folder.
        ValueError: where its run began with other data or arguments, where a file of it is missing,
            damaged or a link that leads out of it, where `epochs` and `steps` are both given, or
            the model is not for the classes of the data.
        FloatingPointError: that names the images of the step, where the loss is not finite.
        ImportError: where the logger's package is missing.
        KeyboardInterrupt, SystemExit: after the state was written.

    Warns of classes that never occur in the first epoch's training and validation masks.
    """
    if validation_data is None:
        raise ValueError("`validation_data` must be given: it chooses the best model.")
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"`epochs` must be given, or `steps`, not both. Received: {epochs=}, {steps=}."
        )
    if epochs is not None:
        epochs = integer("epochs", epochs, least=0)
    if steps is not None:
        steps = integer("steps", steps, least=0)
    lovasz_epochs = integer("lovasz_epochs", lovasz_epochs, least=0)
    check_logger(logger)
    if lovasz_learning_rate is None:
        lovasz_learning_rate = learning_rate / 10
    phases = [
        ("cross_entropy", steps if epochs is None else epochs * len(train), learning_rate),
        ("lovasz", lovasz_epochs * len(train), lovasz_learning_rate),
    ]
    phases = [phase for phase in phases if phase[1]]
    if not phases:
        return _history(model, None)
    compared, more = _with_defaults(model, compile_arguments)
    compared |= {
        "epochs": epochs, "steps": steps, "lovasz_epochs": lovasz_epochs,
        "learning_rate": learning_rate,
        **({"lovasz_learning_rate": lovasz_learning_rate} if lovasz_epochs else {}),
        # All that is known of a data set that is not ours.
        **({} if hasattr(train, "plan") else {"steps_per_epoch": len(train)}),
    }  # fmt: skip
    compared = _files.plain(compared)
    loaders, folder = {"train": train, "validation": validation_data}, Path(folder)
    plain = models.without_auxiliary(model)
    for loader in loaders.values():
        if hasattr(loader, "plan"):
            check_classes(plain.output.shape[-1], loader.plan.dataset)
    skipped, warn = folder / "skipped.txt", WarnOfAbsentClasses()
    with _files.locked(folder):
        with deferred_signals() as signals, _raised_as_is(loaders.values()):
            run_folder.check_arguments(folder, compared)
            trained = run_folder.is_trained(folder)
            for phase, count, rate in phases:
                trainee = model if phase == "cross_entropy" else plain
                data, validated = (_for_outputs(trainee, loader) for loader in loaders.values())
                compile(trainee, count, learning_rate=rate, loss=phase, **compile_arguments)
                _check_batch_norms(trainee, train)
                run_folder.write_config(folder, arguments or {**more, **compared}, loaders)
                best = folder / (run_folder.MODEL if trained else f"{phase}.keras")
                if trained:
                    continue
                state_path = folder / f"{phase}_state.keras"
                for part, first, last in _parts(data, state_path, count):
                    distribution.wait()
                    run_folder.remove_results(folder)
                    rename, *kept = run_callbacks(
                        folder, phase=phase, train=part, save_every=save_every, logger=logger,
                        signals=signals,
                    )  # fmt: skip
                    stop = StopAtStep(count, len(train), len(train) - len(part))
                    trainee.fit(
                        part,
                        validation_data=validated,
                        initial_epoch=first,
                        epochs=last,
                        shuffle=False,  # the data set shuffles
                        callbacks=[
                            *(stop, ReportSkipped(skipped, loaders.values()), warn, rename),
                            *(*callbacks, *kept),
                        ],
                        verbose=verbose,
                    )
                    stop_if_signaled(signals, f"Stopped; {folder} holds what the run goes on from.")
                    if trainee.stop_training:
                        if distribution.is_chief():
                            state.mark_ended(state_path, count)
                        break
                distribution.wait()
                state.restore_generators(trainee, state.read_state(state_path))
                if not best.is_file():
                    raise FileNotFoundError(
                        f"There is no {best}: no epoch's {PHASES[phase][0]} was a number (see "
                        f"{phase}.csv), or the file was removed."
                    )
                loaded = _load_best(plain, best)
            if trained:
                loaded = _load_best(plain, best)
        finish(loaded, folder, validation_data, evaluate)
    if skipped.is_file():
        count = len(skipped.read_text("utf-8", "replace").splitlines())
        print(f"{count} images could not be read and did not count: {skipped}")
    return _history(model, folder)


def _with_defaults(model, compile_arguments):
    """What `compile` takes, defaults too, but for what `fit` tells it; and plain values for Keras's
    own `compile`."""
    bound = inspect.signature(compile).bind(model, 1, **compile_arguments)
    bound.apply_defaults()
    more = bound.arguments.pop("kwargs")
    for name in ("model", "decay_steps", "learning_rate", "loss"):
        del bound.arguments[name]
    more = {name: value for name, value in more.items() if isinstance(value, (int, float, str))}
    return dict(bound.arguments), more


def _history(model, folder):
    """The `History` of what a run's CSV files hold."""
    rows = [row for phase in PHASES if folder for row in state.read_log(folder / f"{phase}.csv")]
    names = dict.fromkeys(name for row in rows for name in row if name != "epoch")
    model.history = history = keras.callbacks.History()
    history.set_model(model)
    history.epoch = list(range(len(rows)))
    history.history = {name: [row.get(name, math.nan) for row in rows] for name in names}
    return history


def _load_best(model, path):
    """Puts the weights of a file into a model; returns such a model, not compiled.

    The config in the file may be anybody's, and that of the model is at hand."""
    loaded = type(model).from_config(model.get_config())
    saving.load_weights(loaded, path)
    for layer in model.layers:
        layer.set_weights(loaded.get_layer(layer.name).get_weights())
    return loaded


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


def _parts(train, path, steps):
    """What is left of a phase: data, and the first epoch and the one to end before. The rest of an
    epoch that a run stopped in is a part of its own."""
    done = state.read_state(path)
    if done.ended == steps:
        return
    epoch, epochs = done.epoch, math.ceil(steps / len(train))
    if done.step:
        if not hasattr(train, "rest"):
            raise ValueError(
                f"{path} is of step {done.step} in an epoch, and `train` has no `rest`: go on "
                "with a data set of `pipeline.make_dataset` as it is, or delete the file."
            )
        yield train.rest(done.step), epoch, epoch + 1
        epoch += 1
    if epoch < epochs:
        yield train, epoch, epochs


@contextlib.contextmanager
def _raised_as_is(loaders):
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
