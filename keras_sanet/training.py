"""The paper's training (section IV-C): AdamW, poly decay, cross-entropy, then Lovász-softmax."""

import csv
import importlib.util
from pathlib import Path

import keras

from keras_sanet.losses import LovaszSoftmax, SegmentationLoss
from keras_sanet.metrics import CrossEntropy, MeanIoU, PixelAccuracy
from keras_sanet.saving import replacing
from keras_sanet.schedules import poly_decay

# Phase -> the validation figure that chooses its checkpoint, and what is better.
PHASES = {"cross_entropy": ("val_cross_entropy", "min"), "lovasz": ("val_mean_iou", "max")}
_LOVASZ_BINS = 1024  # value within 1e-5 and gradient within 0.2 % of the exact loss
_AUXILIARY_WEIGHT = 0.4  # PSPNet


def compile(
    model,
    decay_steps,
    learning_rate=1e-5,
    weight_decay=0.01,
    loss="cross_entropy",
    ignore_class=255,
    **kwargs,
):
    """Compiles a model with the paper's recipe.

    Args:
        model: images to logits, or to {"logits", "auxiliary"} (whose targets are then a dict too).
        decay_steps: steps until the learning rate is 0, epochs x steps an epoch.
        learning_rate: of the first step. The paper's 1e-5 suits long runs from pretrained weights;
            short ones need some 1e-4, networks from scratch 1e-3.
        weight_decay: of AdamW, on all weights (PyTorch's default; Keras's is 0.004).
        loss: "cross_entropy", "lovasz", or a `keras.losses.Loss`.
        ignore_class: label of void pixels.
        kwargs: for `model.compile`.
    """
    losses = {
        "cross_entropy": SegmentationLoss(lovasz_weight=0.0, ignore_class=ignore_class),
        "lovasz": LovaszSoftmax(ignore_class=ignore_class, num_bins=_LOVASZ_BINS),
    }
    if isinstance(loss, str):
        if loss not in losses:
            raise ValueError(f"Unknown loss {loss!r}. Known: {', '.join(losses)}.")
        loss = losses[loss]
    logits = model.get_layer("logits")
    num_classes = logits.output.shape[-1]
    metrics = [
        CrossEntropy(ignore_class),
        PixelAccuracy(num_classes, ignore_class=ignore_class),
        MeanIoU(num_classes, ignore_class=ignore_class, class_names=logits.class_names),
    ]
    if isinstance(model.output, dict):
        kwargs = {"loss_weights": {"logits": 1.0, "auxiliary": _AUXILIARY_WEIGHT}, **kwargs}
        loss, metrics = {"logits": loss, "auxiliary": loss}, {"logits": metrics}
    optimizer = keras.optimizers.AdamW(
        poly_decay(learning_rate, decay_steps), weight_decay=weight_decay, epsilon=1e-8
    )
    # Else TensorFlow creates the optimizer's variables inside the step, and traces it twice.
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss, metrics=metrics, **kwargs)


def callbacks(folder, phase="cross_entropy", train=None):
    """What a run keeps in its folder, all of it resumed by another `fit` with the same folder.

    - `<phase>.keras`: the best model, by the least pixel-weighted validation cross-entropy
      ("cross_entropy") or the best mean IoU ("lovasz");
    - `<phase>.csv`: every figure of every epoch;
    - `<phase>_state/`: weights, optimizer and epoch to go on from;
    - `tensorboard/<phase>/`, where TensorFlow and TensorBoard are installed.

    Args:
        folder: the run's folder.
        phase: "cross_entropy" or "lovasz".
        train: the data set of `pipeline.make_dataset`, told the epoch so that a resumed run sees
            the draws it would have seen.
    """
    if phase not in PHASES:
        raise ValueError(f"Unknown phase {phase!r}. Known: {', '.join(PHASES)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    monitor, mode = PHASES[phase]
    log = folder / f"{phase}.csv"
    kept = [
        _WholeCheckpoint(
            folder / f"{phase}.keras",
            monitor=monitor,
            mode=mode,
            save_best_only=True,
            initial_value_threshold=_best_so_far(log, monitor, mode),
        ),
        keras.callbacks.CSVLogger(log, append=True),
        keras.callbacks.BackupAndRestore(
            folder / f"{phase}_state", double_checkpoint=True, delete_checkpoint=False
        ),
    ]
    if all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
        kept.append(keras.callbacks.TensorBoard(folder / "tensorboard" / phase))
    if hasattr(train, "set_epoch"):
        kept.append(
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: train.set_epoch(epoch)
            )
        )
    return kept


class _WholeCheckpoint(keras.callbacks.ModelCheckpoint):
    """Whose file is the old one or the new one whenever the run is killed."""

    def on_epoch_end(self, epoch, logs=None):
        path = self.filepath
        try:
            with replacing(path) as written:
                self.filepath = str(written)
                super().on_epoch_end(epoch, logs)
        finally:
            self.filepath = path


def fit(
    model,
    train,
    validation,
    folder,
    epochs,
    lovasz_epochs=0,
    learning_rate=1e-5,
    lovasz_learning_rate=None,
    extra_callbacks=(),
    verbose="auto",
    **kwargs,
):
    """Both phases of the paper: cross-entropy, then Lovász-softmax from the best checkpoint.

    Calling it again with the same folder resumes: finished epochs are not repeated.

    Args:
        model: a model with one output; it is compiled here.
        train, validation: from `pipeline.make_dataset`.
        folder: see `callbacks`.
        epochs, lovasz_epochs: of the two phases; 0 leaves a phase out.
        learning_rate: of the first phase. lovasz_learning_rate: of the second; a tenth of it if
            None.
        extra_callbacks: more Keras callbacks. verbose: of `model.fit`.
        kwargs: for `compile`.

    Returns: the best model of the last phase, not compiled.
    """
    if isinstance(model.output, dict):
        raise ValueError(
            "`training.fit` trains a model with one output. With an auxiliary output, call "
            "`training.compile` and `model.fit` with targets {'logits': masks, 'auxiliary': masks}."
        )
    if lovasz_learning_rate is None:
        lovasz_learning_rate = learning_rate / 10
    phases = (
        ("cross_entropy", epochs, learning_rate),
        ("lovasz", lovasz_epochs, lovasz_learning_rate),
    )
    for phase, count, rate in phases:
        if count == 0:
            continue
        compile(model, count * len(train), rate, loss=phase, **kwargs)
        model.fit(
            train,
            validation_data=validation,
            epochs=count,
            shuffle=False,  # the data set shuffles
            callbacks=[*callbacks(folder, phase, train), *extra_callbacks],
            verbose=verbose,
        )
        model = keras.saving.load_model(Path(folder) / f"{phase}.keras", compile=False)
    return model


def _best_so_far(log, monitor, mode):
    """The best value of a figure in the log of an interrupted run, or None."""
    if not log.is_file():
        return None
    with open(log, newline="") as file:
        values = [float(row[monitor]) for row in csv.DictReader(file)]
    return (min if mode == "min" else max)(values, default=None)
