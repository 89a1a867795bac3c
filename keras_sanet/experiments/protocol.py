"""How the rows of a data set are trained, and what the files of experiments hold."""

import re
from pathlib import Path

from keras_sanet import _files
from keras_sanet._arguments import integer, sides
from keras_sanet._files import is_dict, is_dict_of, is_int, is_list, is_text
from keras_sanet.experiments.rows import ROWS

# What all rows of a data set share. `head_filters` are those of the 3x3 before the classifier and
# of the pyramid's branches; `other_backbone` is the stem of one row more of Table III.
PROTOCOLS = {
    "scenes": {
        "val_split": "val", "backbone": "resnet_tiny", "weights": None, "other_backbone": None,
        "other_weights": None, "aggregator_filters": 32, "head_filters": 96, "image_scale": 1.0,
        "crop_size": (144, 192), "scale_range": (0.8, 1.6), "batch_size": 4, "val_batch_size": 10,
        "epochs": 8, "learning_rate": 3e-3, "head_learning_rate_multiple": 1.0,
    },
    "camvid": {
        "val_split": "val", "backbone": "resnet18", "weights": "imagenet", "other_backbone": None,
        "other_weights": "imagenet", "aggregator_filters": 128, "head_filters": 256,
        "image_scale": 0.5, "crop_size": (120, 160), "scale_range": (0.75, 1.5), "batch_size": 8,
        "val_batch_size": 4, "epochs": 14, "learning_rate": 2e-4,
        "head_learning_rate_multiple": 5.0,
    },
}  # fmt: skip

_DEFAULT = {  # the paper's stems and crop
    **PROTOCOLS["camvid"], "backbone": "resnext50", "other_backbone": "resnet50",
    "aggregator_filters": 256, "head_filters": 512, "image_scale": 1.0, "crop_size": (473, 473),
    "scale_range": (0.5, 2.0), "val_batch_size": 1, "epochs": 80, "learning_rate": 1e-4,
}  # fmt: skip

PROTOCOLS |= {name: {**_DEFAULT, "val_split": "test"} for name in ("nyuv2", "sunrgbd")}  # no val

FIGURES = {  # of the validation split: title, factor, digits
    "pixel_accuracy": ("pixel accuracy", 100, 2),
    "mean_accuracy": ("mean accuracy", 100, 2),
    "mean_iou": ("mean IoU", 100, 2),
    "cross_entropy": ("cross-entropy", 1, 3),
}

RESULTS, PROTOCOL, COSTS = "results.json", "protocol.json", "costs.json"  # files of a folder

_OPTIONAL = ("weights", "other_backbone", "other_weights")
_INTEGERS = ("aggregator_filters", "head_filters", "batch_size", "val_batch_size", "epochs")


def protocol(dataset, **changes):
    """What all rows share on a data set: its entry of `PROTOCOLS`, or the paper's stems and crop.

    Args:
        dataset: its name.
        **changes: other values by name; None for no change, "none" for no weights and no other
            stem.

    Returns:
        A dict.

    Raises:
        ValueError: a protocol does not have the name, or a number is not positive.
    """
    known = PROTOCOLS.get(dataset, _DEFAULT)
    changes = {name: value for name, value in changes.items() if value is not None}
    changes = {name: None if value == "none" else value for name, value in changes.items()}
    for name in changes:
        if name not in known:
            raise ValueError(f"A protocol has no {name!r}. It has: {', '.join(known)}.")
    found = {"dataset": dataset, **known, **changes}
    if "weights" in changes and "other_weights" not in changes:
        found["other_weights"] = changes["weights"]
        if found["other_backbone"] and changes["weights"] not in ("imagenet", None):
            raise ValueError(
                "`other_weights` must be given with a file as `weights`: the other stem needs its "
                f"own. Received: weights={changes['weights']}."
            )
    found |= {name: integer(name, found[name]) for name in _INTEGERS}
    return {**found, "crop_size": sides("crop_size", found["crop_size"])}


def without_folders(protocol):
    """A protocol in plain JSON whose weights are named without their folder."""
    names = {name: protocol[name] for name in ("weights", "other_weights")}
    names = {name: file and Path(file).name for name, file in names.items()}
    return _files.plain({**protocol, **names})


def as_stored(protocol):
    """A protocol as files have it, in which `crop_size` is "crop"."""
    return {"crop" if name == "crop_size" else name: value for name, value in protocol.items()}


# What files may hold

_WAY_OUT = "Give another, or make it anew."


def _is_number(value):
    """NaN is a figure of nothing."""
    return type(value) in (int, float) and (value != value or abs(value) < 1e39)


def _is_positive(value):
    return _is_number(value) and value > 0


def _is_pair(value, of, *args):
    return is_list(value, of, *args) and len(value) == 2


def _is_runs(value):
    return is_dict_of(value, is_dict) and value.keys() <= ROWS.keys()


_TEXT, _POSITIVE = ("text", is_text), ("a number above 0", _is_positive)
_TEXT_OR_NULL = ("text, or null", lambda value: value is None or is_text(value))

_PROTOCOL = {
    **dict.fromkeys(("dataset", "val_split", "backbone", "backend"), _TEXT),
    **dict.fromkeys(_OPTIONAL, _TEXT_OR_NULL),
    **dict.fromkeys(_INTEGERS, ("an integer of 1 or more", lambda value: is_int(value, 1))),
    **dict.fromkeys(("image_scale", "learning_rate", "head_learning_rate_multiple"), _POSITIVE),
    "crop": ("two integers of 1 or more", lambda value: _is_pair(value, is_int, 1)),
    "scale_range": ("two numbers above 0", lambda value: _is_pair(value, _is_positive)),
    "images": (
        "a dict with the number of classes",
        lambda value: is_dict(value) and is_int(value.get("classes"), 1),
    ),
}

_COST = {**dict.fromkeys(("parameters", "macs"), ("an integer", is_int)), "step_ratio": _POSITIVE}


def read_json(path, schema=None):
    """The dict of a file, which has these entries (see `_files.check`)."""
    found = _files.read_json(path, _WAY_OUT)
    _check(path, found, schema or {})
    return found


def read_protocol(path):
    """The protocol in a file of a folder of experiments."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no experiments: there is no {path}.")
    return _check_protocol(path, read_json(path))


def read_costs(path):
    """The costs in a file, none where it is not there."""
    return _check_costs(path, read_json(path)) if path.is_file() else {}


def read_results(path):
    """The protocol, runs, costs and makers in results.json."""
    found = read_json(path, {"made": ("a list of dicts", lambda value: is_list(value, is_dict))})
    protocol = _check_protocol(path, found.get("protocol"))
    costs = _check_costs(path, found.get("costs"))
    return protocol, _check_runs(path, found, protocol["epochs"]), costs, found["made"]


def _check(path, found, schema, what=""):
    _files.check(found, schema, f"{path} is damaged:{what}", _WAY_OUT)


def _check_protocol(path, found):
    _check(path, found, _PROTOCOL, " protocol:")
    found = found | {name: found.get(name) for name in _OPTIONAL}
    return {"crop_size" if name == "crop" else name: value for name, value in found.items()}


def _check_costs(path, found):
    rule = ("a dict of dicts", lambda value: is_dict_of(value, is_dict))
    _check(path, {"costs": found}, {"costs": rule})
    for costs in found.values():
        for row, cost in costs.items():
            _check(path, cost, _COST, f" costs of {row!r}:")
    return found


def _check_runs(path, found, epochs):
    _check(path, found, {"runs": (f"dicts by rows, of {', '.join(ROWS)}", _is_runs)})
    rule = (f"a list of {epochs} numbers", lambda v: is_list(v, _is_number) and len(v) == epochs)
    runs = {}
    for row, seeds in found["runs"].items():
        for seed, figures in seeds.items():
            if not re.fullmatch("0|[1-9][0-9]{0,17}", seed):
                raise ValueError(f"{path} is damaged: {row} has a seed {seed!r:.40}. {_WAY_OUT}")
            _check(path, figures, dict.fromkeys(FIGURES, rule), f" {row} with seed {seed}:")
            runs.setdefault(row, {})[int(seed)] = figures
    return runs
