"""Pictures of masks, and plots of training and of the aggregator's gates.

What starts with `plot_` needs matplotlib, the extra `plots`, and leaves showing and saving to the
caller.
"""

from keras_sanet.visualization.drawing import color_mask, errors, legend, overlay, palette, sheet
from keras_sanet.visualization.gates import aggregator_gates, plot_gates
from keras_sanet.visualization.plots import (
    plot_bands,
    plot_confusion_matrix,
    plot_intervals,
    plot_training_curves,
    pyplot,
    save_plot,
)

__all__ = [
    "aggregator_gates",
    "color_mask",
    "errors",
    "legend",
    "overlay",
    "palette",
    "plot_bands",
    "plot_confusion_matrix",
    "plot_gates",
    "plot_intervals",
    "plot_training_curves",
    "pyplot",
    "save_plot",
    "sheet",
]
