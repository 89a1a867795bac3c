"""The last layer of every model: logits at the image's size, with what the ids mean."""

import keras
from keras import ops

from keras_sanet._labels import classes_of
from keras_sanet.layers.resizing import resize


def check_classes(channels, class_names, palette):
    """Raises ValueError where names or colors are not one a class."""
    classes = classes_of(channels)
    one = ": one channel is of background and foreground" * (channels == 1)
    for name, entries in (("class_names", class_names), ("palette", palette)):
        if entries is not None and len(entries) != classes:
            raise ValueError(
                f"`{name}` must have one entry a class, {classes}{one}. "
                f"Received: {len(entries)} entries, {name}={entries}."
            )


@keras.saving.register_keras_serializable(package="keras_sanet")
class SegmentationOutput(keras.layers.Layer):
    """Resizes logits to the image bilinearly, in float32 under any dtype policy.

    It carries the names and colors of the classes, so that a `.keras` file knows them. Logits of
    one channel are of two classes, background and foreground.

    Args:
        class_names: list of names, by class id.
        palette: list of (red, green, blue), 0..255, by class id.

    Call arguments:
        logits: (batch, any height, any width, classes).
        image: (batch, height, width, any), of which only the size counts.

    Returns:
        Logits, float32 (batch, height, width, classes).

    Raises:
        ValueError: `class_names` or `palette` has not one entry a class.
    """

    def __init__(self, class_names=None, palette=None, *, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self.palette = None if palette is None else [[int(n) for n in rgb] for rgb in palette]

    def build(self, logits_shape, image_shape=None):
        check_classes(logits_shape[-1], self.class_names, self.palette)

    def call(self, logits, image):
        return resize(logits, ops.shape(image)[1:3])

    def compute_output_shape(self, logits_shape, image_shape):
        return (*image_shape[:3], logits_shape[-1])

    def get_config(self):
        names = {"class_names": self.class_names, "palette": self.palette}
        return {**super().get_config(), **names}
