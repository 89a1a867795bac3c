import keras
import numpy as np
from keras import ops

from keras_sanet.layers import ConvLSTMAggregator
from keras_sanet.visualization.plots import pyplot


def aggregator_gates(model, image):
    """What the aggregator of a SANet does with each tap at each place of one image.

    "input", "forget" and "output" are the gates i_t, f_t and o_t, means over channels, 0..1. The
    first forget gate has nothing to forget (c_0 = 0).

    "contribution" is the share of the tap in the aggregate y. By Eq. 6 the cell holds, at step s,
    the sum over t <= s of what step t wrote and the later ones kept, and Eqs 7 and 8 pass it on by
    a factor; so y is, exactly, a sum over taps:

        y_t = 1/m sum_{s >= t} o_s . tanh(c_s)/c_s . f_s . ... . f_{t+1} . i_t . g_t
        y   = sum_t y_t
        contribution_t = sum |y_t| / sum_t sum |y_t|        (sums over channels)

    It is a share of size, without sign: parts of two taps may cancel. It says what was *written at
    step t*, not what would change without the tap: gates and candidates depend on earlier taps
    through h_{t-1}, and cells on their neighbours. Earlier taps are in more terms of Eq. 8's mean.
    Nor does it say what the head makes of y, or of the last tap, which it also gets directly.

    Args:
        model: from `SANet`.
        image: RGB 0..255, (height, width, 3), any size.

    Returns:
        Dict of float32 (taps, height, width), in cells of the aggregator's grid: "input", "forget",
        "output", and "contribution", which adds up to 1 over the taps (equal shares where y_t = 0
        for all of them).

    Raises:
        ValueError: the model has no aggregator, or the image is not of that shape.

    Reference: section III-A, Eqs 2-8.
    """
    aggregator = _aggregator(model)
    image = np.ascontiguousarray(image)  # PyTorch takes no negative strides
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"`image` must be (height, width, 3). Received: shape {image.shape}.")
    maps = keras.Model(model.input, aggregator.input).predict_on_batch(image[None])
    maps = [ops.convert_to_tensor(x) for x in keras.tree.flatten(maps)]  # one comes without a list
    gates = {
        name: ops.convert_to_numpy(ops.cast(gate, "float32"))[0]
        for name, gate in aggregator.gates(maps).items()
    }
    i, f, o, g = (gates[name] for name in ("input", "forget", "output", "candidate"))
    parts, written = np.zeros_like(g), np.zeros_like(g)  # m y_t; what of c_s step t wrote
    for s in range(len(g)):
        written *= f[s]
        written[s] = i[s] * g[s]
        c = written.sum(axis=0)  # Eq. 6
        parts += o[s] * np.divide(np.tanh(c), c, out=np.ones_like(c), where=c != 0) * written
    sizes = np.abs(parts).sum(axis=-1)
    total = sizes.sum(axis=0)
    shares = np.divide(sizes, total, out=np.full_like(sizes, 1 / len(sizes)), where=total > 0)
    means = {name: gates[name].mean(axis=-1) for name in ("input", "forget", "output")}
    return {**means, "contribution": shares}


def plot_gates(model, image):
    """The image, and its `aggregator_gates`: a row each, a column a tap.

    The panels of a row share one color scale, from the least to the greatest value.

    Args:
        model: from `SANet`.
        image: RGB 0..255, (height, width, 3), any size.

    Returns:
        The matplotlib `Figure`.

    Raises:
        ValueError: as `aggregator_gates`.
    """
    plt = pyplot()
    gates = aggregator_gates(model, image)
    names = {id(layer.output): layer.name for layer in model.layers}  # of the taps' adapters
    maps = keras.tree.flatten(_aggregator(model).input)
    taps = [names.get(id(x), f"map {t}").removeprefix("adapter_") for t, x in enumerate(maps)]
    height, width = np.shape(image)[:2]
    size = (1.8 * (len(taps) + 1.5), len(gates) * (1.8 * height / width + 0.2) + 0.5)
    figure, axes = plt.subplots(len(gates), len(taps) + 1, figsize=size, layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    axes[0, 0].imshow(np.asarray(image).astype("uint8"))
    for title, ax in zip(("image", *taps), axes[0]):
        ax.set_title(title)
    for ax in axes[1:, 0]:
        ax.axis("off")
    for row, (name, maps) in zip(axes[:, 1:], gates.items()):
        row[0].set_ylabel(name)
        if name == "forget":
            maps[0] = np.nan
            row[0].text(0.5, 0.5, "$c_0 = 0$", transform=row[0].transAxes, ha="center", va="center")
        known = maps[~np.isnan(maps)]
        least, most = (known.min(), known.max()) if known.size else (0, 1)
        drawn = [ax.imshow(values, vmin=least, vmax=most) for ax, values in zip(row, maps)]
        figure.colorbar(drawn[0], ax=row.tolist())
    return figure


def _aggregator(model):
    """The aggregator of a model, or an error."""
    layer = next((layer for layer in model.layers if layer.name == "aggregator"), None)
    if not isinstance(layer, ConvLSTMAggregator):
        raise ValueError(
            '`model` must have a ConvLSTMAggregator named "aggregator", as `SANet` has. '
            f"Received: {model.name!r} with the layers {', '.join(x.name for x in model.layers)}."
        )
    return layer
