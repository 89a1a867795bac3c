"""Models by name, from a folder, or from a hub."""

from keras_sanet.presets.config import BUILDERS, REFERENCES
from keras_sanet.presets.store import from_preset, list_presets, read_config, save_preset

__all__ = ["BUILDERS", "REFERENCES", "from_preset", "list_presets", "read_config", "save_preset"]
