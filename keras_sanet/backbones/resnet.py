"""Dilated residual networks with five taps (paper, sections III-B and IV-B).

He et al., 2016 (ResNet); Xie et al., 2017 (ResNeXt). Layers are named and shaped as in torchvision
(the stride of a bottleneck on its 3x3), so that checkpoints of torchvision and timm fit: layer
`layer1_0_conv2` holds what they call `layer1.0.conv2`.

| tap | what | stride | channels (18 / 50 layers) |
|---|---|---|---|
| s0 | ReLU after the first convolution | 2 | 64 |
| s1 | last ReLU of stage 1 | 4 | 64 / 256 |
| s2 | last ReLU of stage 2 | 8 | 128 / 512 |
| s3 | last ReLU of stage 3 | 8, dilation 2 | 256 / 1024 |
| s4 | last ReLU of stage 4 | 8, dilation 4 | 512 / 2048 |

Strides are those of `output_stride=8`, the paper's.
"""

import re

import keras
import numpy as np
from keras import layers

from keras_sanet._arguments import as_integer
from keras_sanet.backbones.preprocessing import preprocess
from keras_sanet.layers import BatchNormalization, Conv2D
from keras_sanet.weights import imagenet, load_checkpoint

#                 block         blocks a stage   groups  width of a group   channels of the stem
_VARIANTS = {
    "resnet_tiny": ("basic", (1, 1, 1, 1), 1, 16, 16),
    "resnet18": ("basic", (2, 2, 2, 2), 1, 64, 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 64, 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 64, 64),
    "resnext50": ("bottleneck", (3, 4, 6, 3), 32, 4, 64),
    "resnext101": ("bottleneck", (3, 4, 23, 3), 32, 4, 64),
}
TAPS = ("s0", "s1", "s2", "s3", "s4")
# Stride and dilation of stages 2, 3, 4. "For all the 3x3 convolutions when the stride is 1":
# where a stage loses its stride, its first block is dilated like the others (section IV-B).
_STAGES = {
    8: ((2, 1), (1, 2), (1, 4)),
    16: ((2, 1), (2, 1), (1, 2)),
    32: ((2, 1), (2, 1), (2, 1)),
}


def ResNet18(*, input_shape=(None, None, 3), output_stride=8, weights=None, name="resnet18"):
    """ResNet-18; see `build`."""
    return build("resnet18", **locals())


def ResNet50(*, input_shape=(None, None, 3), output_stride=8, weights=None, name="resnet50"):
    """ResNet-50 (v1.5); see `build`."""
    return build("resnet50", **locals())


def ResNet101(*, input_shape=(None, None, 3), output_stride=8, weights=None, name="resnet101"):
    """ResNet-101 (v1.5); see `build`."""
    return build("resnet101", **locals())


def ResNeXt50(*, input_shape=(None, None, 3), output_stride=8, weights=None, name="resnext50"):
    """ResNeXt-50 32x4d, the stem of the paper; see `build`."""
    return build("resnext50", **locals())


def ResNeXt101(*, input_shape=(None, None, 3), output_stride=8, weights=None, name="resnext101"):
    """ResNeXt-101 32x4d; see `build`."""
    return build("resnext101", **locals())


def names():
    """Names that `build` knows."""
    return list(_VARIANTS)


def build(variant, *, input_shape=(None, None, 3), output_stride=8, weights=None, name=None):
    """Builds a backbone by name.

    Args:
        variant: "resnet18", "resnet50", "resnet101", "resnext50", "resnext101", or "resnet_tiny"
            (a ResNet-10 of a quarter of the width, for quick trials on a CPU).
        input_shape: (height, width, channels); None for any size. 3 channels are RGB; others are
            normalized by `preprocessing.statistics`.
        output_stride: 8, 16 or 32, pixels of the image to a cell of s4.
        weights: "imagenet" (see `weights.imagenet`: downloaded once; not of "resnet_tiny"), the
            path of a checkpoint (see `weights.load_checkpoint`), or None for random weights.
        name: of the model; `variant` if None.

    Returns:
        `keras.Model` from raw images (batch, height, width, channels), 0..255, to the dict
        {"s0": ..., "s4": ...}.

    Raises:
        ValueError: where the name, the shape or the stride is wrong; also as `weights.imagenet` and
            `weights.load_checkpoint`.
    """
    check(variant)
    if output_stride not in _STAGES:
        raise ValueError(f"`output_stride` must be 8, 16 or 32. Received: {output_stride}.")
    input_shape = image_shape(input_shape)
    block, blocks, groups, group_width, stem = _VARIANTS[variant]
    residual_block = {"basic": _basic_block, "bottleneck": _bottleneck_block}[block]

    image = keras.Input(input_shape, name="image")
    x = preprocess(image, "torch")
    x = _convolution(x, stem, 7, stride=2, name="conv1")
    s0 = layers.ReLU(name="s0")(BatchNormalization(name="bn1")(x))
    # Zeros pad as -inf would: a ReLU comes before.
    x = layers.ZeroPadding2D(1, "channels_last", name="maxpool_pad")(s0)
    x = layers.MaxPooling2D(3, 2, data_format="channels_last", name="maxpool")(x)
    taps = {"s0": s0}
    for stage, (stride, dilation) in enumerate(((1, 1), *_STAGES[output_stride]), start=1):
        for index in range(blocks[stage - 1]):
            x = residual_block(
                x,
                planes=stem * 2 ** (stage - 1),
                stride=stride if index == 0 else 1,
                dilation=dilation,
                width=group_width * groups * 2 ** (stage - 1),
                groups=groups,
                name=f"layer{stage}_{index}",
            )
        taps[f"s{stage}"] = x
    model = keras.Model(image, taps, name=name or variant)
    if weights is not None:
        load_checkpoint(model, imagenet(variant) if weights == "imagenet" else weights)
    return model


def check(variant):
    """Raises ValueError where `build` does not know the name."""
    if variant not in _VARIANTS:
        raise ValueError(
            f"Unknown backbone {variant!r}. Known: {', '.join(_VARIANTS)}. (A whole network is "
            "loaded by the name of its preset, as keras_sanet.from_preset does.)"
        )


def image_shape(input_shape):
    """Checks the shape of images and gives it in Python's integers, None where a size is open.

    Raises:
        ValueError: where it is not (height, width, channels), or seems to have the channels first.
    """
    given = list(input_shape) if np.iterable(input_shape) else []
    shape = tuple(None if n is None else as_integer(n) for n in given)
    wrong = [n is not None and (m is None or m < 1) for n, m in zip(given, shape)]
    if len(shape) != 3 or any(wrong) or not shape[2] or shape[0] in (1, 3, 4) and shape[2] > 15:
        raise ValueError(
            "`input_shape` must be (height, width, channels), channels last whatever Keras is set "
            "to: at least one channel, 3 for RGB, and None for an open height or width. "
            f"Received: input_shape={input_shape}."
        )
    return shape


def describe(model):
    """Reads from a backbone's layers which arguments of `build` made it.

    Args:
        model: a backbone of this module, loaded from a file or not.

    Returns:
        Dict of variant, input_shape and output_stride.

    Raises:
        ValueError: where `build` did not make it.
    """
    layers = {layer.name: layer for layer in getattr(model, "layers", ())}
    last = layers.get("layer4_0_conv2")
    blocks = tuple(
        sum(re.fullmatch(rf"layer{stage}_\d+", name) is not None for name in layers)
        for stage in (1, 2, 3, 4)
    )
    block = "bottleneck" if "layer1_0_conv3" in layers else "basic"
    for variant, (kind, counts, groups, _, stem) in _VARIANTS.items():
        if (kind, counts) != (block, blocks) or last is None:
            continue
        if (groups, stem) == (last.groups, layers["conv1"].filters):
            return {
                "variant": variant,
                "input_shape": list(model.input_shape[1:]),
                "output_stride": 32 // last.dilation_rate[0],
            }
    raise ValueError(
        f"The backbone {model.name!r} is none of {', '.join(_VARIANTS)} of `keras_sanet.backbones`."
    )


def _basic_block(x, planes, stride, dilation, width, groups, name):
    """Two 3x3 convolutions (ResNet-18)."""
    shortcut = _shortcut(x, planes, stride, name)
    x = _convolution(x, planes, 3, stride, dilation, name=f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_relu1")(BatchNormalization(name=f"{name}_bn1")(x))
    x = _convolution(x, planes, 3, 1, dilation, name=f"{name}_conv2")
    x = BatchNormalization(name=f"{name}_bn2")(x)
    return layers.ReLU(name=name)(layers.Add(name=f"{name}_add")([x, shortcut]))


def _bottleneck_block(x, planes, stride, dilation, width, groups, name):
    """1x1, (grouped) 3x3, 1x1 to four times the planes."""
    shortcut = _shortcut(x, 4 * planes, stride, name)
    x = _convolution(x, width, 1, name=f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_relu1")(BatchNormalization(name=f"{name}_bn1")(x))
    x = _convolution(x, width, 3, stride, dilation, groups, name=f"{name}_conv2")
    x = layers.ReLU(name=f"{name}_relu2")(BatchNormalization(name=f"{name}_bn2")(x))
    x = _convolution(x, 4 * planes, 1, name=f"{name}_conv3")
    x = BatchNormalization(name=f"{name}_bn3")(x)
    return layers.ReLU(name=name)(layers.Add(name=f"{name}_add")([x, shortcut]))


def _shortcut(x, filters, stride, name):
    if stride == 1 and x.shape[-1] == filters:
        return x
    x = _convolution(x, filters, 1, stride, name=f"{name}_downsample_0")
    return BatchNormalization(name=f"{name}_downsample_1")(x)


def _convolution(x, filters, size, stride=1, dilation=1, groups=1, name=None):
    """A convolution without bias, padded on both sides alike as in PyTorch ('same' with a stride
    pads one side more)."""
    if stride > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2, "channels_last", name=f"{name}_pad")(x)
    return Conv2D(
        filters,
        size,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        dilation_rate=dilation,
        use_bias=False,
        # He et al.'s variance; JAX compiles uniform draws several times faster than normal ones.
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "uniform"),
        groups=groups,
        name=name,
    )(x)
