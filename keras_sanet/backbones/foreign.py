"""Other people's backbones: which of their maps are taps, and what they want of raw RGB.

keras.applications, keras-cv, keras-hub, or any functional model. Their last map is 1/32 of the
image as a rule, where ours is 1/8: use images or crops twice as large, or the dilated backbones of
`keras_sanet.backbones`, where thin things matter. `.keras` files need the package of the backbone
imported before they load. A MiT of keras-hub or keras-cv, and keras-cv's CSPDarkNet and
MobileNetV3, have parts that Keras does not load from a file: `save_weights` keeps their weights.
"""

import math
import re

import keras
from keras import layers

from keras_sanet.backbones.preprocessing import MODES, preprocess

# What families were trained with, where the model has no rescaling of its own (`include_rescaling`,
# `include_preprocessing`), and which layers are taps where these are not simply the last of each
# stride. keras.applications go by the name of the model, as their `preprocess_input` says; others
# by class. keras-hub's ImageNet weights are timm's (pretrained_cfg of a1_in1k, a1h_in1k, tv_in1k,
# tf_in1k, ra_in1k, ssld), its MiT NVIDIA's; those of its EfficientNet and MobileNet differ from
# one checkpoint to another. keras-cv trained all of its own on 0..1.
#    package, name or class, preprocessing, end of the names of taps
_FAMILIES = (
    ("keras", r"resnet(50|101|152)", "caffe", ""),
    ("keras", r"resnet(50|101|152)v2", "tf", r"(conv1_conv|_preact_relu|post_relu)"),
    ("keras", r"vgg(16|19)", "caffe", ""),
    ("keras", r"densenet\d+", "torch", r"relu"),
    ("keras", r"xception", "tf", ""),
    ("keras", r"mobilenet(v2)?_\d.*", "tf", ""),
    ("keras", r"MobileNetV3(Small|Large)", "tf", ""),
    ("keras", r"efficientnetb\d", "torch", ""),
    ("keras", r"efficientnetv2-b\d", "torch", ""),
    ("keras", r"efficientnetv2-[sml]", "tf128", ""),
    ("keras", r"convnext_\w+", "torch", ""),
    ("keras_hub", r"ResNetBackbone", "torch", ""),
    ("keras_hub", r"ResNetBackboneV2", "tf", ""),
    ("keras_hub", r"(DenseNet|VGG|CSPNet|HGNetV2|MiT)Backbone", "torch", ""),
    ("keras_hub", r"XceptionBackbone", "tf", ""),
    ("keras_cv", r"\w+Backbone", "unit", ""),
)


def from_model(model, *, taps=None, preprocessing=None):
    """Makes a backbone for `SANet`, `PSPNet` and `FCN` of a functional Keras model.

    The layers are those of `model`, with their weights. Its own classifier, if any, is left out.

    Args:
        model: a functional `keras.Model` of images (batch, height, width, 3), channels last.
        taps: names of layers from fine to coarse, the last being the map to classify; or a dict
            of names of taps and layers. None takes keras-hub's `pyramid_outputs`, keras-cv's
            `pyramid_level_inputs`, else the last map of each stride 2 to 32.
        preprocessing: what `model` gets of raw RGB: "caffe" (BGR less its mean), "tf" (-1..1),
            "tf128" (the same by 128), "torch" (less the mean, by the standard deviation), "unit"
            (0..1), "none"; or a layer, as keras-hub's `ImageConverter.from_preset(...)` (of which
            scale and offset count). None takes what its family was trained with, nothing where the
            model begins with a Rescaling or Normalization of its own.

    Returns:
        `keras.Model` "backbone", from raw RGB (batch, height, width, 3), 0..255, to the dict
        {"s0": ..., "s4": ...}; with fewer than five taps the first names are left out.

    Raises:
        ValueError: where the model is not functional, has other inputs or no such layers, its
            family is not known and `preprocessing` is None, or its maps are inside of an inner
            model.

    Example:
        stem = keras.applications.ResNet50(include_top=False)
        model = SANet(19, from_model(stem, taps=["conv2_block3_out", "conv4_block6_out"]))
    """
    check_channels_last(model)
    shape = getattr(model, "input_shape", None)
    functional = hasattr(model, "operations")
    if not functional or not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != 3:
        raise ValueError(
            "`model` must be a functional `keras.Model` of images (batch, height, width, 3), "
            f"channels last. Received: {model!r} with input_shape={shape}."
        )
    package, identity = _identity(model)
    families = [f for f in _FAMILIES if f[0] == package and re.fullmatch(f[1], identity)]
    _, _, mode, pattern = families[0] if families else ("", "", None, "")
    if any(isinstance(o, (layers.Rescaling, layers.Normalization)) for o in model.operations[:3]):
        mode = "none"
    mode = mode if preprocessing is None else preprocessing
    if mode is None:
        known = ", ".join(f"{package} {name}" for package, name, *_ in _FAMILIES)
        raise ValueError(
            f"What {package} {identity} was trained with is not known. Say so by `preprocessing` "
            f"of `backbones.from_model`: {', '.join(MODES)}, or a layer. Known: {known}."
        )
    tensors = _taps(model, taps, pattern)
    image = keras.Input(shape[1:], name="image")
    body = keras.Model(model.input, tensors, name=model.name)
    return keras.Model(image, body(preprocess(image, mode)), name="backbone")


def check_channels_last(layer):
    """Raises ValueError where a layer, or one in it, has the channels first."""
    found = layer._flatten_layers() if isinstance(layer, keras.Layer) else ()
    first = [x.name for x in found if getattr(x, "data_format", None) == "channels_first"]
    if first:
        raise ValueError(
            "All layers must have the channels last, whatever Keras is set to: build yours after "
            'keras.config.set_image_data_format("channels_last"), or give each its `data_format`. '
            f"Received: {layer.name!r}, whose layer {first[0]!r} has them first."
        )


def _identity(model):
    """Package and name of a family."""
    package = type(model).__module__.partition(".")[0]
    if package == "keras":
        return package, model.name
    return package, type(model).__name__ + "V2" * bool(getattr(model, "use_pre_activation", False))


def _taps(model, taps, pattern):
    """dict of names and tensors, fine to coarse."""
    given = taps
    if taps is None:
        if getattr(model, "pyramid_outputs", None):
            taps = list(model.pyramid_outputs.values())
        elif getattr(model, "pyramid_level_inputs", None):
            taps = list(model.pyramid_level_inputs.values())
        else:
            taps = _last_of_each_stride(model, pattern)
    if isinstance(taps, str) or not taps:
        raise ValueError(f"`taps` must name one layer at least, in a list. Received: {given!r}.")
    if not isinstance(taps, dict):
        first = max(0, 5 - len(taps))
        taps = {f"s{first + i}": tap for i, tap in enumerate(taps)}
    maps = _maps(model)
    for tap in taps.values():
        if isinstance(tap, str) and tap not in maps:
            raise ValueError(
                "`taps` must name layers of the model whose output is a map (batch, height, "
                f"width, channels); `model.summary()` lists them. Received: {tap!r}."
            )
    tensors = {name: maps[tap] if isinstance(tap, str) else tap for name, tap in taps.items()}
    if given is not None:
        levels = list(_levels(model, tensors).values())
        if levels != sorted(levels) or len({id(tensor) for tensor in tensors.values()}) < len(taps):
            raise ValueError(
                f"`taps` must go from fine to coarse, each layer once. Received: {given!r}, of "
                f"strides {', '.join(str(2**level) for level in levels)}."
            )
    return tensors


def _maps(model):
    """dict of layers' names and their maps (batch, height, width, channels), input to output.

    By the nodes of this graph: the `output` of a model inside of it is in a graph of its own.
    """
    return {
        node.operation.name: node.outputs[0]
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True)
        for node in nodes
        if len(node.outputs) == 1 and len(node.outputs[0].shape) == 4
    }


def _levels(model, tensors):
    """dict of names and the binary logarithms of the strides of tensors by those names."""
    side = model.input_shape[1] or 512
    image = keras.KerasTensor((1, side, model.input_shape[2] or side, 3))
    shapes = keras.Function(model.input, tensors).compute_output_spec(image)
    return {name: round(math.log2(side / shapes[name].shape[1])) for name in tensors}


def _last_of_each_stride(model, pattern):
    """Tensors: of each stride from 2 to 32 the last whose layer's name ends as the pattern says."""
    maps = _maps(model)
    tensors = {
        o.name: maps[o.name]
        for o in model.operations
        if o.name in maps
        and not isinstance(o, (layers.ZeroPadding2D, layers.Cropping2D))
        and re.search(f"{pattern}$", o.name)
    }
    last = {level: tensors[name] for name, level in _levels(model, tensors).items()}
    found = [last[level] for level in sorted(last) if 1 <= level <= 5]
    inner = [o.name for o in model.operations if isinstance(o, keras.Model)]
    if len(found) < 2 and inner:
        raise ValueError(
            f"The maps of {model.name} are inside of its layer {inner[0]!r}: pass that model to "
            "`backbones.from_model`, and say by `preprocessing` what comes before it. Or name "
            "layers in `taps`."
        )
    if not found:
        raise ValueError(f"No maps of stride 2 to 32 in {model.name}. Name layers in `taps`.")
    return found
