"""Presets: a model with its recipe and figures, loaded and saved by name, folder or address.

A preset is a folder of three files:

- `config.json`: which function of `models` builds the model with which arguments (class names and
  colors among them), the SHA-256 of the weights, crop, recipe, figures with the protocol that gave
  them, versions of the packages;
- `model.weights.h5`: the weights, float32 or float16;
- `README.md`: the model card.
"""

import functools
import io
import json
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_sanet import _files, models, saving
from keras_sanet.presets import config as configs
from keras_sanet.presets import hub
from keras_sanet.presets.card import model_card
from keras_sanet.version import __version__

_CONFIG, _WEIGHTS, _CARD = "config.json", "model.weights.h5", "README.md"
_ASSETS = Path(__file__).parent / "assets"
_BUILT_IN = {"sanet_tiny_scenes": "drawn street scenes, 8 classes; weights in the package"}
_LARGEST_HALF = float(np.finfo("float16").max)
_METRICS = {"source", "mode", "images", "intervals_95", "classes"}
_MOST_VALUES = 2**28  # of a model that is built without its weights: 1 GiB


def list_presets(*, references=False):
    """Names the presets of the package.

    Args:
        references: whether to list the paper's models too. Nobody has trained them with this
            package yet, so `from_preset` builds them only with `load_weights=False`.

    Returns:
        Dict from a name to a description.
    """
    known = dict(_BUILT_IN)
    for name, row in configs.REFERENCES.items() if references else ():
        builder, backbone, dataset, accuracy, iou, source = row
        figures = [f"pixel accuracy {accuracy} %"] if accuracy else []
        figures += [f"mean IoU {iou} %"] if iou else []
        known[name] = (
            f"{builder} with {backbone} on {dataset}; no weights yet, the paper's {source}: "
            f"{', '.join(figures)}"
        )
    return known


def from_preset(
    preset, num_classes=None, *, load_weights=True, class_names=None, palette=None, **changes
):
    """Loads a model by name, folder or address.

    Args:
        preset: a name of `list_presets()`, a folder that `save_preset` wrote (a `Path` is always a
            folder), a `.keras` file, "hf://owner/name" or "hf://owner/name@revision" (needs
            huggingface_hub), or "kaggle://owner/model/framework/variation" (needs kagglehub).
            Without a network, these packages' caches are read.
        num_classes: another number of classes. All weights are kept but the classifier's.
        load_weights: False for random weights.
        class_names: names by class id; None keeps the preset's, where their number stays.
        palette: (red, green, blue) by class id; None as for `class_names`.
        **changes: other arguments of the function that builds the model, such as `dropout=0.3`.
            With `load_weights=False` also `backbone_weights="imagenet"`.

    Returns:
        `keras.Model`, not compiled.

    Raises:
        ValueError: for an unknown name, a preset without weights, one that is damaged or not safe
            to load, and changes that its weights do not fit.
        FileNotFoundError: where a file is missing.
        ConnectionError: where an address can't be reached and is not in the cache.
        ImportError: where the package that reads the address is not installed.

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
            builder, arguments = configs.describe(model)
    else:
        file, found = _open(preset)
        builder, arguments = found["builder"], found["arguments"]
        if load_weights:
            model = _restore(preset, file, found)
    if not load_weights:
        with saving.at_most(_MOST_VALUES):
            model = configs.build(builder, {**arguments, **changes})
    elif changes:
        source, model = model, configs.build(builder, {**arguments, **changes})
        _copy_weights(source, model)
    if num_classes is class_names is palette is None:
        return model
    return models.with_classes(model, num_classes, class_names=class_names, palette=palette)


def read_config(preset):
    """Reads what is known of a preset.

    Args:
        preset: see `from_preset`; not a `.keras` file.

    Returns:
        The dict of its `config.json`.
    """
    return _open(preset)[1]


def save_preset(
    model, folder, *, metrics=None, recipe=None, crop_size=None, license=None, dtype="float32"
):
    """Writes a model as a preset that `from_preset` loads; all of it or nothing.

    A preset does not hold the dtype policy, frozen layers and the optimizer.

    Args:
        model: a SANet, PSPNet or FCN with a backbone of `keras_sanet.backbones`. (Save others by
            `model.save("model.keras")`.)
        folder: new, empty, or a preset that is replaced. Its name is the title of the model card.
        metrics: an `Evaluation`, or its `as_dict()`: what was measured, and how.
        recipe: dict of how the model was trained.
        crop_size: (height, width) of the training crops in pixels, a good `window` for prediction.
        license: of the weights. The Hugging Face Hub takes identifiers such as "apache-2.0".
        dtype: "float32", or "float16" for a file of half the size.

    Raises:
        ValueError: where no function of `models` made the model, or an argument is wrong.
        FileExistsError: where the folder holds other files.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f'`dtype` must be "float32" or "float16". Received: dtype={dtype!r}.')
    metrics = metrics.as_dict() if hasattr(metrics, "as_dict") else metrics
    if metrics is not None and not (isinstance(metrics, dict) and metrics.keys() >= _METRICS):
        raise ValueError(
            "`metrics` must be what `evaluation.evaluate` returns, or its `as_dict()`. "
            f"Received: {metrics!r:.80}."
        )
    if recipe is not None and not isinstance(recipe, dict):
        raise ValueError(f"`recipe` must be a dict. Received: recipe={recipe!r:.80}.")
    if crop_size is not None and len(keras.tree.flatten(crop_size)) != 2:
        raise ValueError(f"`crop_size` must be (height, width). Received: crop_size={crop_size!r}.")
    folder = _check_folder(folder)
    try:
        builder, arguments = configs.describe(model)
    except ValueError as error:
        raise ValueError(f'{error} Save such a model by model.save("model.keras").') from None
    if _layers(model) != _layers(configs.build(builder, arguments)):
        raise ValueError(
            f"The model {model.name!r} was changed after {builder} built it, which a preset would "
            'lose. Save such a model by model.save("model.keras").'
        )
    if metrics is not None:  # without what has a row an image, or a cell a pair of classes
        left_out = ("iou_per_image", "confusion")
        metrics = {name: value for name, value in metrics.items() if name not in left_out}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _files.replacing(folder) as new:
        new.mkdir()
        weights = saving.weight_bytes(model, new)
        (new / _WEIGHTS).write_bytes(_halve(weights) if dtype == "float16" else weights)
        config = {
            "format": configs.FORMAT,
            "builder": builder,
            "arguments": arguments,
            "weights": {"sha256": _files.digest(new / _WEIGHTS), "dtype": dtype},
            "crop": None if crop_size is None else list(crop_size),
            "recipe": recipe,
            "figures": metrics,
            "license": license,
            "versions": {"keras_sanet": __version__, "keras": keras.__version__},
        }
        text = json.dumps(config, indent=1, default=_to_json)
        (new / _CONFIG).write_text(f"{text}\n", "utf-8")
        (new / _CARD).write_text(model_card(folder.name, model, json.loads(text)), "utf-8")


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


def _to_json(value):
    """NumPy's numbers as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"`recipe` and `metrics` must be JSON: numbers, texts, lists. It holds {value!r}."
    )


def _halve(weights):
    """A weights file, as bytes, with its float32 values as float16 where they are small enough."""
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
    """A function from the name of a preset's file to its path, which downloads the file where need
    be (None for the paper's models, which have no files); and the checked config."""
    if isinstance(preset, str) and preset in configs.REFERENCES:
        return None, configs.reference(preset)
    if isinstance(preset, str) and preset in _BUILT_IN:
        file = (_ASSETS / preset).joinpath
    elif isinstance(preset, str) and preset.startswith("hf://"):
        file = functools.partial(hub.from_hugging_face, preset)
    elif isinstance(preset, str) and preset.startswith("kaggle://"):
        file = functools.partial(hub.from_kaggle, preset)
    else:
        file = functools.partial(_from_folder, Path(preset).expanduser())
    return file, configs.read(file(_CONFIG))


def _from_folder(folder, name):
    if not folder.is_dir():
        raise ValueError(
            f"There is no preset {str(folder)!r}: neither a folder, nor hf://owner/name, nor "
            "kaggle://owner/model/framework/variation, nor one of "
            f"{', '.join(list_presets(references=True))}."
        )
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} is no preset, or not whole: it holds no {name}.")
    return folder / name


def _restore(preset, file, config):
    """The model of a preset with its weights."""
    if file is None:
        raise ValueError(
            f"The preset {preset} has no weights: nobody has trained it with keras_sanet yet. "
            f"Build it without: `from_preset({preset!r}, load_weights=False, "
            'backbone_weights="imagenet")`. Or train it: `keras-sanet train --preset '
            f"{preset} --weights imagenet --dataset {configs.REFERENCES[preset][2]} --data "
            "FOLDER`, then `keras-sanet save-preset RUN FOLDER`."
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
            model = configs.build(config["builder"], config["arguments"])
        model.load_weights(path)
    except Exception as error:  # whatever a crafted config makes layers raise
        raise ValueError(
            f"{path.parent} can't be loaded: its {_CONFIG} is wrong, or its {_WEIGHTS} do not fit "
            f"it: {error}"
        ) from error
    return model


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
