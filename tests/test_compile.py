"""What the arguments of `training.compile` do to the numbers of a training."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sanet
from keras_sanet import optimizers, training
from keras_sanet._backend import runs_on_cpu
from keras_sanet.backbones import foreign

CLASSES, SIZE, STEPS = 3, (16, 16), 4
BACKEND = keras.backend.backend()
# XLA takes longer to compile these models than to run them.
PLAIN = {"jit_compile": False} if BACKEND == "tensorflow" else {}


def fcn():
    """With a small foreign backbone, one of whose two batch norms is inside of an inner model."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.ReLU()], name="inner")
    image = keras.Input((*SIZE, 3))
    x = inner(keras.layers.Conv2D(4, 3, strides=4, use_bias=False)(image))
    x = keras.layers.BatchNormalization(name="last")(keras.layers.Conv2D(8, 1, use_bias=False)(x))
    backbone = foreign.from_model(keras.Model(image, x), taps=["last"], preprocessing="unit")
    return keras_sanet.FCN(CLASSES, backbone, filters=8, dropout=0)


@pytest.fixture(scope="module")
def pairs():
    """Four batches of two images, whose classes are in their brightness."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, CLASSES, (2 * STEPS, SIZE[0], 1), dtype="uint8").repeat(SIZE[1], axis=2)
    return np.repeat(100 * masks[..., None], 3, axis=-1), masks


def fit(model, pairs, *callbacks, steps=STEPS, **kwargs):
    """The history of an epoch."""
    images, masks = (part[: 2 * steps] for part in pairs)
    run = model.fit(
        *(images, masks), batch_size=2, shuffle=False, verbose=0, callbacks=callbacks, **kwargs
    )
    return run.history


def compiled(model=None, learning_rate=1e-3, **kwargs):
    model = model or fcn()
    training.compile(model, STEPS, learning_rate=learning_rate, **PLAIN, **kwargs)
    return model


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


def assert_close(found, expected):
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def batch_norms(model):
    return [
        layer
        for layer in model.get_layer("backbone")._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


# Optimizers


def test_sgd_has_semsegs_momentum():
    optimizer = compiled(optimizer="sgd", weight_decay=1e-4).optimizer
    assert isinstance(optimizer, keras_sanet.optimizers.SGD)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_multiple_is_of_all_that_is_not_the_backbone(optimizer, pairs):
    # The first step is linear in the rate, of AdamW and SGD (momentum starts at 0): 10 times as
    # far in the head, and as far as ever in the backbone.
    moved = {}
    for multiple in (1, 10):
        model = compiled(
            optimizer=optimizer, head_learning_rate_multiple=multiple, learning_rate=1e-4
        )
        backbone = model.get_layer("backbone").trainable_variables
        head = [v for v in model.trainable_variables if id(v) not in {id(b) for b in backbone}]
        before = values(backbone), values(head)
        fit(model, pairs, steps=1)
        moved[multiple] = [
            np.concatenate([(a - b).ravel() for a, b in zip(values(part), old)])
            for part, old in zip((backbone, head), before)
        ]
    (stem, head), (same, further) = moved[1], moved[10]
    assert abs(stem).max() > 0 and abs(head).max() > 0
    np.testing.assert_allclose(same, stem, atol=2e-6)
    np.testing.assert_allclose(further, 10 * head, rtol=1e-3, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_rate_is_0_after_the_last_batch_accumulated_or_not(accumulated, pairs):
    # It counts batches: after the third of four, 1e-3 (1 - 3 / 4)^0.9 = 2.87175e-4.
    model = compiled(gradient_accumulation_steps=accumulated)
    fit(model, pairs, steps=3)
    assert float(model.optimizer.learning_rate) == pytest.approx(2.87175e-4, rel=1e-4)
    fit(model, pairs, steps=1)
    assert float(model.optimizer.learning_rate) == 0


@pytest.mark.slow
def test_the_first_of_two_accumulated_batches_moves_nothing_but_statistics(pairs):
    model = compiled(gradient_accumulation_steps=2)
    before, statistics = values(model.trainable_variables), values(batch_norms(model)[0].variables)
    fit(model, pairs, steps=1)
    assert_equal(values(model.trainable_variables), before)
    assert (values(batch_norms(model)[0].variables)[2] != statistics[2]).any()
    fit(model, pairs, steps=1)
    assert (values(model.trainable_variables)[0] != before[0]).any()


def test_the_clipped_step_of_sgd_has_the_length_of_rate_and_norm(pairs):
    # w - rate g / |g| x 0.01 has moved by 1e-3 x 0.01.
    model = compiled(
        fcn(), 1.0, optimizer="sgd", weight_decay=0, global_clipnorm=0.01, freeze_batch_norm=True
    )
    before = values(model.trainable_variables)
    fit(model, pairs, steps=1)
    squares = [((a - b) ** 2).sum() for a, b in zip(values(model.trainable_variables), before)]
    assert np.sqrt(sum(squares)) == pytest.approx(0.01, rel=1e-3)


# Average of the weights


class Look(keras.callbacks.Callback):
    """The weights at the end of each step's epoch, and during validation."""

    def __init__(self):
        super().__init__()
        self.trained, self.validated = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.trained.append(values(self.model.trainable_variables))

    def on_test_batch_begin(self, batch, logs=None):
        if not self.validated or len(self.validated) == len(self.trained):
            self.model.jax_state_sync() if BACKEND == "jax" else None
            self.validated.append(values(self.model.trainable_variables))


@pytest.mark.slow
def test_validation_sees_the_average_and_training_goes_on_from_the_weights(pairs):
    # One batch an epoch. The average a starts as the first step's weights w; then
    # a = 0.5 a + 0.5 w after each.
    plain, look = Look(), Look()
    small = [part[:2] for part in pairs]
    for ema_momentum, callback in ((None, plain), (0.5, look)):
        model = compiled(ema_momentum=ema_momentum)
        history = fit(
            *(model, pairs, optimizers.AveragedValidation(), callback),
            **{"steps": 1, "epochs": 3, "validation_data": small, "validation_batch_size": 2},
        )
    average = plain.trained[0]
    for epoch in range(3):
        assert_close(look.trained[epoch], plain.trained[epoch])
        if epoch:
            average = [0.5 * a + 0.5 * w for a, w in zip(average, plain.trained[epoch])]
        assert_close(look.validated[epoch], average)
    # `fit` leaves the average, so that the same figures are those of `evaluate` then.
    found = model.evaluate(*small, batch_size=2, verbose=0, return_dict=True)
    assert found["cross_entropy"] == pytest.approx(history["val_cross_entropy"][-1], rel=1e-5)


def test_the_average_is_taken_away_as_exactly_as_it_was_put_in(pairs):
    model = compiled(ema_momentum=0.9)
    fit(model, pairs)
    for variable in model.trainable_variables:
        variable.assign(variable + 1)
    before, optimizer = values(model.trainable_variables), values(model.optimizer.variables)
    with optimizers.averaged_weights(model):
        assert (values(model.trainable_variables)[0] != before[0]).any()
    assert_equal(values(model.trainable_variables), before)
    assert_equal(values(model.optimizer.variables), optimizer)


@pytest.mark.slow
def test_saved_within_it_is_the_average_and_after_it_what_resumes(pairs, tmp_path):
    model = compiled(ema_momentum=0.5)

    def save(epoch, logs):
        with optimizers.averaged_weights(model):
            model.save(tmp_path / "best.keras")
            averages.extend(values(model.trainable_variables))
        model.save_weights(tmp_path / "state.weights.h5")
        trained.extend(values(model.trainable_variables))
        state.extend(values(model.optimizer.variables))

    averages, trained, state = [], [], []
    fit(model, pairs, keras.callbacks.LambdaCallback(on_epoch_end=save))
    best = keras.saving.load_model(tmp_path / "best.keras", compile=False)
    assert_equal(values(best.trainable_variables), averages)
    again = compiled(ema_momentum=0.5)
    again.load_weights(tmp_path / "state.weights.h5")
    assert_equal(values(again.trainable_variables), trained)
    assert_equal(values(again.optimizer.variables), state)
    assert any((a != b).any() for a, b in zip(averages, trained))


def test_without_an_average_nothing_is_put_in():
    model = fcn()
    before = values(model.variables)
    with optimizers.averaged_weights(model):  # not even compiled
        assert_equal(values(model.variables), before)
    with optimizers.averaged_weights(compiled(model)):
        assert_equal(values(model.variables), before)


# Frozen batch norms


def test_frozen_batch_norms_keep_their_statistics_and_weights(pairs):
    model = compiled(freeze_batch_norm=True)
    assert len(batch_norms(model)) == 2
    frozen = [v for layer in batch_norms(model) for v in layer.variables]
    before = values(frozen)
    fit(model, pairs)
    assert_equal(values(frozen), before)


def test_with_frozen_batch_norms_the_backbone_is_the_same_in_training(pairs):
    model = keras_sanet.FCN(CLASSES, "resnet_tiny", input_shape=(*SIZE, 3), filters=8)
    training.compile(model, STEPS, freeze_batch_norm=True)
    backbone, images = model.get_layer("backbone"), pairs[0][:2].astype("float32")
    found, expected = (backbone(images, training=mode) for mode in (True, False))
    assert_close(values(found.values()), values(expected.values()))


# Arguments


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("optimizer", "adam", "Unknown optimizer 'adam'. Known: adamw, sgd"),
        ("gradient_accumulation_steps", 0, "must be a positive integer. Received: .*=0"),
        ("gradient_accumulation_steps", 2.0, "must be a positive integer. Received: .*=2.0"),
        ("head_learning_rate_multiple", 0, "must be above 0. Received: .*=0"),
        ("global_clipnorm", -1, "must be above 0. Received: .*=-1"),
        ("ema_momentum", 1.5, r"must be in the range \[0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_refused(argument, value, error):
    with pytest.raises(ValueError, match=error):
        compiled(**{argument: value})


# Together


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A CPU takes several times as long in float16")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_everything_together_trains_in_mixed_precision_with_float32_variables(policy, pairs):
    keras.config.set_dtype_policy(policy)
    model = compiled(
        head_learning_rate_multiple=10,
        gradient_accumulation_steps=2,
        global_clipnorm=1.0,
        ema_momentum=0.5,
    )
    history = fit(
        *(model, pairs, optimizers.AveragedValidation()),
        **{"epochs": 6, "validation_data": pairs, "validation_batch_size": 2},
    )
    assert history["loss"][-1] < history["loss"][0]
    assert np.isfinite(history["val_loss"]).all()
    assert {v.dtype for v in model.variables} == {"float32"}
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.metrics_variables} <= {
        *("float32", "int32", "int64", "uint32")
    }
    scaled = hasattr(model.optimizer, "inner_optimizer")
    assert scaled == (policy == "mixed_float16")


REPLICAS = """
import sys

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])

import numpy as np

sys.path.insert(0, sys.argv[1])
import test_compile
from keras_sanet import distribution, optimizers, training

images, masks = np.load(sys.argv[2]).values()


def train(optimizer):
    model = test_compile.fcn()
    distribution.synchronize_batch_norm(model)
    arguments = {"weight_decay": 0.1, "head_learning_rate_multiple": 10, "ema_momentum": 0.5}
    test_compile.compiled(model, 0.01, optimizer=optimizer, **arguments)
    before = test_compile.values(model.trainable_variables)
    model.fit(images, masks, batch_size=4, shuffle=False, verbose=0)
    with optimizers.averaged_weights(model):
        after = test_compile.values(model.trainable_variables)
    return np.concatenate([(a - b).ravel() for a, b in zip(after, before)])


one = [train(optimizer) for optimizer in ("sgd", "adamw")]
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    two = [train(optimizer) for optimizer in ("sgd", "adamw")]
    try:
        test_compile.compiled(gradient_accumulation_steps=2)
    except ValueError as error:
        refused = str(error)
np.savez(sys.argv[3], one=one, two=two, refused=refused)
"""


@pytest.fixture(scope="module")
def replicas(pairs, tmp_path_factory):
    """How far the weights move in two steps of SGD and AdamW on one and on two devices."""
    folder = tmp_path_factory.mktemp("replicas")
    np.savez(folder / "pairs.npz", *pairs)
    run = subprocess.run(  # a fresh process, where the CPU can be split in two devices
        [sys.executable, "-c", REPLICAS, Path(__file__).parent, folder / "pairs.npz",
         folder / "found.npz"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return np.load(folder / "found.npz")


needs_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="tf.distribute needs the TensorFlow backend"
)


@pytest.mark.slow
@needs_tensorflow
def test_two_devices_take_the_steps_of_one(replicas):
    (sgd, adamw), (sgd_of_two, adamw_of_two) = replicas["one"], replicas["two"]
    assert abs(sgd).max() > 1e-2 and abs(adamw).max() > 1e-2
    np.testing.assert_allclose(sgd_of_two, sgd, rtol=1e-4, atol=1e-6)
    # AdamW divides gradients near 0 by their size, where rounding counts.
    np.testing.assert_allclose(adamw_of_two, adamw, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
@needs_tensorflow
def test_accumulation_on_several_devices_is_refused_with_the_way_out(replicas):
    assert "gradient_accumulation_steps=2 on 2 devices. Take one" in str(replicas["refused"])


@pytest.mark.skipif(BACKEND == "jax" or not runs_on_cpu(), reason="as quick as float32 there")
def test_float16_on_a_cpu_is_warned_of_with_the_way_out():
    keras.config.set_dtype_policy("mixed_float16")
    with pytest.warns(UserWarning, match='float16.*"mixed_bfloat16"'):
        compiled()


def test_gradient_accumulation_steps_of_numpy_are_taken():
    steps = compiled(gradient_accumulation_steps=np.int64(2)).optimizer.gradient_accumulation_steps
    assert type(steps) is int and steps == 2
