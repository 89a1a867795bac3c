"""Presets: a model with its recipe and figures, by name, folder or address.

A preset is a folder of three files:

- `config.json`: which function of `models` builds it with which arguments (class names and colours
  among them), the SHA-256 of the weights, crop, recipe, figures with the protocol that gave them,
  versions of the packages;
- `model.weights.h5`: the weights, float32 or float16;
- `README.md`: the model card.

The names of the table below are the paper's models, whose figures are the paper's: without weights
until someone trains them. `sanet_tiny_scenes` is in the package.

Loading a stranger's preset runs no code of theirs: a fixed table of functions, arguments checked
against theirs, file names that are not the config's, and sizes checked before memory is taken
(`saving.py`).
"""

import functools
import inspect
import io
import json
import math
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_sanet import _files, backbones, datasets, models, recipes, saving
from keras_sanet.presets.card import _card, _summary
from keras_sanet.presets.hub import _download_from_hugging_face, _download_from_kaggle
from keras_sanet.version import __version__

BUILDERS = {"SANet": models.SANet, "PSPNet": models.PSPNet, "FCN": models.FCN}
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.weights.h5", "README.md"
_FORMAT = 1
_ASSETS = Path(__file__).parent / "assets"
_BUILT_IN = {"sanet_tiny_scenes": "drawn street scenes, 8 classes; weights in the package"}

# (The 40.2 of Table I is hardly legible in the scan that we have.)
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
_LARGEST_CONFIG = 2**20  # bytes
_LARGEST_ARGUMENT = 2**16
_LARGEST_HALF = float(np.finfo("float16").max)
_FIGURES = {"source", "mode", "images", "intervals_95", "classes"}
_MOST_VALUES = 2**28  # of a model that is built without its weights: 1 GiB


def list_presets():
    """Dict from the name of each preset of the package to what it is."""
    known = dict(_BUILT_IN)
    for name, (builder, backbone, dataset, accuracy, iou, source) in REFERENCES.items():
        figures = [f"pixel accuracy {accuracy} %"] if accuracy else []
        figures += [f"mean IoU {iou} %"] if iou else []
        known[name] = (
            f"{builder} with {backbone} on {dataset}; no weights yet, the paper's {source}: "
            f"{', '.join(figures)}"
        )
    return known


def from_preset(
    preset, num_classes=None, load_weights=True, class_names=None, palette=None, **changes
):
    """A model by name, folder or address.

    Args:
        preset: a name of `list_presets()`, a folder that `save_preset` wrote (a `Path` is always
            one), a `.keras` file, "hf://owner/name" (with "@revision" or without; needs
            huggingface_hub) or "kaggle://owner/model/framework/variation" (needs kagglehub). What
            was downloaded once is taken from the cache of those packages where there is no network.
        num_classes: another number of classes: all weights are kept but the classifier's.
        load_weights: False for random weights.
        class_names, palette: of the classes. The preset's own are kept where none are given and
            their number stays. (Weights of as many classes stay too, whatever their names.)
        changes: other arguments of the builder, as `dropout=0.3`; without the preset's weights also
            `backbone_weights="imagenet"`.

    Returns: `keras.Model`, not compiled.

    Raises: ValueError for an unknown name, for a preset without weights, for one that is damaged or
        not safe to load, and for changes that its weights do not fit; FileNotFoundError where a
        file is missing; ConnectionError where an address can't be reached and is not in the cache;
        ImportError where the package that reads the address is not installed.

    Example:
        model = keras_sanet.from_preset("sanet_tiny_scenes")
        mask = keras_sanet.inference.predict_mask(model, "street.png")
    """
    if load_weights and changes.get("backbone_weights") is not None:
        raise ValueError(
            "`backbone_weights` would replace weights of the preset. Pass load_weights=False too."
        )
    if str(preset).endswith(".keras"):
        model = saving.load_model(preset)
        if changes or not load_weights:
            builder, arguments = models.describe(model)
    else:
        file, found = _open(preset)
        builder, arguments = found["builder"], found["arguments"]
        if load_weights:
            model = _restore(preset, file, found)
    if not load_weights:
        with saving.at_most(_MOST_VALUES):
            model = _build(builder, {**arguments, **changes})
    elif changes:
        source, model = model, _build(builder, {**arguments, **changes})
        _copy_weights(source, model)
    if num_classes is class_names is palette is None:
        return model
    return models.with_classes(model, num_classes, class_names, palette)


def config(preset):
    """What is known of a preset: the dict of its `config.json`.

    Args: preset, see `from_preset`; no `.keras` file.
    """
    return _open(preset)[1]


def save_preset(model, folder, figures=None, recipe=None, crop=None, licence=None, dtype="float32"):
    """Writes a model as a preset that `from_preset` loads; all of it or nothing.

    What a preset does not hold: dtype policy, frozen layers, optimizer.

    Args:
        model: a SANet, PSPNet or FCN with a backbone of `keras_sanet.backbones`. (Others are saved
            by `model.save("model.keras")`.)
        folder: new, empty, or a preset that is replaced. Its name is the title of the model card.
        figures: an `Evaluation`, or its `as_dict()`: figures with the protocol that gave them.
        recipe: dict of how it was trained. crop: (height, width) of the training crops in pixels, a
            good `window` for prediction. licence: of the weights, for the Hugging Face Hub one of
            its identifiers, as "apache-2.0".
        dtype: "float32", or "float16" for a file of half the size.

    Raises: ValueError where a function of `models` did not make the model, or an argument is not
        as above; FileExistsError where the folder holds other files.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f'`dtype` must be "float32" or "float16". Received: dtype={dtype!r}.')
    figures = figures.as_dict() if hasattr(figures, "as_dict") else figures
    if figures is not None and not (isinstance(figures, dict) and figures.keys() >= _FIGURES):
        raise ValueError(
            "`figures` must be what `evaluation.evaluate` returns, or its `as_dict()`. "
            f"Received: {figures!r:.80}."
        )
    if recipe is not None and not isinstance(recipe, dict):
        raise ValueError(f"`recipe` must be a dict. Received: recipe={recipe!r:.80}.")
    if crop is not None and len(keras.tree.flatten(crop)) != 2:
        raise ValueError(f"`crop` must be (height, width). Received: crop={crop!r}.")
    folder = _check_folder(folder)
    try:
        builder, arguments = models.describe(model)
    except ValueError as error:
        raise ValueError(f'{error} Save such a model by model.save("model.keras").') from None
    if _layers(model) != _layers(_build(builder, arguments)):
        raise ValueError(
            f"The model {model.name!r} was changed after {builder} built it, which a preset would "
            'lose. Save such a model by model.save("model.keras").'
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _files.replacing(folder) as new:
        new.mkdir()
        weights = saving.weights_of(model, new)
        (new / _WEIGHTS).write_bytes(_halved(weights) if dtype == "float16" else weights)
        described = {
            "format": _FORMAT,
            "builder": builder,
            "arguments": arguments,
            "weights": {"sha256": _files.digest(new / _WEIGHTS), "dtype": dtype},
            "crop": None if crop is None else list(crop),
            "recipe": recipe,
            "figures": None if figures is None else _summary(figures),
            "licence": licence,
            "versions": {"keras_sanet": __version__, "keras": keras.__version__},
        }
        text = json.dumps(described, indent=1, default=_plain)
        (new / _CONFIG).write_text(f"{text}\n", "utf-8")
        (new / _CARD).write_text(_card(folder.name, model, json.loads(text)), "utf-8")


def _check_folder(folder):
    """The absolute path of a folder that a preset may be written to."""
    path = Path(folder).expanduser().resolve()
    if path.suffix == ".keras":
        raise ValueError(
            f"A preset is a folder, and {folder} is the name of a file. Leave out .keras."
        )
    if path.is_file():
        raise FileExistsError(f"{path} is a file, and a preset is a folder. Give another name.")
    names = {item.name for item in path.iterdir()} if path.is_dir() else set()
    others = sorted(names - {_CONFIG, _WEIGHTS, _CARD})
    if names and (others or not {_CONFIG, _WEIGHTS} <= names):
        raise FileExistsError(
            f"{path} is no preset, and holds {', '.join(others[:5] or sorted(names))}. Give a new "
            "folder."
        )
    return path


def _layers(model):
    """Name, class and shapes of the weights of every layer."""
    return [
        (layer.name, type(layer).__name__, [tuple(weight.shape) for weight in layer.weights])
        for layer in (*model.layers, *model.get_layer("backbone").layers)
    ]


def _check(config):
    """Raises ValueError where a config is not one that `save_preset` writes."""
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(
            f"it is of format {found!r}; keras_sanet {__version__} reads format {_FORMAT}."
        )
    if config.get("builder") not in BUILDERS:
        raise ValueError(
            f"`builder` must be one of {', '.join(BUILDERS)}. Received: {config.get('builder')!r}."
        )
    if not isinstance(config.get("weights"), dict):
        raise ValueError(f"`weights` must be a dict. Received: {config.get('weights')!r}.")
    arguments = config.get("arguments")
    if not isinstance(arguments, dict) or not {"num_classes", "backbone"} <= arguments.keys():
        raise ValueError("`arguments` must be a dict with num_classes and backbone.")
    known = inspect.signature(BUILDERS[config["builder"]]).parameters.keys()
    unknown = sorted(arguments.keys() - (known - {"backbone_weights"}))
    if unknown:
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


def _restore(preset, file, config):
    """The model of a preset with its weights."""
    if file is None:
        raise ValueError(
            f"The preset {preset} has no weights: nobody has trained it with keras_sanet yet. "
            f"Train it: `keras-sanet train --preset {preset} --weights imagenet --dataset "
            f"{REFERENCES[preset][2]} --data FOLDER`, then `keras-sanet save-preset RUN FOLDER`. "
            "Or build it without: `from_preset(..., load_weights=False, "
            'backbone_weights="imagenet")`.'
        )
    path = file(_WEIGHTS)
    count = saving.check_weights(path)
    expected = config["weights"].get("sha256")
    if _files.digest(path) != expected:
        raise ValueError(
            f"{path} is damaged or of another preset: its SHA-256 is not {expected}, which "
            f"{_CONFIG} says. Get or save the preset again."
        )
    try:
        with saving.at_most(count + saving.SLACK):
            model = _build(config["builder"], config["arguments"])
        model.load_weights(path)
    except Exception as error:  # whatever a crafted config makes layers raise
        raise ValueError(
            f"{path.parent} can't be loaded: its {_CONFIG} is wrong, or its {_WEIGHTS} do not fit "
            f"it: {error}"
        ) from error
    return model


def _build(builder, arguments):
    function = BUILDERS[builder]
    known = inspect.signature(function).parameters
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise ValueError(
            f"Unknown arguments {', '.join(unknown)} of {builder}. Known: {', '.join(known)}."
        )
    arguments = dict(arguments)
    if isinstance(arguments["backbone"], dict):
        arguments["backbone"] = backbones.build(
            **arguments["backbone"],
            input_shape=arguments.get("input_shape", known["input_shape"].default),
            weights=arguments.pop("backbone_weights", None),
            name="backbone",
        )
    return function(**arguments)


def _copy_weights(source, model):
    weights = {layer.name: layer.get_weights() for layer in source.layers}
    for layer in model.layers:
        values = weights.get(layer.name, [])
        shapes, own = [v.shape for v in values], [tuple(w.shape) for w in layer.weights]
        if shapes != own:
            raise ValueError(
                f"The preset's weights do not fit the changed arguments: layer {layer.name!r} has "
                f"{shapes[:3]} in the preset and {own[:3]} in the model. Pass load_weights=False "
                "for random weights, or leave the argument as it was."
            )
        layer.set_weights(values)


def _reference(builder, backbone, dataset, accuracy, iou, source):
    """The config of one of the paper's models."""
    (info,) = [info for info in datasets.infos() if info.name == dataset]
    arguments = {
        "num_classes": len(info.classes),
        "backbone": {"variant": backbone},
        "class_names": list(info.classes),
        "palette": [list(colour) for colour in info.classes.values()],
    }
    if builder == "PSPNet":
        arguments["bins"] = [1, 2, 3, 4, 6]
    figures = {"pixel_accuracy": accuracy, "mean_iou": iou}
    name = f"paper_{dataset}"
    recipe = recipes.get(name)
    del recipe["model"], recipe["backbone"]  # those of the config
    return {
        "format": _FORMAT,
        "builder": builder,
        "arguments": arguments,
        "weights": None,
        "crop": list(recipe.pop("crop_size")),
        "recipe": {"recipe": name, **recipe},
        "figures": {
            **{name: value and round(value / 100, 4) for name, value in figures.items()},
            "source": f"the paper's {source}, of its authors' weights",
            "mode": "several scales, one model (section IV-C)",
        },
        "licence": info.licence,
        "versions": {"keras_sanet": __version__, "keras": keras.__version__},
    }


def _plain(value):
    """NumPy's numbers as Python's, for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"`recipe` and `figures` must be JSON: numbers, texts, lists. It holds {value!r}."
    )


def _halved(weights):
    """A weights file with its float32 values as float16, where they are small enough; as bytes."""
    halved = io.BytesIO()
    with h5py.File(io.BytesIO(weights), "r") as source, h5py.File(halved, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                value = item[()]
                if value.dtype == "float32" and np.abs(value).max(initial=0) <= _LARGEST_HALF:
                    value = value.astype("float16")
                target.create_dataset(name, data=value).attrs.update(item.attrs)
            else:
                target.require_group(name).attrs.update(item.attrs)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    return halved.getvalue()


def _open(preset):
    """How to get a file of a preset by its name, and the checked config. (The paper's models have
    no files.)"""
    if isinstance(preset, str) and preset in REFERENCES:
        return None, _reference(*REFERENCES[preset])
    file = _find(preset)
    path = file(_CONFIG)
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes; a preset's has {_LARGEST_CONFIG:,} at most."
        )
    try:
        found = json.loads(path.read_text("utf-8"))
        _check(found)
    except Exception as error:  # whatever a crafted config makes Python raise
        raise ValueError(f"{path} is no config of a preset that can be loaded: {error}") from None
    return file, found


def _find(preset):
    """A function from the name of a preset's file to its path, which downloads it where need be."""
    if isinstance(preset, str):
        if preset in _BUILT_IN:
            return (_ASSETS / preset).joinpath
        if preset.startswith("hf://"):
            return functools.partial(_download_from_hugging_face, preset)
        if preset.startswith("kaggle://"):
            return functools.partial(_download_from_kaggle, preset)
    folder = Path(preset).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"There is no preset {str(preset)!r}: neither a folder, nor hf://owner/name, nor "
            f"kaggle://owner/model/framework/variation, nor one of {', '.join(list_presets())}."
        )

    def find(name):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no preset, or not whole: it holds no {name}.")
        return folder / name

    return find
