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
        "crop": (144, 192), "scale_range": (0.8, 1.6), "batch_size": 4, "val_batch_size": 10,
        "epochs": 8, "learning_rate": 3e-3, "head_learning_rate_multiple": 1.0,
    },
    "camvid": {
        "val_split": "val", "backbone": "resnet18", "weights": "imagenet", "other_backbone": None,
        "other_weights": "imagenet", "aggregator_filters": 128, "head_filters": 256,
        "image_scale": 0.5, "crop": (120, 160), "scale_range": (0.75, 1.5), "batch_size": 8,
        "val_batch_size": 4, "epochs": 14, "learning_rate": 2e-4,
        "head_learning_rate_multiple": 5.0,
    },
}  # fmt: skip

_DEFAULT = {  # the paper's stems and crop
    **PROTOCOLS["camvid"], "backbone": "resnext50", "other_backbone": "resnet50",
    "aggregator_filters": 256, "head_filters": 512, "image_scale": 1.0, "crop": (473, 473),
    "scale_range": (0.5, 2.0), "val_batch_size": 1, "epochs": 80, "learning_rate": 1e-4,
}  # fmt: skip

PROTOCOLS |= {name: {**_DEFAULT, "val_split": "test"} for name in ("nyuv2", "sunrgbd")}  # no val

_KEPT = (*_DEFAULT, "dataset", "images", "backend")  # what a folder keeps of its protocol

_WHOLE = ("aggregator_filters", "head_filters", "batch_size", "val_batch_size", "epochs")

RESULTS, PROTOCOL, _COSTS = "results.json", "protocol.json", "costs.json"


def protocol(dataset, **changes):
    """What all rows share on a data set: its entry of `PROTOCOLS`, or the paper's stems and crop.

    Args: dataset, its name; changes, other values by name, None for no change, "none" for no
        weights and no other stem.
    Raises: ValueError for a name that a protocol does not have, and a number that is not positive.
    """
    known = PROTOCOLS.get(dataset, _DEFAULT)
    changes = {
        name: None if value == "none" else value
        for name, value in changes.items()
        if value is not None
    }
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
    whole = {name: integer(name, found[name]) for name in _WHOLE}
    return {**found, **whole, "crop": sides("crop", found["crop"])}


def _portable(protocol):
    """A protocol as results.json has it: weights are named without their folder."""
    names = {name: protocol[name] for name in ("weights", "other_weights")}
    return _files.plain(
        {**protocol, **{name: file and Path(file).name for name, file in names.items()}}
    )


def _read_protocol(folder):
    path = Path(folder) / PROTOCOL
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no experiments: there is no {path}.")
    return _check_protocol(path, _read_json(path))


def _read_costs(path):
    return _check_costs(path, _read_json(path)) if path.is_file() else {}


def _read_json(path, *keys):
    """The dict in a file, which has these keys."""
    return _with_keys(path, _files.read_json(path, _WAY_OUT), keys)


def _with_keys(path, found, keys):
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing or not isinstance(found, dict):
        named = ", ".join(missing) or "object"
        raise ValueError(f"{path} is no such file, or of another version: no {named}.")
    return found


_WAY_OUT = "Give another, or make it anew."


def _is_number(value):
    """NaN is a figure of nothing."""
    return type(value) in (int, float) and (value != value or abs(value) < 1e39)


def _is_positive(value):
    return _is_number(value) and value > 0


def _is_text_or_none(value):
    return value is None or is_text(value)


_POSITIVE_INT = ("an integer of 1 or more", lambda v: is_int(v, 1))

_POSITIVE = ("a number above 0", _is_positive)

_PROTOCOL = {
    **dict.fromkeys(("dataset", "val_split", "backbone", "backend"), ("text", is_text)),
    **dict.fromkeys(
        ("weights", "other_backbone", "other_weights"), ("text, or null", _is_text_or_none)
    ),
    **dict.fromkeys(_WHOLE, _POSITIVE_INT),
    **dict.fromkeys(("image_scale", "learning_rate", "head_learning_rate_multiple"), _POSITIVE),
    "crop": ("two integers of 1 or more", lambda v: is_list(v, is_int, 1) and len(v) == 2),
    "scale_range": ("two numbers above 0", lambda v: is_list(v, _is_positive) and len(v) == 2),
    "images": (
        "a dict with the number of classes",
        lambda v: is_dict(v) and is_int(v.get("classes"), 1),
    ),
}

_COST = {**dict.fromkeys(("parameters", "macs"), ("an integer", is_int)), "step_ratio": _POSITIVE}


def _check(path, found, schema, what=""):
    _files.check(found, schema, f"{path} is damaged:{what}", _WAY_OUT)


def _check_protocol(path, found):
    _check(path, _with_keys(path, found, _KEPT), _PROTOCOL)
    return found


def _check_costs(path, found):
    _check(path, {"costs": found}, {"costs": ("a dict of dicts", lambda v: is_dict_of(v, is_dict))})
    for of_rows in found.values():
        for row, cost in of_rows.items():
            _check(path, cost, _COST, f" costs of {row!r}:")
    return found


def _check_runs(path, found, epochs):
    schema = {
        "runs": (
            f"dicts by rows, of {', '.join(ROWS)}",
            lambda v: is_dict_of(v, is_dict) and v.keys() <= ROWS.keys(),
        )
    }
    _check(path, {"runs": found}, schema)
    rule = (f"a list of {epochs} numbers", lambda v: is_list(v, _is_number) and len(v) == epochs)
    for row, seeds in found.items():
        for seed, figures in seeds.items():
            if not re.fullmatch("0|[1-9][0-9]{0,17}", seed):
                raise ValueError(f"{path} is damaged: {row} has a seed {seed!r:.40}. {_WAY_OUT}")
            _check(path, figures, dict.fromkeys(FIGURES, rule), f" {row} with seed {seed}:")


FIGURES = {  # of the validation split: title, factor, digits
    "pixel_accuracy": ("pixel accuracy", 100, 2),
    "mean_accuracy": ("mean accuracy", 100, 2),
    "mean_iou": ("mean IoU", 100, 2),
    "cross_entropy": ("cross-entropy", 1, 3),
}
