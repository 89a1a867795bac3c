import functools
from pathlib import Path

import numpy as np

from keras_sanet import (
    backbones,
    presets,
    recipes,
    training,
    weights,
)
from keras_sanet.cli.options import _images, _limit_pixels, _load_model
from keras_sanet.datasets.files import open_image
from keras_sanet.export import export as export_model
from keras_sanet.measurement import measure
from keras_sanet.summary import Summary


def convert(options):
    """Converts a torchvision or timm checkpoint to the .weights.h5 of a backbone."""
    backbone = backbones.build(options.backbone, (None, None, options.channels))
    print(weights.convert(backbone, options.checkpoint, options.output))
    print(f"Weights:   {Path(options.output).resolve()}")


def export(options):
    """Writes a saved model for another runtime: TensorFlow Serving, ONNX Runtime, OpenVINO, LiteRT.

    The backend must be able to: TensorFlow is for all formats, PyTorch for onnx and openvino, JAX
    for tf_saved_model.
    """
    _limit_pixels(options)
    model = _load_model(options.saved_model)
    images = [image for argument in options.calibration_images or () for image in _images(argument)]
    path = export_model(
        model,
        options.output,
        options.format,
        tuple(options.image_size) if options.image_size else None,
        options.batch_size or None,
        options.preprocessing,
        options.postprocessing,
        options.precision,
        [np.array(open_image(image)) for image in images] or None,
    )
    files = [p for p in (path, path.with_suffix(".bin")) if p.is_file()] or path.rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(f"{options.format}, {size / 1e6:.1f} MB: {path.resolve()}")


def summary(options):
    """Counts a model's parameters and multiply-accumulates, layer by layer (paper, Table II)."""
    build = functools.partial(
        _load_model,
        options.saved_model,
        options.num_classes,
        load_weights=options.saved_model not in presets.REFERENCES,
    )
    counted = Summary(build(), options.size and tuple(options.size), options.batch_size)
    print(counted.table(options.depth or None))
    if options.measure:
        size = counted.image_shape[1:3]
        found = measure(build, size, options.batch_size, options.rounds)
        kind = {"resident": "memory", "gpu": "GPU memory"}[found.kind]
        memory = "unknown" if found.memory is None else f"{found.memory / 1e6:.0f} MB"
        print(
            f"A prediction in a process of its own: {1000 * found.seconds:.1f} ms (median of "
            f"{options.rounds}); {kind} to build the model and predict: {memory}"
        )


def list_presets(options):
    """Lists the presets of the package: models by name, with their figures."""
    for name, what in presets.list_presets().items():
        print(f"{name:27} {what}")


def list_recipes(options):
    """Lists the recipes for `train`: their arguments and where these are from."""
    for name in recipes.names():
        print(f"\n{name}: {recipes.source(name)}")
        for argument, value in recipes.get(name).items():
            value = " ".join(map(str, value)) if isinstance(value, tuple) else value
            print(f"    --{argument.replace('_', '-')} {value}")


def save_preset(options):
    """Writes the model of a training run as a preset, a folder to share and to load by its path."""
    training.save_preset_from_run(
        options.run, options.output, dtype=options.dtype, license=options.license
    )
    print(f"Preset:    {Path(options.output).resolve()}")
