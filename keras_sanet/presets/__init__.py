"""Models by name, from a folder, or from a hub."""

from keras_sanet.presets.config import (
    BUILDERS,
    REFERENCES,
    config,
    from_preset,
    list_presets,
    save_preset,
)

__all__ = ["BUILDERS", "REFERENCES", "config", "from_preset", "list_presets", "save_preset"]
