import functools
from pathlib import Path

import numpy as np

from keras_sanet import (
    backbones,
    evaluation,
    presets,
    recipes,
    weights,
)
from keras_sanet.cli.options import _arguments_of, _images, _limit_pixels, _load_model, _read_json
from keras_sanet.cli.train import _RECIPE
from keras_sanet.datasets.files import open_image
from keras_sanet.export import export as export_model
from keras_sanet.measurement import measure
from keras_sanet.summary import Summary


def convert(options):
    """Converts a torchvision or timm checkpoint to the .weights.h5 of a backbone."""
    backbone = backbones.build(options.backbone, input_shape=(None, None, options.channels))
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
        image_size=options.image_size,
        batch_size=options.batch_size or None,
        preprocessing=options.preprocessing,
        postprocessing=options.postprocessing,
        precision=options.precision,
        calibration_images=[np.array(open_image(image)) for image in images] or None,
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
    counted = Summary(
        build(), options.image_size and tuple(options.image_size), batch_size=options.batch_size
    )
    print(counted.table(options.depth or None))
    if options.measure:
        size = counted.image_shape[1:3]
        found = measure(build, size, batch_size=options.batch_size, rounds=options.rounds)
        kind = {"resident": "memory", "gpu": "GPU memory"}[found.kind]
        memory = "unknown" if found.memory is None else f"{found.memory / 1e6:.0f} MB"
        print(
            f"A prediction in a process of its own: {1000 * found.seconds:.1f} ms (median of "
            f"{options.rounds}); {kind} to build the model and predict: {memory}"
        )


def list_presets(options):
    """Lists the presets of the package: models by name, with their figures."""
    for name, what in presets.list_presets(references=True).items():
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
    run = Path(options.run)
    for name in ("model.keras", "config.json", "evaluation.json"):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} is no finished `train` run: it holds no {name}.")
    versions = _read_json(run / "config.json", "arguments", "versions")["versions"]
    arguments = _arguments_of(run / "config.json")
    recipe = {name: arguments[name] for name in _RECIPE if arguments.get(name) is not None}
    for name in {"weights", "preset"} & recipe.keys():
        recipe[name] = Path(recipe[name]).name  # where the file lies is nobody's business
    presets.save_preset(
        _load_model(run / "model.keras"),
        options.output,
        figures=evaluation.read_metrics(run / "evaluation.json"),
        recipe={**recipe, "versions": versions},
        crop_size=arguments.get("crop"),
        license=options.licence,
        dtype=options.dtype,
    )
    print(f"Preset:    {Path(options.output).resolve()}")
