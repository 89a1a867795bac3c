"""Pretrained weights: ImageNet's by name, and checkpoints of PyTorch as files."""

from keras_sanet.weights.imagenet import (
    IMAGENET,
    Pretrained,
    Report,
    convert,
    imagenet,
    load_checkpoint,
)

__all__ = ["IMAGENET", "Pretrained", "Report", "convert", "imagenet", "load_checkpoint"]
