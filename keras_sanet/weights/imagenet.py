"""Pretrained weights: checkpoints of torchvision and timm into our backbones; ImageNet by name."""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_sanet import _files, saving
from keras_sanet.weights import checkpoints

# Keras's name of a variable -> the checkpoint's.
_VARIABLES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_FIRST = "conv1.weight"
_PARALLEL = "module."  # torch.nn.DataParallel's


class Pretrained(NamedTuple):
    """A checkpoint on the web.

    Attributes:
        url: its address.
        digest: of the file, "algorithm:hex digits" or the first of them.
        top1: ImageNet top-1 accuracy in percent, as the publisher states it.
        license: its terms.
    """

    url: str
    digest: str
    top1: float
    license: str


_TORCHVISION = "https://download.pytorch.org/models/"
_GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/"
# torchvision's IMAGENET1K_V1; it has no ResNeXt-101 32x4d, so that is timm's, of Gluon. The eight
# digits in a file's name begin its SHA-256. Of resnext50 the whole SHA-512 is known instead (from
# mlcommons/training, single_stage_detector), of resnext101 no more than those eight digits.
IMAGENET = {
    "resnet18": Pretrained(
        f"{_TORCHVISION}resnet18-f37072fd.pth",
        "sha256:f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        69.76,
        "BSD-3-Clause",
    ),
    "resnet50": Pretrained(
        f"{_TORCHVISION}resnet50-0676ba61.pth",
        "sha256:0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        76.13,
        "BSD-3-Clause",
    ),
    "resnet101": Pretrained(
        f"{_TORCHVISION}resnet101-63fe2227.pth",
        "sha256:63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
        77.37,
        "BSD-3-Clause",
    ),
    "resnext50": Pretrained(
        f"{_TORCHVISION}resnext50_32x4d-7cdf4587.pth",
        "sha512:15c9f0bc1c8d64750712f86ffaded3b0bc6a87e77a395dcda3013d8af65b7ebf"
        "3ca1c24dd3aae60c0d83e510b4d27731f0526b6f9392c0a85ffc18e5fecd8a13",
        77.62,
        "BSD-3-Clause",
    ),
    "resnext101": Pretrained(
        f"{_GLUON}gluon_resnext101_32x4d-b253c8c4.pth", "sha256:b253c8c4", 80.33, "Apache-2.0"
    ),
}


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """What a checkpoint and a backbone have in common, by the checkpoint's names.

    Attributes:
        path: of the file.
        model: name of the backbone.
        loaded: names that fit.
        missing: names of the backbone that the file lacks.
        unexpected: names of the file that the backbone lacks.
        shapes: name -> (shape in the file, shape in the backbone), where they differ. Kernels are
            (height, width, in, out).
        adapted: number of channels that the first kernel, of RGB, was adapted to, or None.
    """

    path: str
    model: str
    loaded: list
    missing: list
    unexpected: list
    shapes: dict
    adapted: int | None = None

    @property
    def differences(self):
        """A line for each name that does not fit, sorted."""
        return sorted(
            [f"{name}: missing in the file" for name in self.missing]
            + [f"{name}: not in {self.model}" for name in self.unexpected]
            + [
                f"{name}: shape {theirs} in the file"
                f"{' (height, width, in, out)' if len(theirs) == 4 else ''}, {ours} in {self.model}"
                for name, (theirs, ours) in self.shapes.items()
            ]
        )

    def __repr__(self):
        return f"<Report of {self._loaded}, {len(self.unexpected)} unexpected>"

    @property
    def _loaded(self):
        total = len(self.loaded) + len(self.missing) + len(self.shapes)
        return f"{self.path}: {len(self.loaded)} of {total} arrays of {self.model} loaded"

    def __str__(self):
        lines = [self._loaded]
        if self.adapted:
            lines.append(f"{_FIRST}: adapted from RGB to {self.adapted} channels")
        return "\n  ".join(lines + self.differences)


def load_checkpoint(model, path, *, strict=True):
    """Loads the weights of a torchvision or timm ResNet / ResNeXt, or those that `convert` wrote.

    A first kernel for RGB is adapted to a backbone for images of other channels as timm does
    (timm/models/_manipulate.py, `adapt_input_conv`): for one channel the sum over R, G and B, for
    C channels R, G, B, R, ... times 3 / C.

    Args:
        model: a backbone of `keras_sanet.backbones`, or a model with one as its layer "backbone".
        path: `.safetensors`, `.safetensors.xz`, a PyTorch state dict `.pth` / `.pt` (neither needs
            PyTorch, and nothing in it is executed), or `.weights.h5`. The classifier `fc.*` is left
            out, and so is the "module." that DataParallel puts before all names.
        strict: whether all names and shapes must fit. If not, those that do are loaded, one at
            least.

    Returns:
        `Report`.

    Raises:
        ValueError: where names or shapes do not fit (if not `strict`, where none does), the file is
            damaged, or the backbone is another. Nothing is loaded then.
        FileNotFoundError: where there is no such file.
    """
    backbone = model
    if any(layer.name == "backbone" for layer in model.layers):
        backbone = model.get_layer("backbone")
    if not any(layer.name == "layer1_0_conv1" for layer in getattr(backbone, "layers", ())):
        raise ValueError(
            f"{path} was not loaded: {backbone.name!r} is no backbone of `keras_sanet.backbones`; "
            "load its weights as its package does."
        )
    variables = {
        f"{layer.name.replace('_', '.')}.{_VARIABLES[variable.name]}": variable
        for layer in backbone.layers
        for variable in layer.variables
    }
    # At most four numbers for each of ours, in float32 (training checkpoints have the optimizer's),
    # and a classifier of 32,000 classes from 2048 channels.
    limit = 16 * sum(int(np.prod(v.shape)) for v in variables.values()) + 2**28
    arrays = checkpoints.read(path, limit)
    if all(name.startswith(_PARALLEL) for name in arrays):
        arrays = {name.removeprefix(_PARALLEL): value for name, value in arrays.items()}
    arrays = {
        name: value
        for name, value in arrays.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    if not str(path).endswith(".weights.h5"):  # kernels (out, in, height, width) to Keras's order
        arrays = {n: v.transpose(2, 3, 1, 0) if v.ndim == 4 else v for n, v in arrays.items()}
    adapted = None
    if _FIRST in arrays and _FIRST in variables and arrays[_FIRST].ndim == 4:
        height, width, channels, filters = variables[_FIRST].shape
        if channels != 3 and arrays[_FIRST].shape == (height, width, 3, filters):
            arrays[_FIRST], adapted = _adapt(arrays[_FIRST], channels), channels
    both = [name for name in variables if name in arrays]
    shapes = {name: (arrays[name].shape, tuple(variables[name].shape)) for name in both}
    shapes = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    report = Report(
        path=str(path),
        model=backbone.name,
        loaded=[name for name in both if name not in shapes],
        missing=[name for name in variables if name not in arrays],
        unexpected=[name for name in arrays if name not in variables],
        shapes=shapes,
        adapted=adapted,
    )
    differences = report.differences
    if not report.loaded or (strict and differences):
        listed = "\n  ".join(differences[:20])
        more = f"\n  and {len(differences) - 20} more" if len(differences) > 20 else ""
        raise ValueError(
            f"{path} does not fit {backbone.name}; nothing was loaded.\n  {listed}{more}"
        )
    for name in report.loaded:
        variables[name].assign(arrays[name].astype("float32"))
    return report


def _adapt(kernel, channels):
    """A kernel (height, width, 3, out) for `channels` instead; see `load_checkpoint`."""
    kernel = kernel.astype("float32")
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * np.float32(3 / channels)


def convert(backbone, checkpoint, output):
    """Loads a checkpoint into a backbone and saves that as Keras does.

    Args:
        backbone: as `model` of `load_checkpoint`.
        checkpoint: as `path` of `load_checkpoint`.
        output: path ending in `.weights.h5`, for `backbone.load_weights`, `load_checkpoint` and
            `backbone_weights`.

    Returns:
        `Report`.

    Raises:
        ValueError: as `load_checkpoint`, and for another suffix.
    """
    output = Path(output)
    if not output.name.endswith(".weights.h5"):
        raise ValueError(f"`output` must end in .weights.h5. Received: {output}.")
    report = load_checkpoint(backbone, checkpoint)
    with _files.replacing(output) as new:
        new.write_bytes(saving.weight_bytes(backbone, output.parent))
    return report


def imagenet(variant):
    """Finds a checkpoint of a backbone trained on ImageNet in Keras's cache.

    The checkpoint is downloaded the first time. Its digest is verified every time.

    Args:
        variant: a name of `IMAGENET`.

    Returns:
        Path of the file, in `keras_sanet` of Keras's folder (`KERAS_HOME`, ~/.keras).

    Raises:
        ValueError: for another name, and where a file has not the digest.
        OSError: where the download fails. Both say what to fetch and where to put it.
    """
    if variant not in IMAGENET:
        raise ValueError(
            f"There are no ImageNet weights of {variant}. There are of: {', '.join(IMAGENET)}."
        )
    source = IMAGENET[variant]
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "keras_sanet"
    file = folder / source.url.rpartition("/")[2]
    converted = folder / f"{file.stem}.weights.h5"  # what version 0.1.0 kept
    if converted.is_file() and not file.is_file():
        return converted
    way_out = (
        f"Fetch {source.url} by other means, put it into {folder} as {file.name}, and run this "
        f"again ({source.digest})."
    )

    def verify(path, what):
        algorithm, _, expected = source.digest.partition(":")
        digest = _files.digest(path, algorithm)
        if not digest.startswith(expected):
            raise ValueError(
                f"{what} not the file that was expected: its {algorithm} is {digest}, not "
                f"{expected}. {way_out}"
            )

    if file.is_file():
        verify(file, f"{file} is")
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with _files.replacing(file) as new:
        try:
            keras.utils.get_file(new.name, source.url, cache_dir=folder, cache_subdir="")
        except Exception as error:  # Keras raises nothing narrower
            raise OSError(
                f"The ImageNet weights of {variant} were not downloaded: {error}. {way_out}"
            ) from error
        verify(new, f"{source.url} gave")
    print(
        f"ImageNet weights of {variant}: license {source.license}, top-1 {source.top1} % "
        f"({source.url}); ImageNet itself is for non-commercial research."
    )
    return file
