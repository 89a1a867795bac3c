"""Model files: attacks refused, kills survived, the same numbers on every backend."""

import contextlib
import importlib.util
import io
import json
import operator
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest
from keras.src.saving import serialization_lib
from keras.src.saving.serialization_lib import SafeModeScope
from PIL import Image

import keras_sanet
from keras_sanet import SANet, _files, _untrusted, metrics, saving
from keras_sanet.datasets.files import frames, open_image
from keras_sanet.training import state as run_state

SIZE = 32  # pixels a side
BACKENDS = ("tensorflow", "jax", "torch")


def small_sanet(**kwargs):
    return SANet(3, "resnet_tiny", aggregator_filters=4, pyramid_filters=4, bins=(1, 2), **kwargs)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A whole `.keras` file of a compiled model."""
    path = tmp_path_factory.mktemp("good") / "good.keras"
    model = small_sanet(class_names=["road", "wall/fence", "sky"])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save(path)
    return path


def crafted(good, path, config=None, weights=None, more=(), leave=(), compress=False):
    """The good file with some members edited: `config` edits its dict, `weights` are bytes."""
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if config is not None:
        edited = json.loads(members["config.json"])
        config(edited)
        members["config.json"] = json.dumps(edited).encode()
    if weights is not None:
        members["model.weights.h5"] = weights
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", kind) as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content in [*members.items(), *more]:
            if name not in leave:
                archive.writestr(name, content)
    return path


def layer(config, name):
    """The entry of a layer in the config of a model."""
    return next(entry for entry in config["config"]["layers"] if entry["config"]["name"] == name)


def becomes(entry, module, class_name, config, registered_name=None):
    """Makes an entry of a config that of another class."""
    name = entry["config"]["name"]
    entry.update(module=module, class_name=class_name, registered_name=registered_name)
    entry["config"] = {"name": name, **config}
    entry.pop("build_config", None)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_good_file_loads_with_the_same_weights_and_not_compiled(good):
    model, stock = saving.load_model(good), keras.saving.load_model(good)
    assert not model.compiled
    assert model.get_layer("logits").class_names == ["road", "wall/fence", "sky"]
    for ours, theirs in zip(model.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_backbone_of_keras_passes_the_checks_of_its_config():
    model = keras.applications.ConvNeXtTiny(weights=None, include_top=False)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    _untrusted.check_config("convnext.keras", config)


# Of keras-cv and keras-hub: what backbones are made of, and what downloads or reads files.
REGISTERED = {
    "keras_hub": {
        "models.ResNetBackbone": True,
        "models.HGNetV2Backbone": True,
        "src.models.hgnetv2.hgnetv2_encoder.HGNetV2Encoder": True,
        "tokenizers.WordPieceTokenizer": False,
        "models.BertTextClassifierPreprocessor": False,
        "models.StableDiffusion3Backbone": False,
        "layers.ResNetImageConverter": False,
    },
    "keras_cv": {
        "models.ResNetBackbone": True,
        "models.MobileNetV3Backbone": True,
        "models.EfficientNetV2Backbone": True,
        "models.CSPDarkNetBackbone": True,
        "layers.SqueezeAndExcite2D": True,
        "layers.FusedMBConvBlock": True,
        "models.ResNet50Backbone": False,  # from_preset: a download
        "models.feature_extractor.CLIPProcessor": False,  # opens its vocabulary
        "models.stable_diffusion.TextEncoder": False,
        "layers.RandAugment": False,
    },
}


@pytest.mark.parametrize("package", REGISTERED)
def test_layers_of_foreign_backbones_pass_and_what_downloads_or_reads_does_not(package):
    if package == "keras_cv":
        pytest.importorskip("tensorflow", reason="keras-cv needs TensorFlow")
    foreign = pytest.importorskip(package, reason=f"{package} is not installed")
    for name, known in REGISTERED[package].items():
        kind = operator.attrgetter(name)(foreign)
        entry = {
            "module": kind.__module__,
            "class_name": kind.__name__,
            "registered_name": keras.saving.get_registered_name(kind),
            "config": {},
        }
        assert keras.saving.get_registered_object(entry["registered_name"]) is kind
        with contextlib.nullcontext() if known else refusal(f"{kind.__name__}.*not known"):
            _untrusted.check_config("foreign.keras", entry)


def test_functions_of_numbers_and_slices_pass(tmp_path, compiled, rng):
    image = keras.Input((8, 8, 3))
    x = image[:, 1:, ::2]
    functions = "relu relu6 sigmoid silu gelu hard_swish hard_sigmoid leaky_relu elu tanh square"
    for name in functions.split():
        x = getattr(keras.ops, name)(x / 4)
    x = keras.ops.clip(keras.ops.softmax(x), 0.1, 0.9)
    model = keras.Model(image, x)
    model.save(tmp_path / "model.keras")
    loaded, batch = saving.load_model(tmp_path / "model.keras"), rng.normal(size=(1, 8, 8, 3))
    np.testing.assert_allclose(
        *(keras.ops.convert_to_numpy(compiled(m)(batch)) for m in (model, loaded)), atol=1e-6
    )


def test_a_slice_of_anything_but_numbers_is_refused():
    for config in ({"start": "1"}, {"start": {}}, "text"):
        with refusal("'__slice__'"):
            _untrusted.check_config("a.keras", {"class_name": "__slice__", "config": config})


def refusal(message):
    return pytest.raises(ValueError, match=message)


# What a config may not name: what some version of Keras has acted on (its CVE), and its like.
# Newer ones refuse most of these themselves; `saving` does with all that the package supports.

CLASSES = {
    # Python bytecode; Keras's own safe mode refuses it.
    "lambda": ("keras.layers", "Lambda", {"function": {"class_name": "__lambda__", "config": {}}}),
    # A function of Keras as an activation: it downloads what it is called with (CVE-2025-8747).
    "function": (
        "keras.layers",
        "Activation",
        {
            "activation": {
                "module": "keras.utils",
                "class_name": "function",
                "config": "get_file",
                "registered_name": "get_file",
            }
        },
    ),
    # A SavedModel from anywhere, with TensorFlow's file operations (CVE-2026-1462).
    "saved model": ("keras.layers", "TFSMLayer", {"filepath": "theirs"}),
    # A pickle of PyTorch's.
    "pickle": ("keras.layers", "TorchModuleWrapper", {"module": "gASVAAAAAAA="}),
    # Reads a file of the reader's disk into a vocabulary (CVE-2025-12058).
    "vocabulary": ("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
    # Any class of any module (CVE-2025-1550).
    "module": ("os", "system", {"command": "true"}),
    # A Keras class that is no layer.
    "private": ("keras.src.utils.file_utils", "File", {}),
    # Named like a layer, of a module where Keras looks for any class.
    "submodule": ("keras.src.layers.core.lambda_layer", "Lambda", {}),
}


@pytest.mark.parametrize("attack", CLASSES)
def test_a_class_that_can_run_or_read_is_refused(attack, good, tmp_path):
    module, name, config = CLASSES[attack]
    path = crafted(
        good,
        tmp_path / "evil.keras",
        lambda c: becomes(layer(c, "dropout"), module, name, config),
    )
    refused = "function" if attack == "function" else name
    with refusal(f"evil.keras holds '{refused}' of .*keras.saving.load_model"):
        saving.load_model(path)


def test_a_known_class_name_with_another_registered_name_is_refused(good, tmp_path):
    # Keras resolves what is registered first: Dropout by class, the user's gadget in fact.
    ran = []

    @keras.saving.register_keras_serializable(package="mine")
    class Gadget(keras.layers.Layer):
        def __init__(self, command, **kwargs):
            super().__init__(**kwargs)
            ran.append(command)

    path = crafted(
        good,
        tmp_path / "evil.keras",
        lambda c: becomes(
            layer(c, "dropout"), "keras.layers", "Dropout", {"command": "theirs"}, "mine>Gadget"
        ),
    )
    with contextlib.suppress(Exception):
        keras.saving.load_model(path)
    assert ran == ["theirs"]  # the attack is real
    with refusal("registered as 'mine>Gadget'"):
        saving.load_model(path)
    assert ran == ["theirs"]


# What Keras finds by other ways than module and class name. The first two loaded any class.


def without_module(entry):
    entry.update(class_name="Lambda", registered_name="keras_sanet>SegmentationOutput")
    del entry["module"]  # then Keras goes by the class name, as for files of Keras 2


def other_class(entry):
    entry.update(class_name="Lambda", registered_name="keras_sanet>SegmentationOutput")


def no_module(entry):
    entry.update(module=None, registered_name="keras_sanet>SegmentationOutput")


def other_module(entry):
    entry.update(
        module="os",
        class_name="SegmentationOutput",
        registered_name="keras_sanet>SegmentationOutput",
    )


def metric(entry):
    name = keras.saving.get_registered_name(metrics.MeanIoU)
    entry.update(
        module=metrics.MeanIoU.__module__, class_name="MeanIoU", config={}, registered_name=name
    )


def function(entry):
    entry["config"]["activity_regularizer"] = {
        "module": "keras.src.layers.core.lambda_layer",
        "class_name": "function",
        "config": "Lambda",
        "registered_name": "keras_sanet>SegmentationOutput",
    }


def special(name):
    def edit(entry):
        entry["config"]["seed"] = {
            "module": "keras.layers",
            "class_name": name,
            "config": {"value": [1], "dtype": "float32"},
            "registered_name": "keras_sanet>SegmentationOutput",
        }

    edit.__name__ = name
    return edit


SPECIALS = "tensor numpy bytes lambda typespec tuple keras_tensor slice builtins"
WAYS = [
    without_module,
    other_class,
    no_module,
    other_module,
    metric,
    function,
    *(special(f"__{name}__") for name in SPECIALS.split()),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_class_that_borrows_a_name_of_ours_is_refused(way, good, tmp_path):
    path = crafted(good, tmp_path / "evil.keras", lambda c: way(layer(c, "dropout")))
    with refusal("evil.keras holds .* not known to be safe to load from a stranger"):
        saving.load_model(path)


@pytest.fixture
def gadget():
    """A class of the caller's, registered, and what it was made with."""
    ran = []

    @keras.saving.register_keras_serializable(package="mine", name="AnyGadget")
    class Gadget(keras.layers.Layer):
        def __init__(self, command="theirs", **kwargs):
            super().__init__(name=kwargs.get("name"))
            ran.append(command)

    yield Gadget, ran
    del keras.saving.get_custom_objects()["mine>AnyGadget"]


@pytest.mark.parametrize(
    ("name", "key"), [("classifier", "kernel_initializer"), ("dropout", "dtype")]
)
def test_a_text_that_is_registered_is_refused(name, key, gadget, good, tmp_path):
    # Keras takes texts for names of what is registered, and makes one.
    path = crafted(
        good,
        tmp_path / "evil.keras",
        lambda c: layer(c, name)["config"].update({key: "mine>AnyGadget"}),
    )
    with contextlib.suppress(Exception):
        keras.saving.load_model(path)
    assert gadget[1] == ["theirs"] * (name == "classifier")
    gadget[1].clear()
    with refusal("evil.keras asks for .*='mine>AnyGadget', which is registered"):
        saving.load_model(path)
    assert not gadget[1]


def test_a_name_of_ours_registered_for_another_class_is_refused(gadget, good, tmp_path):
    registered = keras.saving.get_custom_objects()
    ours = registered["keras_sanet>SegmentationOutput"]
    registered["keras_sanet>SegmentationOutput"] = gadget[0]
    try:
        with refusal("evil.keras holds 'SegmentationOutput'"):
            saving.load_model(crafted(good, tmp_path / "evil.keras"))
    finally:
        registered["keras_sanet>SegmentationOutput"] = ours
    assert not gadget[1]


def test_the_callers_own_names_for_classes_do_not_count(gadget, good):
    with keras.saving.custom_object_scope({"Dropout": gadget[0], None: gadget[0]}):
        assert saving.load_model(good).count_params() > 0
    assert not gadget[1]


@pytest.fixture
def unsafe():
    """Keras after `enable_unsafe_deserialization`."""
    keras.config.enable_unsafe_deserialization()
    yield
    SafeModeScope(None).__enter__()


def lambda_layer(config):
    model = keras.Sequential([keras.layers.Lambda(lambda x: exit(x), output_shape=(1,))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        serialized = keras.saving.serialize_keras_object(model.layers[0])
    becomes(layer(config, "dropout"), "keras.layers", "Lambda", serialized["config"])


def test_code_is_refused_after_unsafe_deserialization_was_enabled(unsafe, good, tmp_path):
    path = crafted(good, tmp_path / "evil.keras", lambda_layer)
    with refusal("evil.keras holds 'Lambda'"):
        saving.load_model(path)


def test_keras_itself_refuses_code_while_it_loads_for_us(unsafe, good, tmp_path, monkeypatch):
    # As if the list of classes let it through.
    monkeypatch.setattr(saving, "check_config", lambda path, config: None)
    path = crafted(good, tmp_path / "evil.keras", lambda_layer)
    with refusal("evil.keras can't be loaded: .*lambda"):
        saving.load_model(path)
    assert serialization_lib.in_safe_mode() is False  # as the caller had it


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_an_optimizer_inside_the_model_is_refused(good, tmp_path):
    # Keras drops the outer compile_config with compile=False, and builds an inner one.
    def edit(config):
        layer(config, "backbone")["compile_config"] = {"optimizer": "adam", "loss": "mse"}

    path = crafted(good, tmp_path / "evil.keras", edit)
    assert keras.saving.load_model(path, compile=False).get_layer("backbone").compiled
    with refusal("compiled model inside"):
        saving.load_model(path)


# Sizes


def peak(function):
    """Its error, and the largest number of bytes that Python and NumPy held meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as raised:
            function()
        return str(raised.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_billion_filters_are_refused(good, tmp_path):
    def edit(config):
        for name in ("adapter_s0", "aggregator"):
            layer(config, name)["config"]["filters"] = 10**9

    path = crafted(good, tmp_path / "evil.keras", edit)
    error, most = peak(lambda: saving.load_model(path))
    assert "evil.keras asks for filters=1000000000. At most 1048576" in error
    assert most < 50e6


@pytest.mark.parametrize(("name", "key"), [("aggregator", "filters"), ("classifier", "filters")])
def test_more_variables_than_the_weights_hold_are_refused_before_allocation(
    name, key, good, tmp_path
):
    # 2^20 filters pass as a number. The aggregator would ask for 3 x 3 x 4 x (4 x 2^20) values,
    # 604 MB, then for 158 TB; the classifier for 4 x 2^20 values, where the file has 319,247.
    path = crafted(
        good,
        tmp_path / "evil.keras",
        lambda c: layer(c, name)["config"].update({key: 2**20}),
    )
    with refusal("evil.keras can't be loaded: A variable of the shape .* is one too many"):
        saving.load_model(path)


def test_at_most_counts_nested_models_and_leaves_no_trace():
    before = keras.Variable.__init__
    with pytest.raises(ValueError, match="9,999 values in all are all"), saving.at_most(9_999):
        small_sanet()  # its backbone alone has more
    with saving.at_most(1_000_000):
        model = small_sanet()
    assert keras.Variable.__init__ is before
    exact = sum(int(np.prod(v.shape)) for v in model.variables)
    with saving.at_most(exact):
        small_sanet()
    with pytest.raises(ValueError, match="is one too many"), saving.at_most(exact - 1):
        small_sanet()
    keras.Variable(np.zeros(100))


def bins(config):
    layer(config, "pyramid_pooling")["config"]["bins"] = [1] * 20_000


def many_layers(config):
    config["config"]["layers"] += [{}] * 4096


def large_input(config):
    for entry in config["config"]["layers"]:
        if entry["class_name"] == "InputLayer":
            entry["config"]["batch_shape"] = [1, 12_000, 12_000, 3]


def large_build(config):
    layer(config, "classifier")["build_config"] = {"input_shape": [1, 12_000, 12_000, 3]}


def deep(config):
    for _ in range(20):
        layer(config, "dropout")["config"] = {
            "name": "dropout",
            "a": [layer(config, "dropout")["config"]],
        }


def not_a_number(config):
    layer(config, "dropout")["config"]["rate"] = float("nan")


def unconnected(config):
    layer(config, "dropout")["inbound_nodes"] = [{"args": [], "kwargs": {}}]


def of_keras_2(config):
    layer(config, "dropout")["inbound_nodes"] = [[["aggregator", 0, 0, {}]]]


def of_numbers(config):
    # A layer of numbers is computed when it is built: here 1 x 2^20 x 2^20 x 1 of them.
    entry = layer(config, "dropout")
    becomes(entry, "keras.layers", "UpSampling2D", {"size": [2**20, 2**20]})
    entry["inbound_nodes"][0]["args"] = [[[[[1.0]]]]]


def of_numbers_too(config):
    of_numbers(config)
    tensor = layer(config, "classifier")["inbound_nodes"][0]["args"][0]
    layer(config, "dropout")["inbound_nodes"][0]["kwargs"] = {"mask": tensor}


def of_many_values(config):
    # Keras multiplies it by the shape of the variable.
    layer(config, "classifier")["config"]["bias_initializer"] = {
        "module": "keras.initializers",
        "class_name": "Constant",
        "config": {"value": [[1.0]] * 10_000},
        "registered_name": None,
    }


ASKS = {
    large_input: "asks for batch_shape=.1, 12000, 12000, 3.. At most 134,217,728 values",
    large_build: "asks for input_shape=.1, 12000, 12000, 3.. At most",
    deep: "is nested more than 40 deep",
    not_a_number: "asks for rate=nan",
    unconnected: "calls a layer without another's output",
    of_keras_2: "calls a layer without another's output",
    of_numbers: "calls a layer without another's output, or with numbers",
    of_numbers_too: "calls a layer without another's output, or with numbers",
    of_many_values: "holds 'Constant'",
    bins: "asks for a list of 20,000 integers, bins. At most 256",
    many_layers: "has more than 4,096 layers",
}


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.__name__)
def test_a_config_that_asks_for_too_much_is_refused_with_the_way_out(ask, good, tmp_path):
    path = crafted(good, tmp_path / "evil.keras", ask)
    with refusal(f"(?s)evil.keras {ASKS[ask]}.*trust: .keras.saving.load_model"):
        saving.load_model(path)


def saved(layers, path, edit=None):
    """A file of a model of these layers, one after the other, of which `edit` edits the config."""
    image = x = keras.Input((8, 8, 3))
    for entry in layers:
        x = entry(x)
    keras.Model(image, x).save(path)
    return crafted(path, path.with_name("evil.keras"), edit)


def test_models_in_models_that_multiply_are_refused(tmp_path, monkeypatch):
    # Each of 4 calls that inside of it 6 times. Keras looks at a model once while the sizes are
    # those that it was built with, else at all that is in it: 6^4 calls.
    monkeypatch.setattr(saving, "_MOST_MAPS", 500)
    inner = keras.layers.ReLU(name="relu")
    for _ in range(4):
        image = x = keras.Input((None, None, 3))
        for _ in range(6):
            x = inner(x)
        inner = keras.Model(image, x)

    def edit(config):
        config["config"]["layers"][0]["config"]["batch_shape"] = [None, 8, 8, 3]

    inner.save(tmp_path / "good.keras")
    path = crafted(tmp_path / "good.keras", tmp_path / "evil.keras", edit)
    with refusal("(?s)evil.keras can't be loaded: .*500 maps in all are allowed"):
        saving.load_model(path)


def test_means_that_fill_a_map_are_refused(tmp_path):
    # One number for each value of 2^13 x 2^13 x 3.
    def edit(config):
        layer(config, "normalization")["config"]["axis"] = [1, 2, 3]
        del layer(config, "normalization")["build_config"]
        (tensor,) = layer(config, "normalization")["inbound_nodes"][0]["args"]
        tensor["config"]["shape"] = [None, 8, 8, 3]  # which Keras does not look at

    layers = [
        keras.layers.UpSampling2D(2**10),
        keras.layers.Normalization(mean=1.0, variance=1.0, name="normalization"),
    ]
    path = saved(layers, tmp_path / "good.keras", edit)
    with refusal("evil.keras can't be loaded: .*normalization asks for 201,326,592 means"):
        saving.load_model(path)


def test_one_layer_that_makes_many_is_refused(monkeypatch):
    monkeypatch.setattr(saving, "_MOST_CALLS", 200)
    with refusal("200 layers and calls of them in all are allowed here"), saving.at_most(2**30):
        keras_sanet.layers.PyramidPooling(1, [1] * 20_000)


def test_layers_in_the_reverse_order_end_soon(tmp_path, monkeypatch):
    # Keras goes over all that are left again and again: 40 x 40 / 2 attempts.
    monkeypatch.setattr(saving, "_MOST_MAPS", 500)
    layers = [keras.layers.ReLU() for _ in range(40)]
    path = saved(layers, tmp_path / "good.keras", lambda c: c["config"]["layers"].reverse())
    with refusal("(?s)evil.keras can't be loaded: .*500 maps in all are allowed"):
        saving.load_model(path)


def test_a_layer_that_fails_without_data_is_not_tried_with_data(tmp_path):
    # PyTorch would compute 83 x 83 x 83 x (2^17 + 1) values, 300 GB, of which "glu" can't make
    # halves.
    def edit(config):
        layer(config, "conv")["config"].update(filters=2**17 + 1, activation="glu")

    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(2**17 + 2, 1, activation="glu", use_bias=False, name="conv")(image)
    keras.Model(image, x).save(tmp_path / "good.keras")
    path = crafted(tmp_path / "good.keras", tmp_path / "evil.keras", edit)
    with refusal("evil.keras can't be loaded") as caught:
        saving.load_model(path)
    assert "alloc" not in str(caught.value)


def test_an_error_that_quotes_the_config_is_cut(good, tmp_path):
    def edit(config):
        layer(config, "classifier")["config"]["more"] = ["text"] * 100_000

    path = crafted(good, tmp_path / "evil.keras", edit)
    with refusal("evil.keras can't be loaded") as caught:
        saving.load_model(path)
    assert len(str(caught.value)) < 2000


# Archives


@pytest.mark.parametrize("name", ["../evil", "{}/evil", "assets/../../evil", "assets/vocabulary"])
def test_other_members_are_refused_and_nothing_is_written(name, good, tmp_path):
    # With a fourth member Keras extracts all of them to a temporary folder.
    folder, name = tmp_path / "folder", name.format(tmp_path)
    folder.mkdir()
    path = crafted(good, folder / "evil.keras", more=[(name, b"theirs")])
    with refusal(f"nothing else. It holds: .*{name}"):
        saving.load_model(path)
    assert list(tmp_path.rglob("*")) == [folder, path]


def test_two_members_of_one_name_are_refused(good, tmp_path):
    path = crafted(good, tmp_path / "evil.keras", more=[("config.json", b"{}")])
    with refusal("'config.json', 'config.json'"):
        saving.load_model(path)


def test_a_compressed_member_is_refused(good, tmp_path):
    # 200 MB of zeros in 200 kB.
    weights = io.BytesIO(bytes(200_000_000)).getvalue()
    path = crafted(good, tmp_path / "evil.keras", weights=weights, compress=True)
    assert path.stat().st_size < 1e6
    error, most = peak(lambda: saving.load_model(path))
    assert "is compressed, 200," in error
    assert most < 50e6


def test_a_member_that_declares_more_than_is_there_is_refused(good, tmp_path):
    # The size in the central directory edited: 2^31 bytes, in stored and in real size.
    path = tmp_path / "evil.keras"
    content = bytearray(good.read_bytes())
    entry = content.rindex(b"model.weights.h5") - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 20 : entry + 28] = 2 * (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(content)
    with refusal("evil.keras is compressed, 2,147,"):
        saving.load_model(path)


def test_a_large_config_is_refused(good, tmp_path):
    path = crafted(good, tmp_path / "evil.keras", lambda c: c.update(more=[[]] * 2_000_000))
    with refusal("evil.keras has a config.json of [0-9,]+ bytes; 4,194,304 are allowed"):
        saving.load_model(path)


@pytest.mark.parametrize(
    "content", [b"", b"no zip", b"[" * 100_000, b"7", b"{", b'{"class_name": ["a"], "config": {}}']
)
def test_a_damaged_file_is_named(content, good, tmp_path):
    path = tmp_path / "bad.keras"
    if content in (b"", b"no zip"):
        path.write_bytes(content)
    else:
        more = [("config.json", content)]
        crafted(good, tmp_path / "without.keras", leave=["config.json"])
        crafted(tmp_path / "without.keras", path, more=more)
    with refusal("bad.keras"):
        saving.load_model(path)


def test_a_file_cut_off_is_named(good, tmp_path):
    path = tmp_path / "cut.keras"
    path.write_bytes(good.read_bytes()[:-100_000])
    with refusal("cut.keras is damaged, or is no .keras file"):
        saving.load_model(path)


def test_a_missing_file_and_another_suffix_are_named(good, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file .*none.keras"):
        saving.load_model(tmp_path / "none.keras")
    # Keras would read it as a legacy HDF5 file, without a safe mode.
    other = tmp_path / "other.h5"
    other.write_bytes(good.read_bytes())
    with refusal("other.h5 must end in .keras"):
        saving.load_model(other)


# Weights


def external_link(file, folder):
    file["layer/vars/0"] = h5py.ExternalLink(str(folder / "secret.h5"), "secret")
    return file["layer/vars/0"][()]


def soft_link(file, folder):
    file["real"] = np.ones(3)
    file["layer/vars/0"] = h5py.SoftLink("/real")
    return file["layer/vars/0"][()]


def external_storage(file, folder):
    (folder / "secret.txt").write_bytes(b"password")
    data = file.create_dataset(
        "layer/vars/0", (8,), "uint8", external=[(str(folder / "secret.txt"), 0, 8)]
    )
    return data[()]


def virtual(file, folder):
    layout = h5py.VirtualLayout((3,), "float32")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "secret", (3,))
    return file.create_virtual_dataset("layer/vars/0", layout)[()]


def compressed(file, folder):
    return file.create_dataset("layer/vars/0", (10**7,), "float32", compression="gzip")[()]


def not_stored(file, folder):
    return file.create_dataset("layer/vars/0", (10**7,), "float32")[()]  # all fill value


def hard_links(file, folder):
    file["layer/vars/0"] = np.ones(10**5, "float32")
    for i in range(1, 100):
        file[f"layer/vars/{i}"] = file["layer/vars/0"]
    return np.concatenate([file[f"layer/vars/{i}"][()] for i in range(100)])


def objects(file, folder):
    file["layer/vars/0"] = ["any", "text"]
    return file["layer/vars/0"][()]


WEIGHTS = {
    external_link: "an ExternalLink",
    soft_link: "a SoftLink",
    external_storage: "a dataset in another file, .*secret.txt",
    virtual: "a virtual dataset",
    compressed: "a dataset in chunks",
    not_stored: r"a dataset of the shape \(10000000,\) that is not stored whole",
    hard_links: "40,000,000 bytes of numbers in 4..,... bytes of file",
    objects: "a dataset of the type object",
}


@pytest.mark.parametrize("attack", WEIGHTS, ids=lambda attack: attack.__name__)
def test_weights_that_read_other_files_or_swell_are_refused(attack, good, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.float32([1, 2, 3])
    path = tmp_path / "evil.weights.h5"
    with h5py.File(path, "w") as file:
        got = attack(file, tmp_path)
    # What HDF5 itself gives for it: a secret, or more bytes than the file has.
    assert got.nbytes > path.stat().st_size or got.tolist() in (
        [1, 2, 3],
        [1, 1, 1],
        [*b"password"],
        [b"any", b"text"],
    )
    with refusal(f"evil.weights.h5 holds {WEIGHTS[attack]}"):
        saving.check_weights(path)
    inside = crafted(good, tmp_path / "evil.keras", weights=path.read_bytes())
    with refusal(f"evil.keras holds {WEIGHTS[attack]}"):
        saving.load_model(inside)


@pytest.mark.parametrize("name", ["a/b", "c"])
def test_a_group_inside_itself_or_under_two_names_is_refused(name, tmp_path):
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        file["a/0"] = np.ones(3)
        file[name] = file["a"]
    with refusal("loop.h5 holds a group with two names"):
        saving.check_weights(tmp_path / "loop.h5")


def test_an_attribute_of_many_values_is_refused(tmp_path):
    # A thousand times the same text, which HDF5 keeps once.
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file["a/0"] = np.ones(3)
        file["a"].attrs["name"] = ["text"] * 1000
    with refusal("many.h5 holds an attribute of several values"):
        saving.check_weights(tmp_path / "many.h5")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "uint32", "bool"])
def test_weights_of_every_type_are_counted(dtype, tmp_path):
    path = tmp_path / "good.weights.h5"
    value = keras.ops.convert_to_numpy(keras.ops.ones((3, 5), dtype))
    with h5py.File(path, "w") as file:
        file["a/vars/0"], file["a/vars/1"], file["empty"] = value, value[0, 0], value[:0]
    assert saving.check_weights(path) == 3 * 5 + 1


def test_weights_that_keras_writes_are_counted(tmp_path):
    model = small_sanet()
    model.save_weights(tmp_path / "a.weights.h5")
    assert saving.check_weights(tmp_path / "a.weights.h5") == model.count_params()
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.weights.h5").read_bytes()[:5000])
    for name in ("b.h5", "c.h5"):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            saving.check_weights(tmp_path / name)


# What a run goes on from


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A state file after 3 epochs and 2 steps."""
    path = tmp_path_factory.mktemp("state") / "cross_entropy_state.keras"
    model = small_sanet()
    model.compile("sgd", "mse")
    run_state.save_state(model, path, epoch=3, step=2)
    return path


def npz(**arrays):
    """The bytes of a `.npz` file of arrays, or of the bytes of `.npy` files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            if not isinstance(array, bytes):
                file = io.BytesIO()
                np.save(file, array)
                array = file.getvalue()
            archive.writestr(f"{name}.npy", array)
    return content.getvalue()


def declaring(shape, dtype="|u1", data=b"0123"):
    """A `.npy` file whose header says what it likes."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def zeros_packed():
    content = io.BytesIO()
    np.savez_compressed(content, epoch=1, step=0, metrics0=np.zeros(10**7))
    return content.getvalue()


PLACES = {
    "no npz": b"something else",
    "packed": zeros_packed(),
    "nothing in it": npz(),
    "no step": npz(epoch=1),
    "epoch -1": npz(epoch=-1, step=0),
    "epoch of several": npz(epoch=[1, 2], step=0),
    "epoch NaN": npz(epoch=np.nan, step=0),
    "epoch of text": npz(epoch="1", step=0),
    "a pickle": npz(epoch=1, step=0, metrics0=declaring((1,), "|O")),
    "more than is there": npz(epoch=1, step=0, metrics0=declaring((10**12,))),
    "less than is there": npz(epoch=1, step=0, metrics0=declaring((3,))),
    "negative sizes": npz(epoch=1, step=0, metrics0=declaring((-2, -2))),
    "nothing a value": npz(epoch=1, step=0, metrics0=declaring((10**12,), "|V0", b"")),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_none_is_refused_and_not_unpacked(place, state, tmp_path):
    path = crafted(
        state, tmp_path / "evil.keras", leave=["place.npz"], more=[("place.npz", PLACES[place])]
    )
    if place != "no npz":
        assert run_state.read_state(state).epoch == 3
    error, most = peak(lambda: run_state.read_state(path))
    assert "evil.keras can't be gone on from" in error
    assert most < 20e6


def test_a_state_packed_or_with_more_in_it_or_whose_weights_swell_is_refused(state, tmp_path):
    with h5py.File(tmp_path / "weights", "w") as file:
        not_stored(file, tmp_path)
    weights = (tmp_path / "weights").read_bytes()
    for message, changes in (
        ("is compressed", {"compress": True}),
        ("and nothing else", {"more": [("assets/x", b"")]}),
        ("that is not stored whole", {"weights": weights}),
    ):
        path = crafted(state, tmp_path / "evil.keras", **changes)
        with refusal(f"evil.keras can't be gone on from: .*{message}"):
            run_state.load_state(small_sanet(), path)


def test_a_best_model_gives_its_weights_alone(good, tmp_path):
    # Whatever its config asks for.
    path = crafted(good, tmp_path / "best.keras", lambda_layer)
    model = small_sanet()
    saving.load_weights(model, path)
    for ours, theirs in zip(model.get_weights(), saving.load_model(good).get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_a_best_model_of_other_shapes_or_whose_weights_swell_is_named(good, tmp_path):
    with h5py.File(tmp_path / "weights", "w") as file:
        not_stored(file, tmp_path)
    path = crafted(good, tmp_path / "best.keras", weights=(tmp_path / "weights").read_bytes())
    with refusal("best.keras holds .* that is not stored whole"):
        saving.load_weights(small_sanet(), path)
    with refusal("good.keras is not of this model"):
        saving.load_weights(SANet(3, "resnet_tiny", aggregator_filters=8, bins=None), good)


# Images


def png(path, width, height, chunks=()):
    """A PNG whose header says its size, and that has no pixels."""

    def chunk(kind, data):
        length, check = len(data).to_bytes(4, "big"), zlib.crc32(kind + data).to_bytes(4, "big")
        return length + kind + data + check

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    parts = [chunk(b"IHDR", header), *(chunk(*c) for c in chunks), chunk(b"IDAT", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("read", [open_image, frames])
@pytest.mark.parametrize(
    ("side", "pixels"),
    [(10_000, "10000 x 10000 pixels"), (20_000, "400000000 pixels")],  # warned of, and refused
)
def test_an_image_bomb_is_refused(side, pixels, read, tmp_path):
    path = png(tmp_path / "bomb.png", side, side)
    assert Image.MAX_IMAGE_PIXELS == 89478485
    with refusal(f"bomb.png is too large to be decoded: .*{pixels}.*raise `PIL.Image.MAX_IMAGE"):
        read(path)


def test_a_trusted_large_image_is_read(tmp_path, monkeypatch):
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    with pytest.warns(Image.DecompressionBombWarning), refusal("30 x 20 pixels, more than 599"):
        open_image(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert open_image(tmp_path / "large.png").size == (30, 20)


def test_a_text_that_swells_inside_a_png_is_refused(tmp_path):
    # 10 MB of one letter in 10 kB; Pillow stops at 1 MB.
    text = b"a\0\0" + zlib.compress(b"a" * 10_000_000)
    path = png(tmp_path / "bomb.png", 1, 1, [(b"zTXt", text)])
    assert path.stat().st_size < 20_000
    with refusal("bomb.png can't be read as an image"):
        open_image(path)


# Whole files


def test_replacing_leaves_the_old_file_and_folder_after_an_error(tmp_path):
    file, folder = tmp_path / "a.keras", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    (folder / "old").touch()
    for path in (file, folder):
        with pytest.raises(RuntimeError, match="mine"), _files.replacing(path) as written:
            assert (written.parent, written.suffix) == (tmp_path, path.suffix)
            if path == file:
                written.write_text("new")
            else:
                written.mkdir()
            raise RuntimeError("mine")
    assert file.read_text() == "old"
    assert sorted(tmp_path.rglob("*")) == [file, folder, folder / "old"]


def test_replacing_names_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "none" / "model.keras"
    message = r"There is no folder .*none to write model\.keras into"
    with pytest.raises(FileNotFoundError, match=message), _files.replacing(path) as written:
        written.write_text("new")


def test_replacing_a_file_by_a_folder_or_the_reverse_is_an_error_and_leaves_the_old(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    with pytest.raises(OSError), _files.replacing(folder) as written:
        written.write_text("new")
    with pytest.raises(OSError), _files.replacing(file) as written:
        written.mkdir()
    assert sorted(tmp_path.rglob("*")) == [file, folder]


def test_replacing_replaces_files_folders_and_what_a_link_points_to(tmp_path):
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("old")
    folder.mkdir()
    (folder / "old").touch()
    link.symlink_to(file)
    with _files.replacing(folder) as written:
        written.mkdir()
        (written / "new").touch()
    with _files.replacing(link) as written:
        written.write_text("new")
    with _files.replacing(tmp_path / "nothing"):
        pass
    assert file.read_text() == "new"
    assert link.is_symlink()
    assert sorted(tmp_path.rglob("*")) == [file, folder, folder / "new", link]


SAVE = """
import sys
from pathlib import Path
import keras_sanet
from keras_sanet import _files, training
from keras_sanet.training.callbacks import SaveBest
folder = Path(sys.argv[1])
model = keras_sanet.SANet(3, "resnet_tiny", aggregator_filters=4, pyramid_filters=4, bins=(1, 2))
(checkpoint,) = (c for c in training.callbacks(folder) if isinstance(c, SaveBest))
checkpoint.set_model(model)
print("ready", flush=True)
for number in range(1, 1_000_000):
    with _files.replacing(folder / "model.keras") as path:
        model.save(path)
    checkpoint.on_epoch_end(0, {"val_cross_entropy": -number})
    for _ in range(100):
        with _files.replacing(folder / "preset") as path:
            path.mkdir()
            (path / "first").write_text(str(number))
            (path / "second").write_text(str(number))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows stops no processes")
def test_a_killed_save_leaves_a_whole_file_or_folder(good, tmp_path, rng):
    # A stopped process has written exactly what one killed then would have; in the end it is
    # killed for good. It is stopped until three stops fell into the middle of writing each.
    names = ("model.keras", "cross_entropy.keras", "preset")
    for name in names[:2]:
        (tmp_path / name).write_bytes(good.read_bytes())
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        middle = dict.fromkeys(names, 0)
        for _ in range(1000):
            time.sleep(rng.uniform(0, 0.1))
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            for name in names:
                if not list(tmp_path.glob(f".new-*-{name}")) or middle[name] == 3:
                    continue
                middle[name] += 1
                check_whole(tmp_path, name)
            if min(middle.values()) == 3:
                break
            process.send_signal(signal.SIGCONT)
        assert set(middle.values()) == {3}
    finally:
        process.kill()
        process.communicate()
    for name in names:
        check_whole(tmp_path, name)


def check_whole(folder, name):
    if name != "preset":
        assert saving.load_model(folder / name).count_params() > 0
        return
    # Between its two renames the folder is there under both hidden names.
    for path in [folder / name] if (folder / name).exists() else folder.glob(f".*-{name}"):
        assert (path / "first").read_text() == (path / "second").read_text() != ""


# From one backend to another, in fresh processes

WRITE = """
import sys
import keras
folder, backend = sys.argv[1], keras.backend.backend()
if backend == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import numpy as np
from keras_sanet import SANet, layers, losses

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (4, 32, 32, 3)).astype("float32")
labels = rng.integers(0, 3, (4, 32, 32))


def build():
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    taps, x = {}, keras.layers.Rescaling(1 / 255)(image)
    for tap in ("s0", "s1"):
        x = layers.Conv2D(8, 3, strides=2, padding="same", groups=2 if taps else 1)(x)
        taps[tap] = x = keras.layers.ReLU()(layers.BatchNormalization()(x))
    backbone = keras.Model(image, taps, name="backbone")
    return SANet(3, backbone, aggregator_filters=4, bins=(1, 2), pyramid_filters=4)


def train_and_save(model, name):
    before = model.get_weights()
    loss = losses.SegmentationLoss(num_bins=16)
    model.compile(keras.optimizers.AdamW(0.01), loss, jit_compile=backend == "jax")
    model.fit(images, labels, batch_size=4, verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights()) if a.size > 2)
    model.save(f"{folder}/{name}.keras")
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    np.savez(f"{folder}/{name}.npz", images=images, logits=logits)


train_and_save(build(), backend)
if backend == "tensorflow":
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(images[2 * context.replica_id_in_sync_group :][:2])
    )
    with strategy.scope():
        models = {"whole": None, "halves": build()}
    models["whole"] = build()
    statistics = {}
    for name, model in models.items():
        if name == "whole":
            model(images, training=True)
        else:
            forward = lambda x: model(x, training=True)
            tf.function(lambda: strategy.run(forward, (halves,)))()
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                for variable in (layer.moving_mean, layer.moving_variance):
                    statistics.setdefault(name, []).append(np.ravel(variable))
    statistics = {name: np.concatenate(values) for name, values in statistics.items()}
    np.savez(f"{folder}/statistics.npz", **statistics)
    with strategy.scope():
        train_and_save(models["halves"], "mirrored")
"""

READ = """
import glob, os, sys
import keras, numpy as np
import keras_sanet
folder = sys.argv[1]
results = {}
for path in glob.glob(f"{folder}/*.keras"):
    name = os.path.basename(path)[:-len(".keras")]
    images = np.load(f"{folder}/{name}.npz")["images"]
    for loader in (keras.saving, keras_sanet.saving):
        model = loader.load_model(path)
        logits = keras.ops.convert_to_numpy(model(images, training=False))
        results[f"{name} by {loader.__name__}"] = logits
np.savez(f"{folder}/read.npz", **results)
"""


def start(code, folder, backend):
    return subprocess.Popen(
        [sys.executable, "-c", code, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """Folder of what a fresh process on each backend saved, and what one on ours made of it."""
    folder = tmp_path_factory.mktemp("exchanged")
    writers = [start(WRITE, folder, b) for b in BACKENDS if importlib.util.find_spec(b)]
    for process in writers:
        output, _ = process.communicate()
        assert process.returncode == 0, output[-3000:]
    reader = start(READ, folder, keras.backend.backend())
    output, _ = reader.communicate()
    assert reader.returncode == 0, output[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["keras.saving", "keras_sanet.saving"])
@pytest.mark.parametrize("saved", [*BACKENDS, "mirrored"])
def test_a_trained_model_predicts_the_same_in_another_process_on_our_backend(
    saved, loader, exchanged
):
    # "mirrored": trained by two replicas, on TensorFlow.
    backend = "tensorflow" if saved == "mirrored" else saved
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    expected = np.load(exchanged / f"{saved}.npz")["logits"]
    logits = np.load(exchanged / "read.npz")[f"{saved} by {loader}"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.1


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
def test_halves_of_a_batch_on_two_replicas_have_the_statistics_of_the_whole(exchanged):
    statistics = np.load(exchanged / "statistics.npz")
    np.testing.assert_allclose(statistics["halves"], statistics["whole"], rtol=1e-6, atol=1e-6)


def test_no_file_says_that_batch_norm_is_synchronized():
    assert "synchronized" not in json.dumps(keras.saving.serialize_keras_object(small_sanet()))


def test_a_file_of_0_1_0_is_channels_last_whatever_keras_is_set_to(tmp_path, rng):
    image = keras.Input((None, None, 3))  # with the flat lists of then
    x = keras.layers.Rescaling([0.1, 0.2, 0.3], [-1.0, 0.0, 1.0])(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 1, data_format="channels_last")(x))
    model.save(tmp_path / "old.keras")
    images = rng.integers(0, 256, (1, 5, 7, 3)).astype("float32")
    expected = model.predict_on_batch(images)
    keras.config.set_image_data_format("channels_first")
    try:
        found = saving.load_model(tmp_path / "old.keras").predict_on_batch(images)
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
