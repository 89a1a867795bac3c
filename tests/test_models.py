"""SANet and its controls: shapes, precision, arguments, files in a fresh process, a train step."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from support import to_numpy

from keras_sanet import FCN, PSPNet, SANet, backbones, models, weights
from keras_sanet.losses import SegmentationLoss
from keras_sanet.presets.config import describe

CLASSES = 3
NAMES, PALETTE = ["road", "sky", "tree"], [[128, 64, 128], [70, 130, 180], [107, 142, 35]]

# Channels of s0 .. s4 of "resnet_tiny": 16, 16, 32, 64, 128.
MODELS = {
    "SANet": lambda: sanet(),
    "PSPNet": lambda: PSPNet(CLASSES, "resnet_tiny", bins=(1, 2), pyramid_filters=4),
    "FCN": lambda: FCN(CLASSES, "resnet_tiny", filters=4),
    "FCN with all": lambda: FCN(CLASSES, "resnet_tiny", filters=4, skip="s1", auxiliary="s3"),
}


def sanet(**arguments):
    few = {"aggregator_filters": 4, "pyramid_filters": 4, "bins": (1, 2), "taps": ("s1", "s4")}
    return SANet(**{"num_classes": CLASSES, "backbone": "resnet_tiny", **few, **arguments})


def random_image(rng, height, width, batch=2):
    return rng.integers(0, 256, (batch, height, width, 3), dtype="uint8")


def fusing_channels(model):
    """Channels that come into the 3x3 of the pyramid."""
    return model.get_layer("pyramid_pooling").kernel.shape[2]


@pytest.fixture(scope="module")
def tiny():
    """SANet with all taps."""
    return sanet(taps=("s0", "s1", "s2", "s3", "s4"))


# Logits


def logits_of(outputs):
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize("name", MODELS)
def test_logits_have_the_size_of_the_image(name, compiled, rng):
    run = compiled(MODELS[name]())
    # Sides that are no multiples of 8; then smaller than one cell.
    for height, width in ((19, 13), (5, 7)):
        for logits in logits_of(run(random_image(rng, height, width))):
            assert tuple(logits.shape) == (2, height, width, CLASSES)
            assert np.isfinite(to_numpy(logits)).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_float32_in_mixed_precision(name, policy):
    keras.config.set_dtype_policy(policy)
    model = MODELS[name]()
    assert model.get_layer("classifier").compute_dtype == policy.removeprefix("mixed_")
    assert [logits.dtype for logits in logits_of(model.output)] == ["float32"] * len(model.outputs)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_sanet_is_finite_in_mixed_precision(policy, compiled, rng):
    keras.config.set_dtype_policy(policy)
    logits = compiled(sanet())(random_image(rng, 16, 24))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(to_numpy(logits)).all()


def test_mixed_float16_scales_the_loss():
    keras.config.set_dtype_policy("mixed_float16")
    model = sanet()
    model.compile("sgd", SegmentationLoss())
    # Keras wraps the optimizer of a model with this policy; small gradients would become 0.
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def test_mixed_precision_does_not_round_the_image(compiled):
    # As for the backbones: in bfloat16 100.2 would become 100.
    keras.config.set_dtype_policy("mixed_bfloat16")
    run = compiled(sanet(taps=("s0",), fusion="aggregated", bins=None))
    exact, near = (
        to_numpy(run(np.full((1, 16, 16, 3), value, "float32"))) for value in (100.0, 100.2)
    )
    assert np.any(exact != near)


def test_auxiliary_logits_have_a_classifier_of_their_own(compiled, rng):
    model, image = MODELS["FCN with all"](), random_image(rng, 16, 24)
    assert list(model.output) == ["logits", "auxiliary"]
    run = compiled(model)
    before = {name: to_numpy(logits) for name, logits in run(image).items()}
    model.get_layer("auxiliary_classifier").bias.assign([1.0, 2.0, 3.0])
    after = {name: to_numpy(logits) for name, logits in run(image).items()}
    np.testing.assert_array_equal(after["logits"], before["logits"])
    # The bias was 0, and resizing keeps a constant.
    change = after["auxiliary"] - before["auxiliary"]
    np.testing.assert_allclose(change, np.broadcast_to([1, 2, 3], change.shape), rtol=0, atol=1e-5)


def test_skip_joins_its_tap_to_the_head():
    # The 3x3 of 4 channels and s1 of 16 come to the classifier.
    assert MODELS["FCN with all"]().get_layer("classifier").kernel.shape[2] == 4 + 16


# Layers


def test_fig2_layers_have_the_names_of_the_documentation(tiny):
    names = [layer.name for layer in tiny.layers]
    adapters = [f"adapter_s{i}" for i in range(5)]
    for name in ("backbone", *adapters, "aggregator", "pyramid_pooling", "classifier", "logits"):
        assert names.count(name) == 1


def test_backbone_is_a_model_of_five_taps(tiny):
    backbone = tiny.get_layer("backbone")
    assert isinstance(backbone, keras.Model)
    assert list(backbone.output) == ["s0", "s1", "s2", "s3", "s4"]


def test_eq1_brings_every_tap_to_the_filters_of_the_aggregator(tiny):
    kernels = [tuple(tiny.get_layer(f"adapter_s{i}").kernel.shape) for i in range(5)]
    assert kernels == [(1, 1, channels, 4) for channels in (16, 16, 32, 64, 128)]


def test_aggregator_dilates_by_two_unless_told(tiny):
    assert tiny.get_layer("aggregator").dilation_rate == 2
    other = sanet(aggregator_dilation_rate=3)
    assert other.get_layer("aggregator").dilation_rate == 3


@pytest.mark.parametrize(
    ("fusion", "channels"),
    [
        ("concatenate", 128 + 4),  # s4 and y
        ("add", 128),  # y has the channels of s4
        ("aggregated", 4),  # y alone
    ],
)
def test_fusion_decides_the_channels_of_the_pyramid(fusion, channels):
    model = sanet(fusion=fusion)
    # Two branches of 4 channels come to these.
    assert fusing_channels(model) == channels + 2 * 4
    assert model.output_shape == (None, None, None, CLASSES)


def test_figure_3_without_a_pyramid_fuses_the_map_alone():
    assert fusing_channels(sanet(bins=None)) == 128 + 4


def test_the_grid_of_a_tap_is_that_of_the_aggregator_and_of_all_after_it(compiled, rng):
    model = sanet(input_shape=(32, 48, 3), grid="s1")
    # 1/4 of the image instead of 1/8.
    assert model.get_layer("aggregator").output.shape[1:3] == (8, 12)
    assert model.get_layer("classifier").output.shape[1:3] == (8, 12)
    assert compiled(model)(random_image(rng, 32, 48)).shape == (2, 32, 48, CLASSES)


def test_an_aggregator_of_ones_own_reads_the_adapted_maps():
    model = sanet(aggregator=keras.layers.Average(name="mean"))
    maps = [tensor._keras_history.operation.name for tensor in model.get_layer("mean").input]
    assert maps == ["adapter_s1", "adapter_s4"]  # those of `sanet`
    assert fusing_channels(model) == 128 + 4 + 2 * 4


def test_without_auxiliary_gives_the_logits_of_the_same_weights():
    model = MODELS["FCN with all"]()
    alone = models.without_auxiliary(model)
    assert alone.output is model.output["logits"]
    assert models.without_auxiliary(alone) is alone


@pytest.mark.parametrize("taps", [("s1", "s4"), ("s4", "s1", "s0")])
def test_taps_are_read_in_the_order_given(taps):
    model = sanet(taps=taps)
    adapters = [layer.name for layer in model.layers if layer.name.startswith("adapter_")]
    assert sorted(adapters) == sorted(f"adapter_{tap}" for tap in taps)
    for tap, tensor in zip(taps, model.get_layer("aggregator").input):
        assert tensor is model.get_layer(f"adapter_{tap}").output


def test_a_backbone_of_ones_own_is_taken_by_its_taps():
    image = keras.Input((None, None, 3))
    fine = keras.layers.Conv2D(4, 3, 2, padding="same")(image)
    coarse = keras.layers.Conv2D(8, 3, 2, padding="same")(fine)
    backbone = keras.Model(image, {"fine": fine, "coarse": coarse})
    model = sanet(backbone=backbone, taps=("fine", "coarse"))
    # The last tap, of 8 channels, joins y and two branches of 4.
    assert fusing_channels(model) == 8 + 4 + 2 * 4
    assert model.output_shape == (None, None, None, CLASSES)


def test_a_backbone_of_another_name_is_the_layer_backbone_with_the_same_weights(tmp_path):
    own = backbones.build("resnet_tiny", name="mine")
    model = FCN(CLASSES, own, filters=4)
    backbone = model.get_layer("backbone")
    assert list(backbone.output) == ["s0", "s1", "s2", "s3", "s4"]
    assert backbone.get_layer("conv1") is own.get_layer("conv1")
    own.save_weights(tmp_path / "mine.weights.h5")
    assert len(weights.load_checkpoint(model, tmp_path / "mine.weights.h5").loaded) == 60
    assert describe(model)[1]["backbone"]["variant"] == "resnet_tiny"


# Errors


@pytest.mark.parametrize("taps", ["s4", ()])
def test_taps_must_be_a_list_of_one_name_at_least(taps):
    with pytest.raises(ValueError, match="`taps` must be a list of names"):
        sanet(taps=taps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "sum"}, '`fusion` must be "concatenate", "add".*fusion=\'sum\''),
        ({"taps": ("s1", "s9")}, "Unknown tap 's9'. The backbone has: s0, s1, s2, s3, s4"),
        ({"grid": "s9"}, "Unknown tap 's9'. The backbone has: s0, s1, s2, s3, s4"),
        ({"aggregator": "sum"}, "`aggregator` must be a layer or a function.*aggregator='sum'"),
        ({"num_classes": 0}, "`num_classes` must be a positive integer.*num_classes=0"),
        ({"class_names": ["road"]}, "`class_names` must have one entry a class, 3.*1 entries"),
        ({"palette": [[0, 0, 0]]}, "`palette` must have one entry a class, 3.*1 entries"),
        ({"backbone": "resnet19"}, "Unknown backbone 'resnet19'. Known: resnet_tiny"),
        ({"backbone": 18}, "`backbone` must be the name of one or a `keras.Model`.*18"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_sanet_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        sanet(**arguments)


@pytest.mark.parametrize("build", [SANet, PSPNet, FCN])
def test_the_name_of_a_preset_is_no_number_of_classes(build):
    with pytest.raises(ValueError, match=r"from_preset\('sanet_tiny_scenes'\)"):
        build("sanet_tiny_scenes")


def test_the_name_of_a_preset_is_no_backbone():
    with pytest.raises(ValueError, match="Unknown backbone 'sanet_tiny_scenes'.*from_preset"):
        SANet(CLASSES, "sanet_tiny_scenes")


@pytest.mark.parametrize(
    "arguments",
    [{"num_classes": 0}, {"dropout": 1}, {"taps": ("s9",)}, {"class_names": ["one"]}, {"bins": 3},
     {"pyramid_filters": 0}, {"aggregator_filters": 0}, {"input_shape": (3, None, None)}],
    ids=lambda arguments: next(iter(arguments)),
)  # fmt: skip
def test_arguments_are_checked_before_a_layer_is_built(arguments, monkeypatch):
    monkeypatch.setattr(keras.layers.Layer, "build", None)
    monkeypatch.setattr(keras.layers.Conv2D, "build", None)
    with pytest.raises(ValueError, match=next(iter(arguments)).replace("taps", "tap")):
        sanet(**arguments)


def test_integers_of_numpy_are_integers():
    three, pair = np.int64(3), np.array([1, 2], "int32")
    model = SANet(
        three, "resnet_tiny", input_shape=(None, None, three), aggregator_filters=np.int32(4),
        aggregator_dilation_rate=np.int8(2), bins=pair, pyramid_filters=np.uint8(4),
        dropout=np.float32(0.5), taps=np.array(["s1", "s4"]),
    )  # fmt: skip
    assert model.to_json() == sanet(dropout=0.5).to_json()


@pytest.mark.parametrize("build", [SANet, PSPNet, FCN])
def test_all_but_classes_and_backbone_are_keywords(build):
    with pytest.raises(TypeError, match="2 positional arguments"):
        build(CLASSES, "resnet_tiny", None)


@pytest.mark.parametrize("argument", ["skip", "auxiliary"])
def test_fcn_names_an_unknown_tap(argument):
    with pytest.raises(ValueError, match="Unknown tap 's9'. The backbone has: s0"):
        FCN(CLASSES, "resnet_tiny", filters=4, **{argument: "s9"})


# Files

PREDICT = """
import sys
import keras, keras_sanet, numpy as np
folder = sys.argv[1]
model = keras.saving.load_model(f"{folder}/model.keras")
model.compile(jit_compile=keras.backend.backend() == "jax")
logits = model.predict_on_batch(np.load(f"{folder}/image.npy"))
np.save(f"{folder}/{keras.backend.backend()}.npy", logits)
output = model.get_layer("logits")
print(output.class_names, output.palette)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of model.keras and image.npy, and the logits of the one for the other."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("saved")
    model = sanet(class_names=NAMES, palette=PALETTE)
    for variable in model.variables:
        # Statistics and scales that no fresh model has.
        if variable.name in ("gamma", "beta", "moving_mean", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.0, variable.shape))
    image = random_image(rng, 13, 18)
    model.save(folder / "model.keras")
    np.save(folder / "image.npy", image)
    model.compile(jit_compile=keras.backend.backend() == "jax")
    return folder, model.predict_on_batch(image)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_keras_file_gives_the_same_logits_in_a_fresh_process(backend, saved):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    folder, expected = saved
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(folder)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"{NAMES} {PALETTE}")
    logits = np.load(folder / f"{backend}.npy")
    # Exact where it was saved; elsewhere other libraries sum in another order.
    tolerance = 0 if backend == keras.backend.backend() else 1e-3
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    assert np.abs(expected).max() > 0.1


# Channels first in Keras's configuration


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


def trained(format):
    """Logits after a step of a SANet that was built and trained with Keras set to a format."""
    rng = np.random.default_rng(0)
    keras.config.set_image_data_format(format)
    keras.utils.set_random_seed(0)
    model = sanet(fusion="add", grid="s3", dropout=0.0)
    jit = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.SGD(0.1), SegmentationLoss(lovasz_weight=0.0), jit_compile=jit)
    image = random_image(rng, 16, 24)
    model.train_on_batch(image, rng.integers(0, CLASSES, (2, 16, 24)))
    return model.predict_on_batch(image)


@pytest.mark.slow
def test_a_model_is_built_and_trained_the_same_with_keras_set_to_channels_first(channels_first):
    found = trained("channels_first")
    np.testing.assert_array_equal(found, trained("channels_last"))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_its_channels_last_with_keras_set_to_channels_first(name, channels_first):
    model = MODELS[name]()
    formats = {getattr(layer, "data_format", "channels_last") for layer in model._flatten_layers()}
    assert formats == {"channels_last"}


PREDICT_CHANNELS_FIRST = (
    """
import keras
keras.config.set_image_data_format("channels_first")
"""
    + PREDICT
    + """
assert keras.config.image_data_format() == "channels_first"
model.save(f"{folder}/again.keras")
"""
)


@pytest.mark.slow
def test_a_keras_file_goes_between_processes_of_both_configurations(saved):
    folder, expected = saved
    backend = keras.backend.backend()
    command = [sys.executable, "-c", PREDICT_CHANNELS_FIRST, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(folder / f"{backend}.npy"), expected)
    model = keras.saving.load_model(folder / "again.keras")
    model.compile(jit_compile=backend == "jax")
    found = model.predict_on_batch(np.load(folder / "image.npy"))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(3, None, None), (3, 64, 96)])
def test_an_input_shape_with_the_channels_first_is_refused(shape):
    with pytest.raises(ValueError, match="must be .height, width, channels., channels last"):
        sanet(input_shape=shape)


@pytest.mark.parametrize("made", ["layer", "function"])
def test_an_aggregator_with_the_channels_first_is_refused(made, channels_first):
    layer = keras.layers.Conv2D(4, 1, name="mine")
    aggregator = layer if made == "layer" else lambda maps: layer(keras.ops.stop_gradient(maps[0]))
    with pytest.raises(ValueError, match="must have the channels last.*'mine' has them first"):
        sanet(input_shape=(64, 64, 3), aggregator=aggregator)


# Training


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (2, 65, 65))
    labels[:, :5] = 255
    return random_image(rng, 65, 65), labels


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_train_step_of_sanet_resnext50_is_finite_and_moves_all_parts(policy, batch):
    keras.config.set_dtype_policy(policy)
    model = SANet(CLASSES, "resnext50", aggregator_filters=32, pyramid_filters=32)
    jit = keras.backend.backend() == "jax"
    loss = SegmentationLoss(num_bins=64)
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit)
    parts = {
        "conv1": model.get_layer("backbone").get_layer("conv1").kernel,
        "adapter_s0": model.get_layer("adapter_s0").kernel,
        "aggregator": model.get_layer("aggregator").recurrent_kernel,
        "pyramid_pooling": model.get_layer("pyramid_pooling").kernel,
        "classifier": model.get_layer("classifier").kernel,
    }
    before = {name: to_numpy(kernel).copy() for name, kernel in parts.items()}
    loss = model.train_on_batch(*batch)
    assert np.isfinite(loss)
    assert loss > 0
    for name, kernel in parts.items():
        after = to_numpy(kernel)
        assert np.isfinite(after).all(), name
        assert np.any(after != before[name]), name
