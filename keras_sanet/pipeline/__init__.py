"""From files to augmented batches: the same draws through tf.data and through Pillow alone."""

from keras_sanet.pipeline.loading import make_dataset

__all__ = ["make_dataset"]
