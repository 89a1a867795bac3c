"""Models as files for other runtimes, with what happens to an image before and after.

Keras's own export and the formats' own converters write them. A format is written by some backends
alone; under another one save the model as `.keras`, and load and export it under one that can:

| format | runs in | tensorflow | jax | torch |
|---|---|---|---|---|
| "tf_saved_model", a folder | TensorFlow (Serving) | any size | any size, device as exporting | - |
| "onnx", `.onnx` | ONNX Runtime | any size | - | any size |
| "openvino", `.xml` and `.bin` | OpenVINO | any size | - | any size |
| "litert", `.tflite` | LiteRT, TensorFlow Lite | any size | - | - |

(-: tried with Keras 3.15. On PyTorch, Keras writes a SavedModel through `torch_xla` and LiteRT
through `litert-torch`, which fail on sizes that are computed in the graph; on JAX, ONNX Runtime
refuses what `jax2onnx` writes, and Keras can't write LiteRT.)

A graph for any size computes its resizing matrices anew for each image, and LiteRT resizes its
tensors before each new size (`Interpreter.resize_tensor_input`); with `image_size` all that is
constant, and quicker. Each convolution is one operation of the format, dilation and groups included
(those of TensorFlow's SavedModel are joined to chunks, which every processor's TensorFlow runs).
OpenVINO computes in bfloat16 where the processor has it, unless it is compiled with
`{"INFERENCE_PRECISION_HINT": "f32"}`.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_sanet._arguments import integer, sides
from keras_sanet._backend import argmax
from keras_sanet._files import replacing
from keras_sanet._labels import scores
from keras_sanet.datasets.files import VOID, read_image
from keras_sanet.inference import gives_probabilities
from keras_sanet.layers.convolution import native_form
from keras_sanet.layers.resizing import resize

PRECISIONS = ("float32", "float16", "int8")
_FLOAT, _ONNX = PRECISIONS[:1], ("onnx", "onnxscript", "onnxruntime")
# Suffix, packages that a format needs by the backends that can write it, precisions.
_FORMATS = {
    "tf_saved_model": ("", {"tensorflow": (), "jax": ("tensorflow",)}, _FLOAT),
    "onnx": (".onnx", {"tensorflow": ("onnx", "tf2onnx"), "torch": _ONNX}, _FLOAT),
    "openvino": (
        ".xml", {"tensorflow": ("openvino",), "torch": (*_ONNX, "openvino")}, PRECISIONS,
    ),
    "litert": (".tflite", {"tensorflow": ()}, PRECISIONS),
}  # fmt: skip
FORMATS = tuple(_FORMATS)
_CALIBRATED = 100  # images at most


def export(
    model,
    path,
    format,
    *,
    image_size=None,
    batch_size=1,
    preprocessing=False,
    postprocessing=False,
    precision="float32",
    calibration_images=None,
):
    """Writes a model for another runtime.

    The file has one input, "image", (batch, height, width, channels), 0..255, and one output:
    "logits", float32 (batch, height, width, classes), or "mask". Where the model knows its class
    names and colors, so does the file: ONNX's metadata properties and OpenVINO's runtime
    information `keras_sanet` hold `class_names` and `palette` in JSON, a `.tflite` file (to be read
    as a zip archive) and the folder `assets.extra` of a SavedModel hold them as `classes.json`.

    What was at `path` is replaced when the new one is whole; see `_files.replacing`.

    Args:
        model: images to logits, or to a dict with "logits". One of mixed precision is exported in
            float32.
        path: path of the file: `.onnx`, `.tflite`, or `.xml` (its `.bin` beside); or of the folder.
        format: "tf_saved_model", "onnx", "openvino" or "litert".
        image_size: (height, width) or one number for both, in pixels, that the network computes
            at. None: any.
        batch_size: images computed at once. None: any (but on PyTorch).
        preprocessing: whether the file takes uint8 images of any size, resized to `image_size` if
            there is one (bilinear, no antialiasing). Else it takes float32 ones of `image_size`.
        postprocessing: whether the file gives the mask of class ids at the size of what it was
            given, uint8 (batch, height, width) (int32 for more than 255 classes): the largest of
            the logits, resized where need be; of one logit 1 where it is above 0. Else logits of
            `image_size`, or the probabilities of a model that gives them.
        precision: "float32"; for OpenVINO and LiteRT also "float16" (weights kept so, half the
            size) or "int8" (weights, and most of what is computed).
        calibration_images: for "int8", some images as they will come, paths or arrays (height,
            width, channels) of 0..255: their values set the scales. At most 100 are taken.
            LiteRT's needs an `image_size` too.

    Returns:
        The path.

    Raises:
        ValueError: the backend can't write the format, or trace the model for any size; an
            argument is not as above.
        ImportError: names the package to install.
        FileExistsError: `path` is a folder of something else.

    Example:
        export(model, "model.onnx", "onnx", image_size=(473, 473), preprocessing=True,
               postprocessing=True)
    """
    path = Path(path)
    _check(path, format, precision)
    if isinstance(model.output, dict):
        model = keras.Model(model.input, model.output["logits"])
    if any(layer.compute_dtype != "float32" for layer in model._flatten_layers()):
        model = _in_float32(model)
    image_size = _image_size(model, image_size)
    if batch_size is not None:
        batch_size = integer("batch_size", batch_size)
    if (precision == "int8") != (calibration_images is not None):
        raise ValueError(
            '`calibration_images` must be given for precision="int8", and for no other. Received: '
            f"precision={precision!r}, calibration_images={calibration_images!r}."
        )
    if precision == "int8" and format == "litert" and (image_size is None or batch_size is None):
        raise ValueError(
            "LiteRT computes int8 at one size. Pass image_size=(height, width) and `batch_size`. "
            f"Received: image_size={image_size}, batch_size={batch_size}."
        )
    if batch_size is None and keras.backend.backend() == "torch":
        raise ValueError(
            "PyTorch exports one batch size. Pass `batch_size`, or load the model under "
            "TensorFlow. Received: batch_size=None."
        )
    size = (None, None) if preprocessing or image_size is None else image_size
    shape = (batch_size, *size, model.input_shape[-1])
    classes = {name: getattr(model.layers[-1], name, None) for name in ("class_names", "palette")}
    classes = {name: value for name, value in classes.items() if value is not None}
    samples = None
    if precision == "int8":
        samples = _read_samples(calibration_images, shape, preprocessing)
    deployed = _deploy(model, shape, image_size, preprocessing, postprocessing)
    job = _Job(deployed, shape, classes, precision, samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        new = stack.enter_context(replacing(path))
        if format == "openvino":  # writes beside what it is given
            stack.enter_context(replacing(Path(os.path.realpath(path)).with_suffix(".bin")))
        # TensorFlow on another processor may run the SavedModel, and not know groups there.
        stack.enter_context(native_form(grouped=format != "tf_saved_model"))
        stack.enter_context(warnings.catch_warnings())
        if keras.backend.backend() == "torch":  # its tracer warns of every size that it follows
            warnings.simplefilter("ignore")
        # Keras's repair of tf2onnx asks NumPy for a name that is gone.
        warnings.filterwarnings("ignore", ".*`np.object`", FutureWarning)
        _WRITERS[format](job, new)
    return path


class _Job(NamedTuple):
    """What a writer needs."""

    model: keras.Model  # with all that is to be inside
    shape: tuple  # of its input
    classes: dict  # class names and palette
    precision: str
    samples: list | None  # inputs to calibrate with


def _check(path, format, precision):
    backend = keras.backend.backend()
    if format not in _FORMATS:
        raise ValueError(f"Unknown format {format!r}. Known: {', '.join(FORMATS)}.")
    suffix, needs, precisions = _FORMATS[format]
    if backend not in needs:
        raise ValueError(
            f"The format {format!r} can't be written under Keras's backend {backend}. Save the "
            f"model as .keras, and load and export it with KERAS_BACKEND={' or '.join(needs)}."
        )
    if precision not in precisions:
        raise ValueError(
            f"The format {format!r} has the precisions {', '.join(precisions)}. "
            f"Received: precision={precision!r}."
        )
    packages = (*needs[backend], *["nncf"] * ((format, precision) == ("openvino", "int8")))
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(
            f"The format {format!r} needs {', '.join(missing)} for {precision} under {backend}: "
            "pip install 'keras-sanet[export]'."
        )
    if suffix and path.suffix != suffix:
        raise ValueError(
            f"`path` must end in {suffix} for the format {format!r}. Received: {path}."
        )
    if suffix and path.is_dir():
        raise FileExistsError(f"{path} is a folder. Give another path.")
    is_model = path.is_dir() and (not any(path.iterdir()) or (path / "saved_model.pb").exists())
    if not suffix and path.exists() and not is_model:
        raise FileExistsError(f"{path} exists and is no SavedModel. Give another path.")


def _in_float32(model):
    """The same model without mixed precision, which the formats' converters don't know."""
    config = model.to_json()
    for policy in ("mixed_bfloat16", "mixed_float16"):
        config = config.replace(f'"{policy}"', '"float32"')
    copy = keras.models.model_from_json(config)
    copy.set_weights(model.get_weights())
    return copy


def _image_size(model, image_size):
    """(height, width) that the model is to compute at, or None."""
    fixed = model.input_shape[1:3]
    if image_size is None:
        return None if None in fixed else tuple(fixed)
    size = sides("image_size", image_size)
    if any(a not in (None, b) for a, b in zip(fixed, size)):
        raise ValueError(
            f"The model takes images of {fixed[0]} x {fixed[1]} pixels (height x width) alone. "
            f"Received: image_size={image_size}."
        )
    return size


def _deploy(model, shape, image_size, preprocessing, postprocessing):
    """The model with what comes before and after it, "image" to {"logits"} or {"mask"}."""
    dtype = "uint8" if preprocessing else "float32"
    image = keras.Input(shape[1:], shape[0], dtype, name="image")
    layer = _Deployed(model, image_size, postprocessing, dtype="float32", autocast=False)
    return keras.Model(image, {"mask" if postprocessing else "logits": layer(image)})


class _Deployed(keras.layers.Layer):
    """What an exported file computes of images; see `export`. It isn't saved by itself."""

    def __init__(self, model, image_size, postprocessing, **kwargs):
        super().__init__(**kwargs)
        self.model, self.image_size, self.postprocessing = model, image_size, postprocessing

    def call(self, images):
        size = ops.shape(images)[1:3]
        x = ops.cast(images, "float32")
        if self.image_size is not None:
            # To the shape that it has, so that converters know it too.
            x = ops.reshape(
                resize(x, self.image_size), (self.batch or -1, *self.image_size, x.shape[-1])
            )
        logits = self.model(x, training=False)
        if not self.postprocessing:
            return logits
        if self.image_size is not None:
            logits = resize(logits, size)
        return ops.cast(argmax(scores(logits, self.from_logits)), self.mask_dtype)

    def build(self, images_shape):
        self.batch, classes = images_shape[0], self.model.output_shape[-1]
        told = gives_probabilities(self.model)
        if classes == 1 and told is None and self.postprocessing:
            raise ValueError(
                "The model's layers do not tell whether its one channel is a logit or a "
                "probability: end it with keras.layers.Activation('sigmoid'), or export it without "
                "`postprocessing`."
            )
        self.from_logits = not told
        self.mask_dtype = "uint8" if classes <= VOID else "int32"

    def compute_output_spec(self, images):
        if self.postprocessing:
            return keras.KerasTensor(images.shape[:-1], self.mask_dtype)
        size = self.image_size or images.shape[1:3]
        return keras.KerasTensor((images.shape[0], *size, self.model.output_shape[-1]))


def _read_samples(images, shape, preprocessing):
    """Inputs of the exported model, arrays of one batch each."""
    batch, *size, channels = shape
    dtype = "uint8" if preprocessing else "float32"
    samples = []
    for image in itertools.islice(images, _CALIBRATED):
        array = read_image(image) if isinstance(image, (str, Path)) else np.asarray(image)
        if array.ndim != 3 or array.shape[-1] != channels:
            raise ValueError(
                f"`calibration_images` must be paths or arrays (height, width, {channels}). "
                f"Received: shape {array.shape}."
            )
        if None not in size and array.shape[:2] != tuple(size):
            resized = resize(ops.convert_to_tensor(array[None].astype("float32")), size)
            array = ops.convert_to_numpy(resized)[0]
        samples.append(np.repeat(array[None].astype(dtype), batch or 1, axis=0))
    if not samples:
        raise ValueError("`calibration_images` must hold an image at least. Received: none.")
    return samples


def _write_saved_model(job, path):
    # JAX alone: the gradient of a graph for any size can't be written, and isn't needed.
    on_jax = keras.backend.backend() == "jax"
    kwargs = {"jax2tf_kwargs": {"with_gradient": False}} if on_jax else {}
    _export(job, path, "tf_saved_model", **kwargs)
    if job.classes:
        (path / "assets.extra").mkdir()
        (path / "assets.extra" / "classes.json").write_text(json.dumps(job.classes), "utf-8")


def _export(job, path, format, **kwargs):
    """Keras's own export."""
    signature = keras.InputSpec(shape=job.shape, dtype=job.model.input.dtype, name="image")
    job.model.export(str(path), format=format, verbose=False, input_signature=[signature], **kwargs)


def _write_onnx(job, path):
    import onnx

    if keras.backend.backend() == "torch":
        _trace(job, path)
    else:
        _export(job, path, "onnx")
    file = onnx.load(path)
    _name_output(file.graph, *job.model.output)
    onnx.helper.set_model_props(file, {k: json.dumps(v) for k, v in job.classes.items()})
    onnx.save(file, path)
    if keras.backend.backend() == "torch" and None in job.shape:
        _check_sizes(job, path)


def _trace(job, path):
    """PyTorch's exporter by tracing. (Keras asks the one by `torch.export` first, which fails on
    sizes that are computed in the graph, and older versions ask no other.)"""
    import torch

    image = ops.ones([size or 64 for size in job.shape], job.model.input.dtype)
    names = ("batch", "height", "width", "channels")
    free = {axis: names[axis] for axis, size in enumerate(job.shape) if size is None}
    torch.onnx.export(
        job.model, (image,), path, input_names=["image"], dynamic_axes={"image": free}, dynamo=False
    )


def _name_output(graph, name):
    (result,) = graph.output
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name if old == result.name else old for old in names]
    result.name = name


def _check_sizes(job, path):
    """PyTorch's tracer keeps as constants what Python computes of the sizes: what it wrote for any
    size is compared at two others."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    for size in ((64, 99), (101, 72)):  # both even and odd, and of several remainders by 8
        image = np.random.default_rng(0).integers(0, 256, (job.shape[0], *size, job.shape[-1]))
        image = image.astype(job.model.input.dtype)
        (output,) = session.run(None, {"image": image})
        (expected,) = job.model.predict_on_batch(image).values()
        if output.shape == expected.shape and output.dtype == "float32":
            wrong = np.abs(output - expected).max() > 1e-3 * np.abs(expected).max()
        else:
            wrong = output.shape != expected.shape or (output != expected).mean() > 1e-2
        if wrong:
            raise ValueError(
                "The model can't be traced for any size on PyTorch: some of its layers compute "
                "with the size in Python. Pass image_size=(height, width), or load and export it "
                "with KERAS_BACKEND=tensorflow."
            )


def _write_openvino(job, path):
    import openvino

    write = _write_onnx if keras.backend.backend() == "torch" else _write_saved_model
    with tempfile.TemporaryDirectory() as folder:
        write(job, Path(folder, "model"))
        model = openvino.convert_model(Path(folder, "model"))
        model.inputs[0].tensor.set_names({"image"})
        model.outputs[0].tensor.set_names(set(job.model.output))
        if job.precision == "int8":
            import nncf

            # The matrix products are resizing and pooling: cheap, and exact in float alone.
            ignored = nncf.IgnoredScope(types=["MatMul"], validate=False)
            samples = nncf.Dataset(job.samples)
            model = nncf.quantize(
                model, samples, subset_size=len(job.samples), ignored_scope=ignored
            )
    for name, value in job.classes.items():
        model.set_rt_info(json.dumps(value), ["keras_sanet", name])
    try:
        openvino.save_model(model, path, compress_to_fp16=job.precision == "float16")
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        raise OSError(
            f"OpenVINO could not write {path.name}, and does not say why: the disk may be full."
        ) from error


def _write_litert(job, path):
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        _write_saved_model(job, Path(folder, "model"))
        converter = tf.lite.TFLiteConverter.from_saved_model(str(Path(folder, "model")))
        if job.precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if job.precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if job.precision == "int8":
            converter.representative_dataset = lambda: ([sample] for sample in job.samples)
        path.write_bytes(converter.convert())
    if job.classes:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("classes.json", json.dumps(job.classes))


_WRITERS = dict(
    zip(FORMATS, (_write_saved_model, _write_onnx, _write_openvino, _write_litert), strict=True)
)
