"""Networks from images to feature maps: dilated ResNets and ResNeXts, and those of others."""

from keras_sanet.backbones.foreign import check_channels_last, from_model
from keras_sanet.backbones.resnet import (
    TAPS,
    ResNet18,
    ResNet50,
    ResNet101,
    ResNeXt50,
    ResNeXt101,
    build,
    check,
    describe,
    image_shape,
    names,
)

__all__ = [
    "TAPS",
    "ResNet18",
    "ResNet50",
    "ResNet101",
    "ResNeXt50",
    "ResNeXt101",
    "build",
    "check",
    "check_channels_last",
    "describe",
    "from_model",
    "image_shape",
    "names",
]
