"""Checkpoints of torchvision and timm, into our backbones."""

import importlib
import lzma
from pathlib import Path

import numpy as np

# Keras's name of a variable -> the checkpoint's.
_VARIABLES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load_checkpoint(model, path):
    """Loads the weights of a torchvision or timm ResNet / ResNeXt.

    Args:
        model: a backbone of `keras_sanet.backbones`, or a model with one as its layer "backbone".
        path: `.safetensors`, `.safetensors.xz`, or a PyTorch state dict `.pth` / `.pt` (read with
            `weights_only=True`). The classifier `fc.*` is left out.

    Raises: ValueError where names or shapes do not fit, with all that differ; nothing is loaded
        then. ImportError where the package that reads the format is not installed.
    """
    tensors = {
        name: value
        for name, value in _read(Path(path)).items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    backbone = model
    if any(layer.name == "backbone" for layer in model.layers):
        backbone = model.get_layer("backbone")
    variables = {
        f"{layer.name.replace('_', '.')}.{_VARIABLES[variable.name]}": variable
        for layer in backbone.layers
        for variable in layer.variables
    }
    arrays = {name: _to_keras(value) for name, value in tensors.items()}
    problems = [f"{name}: missing in the file" for name in variables.keys() - arrays.keys()]
    problems += [f"{name}: not in {backbone.name}" for name in arrays.keys() - variables.keys()]
    problems += [
        f"{name}: shape {arrays[name].shape} in the file (height, width, in, out), "
        f"{tuple(variables[name].shape)} in {backbone.name}"
        for name in variables.keys() & arrays.keys()
        if arrays[name].shape != tuple(variables[name].shape)
    ]
    if problems:
        listed = "\n  ".join(sorted(problems)[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            f"{path} does not fit {backbone.name}; nothing was loaded.\n  {listed}{more}"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _to_keras(value):
    """Convolution kernels from (out, in, height, width) to (height, width, in, out), float32."""
    value = np.asarray(value, dtype="float32")
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def _read(path):
    """Name -> array."""
    if not path.is_file():
        raise FileNotFoundError(f"No weights file {path}.")
    suffixes = "".join(path.suffixes[-2:])
    if suffixes.endswith((".safetensors", ".safetensors.xz")):
        safetensors = _import("safetensors.numpy", "safetensors", path)
        opened = lzma.open if path.suffix == ".xz" else open
        with opened(path, "rb") as file:
            return safetensors.load(file.read())
    if path.suffix in (".pth", ".pt"):
        torch = _import("torch", "torch", path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)  # as training scripts wrap it
        return {name: value.float().numpy() for name, value in state.items()}
    raise ValueError(
        f"{path} must end in .safetensors, .safetensors.xz, .pth or .pt to be read as a checkpoint."
    )


def _import(module, package, path):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"Reading {path} needs `pip install {package}`.") from error
