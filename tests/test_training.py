"""The paper's recipe, its two phases, what a run keeps, and resuming it."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
from small_run import CLASSES, write_pairs

import keras_sanet
from keras_sanet import datasets, evaluation, training
from keras_sanet.losses import LovaszSoftmax, SegmentationLoss
from keras_sanet.metrics import CrossEntropy, MeanAccuracy, MeanIoU, PixelAccuracy
from keras_sanet.pipeline import make_dataset
from keras_sanet.training import state as run_state
from keras_sanet.training.callbacks import SaveBest, WarnOfAbsentClasses

pytestmark = pytest.mark.slow  # they train

# XLA takes longer to compile these models than to run them.
PLAIN = {"jit_compile": False} if keras.backend.backend() == "tensorflow" else {}


def fcn(**kwargs):
    return keras_sanet.FCN(
        CLASSES, "resnet_tiny", input_shape=(24, 32, 3), filters=8, dropout=0, **kwargs
    )


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """4 training and 2 validation pairs of 24 x 32."""
    root = tmp_path_factory.mktemp("noise")
    write_pairs(root, 4)
    return datasets.load("folder", root)


def loaders(dataset):
    train = make_dataset(dataset, "train", crop_size=(24, 32), batch_size=2, seed=0)
    return train, make_dataset(dataset, "val", batch_size=2, training=False)


# compile


@pytest.fixture(scope="module")
def compiled():
    model = fcn(class_names=["low", "middle", "high"])
    training.compile(model, decay_steps=10, learning_rate=1e-3, ignore_class=7)
    return model


def test_compile_sets_adamw_with_pytorchs_defaults(compiled):
    optimizer = compiled.optimizer
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert (optimizer.weight_decay, optimizer.epsilon) == (0.01, 1e-8)
    assert (optimizer.beta_1, optimizer.beta_2) == (0.9, 0.999)


def test_compile_sets_the_poly_decay(compiled):
    rate = compiled.optimizer._learning_rate
    # 1e-3 (1 - 5 / 10)^0.9 = 1e-3 x 0.535887
    expected = [1e-3, 5.35887e-4, 0.0]
    assert [float(rate(step)) for step in (0, 5, 10)] == pytest.approx(expected)


def test_compile_hands_on_the_ignored_class_and_the_class_names(compiled):
    assert compiled.loss.ignore_class == 7
    metrics = {metric.name: metric for metric in compiled._compile_metrics._user_metrics}
    assert list(metrics) == ["cross_entropy", "pixel_accuracy", "mean_accuracy", "mean_iou"]
    assert {metric.ignore_class for metric in metrics.values()} == {7}
    assert metrics["mean_iou"].class_names == ["low", "middle", "high"]


@pytest.mark.parametrize(
    ("loss", "kind"), [("cross_entropy", SegmentationLoss), ("lovasz", LovaszSoftmax)]
)
def test_a_loss_is_chosen_by_its_name(compiled, loss, kind):
    model = keras.Model(compiled.input, compiled.output)
    training.compile(model, 10, loss=loss)
    assert type(model.loss) is kind


def test_the_cross_entropy_has_no_part_of_lovasz(compiled):
    assert compiled.loss.lovasz_weight == 0


def test_a_loss_of_ones_own_is_taken_as_it_is(compiled):
    model, loss = keras.Model(compiled.input, compiled.output), SegmentationLoss()
    training.compile(model, 10, loss=loss)
    assert model.loss is loss


def test_an_unknown_loss_is_refused_with_the_known_ones(compiled):
    with pytest.raises(ValueError, match="Unknown loss 'dice'. Known: cross_entropy, lovasz"):
        training.compile(compiled, 10, loss="dice")


def test_an_unknown_phase_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="Unknown phase 'third'. Known: cross_entropy, lovasz"):
        training.callbacks(tmp_path / "run", phase="third")
    assert not (tmp_path / "run").exists()


# fit, both phases


class Spoil(keras.callbacks.Callback):
    """Makes the model say "low" in the third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.model.get_layer("classifier").bias.assign([50.0, 0.0, 0.0])


class Rates(keras.callbacks.Callback):
    """The learning rate at the first step of each phase."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_begin(self, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


def run(noise, folder, *extra, lovasz_epochs=0):
    """The model after three epochs, the last of them spoilt, and their history."""
    keras.utils.set_random_seed(0)
    model, (train, val) = fcn(), loaders(noise)
    history = training.fit(
        model,
        train,
        val,
        folder=folder,
        epochs=3,
        lovasz_epochs=lovasz_epochs,
        learning_rate=1e-3,
        callbacks=[Spoil(), *extra],
        verbose=0,
    )
    return model, history


@pytest.fixture(scope="module")
def both(noise, tmp_path_factory):
    """The folder of 3 + 1 epochs; the model; the first rates; the history."""
    folder, rates = tmp_path_factory.mktemp("both"), Rates()
    model, history = run(noise, folder, rates, lovasz_epochs=1)
    return folder, model, rates.rates, history


def test_both_phases_leave_their_model_and_figures(both):
    files = {path.name for path in both[0].iterdir() if path.is_file()}
    of_phases = {
        f"{phase}{end}"
        for phase in ("cross_entropy", "lovasz")
        for end in (".keras", ".csv", "_state.keras")
    }
    of_end = {"model.keras", "evaluation.json", "evaluation.txt", "classes.csv", "overlays.png"}
    assert files == {*of_phases, *of_end, "config.json", "data.json", ".lock"}


def test_the_csv_has_a_line_an_epoch_with_every_figure(both):
    folder = both[0]
    assert [row["epoch"] for row in run_state.read_log(folder / "cross_entropy.csv")] == [0, 1, 2]
    (row,) = run_state.read_log(folder / "lovasz.csv")
    figures = ("loss", "cross_entropy", "pixel_accuracy", "mean_iou")
    assert {*figures, *(f"val_{name}" for name in figures)} <= set(row)
    assert np.isfinite(list(row.values())).all()


def test_the_checkpoint_kept_has_the_least_validation_cross_entropy(both, noise):
    figures = [
        row["val_cross_entropy"] for row in run_state.read_log(both[0] / "cross_entropy.csv")
    ]
    assert np.argmin(figures) < 2  # the third epoch is spoilt
    model = keras.saving.load_model(both[0] / "cross_entropy.keras", compile=False)
    training.compile(model, 1)
    found = model.evaluate(loaders(noise)[1], verbose=0, return_dict=True)
    assert found["cross_entropy"] == pytest.approx(min(figures), rel=1e-5)


@pytest.mark.parametrize(
    ("phase", "figure", "mode", "best"),
    [
        ("cross_entropy", "val_cross_entropy", "min", 0.25),
        ("lovasz", "val_mean_iou", "max", 0.5),
    ],
)
def test_a_resumed_phase_only_keeps_what_is_better_than_its_log(
    tmp_path, phase, figure, mode, best
):
    (tmp_path / f"{phase}.keras").touch()
    (tmp_path / f"{phase}.csv").write_text(f"epoch,{figure}\n0,0.5\n1,0.25\n2,0.375\n3,nan\n")
    (checkpoint,) = (
        c for c in training.callbacks(tmp_path, phase=phase) if isinstance(c, SaveBest)
    )
    checkpoint.on_epoch_begin(4)
    assert (checkpoint.monitor, checkpoint.mode, checkpoint.best) == (figure, mode, best)


def test_the_second_phase_starts_at_a_tenth_of_the_rate(both):
    assert both[2] == pytest.approx([1e-3, 1e-4])


@pytest.mark.parametrize("name", ["lovasz.keras", "model.keras"])
def test_fit_leaves_the_best_weights_in_the_model_it_was_given(both, name):
    folder, model, *_ = both
    saved = keras.saving.load_model(folder / name, compile=False)
    for ours, theirs in zip(model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_after_fit_the_model_evaluates_predicts_and_saves(both, noise, tmp_path):
    folder, model, *_ = both
    found = model.evaluate(loaders(noise)[1], verbose=0, return_dict=True)
    best = max(row["val_mean_iou"] for row in run_state.read_log(folder / "lovasz.csv"))
    assert found["mean_iou"] == pytest.approx(best, rel=1e-5)
    image = np.zeros((1, 24, 32, 3), "uint8")
    model.save(tmp_path / "mine.keras")
    loaded = keras.saving.load_model(tmp_path / "mine.keras")
    np.testing.assert_array_equal(loaded.predict(image, verbose=0), model.predict(image, verbose=0))


def test_the_history_has_all_epochs_of_both_phases(both):
    folder, model, _, history = both
    assert history.epoch == [0, 1, 2, 3] and model.history is history
    logs = [run_state.read_log(folder / f"{phase}.csv") for phase in training.PHASES]
    for name, values in history.history.items():
        assert values == [row[name] for log in logs for row in log], name
    assert {"loss", "mean_iou", "val_loss", "val_mean_iou"} <= history.history.keys()


def test_the_evaluation_of_a_run_is_that_of_its_model(both, noise):
    folder, model, *_ = both
    expected = evaluation.evaluate(model, noise, "val", window=(24, 32))
    found = evaluation.read_metrics(folder / "evaluation.json")
    assert found["mean_iou"] == pytest.approx(expected.mean_iou, abs=1e-9)
    assert (folder / "evaluation.txt").read_text("utf-8") == f"{expected}\n"


def test_the_file_of_a_finished_model_has_no_optimizer(both):
    assert not keras.saving.load_model(both[0] / "model.keras").compiled


# Resuming


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the second step of the second epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch == 1 and batch == 1:
            raise KeyboardInterrupt

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


class Count(keras.callbacks.Callback):
    """Epochs that were begun."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)


@pytest.fixture(scope="module")
def resumed(noise, tmp_path_factory):
    """The folder of 3 epochs, interrupted in the second; and the epochs of the second call."""
    folder, count = tmp_path_factory.mktemp("resumed"), Count()
    with pytest.raises(KeyboardInterrupt):
        run(noise, folder, Interrupt())
    run(noise, folder, count)
    return folder, count.epochs


def test_a_resumed_run_goes_on_after_its_last_whole_epoch(resumed):
    assert resumed[1] == [1, 2]


def test_a_resumed_run_gives_the_figures_of_an_uninterrupted_one(both, resumed):
    expected, found = (
        run_state.read_log(both[0] / "cross_entropy.csv"),
        run_state.read_log(resumed[0] / "cross_entropy.csv"),
    )
    assert [row["epoch"] for row in found] == [0, 1, 2]
    for one, other in zip(found, expected):
        assert one == pytest.approx(other, rel=1e-5)


def test_a_resumed_run_keeps_the_same_checkpoint(both, resumed):
    one, other = (
        keras.saving.load_model(folder / "cross_entropy.keras", compile=False).get_weights()
        for folder in (both[0], resumed[0])
    )
    for a, b in zip(one, other):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_finished_run_is_not_repeated(noise, resumed):
    folder, count = resumed[0], Count()
    before = (folder / "cross_entropy.csv").read_text()
    model, history = run(noise, folder, count)
    assert count.epochs == [] and history.epoch == [0, 1, 2]
    assert (folder / "cross_entropy.csv").read_text() == before
    saved = keras.saving.load_model(folder / "cross_entropy.keras", compile=False)
    np.testing.assert_array_equal(model.get_weights()[0], saved.get_weights()[0])


def test_without_epochs_nothing_is_trained(noise, tmp_path):
    model = fcn()
    train, val = loaders(noise)
    assert training.fit(model, train, val, folder=tmp_path / "none", epochs=0).epoch == []
    assert not (tmp_path / "none").exists()


# Classes that never occur


@pytest.fixture(scope="module")
def fit_masks():
    """A function that trains with all pixels of these training and validation masks, and gives
    what it warned of."""
    model = fcn(class_names=["low", "middle", "high"])
    training.compile(model, 10, **PLAIN)

    def fit(*masks):
        image = np.zeros((1, 24, 32, 3), "uint8")
        (x, y), validation = ((image, np.resize(np.uint8(ids), (1, 24, 32))) for ids in masks)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            model.fit(
                x, y, epochs=2, validation_data=validation, verbose=0,
                callbacks=[WarnOfAbsentClasses()],
            )  # fmt: skip
        return [str(w.message) for w in caught if issubclass(w.category, UserWarning)]

    return fit


def test_classes_that_never_occur_are_named_once(fit_masks):
    train, validation = fit_masks([0, 2, 255], [1, 2])
    assert train.startswith("1 classes never occur in this epoch's training masks: middle.")
    assert validation.startswith("1 classes never occur in this epoch's validation masks: low.")
    assert train.endswith("`keras-sanet inspect` shows what masks hold.")


def test_nothing_is_said_where_all_classes_occur(fit_masks):
    assert fit_masks([0, 1, 2], [0, 1, 2, 255]) == []


def test_masks_of_0_and_255_are_masks_of_one_class(fit_masks):
    train, validation = fit_masks([0, 255], [255])
    assert train.startswith(
        "Only one class occurs in this epoch's training masks, 'low': nothing can be learned from "
        "them. (Are they of 0 and 255? Masks of two classes hold 0 and 1; 255 is void.)"
    )
    assert validation.startswith("No pixel of this epoch's validation masks has a class")


def test_fit_warns_of_them(noise, tmp_path):
    dataset = dataclasses.replace(noise, class_ids=dict.fromkeys(range(256), 1))
    with pytest.warns(UserWarning, match="Only one class occurs in .* training masks, 'class 1'"):
        training.fit(fcn(), *loaders(dataset), folder=tmp_path, epochs=1, verbose=0, **PLAIN)


# Plain Keras


def arrays(rng):
    """2 images and masks whose classes are in the brightness."""
    mask = rng.integers(0, CLASSES, (2, 24, 1), dtype="uint8").repeat(32, axis=2)
    image = np.repeat(100 * mask[..., None], 3, axis=-1)
    mask[:, 0] = 255
    return image, mask


def test_plain_compile_and_fit_take_the_losses_and_metrics(rng):
    model = fcn()
    model.compile(
        keras.optimizers.Adam(1e-3),
        SegmentationLoss(lovasz_weight=0.5),
        metrics=[CrossEntropy(), MeanIoU(CLASSES), PixelAccuracy(CLASSES)],
        **PLAIN,
    )
    history = model.fit(*arrays(rng), batch_size=2, epochs=4, verbose=0).history
    assert set(history) == {"loss", "cross_entropy", "mean_iou", "pixel_accuracy"}
    assert history["loss"][-1] < history["loss"][0]


@pytest.fixture(scope="module")
def with_auxiliary(noise, tmp_path_factory):
    """A run of both phases of a model with an auxiliary output: its folder, model and history."""
    folder = tmp_path_factory.mktemp("auxiliary")
    model, steps = fcn(auxiliary="s3"), {"learning_rate": 1e-3, "verbose": 0, **PLAIN}
    epochs = {"epochs": 2, "lovasz_epochs": 1}
    return folder, model, training.fit(model, *loaders(noise), folder=folder, **epochs, **steps)


def test_a_model_with_an_auxiliary_output_has_the_best_weights_too(with_auxiliary):
    folder, model, _ = with_auxiliary
    saved = keras.saving.load_model(folder / "model.keras", compile=False)
    assert not isinstance(saved.output, dict) and isinstance(model.output, dict)
    image = np.zeros((1, 24, 32, 3), "uint8")
    found, expected = model.predict(image, verbose=0), saved.predict(image, verbose=0)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-5, atol=1e-5)


def test_the_history_has_nan_where_an_epoch_lacks_a_metric(with_auxiliary):
    values = with_auxiliary[2].history["val_auxiliary_loss"]
    assert np.isnan(values).tolist() == [False, False, True]


def test_the_figures_of_an_auxiliary_fcn_have_the_names_of_any_run(with_auxiliary):
    rows = run_state.read_log(with_auxiliary[0] / "cross_entropy.csv")
    figures = {"cross_entropy", "pixel_accuracy", "mean_accuracy", "mean_iou"}
    assert figures | {f"val_{name}" for name in figures} <= rows[0].keys()
    # The loss of all outputs; the auxiliary one weighs 0.4.
    parts = rows[0]["logits_loss"] + 0.4 * rows[0]["auxiliary_loss"]
    assert rows[0]["loss"] == pytest.approx(parts, rel=1e-5)


def test_the_second_phase_trains_without_the_auxiliary_loss(with_auxiliary):
    (row,) = run_state.read_log(with_auxiliary[0] / "lovasz.csv")
    assert "auxiliary_loss" not in row and 0 <= row["val_mean_iou"] <= 1


def test_an_auxiliary_run_goes_on_where_it_was(noise, tmp_path):
    steps, log = {"learning_rate": 1e-3, "verbose": 0, **PLAIN}, tmp_path / "cross_entropy.csv"
    training.fit(fcn(auxiliary="s3"), *loaders(noise), folder=tmp_path, epochs=1, **steps)
    (first,) = run_state.read_log(log)
    training.fit(fcn(auxiliary="s3"), *loaders(noise), folder=tmp_path, epochs=2, **steps)
    before, row = run_state.read_log(log)
    assert before == first and row["epoch"] == 1 and "val_auxiliary_loss" in row


def test_the_auxiliary_fcn_trains_with_a_dict_of_targets(rng):
    model = fcn(auxiliary="s3")
    training.compile(model, decay_steps=10, learning_rate=1e-3)
    images, masks = arrays(rng)
    targets = {"logits": masks, "auxiliary": masks}
    before = [weight.copy() for weight in model.get_layer("auxiliary_classifier").get_weights()]
    history = model.fit(images, targets, batch_size=2, epochs=1, verbose=0).history
    # The sum of both, the auxiliary one weighed 0.4 (PSPNet).
    parts = history["logits_loss"][0] + 0.4 * history["auxiliary_loss"][0]
    assert history["loss"][0] == pytest.approx(parts, rel=1e-5)
    assert "logits_mean_iou" in history and "auxiliary_mean_iou" not in history
    after = model.get_layer("auxiliary_classifier").get_weights()
    assert all((a != b).any() for a, b in zip(before, after))


# Models of one logit, and of probabilities


def of_layers(*layers, name="logits"):
    image = keras.Input((24, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    for layer in layers:
        x = layer(x)
    return keras.Model(image, keras.layers.Identity(name=name)(x))


@pytest.mark.parametrize("loss", ["cross_entropy", "lovasz"])
@pytest.mark.parametrize(("activation", "from_logits"), [(None, True), ("softmax", False)])
def test_compile_tells_logits_and_probabilities_by_the_model(loss, activation, from_logits):
    model = of_layers(keras.layers.Conv2D(3, 1, activation=activation), name="other")
    training.compile(model, 10, loss=loss)
    told = [model.loss, *model._compile_metrics._user_metrics]
    assert [each.from_logits for each in told] == 5 * [from_logits]


def test_a_model_that_cannot_be_told_is_read_as_its_loss_does():
    model = of_layers(keras.layers.Conv2D(3, 1), keras.layers.GaussianNoise(0.1))
    training.compile(model, 10, loss=SegmentationLoss(from_logits=False))
    assert not any(metric.from_logits for metric in model._compile_metrics._user_metrics)


def test_a_loss_that_reads_the_model_wrongly_is_refused():
    model = of_layers(keras.layers.Conv2D(3, 1, activation="softmax"))
    with pytest.raises(ValueError, match="gives probabilities: pass a loss with from_logits=False"):
        training.compile(model, 10, loss=SegmentationLoss())


def binary_fcn(**kwargs):
    return keras_sanet.FCN(
        1, "resnet_tiny", input_shape=(24, 32, 3), filters=8, dropout=0,
        class_names=["background", "lane"], **kwargs,
    )  # fmt: skip


def test_an_auxiliary_fcn_of_one_logit_learns(rng):
    keras.utils.set_random_seed(0)
    model, images = binary_fcn(auxiliary="s3"), rng.integers(0, 256, (2, 24, 32, 3))
    images[:, :, :16] //= 8  # dark, background, on the left
    masks = np.zeros((2, 24, 32), "uint8")
    masks[:, :, 16:], masks[:, 0] = 1, 255
    training.compile(model, 100, learning_rate=1e-2, **PLAIN)
    truth = {"logits": masks, "auxiliary": masks}
    found = model.fit(images.astype("uint8"), truth, epochs=12, verbose=0).history
    # one class alone would be right in half of the pixels: IoU 1/2 and 0
    assert max(found["logits_mean_iou"]) > 0.8, found


def test_keras_own_binary_cross_entropy_trains_one_logit(rng):
    model, images = binary_fcn(), rng.integers(0, 256, (2, 24, 32, 3)).astype("uint8")
    masks = (images[..., :1] > 128).astype("float32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=[MeanIoU(1), CrossEntropy()], **PLAIN)
    found = model.evaluate(images, masks, verbose=0, return_dict=True)
    assert found["cross_entropy"] == pytest.approx(found["loss"], rel=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
def test_fit_refuses_a_model_of_other_classes_than_the_data(noise, tmp_path, classes):
    model = of_layers(keras.layers.Conv2D(classes, 1))
    with pytest.raises(ValueError, match=f"has {max(2, classes)} classes, the data set .* 3"):
        training.fit(model, *loaders(noise), folder=tmp_path, epochs=1)
    assert not any(tmp_path.iterdir())


# Directions


MONITORED = {
    "mean_iou": (MeanIoU(2), "greater"),
    "mean_accuracy": (MeanAccuracy(2), "greater"),
    "pixel_accuracy": (PixelAccuracy(2), "greater"),
    "cross_entropy": (CrossEntropy(), "less"),
    "miou": (MeanIoU(2, name="miou"), "greater"),
    "nats": (CrossEntropy(name="nats"), "less"),
}


def test_callbacks_of_mode_auto_know_what_is_better(tmp_path):
    model = of_layers(keras.layers.Conv2D(2, 1))
    metrics = [metric for metric, _ in MONITORED.values()]
    model.compile("sgd", SegmentationLoss(), metrics=metrics, **PLAIN)
    names = [f"{split}{name}" for name in MONITORED for split in ("", "val_")]
    callbacks = [
        make(name)
        for name in names
        for make in (
            keras.callbacks.EarlyStopping,
            keras.callbacks.ReduceLROnPlateau,
            lambda name: keras.callbacks.ModelCheckpoint(
                tmp_path / f"{name}.weights.h5", name, save_best_only=True, save_weights_only=True
            ),
        )
    ]
    data = np.zeros((1, 24, 32, 3)), np.zeros((1, 24, 32))
    model.fit(*data, validation_data=data, verbose=0, callbacks=callbacks)
    assert len(callbacks) == 3 * 2 * 6
    for callback in callbacks:
        expected = MONITORED[callback.monitor.removeprefix("val_")][1]
        assert callback.monitor_op.__name__ == expected, callback.monitor


def test_callbacks_of_fit_know_what_is_better_of_several_outputs(noise, tmp_path):
    stopping = keras.callbacks.EarlyStopping(monitor="val_mean_iou")
    training.fit(
        fcn(auxiliary="s3"), *loaders(noise), folder=tmp_path, epochs=1, callbacks=[stopping],
        verbose=0, **PLAIN,
    )  # fmt: skip
    assert stopping.monitor_op is keras.ops.greater


def test_batches_of_one_value_for_a_stock_batch_norm_are_refused(noise, tmp_path):
    image = keras.Input((None, None, 3))
    x = keras.layers.AveragePooling2D(16)(image)
    x = keras.layers.BatchNormalization(name="last_norm")(x)
    model = keras_sanet.FCN(CLASSES, keras.Model(image, {"s4": x}), filters=4)
    train, val = make_dataset(noise, "train", crop_size=16, batch_size=1), loaders(noise)[1]
    with pytest.raises(ValueError, match="1 image of 16 x 16 .*'last_norm'.*larger batches"):
        training.fit(model, train, val, folder=tmp_path, epochs=1)
