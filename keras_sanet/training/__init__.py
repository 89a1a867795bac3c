"""The paper's training (section IV-C): AdamW, poly decay, cross-entropy, then Lovász-softmax."""

from keras_sanet.training.callbacks import PHASES, callbacks
from keras_sanet.training.compile import compile
from keras_sanet.training.finish import save_preset_from_run
from keras_sanet.training.fit import fit

__all__ = ["PHASES", "callbacks", "compile", "fit", "save_preset_from_run"]
