"""The layers of SANet; each computes the same on TensorFlow, JAX and PyTorch."""

from keras_sanet.layers.aggregation import ConvLSTMAggregator, FeatureAdapter
from keras_sanet.layers.convolution import Conv2D
from keras_sanet.layers.normalization import BatchNormalization
from keras_sanet.layers.output import SegmentationOutput
from keras_sanet.layers.pyramid import PyramidPooling

__all__ = [
    "BatchNormalization",
    "Conv2D",
    "ConvLSTMAggregator",
    "FeatureAdapter",
    "PyramidPooling",
    "SegmentationOutput",
]
