"""Each exported file computes in its own runtime what the model does."""

import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sanet import FCN, SANet, cli, inference
from keras_sanet.export import FORMATS, _deploy, export
from keras_sanet.layers import BatchNormalization, Conv2D, convolution
from keras_sanet.layers.convolution import convolve, native_form

BACKEND = keras.backend.backend()
WRITTEN = {  # by this backend
    "tensorflow": ("tf_saved_model", "onnx", "openvino", "litert"),
    "jax": ("tf_saved_model",),
    "torch": ("onnx", "openvino"),
}[BACKEND]
PACKAGES = {  # to write a format and to run it
    "tf_saved_model": ("tensorflow",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx" if BACKEND == "tensorflow" else "onnxscript"),
    "openvino": ("openvino", "onnxscript" if BACKEND == "torch" else "tensorflow"),
    "litert": ("tensorflow", "ai_edge_litert"),
}
NAMES = {"tf_saved_model": "model", "onnx": "m.onnx", "openvino": "m.xml", "litert": "m.tflite"}
SIZE = (48, 64)
OTHER = (61, 83)  # no multiple of 8
OPEN = {"batch_size": 1 if BACKEND == "torch" else None}  # PyTorch exports one batch size
CLASSES = ["road", "wall", "tree", "sky"]


def needs(format, *more):
    """Skips where a package is not installed."""
    for package in (*PACKAGES[format], *more):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}, which is not installed")


def written(*formats):
    """Parameters: those of the formats that this backend writes."""
    names = [name for name in formats if name in WRITTEN]
    skip = pytest.mark.skip(reason=f"{BACKEND} writes none of {', '.join(formats)}")
    return pytest.mark.parametrize("format", names or [pytest.param(None, marks=skip)])


def backbone():
    """Four convolutions, two of them with 32 groups, one of those dilated."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 128, -1)(image)
    x = keras.layers.ZeroPadding2D(1)(x)
    x = Conv2D(64, 3, strides=2, use_bias=False)(x)
    s0 = keras.layers.ReLU()(BatchNormalization()(x))
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(s0))
    s1 = Conv2D(64, 3, padding="same", groups=32, activation="relu")(x)
    x = Conv2D(64, 3, padding="same", groups=32, dilation_rate=2, use_bias=False)(s1)
    x = keras.layers.ReLU()(BatchNormalization()(x))
    return keras.Model(image, {"s0": s0, "s1": s1, "s2": Conv2D(8, 1)(x)})


def build():
    return SANet(
        4,
        backbone(),
        aggregator_filters=8,
        pyramid_filters=8,
        taps=("s0", "s1", "s2"),
        bins=(1, 3),
        class_names=CLASSES,
        palette=[(i, 0, 0) for i in range(4)],
    )


@pytest.fixture(scope="module")
def model():
    """A small SANet whose batch norms are not those of the start."""
    keras.utils.set_random_seed(0)
    model = build()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "moving_mean" in weight.path:
            weight.assign(rng.uniform(-0.2, 0.2, weight.shape))
        elif "moving_variance" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """format, arguments -> the path of the exported model; each is exported once."""

    @functools.cache
    def path(format, **arguments):
        needs(format)
        return export(model, tmp_path_factory.mktemp("m") / NAMES[format], format, **arguments)

    return path


def images(size, dtype="float32", batch=1):
    return np.random.default_rng(1).integers(0, 256, (batch, *size, 3)).astype(dtype)


class Pictures(list):
    """Images that are an argument of a cached function."""

    __hash__ = object.__hash__


def logits_of(model, x):
    return keras.ops.convert_to_numpy(model(x.astype("float32"), training=False))


def run(path, format, x):
    """The names and values of the outputs of a file in its own runtime."""
    path = str(path)
    if format == "tf_saved_model":
        import tensorflow as tf

        outputs = tf.saved_model.load(path).signatures["serving_default"](image=tf.constant(x))
        return {name: value.numpy() for name, value in outputs.items()}
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"image": x})))
    if format == "openvino":
        import openvino

        compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return {o.get_any_name(): value for o, value in compiled({"image": x}).items()}
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    return interpreter.get_signature_runner("serving_default")(image=x)


@pytest.mark.slow
@written(*FORMATS)
def test_one_file_gives_the_logits_of_images_and_batches_of_any_size(model, exported, format):
    for size, count in ((SIZE, 1), (OTHER, OPEN["batch_size"] or 3)):
        x = images(size, batch=count)
        outputs = run(exported(format, **OPEN), format, x)
        assert list(outputs) == ["logits"]
        np.testing.assert_allclose(outputs["logits"], logits_of(model, x), rtol=0, atol=1e-4)


@pytest.mark.slow
@written(*FORMATS)
def test_a_file_of_one_size_gives_the_logits_of_a_batch(model, exported, format):
    x = images(SIZE, batch=2)
    logits = run(exported(format, image_size=SIZE, batch_size=2), format, x)["logits"]
    np.testing.assert_allclose(logits, logits_of(model, x), rtol=0, atol=1e-4)


@pytest.mark.slow
@written(*FORMATS)
def test_a_file_with_all_inside_gives_the_mask_that_predict_mask_gives(model, exported, format):
    image = images(OTHER, "uint8")
    path = exported(format, preprocessing=True, postprocessing=True)
    mask = run(path, format, image)["mask"]
    assert mask.dtype == "uint8"
    np.testing.assert_array_equal(mask[0], inference.predict_mask(model, image[0]))


@pytest.mark.slow
@written(*FORMATS)
def test_a_file_of_one_size_takes_images_of_any_and_gives_masks_of_theirs(model, exported, format):
    image = images(OTHER, "uint8")
    path = exported(format, preprocessing=True, postprocessing=True, image_size=SIZE)
    mask = run(path, format, image)["mask"]
    resized = keras.ops.image.resize(image.astype("float32"), SIZE)
    logits = logits_of(model, keras.ops.convert_to_numpy(resized))
    expected = keras.ops.convert_to_numpy(keras.ops.image.resize(logits, OTHER)).argmax(axis=-1)
    assert mask.shape == expected.shape == (1, *OTHER)
    assert (mask != expected).mean() < 1e-3  # ties in rounding


@pytest.mark.slow
@written("openvino", "litert")
@pytest.mark.parametrize(("precision", "error"), [("float16", 0.05), ("int8", 0.5)])
def test_lower_precision_gives_smaller_files_and_nearly_the_logits(
    model, exported, format, precision, error
):
    needs(format, *(["nncf"] if (format, precision) == ("openvino", "int8") else []))
    x, options = images(SIZE, batch=2), {"image_size": SIZE, "batch_size": 2}
    plain = exported(format, **options)
    if precision == "int8":
        options["calibration_images"] = Pictures(images(OTHER, "uint8", batch=4))
    path = exported(format, precision=precision, **options)
    weights = [p.with_suffix(".bin") if format == "openvino" else p for p in (path, plain)]
    low, full = (file.stat().st_size for file in weights)
    assert low < full
    expected, logits = logits_of(model, x), run(path, format, x)["logits"]
    assert np.abs(logits - expected).max() < error  # of values up to 2.5
    assert (logits.argmax(-1) == expected.argmax(-1)).mean() > 0.9


@pytest.mark.slow
@written("onnx")
def test_an_exported_graph_has_one_node_a_convolution_groups_and_dilation_included(
    exported, format
):
    needs(format)
    import onnx

    nodes = [
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for node in onnx.load(exported(format, **OPEN)).graph.node
        if node.op_type == "Conv"
    ]
    # backbone 4; adapters 3; aggregator: of all inputs 1, recurrent 2; pyramid: branches 2, 3x3 1;
    # classifier 1
    assert len(nodes) == 4 + 3 + (1 + 2) + (2 + 1) + 1
    assert Counter(node.get("group", 1) for node in nodes) == {32: 2, 1: 12}
    # the grouped one, and the aggregator's three
    assert [list(node.get("dilations", [1, 1])) for node in nodes].count([2, 2]) == 4


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX writes programs of XLA, PyTorch none")
def test_a_saved_model_has_no_grouped_convolution_which_some_processors_refuse(exported):
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(exported("tf_saved_model", image_size=SIZE))
    graph = convert_variables_to_constants_v2(loaded.signatures["serving_default"]).graph
    convolutions = [node for node in graph.get_operations() if node.type == "Conv2D"]
    assert len(convolutions) == 14
    for node in convolutions:
        image, kernel = node.inputs
        assert image.shape[3] == kernel.shape[2]


def test_native_form_ends_with_its_block_and_is_of_its_thread(rng, monkeypatch):
    import threading

    forms, native = [], convolution._convolve_natively
    monkeypatch.setattr(
        convolution, "_convolve_natively", lambda *a: forms.append("native") or native(*a)
    )
    x, kernel = rng.normal(size=(1, 5, 5, 8)), rng.normal(size=(3, 3, 2, 8))
    x, kernel = x.astype("float32"), kernel.astype("float32")
    expected = convolve(keras.ops.convert_to_tensor(x), kernel, groups=4)
    with native_form():
        result = convolve(keras.ops.convert_to_tensor(x), kernel, groups=4)
        other = threading.Thread(target=convolve, args=(x, kernel), kwargs={"groups": 4})
        other.start()
        other.join()
    convolve(keras.ops.convert_to_tensor(x), kernel, groups=4)
    assert forms == ["native"]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@written(*FORMATS)
def test_a_file_knows_class_names_and_colours(exported, format):
    path = exported(format, **OPEN)
    if format == "onnx":
        import onnx

        properties = {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}
    elif format == "openvino":
        import openvino

        read = openvino.Core().read_model(path)
        names = ("class_names", "palette")
        values = [read.get_rt_info(["keras_sanet", name]).astype(str) for name in names]
        properties = dict(zip(names, map(json.loads, values)))
    elif format == "litert":
        properties = json.loads(zipfile.ZipFile(path).read("classes.json"))
    else:
        properties = json.loads((path / "assets.extra" / "classes.json").read_text("utf-8"))
    assert properties == {"class_names": CLASSES, "palette": [[i, 0, 0] for i in range(4)]}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def constant(value):
    """A model whose logits are this number."""
    image, bias = keras.Input((None, None, 3)), keras.initializers.Constant(value)
    layer = keras.layers.Conv2D(2, 1, kernel_initializer="zeros", bias_initializer=bias)
    return keras.Model(image, layer(image))


@pytest.mark.slow
@written(*WRITTEN[-1:])
def test_an_export_that_is_killed_leaves_the_old_one_whole(format, tmp_path):
    needs(format)
    path = tmp_path / NAMES[format]
    export(constant(1.0), path, format, image_size=(4, 5))
    before = contents(tmp_path)
    code = f"""
import keras, os, signal
from keras_sanet import export
os.replace = os.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)  # not moved yet
image = keras.Input((None, None, 3))
model = keras.Model(image, keras.layers.Conv2D(2, 1)(image))
export.export(model, {str(path)!r}, {format!r}, image_size=(4, 5))
"""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
@written(*FORMATS)
def test_an_export_replaces_the_old_one_whole_or_not_at_all(format, tmp_path, monkeypatch):
    needs(format)
    path, replace = tmp_path / NAMES[format], os.replace
    export(constant(1.0), path, format, image_size=(4, 5))
    before = contents(tmp_path)

    def fail(source, target):  # the disk, where the new file is to come
        if Path(source).name.startswith(".new-"):
            raise OSError("no space left")
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(os, "replace", fail)
        export(constant(2.0), path, format, image_size=(4, 5))
    assert contents(tmp_path) == before
    export(constant(2.0), path, format, image_size=(4, 5))
    assert run(path, format, images((4, 5)))["logits"].max() == 2.0
    assert set(os.listdir(tmp_path)) == {
        NAMES[format],
        *(["m.bin"] if format == "openvino" else []),
    }


@written(*WRITTEN[:1])
def test_images_of_other_channels(format, tmp_path):
    needs(format)
    image = keras.Input((None, None, 2))
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(image))
    path = export(model, tmp_path / NAMES[format], format, image_size=(4, 5))
    x = np.random.default_rng(0).uniform(0, 255, (1, 4, 5, 2)).astype("float32")
    logits = run(path, format, x)["logits"]
    np.testing.assert_allclose(logits, model.predict_on_batch(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("format", [f for f in FORMATS if f not in WRITTEN] or [None])
def test_a_backend_that_cannot_write_a_format_says_the_way_round(model, format, tmp_path):
    if format is None:
        pytest.skip("TensorFlow writes all formats")
    with pytest.raises(ValueError) as error:
        export(model, tmp_path / NAMES[format], format)
    message = str(error.value)
    assert format in message and f"backend {BACKEND}" in message
    assert ".keras" in message and "KERAS_BACKEND=tensorflow" in message


FORMAT = WRITTEN[0]  # one that needs no more than the others
LOWER = [f for f in ("litert", "openvino") if f in WRITTEN][:1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, "Unknown format 'tflite'. Known: tf_saved_model, onnx"),
        ({"precision": "bfloat16"}, "has the precisions float32.*Received: precision='bfloat16'"),
        ({"precision": "int8"}, "precisions float32" if FORMAT not in LOWER else "calibration"),
        ({"calibration_images": []}, '`calibration_images` must be given for precision="int8"'),
        ({"image_size": 0}, "`image_size` must be one or two positive integers.*image_size=0"),
        ({"image_size": (48, 0)}, "`image_size` must be one or two positive integers"),
        ({"image_size": (48,)}, "`image_size` must be one or two positive integers"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
    ],
    ids=str,
)
def test_arguments_are_checked(model, arguments, message, tmp_path):
    needs(FORMAT)
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / NAMES[FORMAT], **{"format": FORMAT, **arguments})
    assert os.listdir(tmp_path) == []


@written("onnx", "openvino", "litert")
def test_a_file_of_another_suffix_is_refused(model, format, tmp_path):
    needs(format)
    with pytest.raises(ValueError, match="`path` must end in .*Received: .*model.bin"):
        export(model, tmp_path / "model.bin", format)


@written("tf_saved_model")
def test_a_folder_of_something_else_is_not_replaced(model, format, tmp_path):
    needs(format)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is no SavedModel"):
        export(model, tmp_path, format)
    assert os.listdir(tmp_path) == ["thesis.txt"]


@written("litert", "openvino")
@pytest.mark.parametrize("images", [[], [np.zeros((4, 4))]], ids=["none", "grey"])
def test_images_to_calibrate_with_are_checked(model, format, images, tmp_path):
    needs(format, *(["nncf"] if format == "openvino" else []))
    arguments = {"precision": "int8", "image_size": SIZE, "calibration_images": images}
    with pytest.raises(ValueError, match="`calibration_images` must"):
        export(model, tmp_path / NAMES[format], format, **arguments)


def test_a_missing_package_is_named_with_the_way_to_get_it(model, tmp_path, monkeypatch):
    format = WRITTEN[-1] if BACKEND != "tensorflow" else "onnx"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'keras-sanet\[export\]'"):
        export(model, tmp_path / NAMES[format], format)


@pytest.mark.slow
def test_a_model_of_one_size_is_exported_for_it(tmp_path):
    needs(FORMAT)
    image = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    taps = {"s0": keras.layers.Conv2D(4, 3, 2)(x), "s1": keras.layers.Conv2D(4, 3, 4)(x)}
    backbone = keras.Model(image, taps)
    model = FCN(3, backbone, filters=8, input_shape=(*SIZE, 3), auxiliary="s0")
    with pytest.raises(ValueError, match="images of 48 x 64 pixels"):
        export(model, tmp_path / NAMES[FORMAT], FORMAT, image_size=OTHER)
    path = export(model, tmp_path / NAMES[FORMAT], FORMAT)
    x = images(SIZE)
    expected = keras.ops.convert_to_numpy(model(x, training=False)["logits"])
    np.testing.assert_allclose(run(path, FORMAT, x)["logits"], expected, rtol=0, atol=1e-4)


class TimesHeight(keras.layers.Layer):
    """Multiplies by the height of the map, as a number of Python."""

    def call(self, x):
        return x * int(x.shape[1])

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.skipif(BACKEND != "torch", reason="is about PyTorch's tracer")
@written("onnx")
def test_pytorch_refuses_for_any_size_what_it_can_trace_for_one(format, tmp_path):
    needs(format)
    image = keras.Input((None, None, 3))
    model = keras.Model(image, TimesHeight()(keras.layers.Rescaling(1e-4)(image)))
    with pytest.raises(ValueError, match=r"any size.*Pass image_size=\(height, width\)"):
        export(model, tmp_path / "m.onnx", format)
    assert os.listdir(tmp_path) == []
    path = export(model, tmp_path / "m.onnx", format, image_size=SIZE)
    logits = run(path, format, images(SIZE))["logits"]
    np.testing.assert_allclose(logits, logits_of(model, images(SIZE)), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_of_mixed_precision_is_exported_in_float32(model, policy, tmp_path):
    format = WRITTEN[-1]
    needs(format)
    keras.config.set_dtype_policy(policy)
    mixed = build()
    mixed.set_weights(model.get_weights())
    assert mixed.get_layer("aggregator").compute_dtype == policy.removeprefix("mixed_")
    path = export(mixed, tmp_path / NAMES[format], format, image_size=SIZE)
    logits = run(path, format, images(SIZE))["logits"]
    np.testing.assert_allclose(logits, logits_of(model, images(SIZE)), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_command_writes_the_file(model, tmp_path, capsys):
    needs(FORMAT)
    model.save(tmp_path / "model.keras")
    path = tmp_path / NAMES[FORMAT]
    arguments = ["--format", FORMAT, "--image-size", "48", "64", "--postprocessing"]
    assert cli.main(["export", str(tmp_path / "model.keras"), str(path), *arguments]) == 0
    assert str(path) in capsys.readouterr().out
    x = images(SIZE)
    mask = run(path, FORMAT, x)["mask"]
    np.testing.assert_array_equal(mask, logits_of(model, x).argmax(axis=-1))


@pytest.mark.slow
@written(*LOWER or ["litert"])
def test_the_command_calibrates_int8_with_image_files(model, format, tmp_path):
    needs(format, *(["nncf"] if format == "openvino" else []))
    model.save(tmp_path / "model.keras")
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images(OTHER, "uint8", batch=2)):
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
    arguments = ["--format", format, "--image-size", "48", "64", "--precision", "int8"]
    arguments += ["--calibration-images", str(tmp_path / "images")]
    path = tmp_path / NAMES[format]
    assert cli.main(["export", str(tmp_path / "model.keras"), str(path), *arguments]) == 0
    x = images(SIZE)
    same = run(path, format, x)["logits"].argmax(-1) == logits_of(model, x).argmax(-1)
    assert same.mean() > 0.9


@written("tf_saved_model", "onnx")
def test_a_full_disk_is_one_error_that_names_the_file(format, full_disk, tmp_path):
    needs(format)
    path = tmp_path / NAMES[format]
    image = keras.Input((8, 8, 3))
    logits = keras.layers.Conv2D(2, 1, name="logits")(image)
    with full_disk(100), pytest.raises(OSError, match=f"File too large: '{path}'"):
        export(keras.Model(image, logits), path, format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_the_mask_of_one_channel_is_the_one_of_predict_mask(activation, rng):
    # what is written, before it is; the logit is (red - 128) / 32
    x, layer = keras.Input((None, None, 3)), keras.layers.Conv2D(1, 1, activation=activation)
    model = keras.Model(x, layer(x))
    layer.set_weights([np.array([1 / 32, 0, 0]).reshape(1, 1, 3, 1), np.array([-4])])
    image = rng.integers(0, 256, (7, 9, 3)).astype("uint8")
    deployed = _deploy(model, (1, None, None, 3), None, True, True)
    mask = keras.ops.convert_to_numpy(deployed(image[None])["mask"])[0]
    np.testing.assert_array_equal(mask, inference.predict_mask(model, image))
    assert 0 < mask.mean() < 1


def test_the_mask_of_one_channel_that_may_be_either_is_refused():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, 2 * keras.layers.Conv2D(1, 1)(x))
    with pytest.raises(ValueError, match="logit or a probability: end it with"):
        _deploy(model, (1, None, None, 3), None, True, True)
