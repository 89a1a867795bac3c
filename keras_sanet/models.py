"""SANet (paper, Fig. 2) and its controls PSPNet and FCN (Tables I and III).

Each function reads from the image to the logits and returns a plain functional `keras.Model`: raw
images (batch, height, width, channels), RGB or others, 0..255, any size, to float32 logits (batch,
height, width, classes).
"""

import numbers

import keras
from keras import layers

from keras_sanet import backbones, weights
from keras_sanet._arguments import integer, integers
from keras_sanet._labels import classes_of
from keras_sanet.layers import (
    ConvLSTMAggregator,
    FeatureAdapter,
    PyramidPooling,
    SegmentationOutput,
)
from keras_sanet.layers.output import check_classes


def SANet(
    num_classes,
    backbone="resnext50",
    backbone_weights=None,
    input_shape=(None, None, 3),
    aggregator_filters=256,
    aggregator_dilation_rate=2,
    taps=None,
    fusion="concatenate",
    bins=(1, 2, 3, 4, 6),
    pyramid_filters=512,
    dropout=0.1,
    class_names=None,
    palette=None,
    name="sanet",
    normalize_taps=False,
    grid=None,
    aggregator=None,
    normalize_branches=True,
):
    """Spatial-semantic Aggregation Network.

    Args:
        num_classes: number of classes, void not counted. 1: two classes, background and foreground,
            of one logit (`losses` and `metrics` take its sigmoid; masks are 1 where it is above 0).
        backbone: a name ("resnet18", "resnet50", "resnet101", "resnext50", "resnext101",
            "resnet_tiny"), a `keras.Model` from raw RGB to a dict of taps, the last one being the
            map to classify, or another functional one (keras.applications, keras-cv, keras-hub),
            which `backbones.from_model` makes into that.
        backbone_weights: "imagenet" (for a name; downloaded once), the path of a torchvision or
            timm checkpoint, or None for random weights; see `backbones.build`.
        input_shape: (height, width, channels); None for any size. A backbone's own holds.
        aggregator_filters: channels c' of the adapted maps and of the aggregator.
        aggregator_dilation_rate: dilation of both its convolutions, in cells.
        taps: names of the maps that are aggregated, in the order they are read; None for all that
            the backbone has ("s0", "s1", "s2", "s3", "s4"), fine to coarse.
        fusion: how the aggregated map y joins the last tap: "concatenate", "add" (y is first taken
            to the tap's channels by a 1x1), or "aggregated" (y alone).
        bins: cells a side of the pooled grids; None for no pyramid (Figure 3).
        pyramid_filters: channels of each pyramid branch and of the fusing 3x3.
        dropout: rate before the classifier.
        class_names, palette: kept in the model by its layer "logits".
        name: of the model.
        normalize_taps: whether a batch norm follows each adapter (the paper has none).
        grid: the tap on whose grid all maps are aggregated and parsed; None for the last one's, as
            in the paper. "s1" is 1/4 of the image, and makes all but the backbone cost four times
            as much: of ResNeXt-50 the whole three times.
        aggregator: a layer, or any function of Keras tensors, from the list of adapted maps to one
            map, in place of `ConvLSTMAggregator(aggregator_filters, aggregator_dilation_rate)`.
        normalize_branches: whether a batch norm follows the 1x1 of each pyramid branch, as in
            PSPNet, or a bias.

    Returns: `keras.Model`, images to logits. Layers to ask for by `get_layer`: "backbone",
        "adapter_s0" .., "aggregator", "pyramid_pooling", "classifier", "logits".

    Raises: ValueError that names the argument, the rule and the value.

    Reference: Fig. 2, sections III and IV-B.
    """
    if fusion not in ("concatenate", "add", "aggregated"):
        raise ValueError(
            f'`fusion` must be "concatenate", "add" or "aggregated". Received: fusion={fusion!r}.'
        )
    if taps is not None and (isinstance(taps, str) or len(taps) == 0):
        raise ValueError(f"`taps` must be a list of names, one at least. Received: taps={taps!r}.")
    taps = None if taps is None else tuple(taps)
    asked = (*(taps or ()), grid)
    num_classes = _check(num_classes, backbone, asked, dropout, class_names, palette)
    pyramid_filters, bins = _check_pyramid(pyramid_filters, bins)
    if aggregator_filters is not None or aggregator is None:
        aggregator_filters = integer("aggregator_filters", aggregator_filters)
    if aggregator is None:
        aggregator = ConvLSTMAggregator(
            aggregator_filters, dilation_rate=aggregator_dilation_rate, name="aggregator"
        )
    elif not callable(aggregator):
        raise ValueError(
            "`aggregator` must be a layer or a function from a list of maps to a map. "
            f"Received: aggregator={aggregator!r}."
        )
    image, features, last = _features(backbone, backbone_weights, input_shape)
    target = _tap(features, grid or list(features)[-1])
    maps = [
        FeatureAdapter(aggregator_filters, normalize_taps, name=f"adapter_{tap}")(
            _tap(features, tap), target=target
        )
        for tap in taps or features
    ]  # Eq. 1
    backbones.check_channels_last(aggregator)
    y = aggregator(maps)  # Eqs 2-8
    backbones.check_channels_last(keras.Model(image, y))  # what a function made
    if grid is not None:
        last = FeatureAdapter(name=f"grid_{grid}")(last, target=target)
    if fusion == "concatenate":
        y = layers.Concatenate(name="fusion")([last, y])
    elif fusion == "add":
        y = _convolution(last.shape[-1], "fusion_conv", use_bias=False)(y)
        y = layers.Add(name="fusion")([last, y])
    x = PyramidPooling(
        pyramid_filters, bins, normalize_branches=normalize_branches, name="pyramid_pooling"
    )(y)
    logits = _classify(x, image, num_classes, dropout, class_names, palette)
    return keras.Model(image, logits, name=name)


def PSPNet(
    num_classes,
    backbone="resnet50",
    backbone_weights=None,
    input_shape=(None, None, 3),
    bins=(1, 2, 3, 6),
    pyramid_filters=512,
    dropout=0.1,
    class_names=None,
    palette=None,
    name="pspnet",
    normalize_branches=True,
):
    """Pyramid scene parsing network (Zhao et al., 2017): SANet without the aggregation.

    Args: as for `SANet`; four bins, as in its paper (Table III's control takes SANet's five).
    Returns: `keras.Model`, images to logits.
    Reference: Table III.
    """
    num_classes = _check(num_classes, backbone, (), dropout, class_names, palette)
    pyramid_filters, bins = _check_pyramid(pyramid_filters, bins)
    image, _, last = _features(backbone, backbone_weights, input_shape)
    x = PyramidPooling(
        pyramid_filters, bins, normalize_branches=normalize_branches, name="pyramid_pooling"
    )(last)
    logits = _classify(x, image, num_classes, dropout, class_names, palette)
    return keras.Model(image, logits, name=name)


def FCN(
    num_classes,
    backbone="resnext50",
    backbone_weights=None,
    input_shape=(None, None, 3),
    skip=None,
    auxiliary=None,
    filters=512,
    dropout=0.1,
    class_names=None,
    palette=None,
    name="fcn",
):
    """Dilated fully convolutional network: backbone, 3x3 convolution, 1x1 classifier.

    Args:
        skip: a tap that is resized and concatenated to the map before the classifier, or None.
        auxiliary: a tap that gets a 1x1 classifier of its own, or None. The model then returns
            the dict {"logits": ..., "auxiliary": ...}; train it with one loss each (PSPNet weighs
            the auxiliary one 0.4; `training.fit` does), and take `without_auxiliary(model)` to
            predict.
        filters: channels of the 3x3 convolution.
        Others: as for `SANet`.

    Returns: `keras.Model`, images to logits.
    Reference: Table I; "None" in its first row is `FCN(num_classes)`.
    """
    num_classes = _check(num_classes, backbone, (skip, auxiliary), dropout, class_names, palette)
    filters = integer("filters", filters)
    image, features, last = _features(backbone, backbone_weights, input_shape)
    x = PyramidPooling(filters, bins=None, name="head")(last)
    if skip is not None:
        resized = FeatureAdapter(name=f"skip_{skip}")(_tap(features, skip), target=last)
        x = layers.Concatenate(name="skip")([x, resized])
    outputs = _classify(x, image, num_classes, dropout, class_names, palette)
    if auxiliary is not None:
        x = _convolution(num_classes, "auxiliary_classifier")(_tap(features, auxiliary))
        outputs = {"logits": outputs, "auxiliary": SegmentationOutput(name="auxiliary")(x, image)}
    return keras.Model(image, outputs, name=name)


def describe(model):
    """The function of this module and the arguments that make a model, read from its layers.

    Args: model, made here with a backbone of `keras_sanet.backbones`, loaded from a file or not.
    Returns: the name of the function, and the dict of its arguments in plain Python, of which
        "backbone" is a dict, `variant` and `output_stride` of `backbones.build`.
    Raises: ValueError where another function, or another backbone, made it.
    """
    found = {layer.name: layer for layer in model.layers}
    if not {"backbone", "dropout", "classifier", "logits"} <= found.keys():
        raise ValueError(
            f"The model {model.name!r} is no SANet, PSPNet or FCN of keras_sanet: it lacks one of "
            "their layers backbone, dropout, classifier and logits."
        )
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
    if "pyramid_pooling" in found:
        pyramid = found["pyramid_pooling"]
        arguments["bins"] = list(pyramid.bins) if pyramid.bins else None
        arguments["pyramid_filters"] = pyramid.filters
        arguments["normalize_branches"] = pyramid.normalize_branches
        if not any(name.startswith("adapter_") for name in found):
            return "PSPNet", arguments
        aggregator = found.get("aggregator")
        if not _is_of_sanet(aggregator):
            raise ValueError(
                f"The model {model.name!r} has an `aggregator` of its own, so it can't be told by "
                "the arguments of `SANet`. Save it as .keras."
            )
        arguments["aggregator_filters"] = aggregator.filters
        arguments["aggregator_dilation_rate"] = aggregator.dilation_rate
        maps = keras.tree.flatten(aggregator.input)  # of one tap Keras gives the tensor
        adapted = [tensor._keras_history.operation.name for tensor in maps]
        arguments["taps"] = [name.removeprefix("adapter_") for name in adapted]
        arguments["normalize_taps"] = found[adapted[0]].normalize
        grids = [name for name in found if name.startswith("grid_")]
        arguments["grid"] = grids[0].removeprefix("grid_") if grids else None
        arguments["fusion"] = "concatenate" if "fusion" in found else "aggregated"
        if "fusion_conv" in found:
            arguments["fusion"] = "add"
        return "SANet", arguments
    arguments["filters"] = found["head"].filters
    skips = [name for name in found if name.startswith("skip_")]
    arguments["skip"] = skips[0].removeprefix("skip_") if skips else None
    arguments["auxiliary"] = None
    if "auxiliary_classifier" in found:
        index = found["auxiliary_classifier"].input._keras_history.tensor_index
        arguments["auxiliary"] = sorted(found["backbone"].output)[index]  # as Keras flattens a dict
    return "FCN", arguments


def _is_of_sanet(aggregator):
    """Whether `SANet` would make this layer of its arguments."""
    if not isinstance(aggregator, ConvLSTMAggregator):
        return False
    own = aggregator.get_config()
    kept = {name: own[name] for name in ("name", "dtype", "filters", "dilation_rate")}
    return own == ConvLSTMAggregator(**kept).get_config()


def without_auxiliary(model):
    """The model that predicts: without the auxiliary output that an `FCN` is trained with."""
    if not isinstance(model.output, dict):
        return model
    return keras.Model(model.input, model.output["logits"], name=model.name)


def with_classes(model, num_classes=None, class_names=None, palette=None):
    """A model of this module for other classes. All other layers are shared with it.

    Args:
        num_classes: None for as many as before. Another number makes new classifiers, with random
            weights. (A model of one logit is of 2 classes as it is.)
        class_names, palette: None for those of before, where their number stays.

    Returns: `keras.Model`, not compiled.
    """
    before = model.get_layer("classifier").filters
    same = num_classes in (None, before, classes_of(before))
    if same:
        logits = model.get_layer("logits")
        class_names = logits.class_names if class_names is None else class_names
        palette = logits.palette if palette is None else palette
    outputs, is_dict = {}, isinstance(model.output, dict)
    for name, prefix in (("logits", ""), ("auxiliary", "auxiliary_")):
        if name == "logits" or (is_dict and name in model.output):
            classifier = model.get_layer(f"{prefix}classifier")
            x = classifier.output
            if not same:
                x = _convolution(integer("num_classes", num_classes), classifier.name)(
                    classifier.input
                )
            names = (class_names, palette) if name == "logits" else (None, None)
            outputs[name] = SegmentationOutput(*names, name=name)(x, model.input)
    return keras.Model(model.input, outputs if is_dict else outputs["logits"], name=model.name)


def _check(num_classes, backbone, taps, dropout, class_names, palette):
    """The number of classes as Python's integer. Raises ValueError where an argument of all models
    is wrong, before anything is built, which may take seconds."""
    if isinstance(num_classes, str):
        raise ValueError(
            "`num_classes` must be a positive integer; a preset is loaded by its name as "
            f"keras_sanet.from_preset({num_classes!r}). Received: num_classes={num_classes!r}."
        )
    num_classes = integer("num_classes", num_classes)
    if not isinstance(dropout, numbers.Real) or not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be a rate, 0 or more and below 1. Received: {dropout!r}.")
    check_classes(num_classes, class_names, palette)
    if isinstance(backbone, str):
        backbones.check(backbone)
        for tap in filter(None, taps):
            _tap(dict.fromkeys(backbones.TAPS), tap)
    return num_classes


def _check_pyramid(filters, bins):
    return integer("pyramid_filters", filters), integers("bins", bins) if bins is not None else None


def _features(backbone, backbone_weights, input_shape):
    """The image, the dict of its taps, and the last of them."""
    input_shape = backbones.image_shape(input_shape)
    if isinstance(backbone, str):
        backbone = backbones.build(
            backbone, input_shape=input_shape, weights=backbone_weights, name="backbone"
        )
    elif not isinstance(backbone, keras.Model):
        raise ValueError(
            "`backbone` must be the name of one or a `keras.Model` that returns a dict of taps, "
            f"the last being the map to classify. Received: {backbone!r}."
        )
    elif backbone_weights == "imagenet":
        raise ValueError(
            'backbone_weights="imagenet" is for the name of a backbone: build yours with its '
            f"weights, as backbones.ResNet50(weights=...) does. Received: {backbone!r}."
        )
    else:
        backbones.check_channels_last(backbone)
        if not isinstance(getattr(backbone, "output", None), dict):
            backbone = backbones.from_model(backbone)
        if backbone_weights is not None:
            weights.load_checkpoint(backbone, backbone_weights)
        if backbone.name != "backbone":
            backbone = keras.Model(backbone.input, backbone.output, name="backbone")
    shape = [own or asked for own, asked in zip(backbone.input_shape[1:], input_shape)]
    image = keras.Input(shape, name="image")
    features = backbone(image)
    return image, features, features[list(features)[-1]]


def _tap(features, tap):
    if tap not in features:
        raise ValueError(f"Unknown tap {tap!r}. The backbone has: {', '.join(features)}.")
    return features[tap]


def _classify(x, image, num_classes, dropout, class_names, palette):
    """Dropout, 1x1 classifier, logits at the size of the image."""
    x = layers.Dropout(float(dropout), name="dropout")(x)
    x = _convolution(num_classes, "classifier")(x)
    return SegmentationOutput(class_names, palette, name="logits")(x, image)


def _convolution(filters, name, use_bias=True):
    """A 1x1 convolution."""
    return layers.Conv2D(filters, 1, data_format="channels_last", use_bias=use_bias, name=name)
