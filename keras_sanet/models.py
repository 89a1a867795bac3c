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
    *,
    backbone_weights=None,
    input_shape=(None, None, 3),
    taps=None,
    grid=None,
    normalize_taps=False,
    aggregator_filters=256,
    aggregator_dilation_rate=2,
    aggregator=None,
    fusion="concatenate",
    bins=(1, 2, 3, 4, 6),
    pyramid_filters=512,
    normalize_branches=True,
    dropout=0.1,
    class_names=None,
    palette=None,
    name="sanet",
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
        taps: names of the maps that are aggregated, in the order they are read; None for all that
            the backbone has ("s0", "s1", "s2", "s3", "s4"), fine to coarse.
        grid: the tap on whose grid all maps are aggregated and parsed; None for the last one's, as
            in the paper. "s1" is 1/4 of the image, and makes all but the backbone cost four times
            as much: of ResNeXt-50 the whole three times.
        normalize_taps: whether a batch norm follows each adapter (the paper has none).
        aggregator_filters: channels c' of the adapted maps and of the aggregator.
        aggregator_dilation_rate: dilation of both its convolutions, in cells.
        aggregator: a layer, or any function of Keras tensors, from the list of adapted maps to one
            map, in place of `ConvLSTMAggregator(aggregator_filters, aggregator_dilation_rate)`.
        fusion: how the aggregated map y joins the last tap: "concatenate", "add" (y is first taken
            to the tap's channels by a 1x1), or "aggregated" (y alone).
        bins: cells a side of the pooled grids; None for no pyramid (Figure 3).
        pyramid_filters: channels of each pyramid branch and of the fusing 3x3.
        normalize_branches: whether a batch norm follows the 1x1 of each pyramid branch, as in
            PSPNet, or a bias.
        dropout: rate before the classifier.
        class_names: list of names by class id, kept in the model by its layer "logits".
        palette: list of (red, green, blue) by class id, kept there too.
        name: name of the model.

    Returns:
        `keras.Model`, images to logits. Layers to ask for by `get_layer`: "backbone",
        "adapter_s0" .., "aggregator", "pyramid_pooling", "classifier", "logits".

    Raises:
        ValueError: an argument is wrong; it names the argument, the rule and the value.

    Reference: Fig. 2, sections III and IV-B.
    """
    if fusion not in ("concatenate", "add", "aggregated"):
        raise ValueError(
            f'`fusion` must be "concatenate", "add" or "aggregated". Received: fusion={fusion!r}.'
        )
    if taps is not None and (isinstance(taps, str) or len(taps) == 0):
        raise ValueError(f"`taps` must be a list of names, one at least. Received: taps={taps!r}.")
    named = (*(() if taps is None else taps), grid)
    num_classes = _check(num_classes, backbone, named, dropout, class_names, palette)
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
    target = last if grid is None else _tap(features, grid)
    maps = [
        FeatureAdapter(aggregator_filters, normalize=normalize_taps, name=f"adapter_{tap}")(
            _tap(features, tap), target=target
        )
        for tap in (features if taps is None else taps)
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
    *,
    backbone_weights=None,
    input_shape=(None, None, 3),
    bins=(1, 2, 3, 6),
    pyramid_filters=512,
    normalize_branches=True,
    dropout=0.1,
    class_names=None,
    palette=None,
    name="pspnet",
):
    """Pyramid scene parsing network (Zhao et al., 2017): SANet without the aggregation.

    Its arguments are those of `SANet`. It has four bins, as in its paper (Table III's control takes
    SANet's five).

    Returns:
        `keras.Model`, images to logits.

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
    *,
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

    Its other arguments are those of `SANet`.

    Args:
        skip: a tap that is resized and concatenated to the map before the classifier, or None.
        auxiliary: a tap that gets a 1x1 classifier of its own, or None. The model then returns
            the dict {"logits": ..., "auxiliary": ...}; train it with one loss each (PSPNet weighs
            the auxiliary one 0.4; `training.fit` does), and take `without_auxiliary(model)` to
            predict.
        filters: channels of the 3x3 convolution.

    Returns:
        `keras.Model`, images to logits.

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


def without_auxiliary(model):
    """The model that predicts: without the auxiliary output that an `FCN` is trained with."""
    if not isinstance(model.output, dict):
        return model
    return keras.Model(model.input, model.output["logits"], name=model.name)


def with_classes(model, num_classes=None, *, class_names=None, palette=None):
    """A model of this module for other classes. All other layers are shared with it.

    Args:
        model: of `SANet`, `PSPNet` or `FCN`.
        num_classes: None for as many as before. Another number makes new classifiers, with random
            weights. (A model of one logit is of 2 classes as it is.)
        class_names: None for those of before, where their number stays.
        palette: as `class_names`.

    Returns:
        `keras.Model`, not compiled.
    """
    before = model.get_layer("classifier").filters
    same = num_classes in (None, before, classes_of(before))
    if same:
        logits = model.get_layer("logits")
        class_names = logits.class_names if class_names is None else class_names
        palette = logits.palette if palette is None else palette
    else:
        num_classes = integer("num_classes", num_classes)

    def output(name, classifier, *args):
        classifier = model.get_layer(classifier)
        x = classifier.output
        if not same:
            x = _convolution(num_classes, classifier.name)(classifier.input)
        return SegmentationOutput(*args, name=name)(x, model.input)

    outputs = {"logits": output("logits", "classifier", class_names, palette)}
    if not isinstance(model.output, dict):
        outputs = outputs["logits"]
    elif "auxiliary" in model.output:
        outputs["auxiliary"] = output("auxiliary", "auxiliary_classifier")
    return keras.Model(model.input, outputs, name=model.name)


def _check(num_classes, backbone, taps, dropout, class_names, palette):
    """Checks what all models are given before anything is built, which may take seconds.

    Returns the number of classes as Python's integer.
    """
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
