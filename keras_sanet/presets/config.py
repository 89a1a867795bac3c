"""What a preset's `config.json` holds, how it is checked, and the model that it builds.

Loading a stranger's config runs no code of theirs: the functions come from a fixed table, their
arguments are checked against that table, and sizes are checked before memory is taken.
"""

import inspect
import math

import keras

from keras_sanet import _files, backbones, datasets, models, recipes, saving
from keras_sanet.layers import ConvLSTMAggregator
from keras_sanet.version import __version__

BUILDERS = {"SANet": models.SANet, "PSPNet": models.PSPNet, "FCN": models.FCN}
FORMAT = 1

# The paper's models. (The 40.2 of Table I is hardly legible in the scan that we have.)
#    name                        builder  backbone     data set  pixel accuracy, mean IoU, source
REFERENCES = {
    "sanet_resnext50_nyuv2":      ("SANet", "resnext50", "nyuv2", 75.9, 50.7, "Table IV"),
    "sanet_resnext50_sunrgbd":    ("SANet", "resnext50", "sunrgbd", 82.3, 51.5, "Table IV"),
    "sanet_resnext50_ade20k":     ("SANet", "resnext50", "ade20k", 82.1, 44.8, "Table V"),
    "sanet_resnext50_cityscapes": ("SANet", "resnext50", "cityscapes", None, 80.9, "Table VII"),
    "pspnet_resnext50_nyuv2":     ("PSPNet", "resnext50", "nyuv2", 74.3, None, "Table III"),
    "fcn_resnext50_nyuv2":        ("FCN", "resnext50", "nyuv2", 72.5, 40.2, "Tables I, III"),
    "fcn_resnet50_nyuv2":         ("FCN", "resnet50", "nyuv2", 71.8, None, "Table III"),
    "fcn_resnext50_sunrgbd":      ("FCN", "resnext50", "sunrgbd", None, 40.6, "Table I"),
}  # fmt: skip
_LARGEST_FILE = 2**20  # bytes
_LARGEST_ARGUMENT = 2**16


def read(path):
    """Reads and checks a config.

    Raises:
        ValueError: with the path, where it is no config that `save_preset` writes.
    """
    if (size := path.stat().st_size) > _LARGEST_FILE:
        raise ValueError(f"{path} has {size:,} bytes; a preset's has {_LARGEST_FILE:,} at most.")
    said, way_out = f"{path} is no config of a preset that can be loaded:", "Get the preset again."
    config = _files.read_json(path, way_out)
    try:
        _check(config, said, way_out)
    except Exception as error:  # whatever a crafted config makes Python raise
        raise ValueError(str(error) if said in str(error) else f"{said} {error}") from None
    config.setdefault("license", config.pop("licence", None))  # version 0.1.0 wrote licence
    return config


def _check(config, said, way_out):
    schema = {
        "format": (f"{FORMAT}, which keras_sanet {__version__} reads", lambda v: v == FORMAT),
        "builder": (
            f"one of {', '.join(BUILDERS)}",
            lambda v: isinstance(v, str) and v in BUILDERS,
        ),
        "weights": ("a dict", _files.is_dict),
        "arguments": (
            "a dict with num_classes and backbone",
            lambda v: _files.is_dict(v) and v.keys() >= {"num_classes", "backbone"},
        ),
    }
    _files.check(config, schema, said, way_out)
    arguments = config["arguments"]
    known = inspect.signature(BUILDERS[config["builder"]]).parameters.keys() - {"backbone_weights"}
    if unknown := sorted(arguments.keys() - known):
        raise ValueError(f"`arguments` holds unknown ones: {', '.join(unknown)}.")
    backbone = arguments["backbone"]
    if not isinstance(backbone, dict) or not backbone.keys() <= {"variant", "output_stride"}:
        raise ValueError(
            f"`backbone` must be a dict of variant and output_stride. Received: {backbone!r}."
        )
    for number in keras.tree.flatten(arguments):
        if isinstance(number, (int, float)) and not 0 <= number <= _LARGEST_ARGUMENT:
            raise ValueError(
                f"`arguments` holds {number}; sizes from 0 to {_LARGEST_ARGUMENT:,} are loaded."
            )
    for name in arguments.keys() - {"class_names", "palette"}:
        if (found := len(keras.tree.flatten(arguments[name]))) > saving.MOST_INTEGERS:
            raise ValueError(f"`{name}` has {found:,} entries; {saving.MOST_INTEGERS} are loaded.")
    shape = arguments.get("input_shape", ())
    if math.prod(size or 1 for size in shape) > saving.MOST_PIXELS:
        raise ValueError(
            f"`input_shape` is {shape}; at most {saving.MOST_PIXELS:,} values are loaded."
        )


def reference(name):
    """The config of one of the paper's models, which has no weights."""
    builder, backbone, dataset, accuracy, iou, source = REFERENCES[name]
    (info,) = [info for info in datasets.infos() if info.name == dataset]
    arguments = {
        "num_classes": len(info.classes),
        "backbone": {"variant": backbone},
        "class_names": list(info.classes),
        "palette": [list(color) for color in info.classes.values()],
    }
    if builder == "PSPNet":
        arguments["bins"] = [1, 2, 3, 4, 6]
    recipe = recipes.get(f"paper_{dataset}")
    del recipe["model"], recipe["backbone"]  # those of the config
    crop_size = recipe.pop("crop_size" if "crop_size" in recipe else "crop")
    return {
        "format": FORMAT,
        "builder": builder,
        "arguments": arguments,
        "weights": None,
        "crop": list(crop_size),
        "recipe": {"recipe": f"paper_{dataset}", **recipe},
        "figures": {
            "pixel_accuracy": accuracy and round(accuracy / 100, 4),
            "mean_iou": iou and round(iou / 100, 4),
            "source": f"the paper's {source}, of its authors' weights",
            "mode": "several scales, one model (section IV-C)",
        },
        "license": info.license,
        "versions": {"keras_sanet": __version__, "keras": keras.__version__},
    }


def build(builder, arguments):
    """The model of a config, with random weights.

    Args:
        builder: a name of `BUILDERS`.
        arguments: its arguments; "backbone" may be a dict of arguments of `backbones.build`.
    """
    function, arguments = BUILDERS[builder], dict(arguments)
    known = inspect.signature(function).parameters
    if unknown := sorted(arguments.keys() - known):
        raise ValueError(
            f"Unknown arguments {', '.join(unknown)} of {builder}. Known: {', '.join(known)}."
        )
    if isinstance(arguments["backbone"], dict):
        arguments["backbone"] = backbones.build(
            **arguments["backbone"],
            input_shape=arguments.get("input_shape", known["input_shape"].default),
            weights=arguments.pop("backbone_weights", None),
            name="backbone",
        )
    return function(**arguments)


def describe(model):
    """Reads from a model's layers which function of `models` made it, with which arguments.

    Args:
        model: made by `models` with a backbone of `keras_sanet.backbones`, loaded from a file or
            not.

    Returns:
        The name of the function, and the dict of its arguments in plain Python. Its "backbone" is
        a dict of `variant` and `output_stride`, arguments of `backbones.build`.

    Raises:
        ValueError: where another function, or another backbone, made it.
    """
    found = {layer.name: layer for layer in model.layers}
    if not {"backbone", "dropout", "classifier", "logits"} <= found.keys():
        raise ValueError(
            f"The model {model.name!r} is no SANet, PSPNet or FCN of keras_sanet: it lacks one of "
            "their layers backbone, dropout, classifier and logits."
        )

    def suffix(prefix):
        """What follows a prefix in the name of a layer; None where no layer has it."""
        return next((name[len(prefix) :] for name in found if name.startswith(prefix)), None)

    backbone = backbones.describe(found["backbone"])
    arguments = {
        "num_classes": found["classifier"].filters,
        "backbone": {key: backbone[key] for key in ("variant", "output_stride")},
        "input_shape": list(model.input_shape[1:]),
        "dropout": found["dropout"].rate,
        "class_names": found["logits"].class_names,
        "palette": found["logits"].palette,
        "name": model.name,
    }
    if "pyramid_pooling" not in found:
        auxiliary = found.get("auxiliary_classifier")
        arguments |= {"filters": found["head"].filters, "skip": suffix("skip_"), "auxiliary": None}
        if auxiliary is not None:
            index = auxiliary.input._keras_history.tensor_index
            arguments["auxiliary"] = sorted(found["backbone"].output)[index]  # as Keras flattens
        return "FCN", arguments
    pyramid = found["pyramid_pooling"]
    arguments |= {
        "bins": list(pyramid.bins) if pyramid.bins else None,
        "pyramid_filters": pyramid.filters,
        "normalize_branches": pyramid.normalize_branches,
    }
    if suffix("adapter_") is None:
        return "PSPNet", arguments
    aggregator = found.get("aggregator")
    if not _is_of_sanet(aggregator):
        raise ValueError(
            f"The model {model.name!r} has an `aggregator` of its own, so it can't be told by the "
            "arguments of `SANet`. Save it as .keras."
        )
    maps = keras.tree.flatten(aggregator.input)  # of one tap Keras gives the tensor
    adapters = [tensor._keras_history.operation for tensor in maps]
    fusion = "concatenate" if "fusion" in found else "aggregated"
    arguments |= {
        "aggregator_filters": aggregator.filters,
        "aggregator_dilation_rate": aggregator.dilation_rate,
        "taps": [adapter.name.removeprefix("adapter_") for adapter in adapters],
        "normalize_taps": adapters[0].normalize,
        "grid": suffix("grid_"),
        "fusion": "add" if "fusion_conv" in found else fusion,
    }
    return "SANet", arguments


def _is_of_sanet(aggregator):
    """Whether `SANet` would make this layer from its arguments."""
    if not isinstance(aggregator, ConvLSTMAggregator):
        return False
    own = aggregator.get_config()
    kept = {name: own[name] for name in ("name", "dtype", "filters", "dilation_rate")}
    return own == ConvLSTMAggregator(**kept).get_config()
