"""Scene parsing with SANet (Yu et al., 2020) in Keras 3, on TensorFlow, JAX and PyTorch."""

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("tensorflow", "jax", "torch"):
        raise
    raise ImportError(
        f"Keras is set to the backend {error.name}, which is not installed. Install it (the extra "
        f"keras-sanet[{error.name}]), or set the environment variable KERAS_BACKEND to one of "
        "tensorflow, jax, torch that is."
    ) from error

from keras_sanet import (
    backbones,
    datasets,
    distribution,
    evaluation,
    export,
    inference,
    inspection,
    layers,
    losses,
    metrics,
    optimizers,
    pipeline,
    presets,
    recipes,
    saving,
    schedules,
    summary,
    training,
    visualization,
    weights,
)
from keras_sanet.models import FCN, PSPNet, SANet
from keras_sanet.presets import from_preset, list_presets, save_preset
from keras_sanet.version import __version__

__all__ = [
    "FCN",
    "PSPNet",
    "SANet",
    "__version__",
    "backbones",
    "datasets",
    "distribution",
    "evaluation",
    "export",
    "from_preset",
    "inference",
    "inspection",
    "layers",
    "list_presets",
    "losses",
    "metrics",
    "optimizers",
    "pipeline",
    "presets",
    "recipes",
    "save_preset",
    "saving",
    "schedules",
    "summary",
    "training",
    "visualization",
    "weights",
]


def __dir__():
    return __all__
