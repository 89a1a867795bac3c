"""Which networks are compared: the rows of the paper's tables, and some more."""

import functools
import math
from typing import NamedTuple

from keras import layers

from keras_sanet import models
from keras_sanet.layers import BatchNormalization, Conv2D, ConvLSTMAggregator

_TAPS = ("s0", "s1", "s2", "s3", "s4")


def _convolve_maps(filters, join):
    """An aggregator without recurrence that multiplies as much as the ConvLSTM.

    The sum of m maps, or all of them side by side (n = 1 or m times c' channels), goes through
    three 3x3 convolutions of dilation 2 with k, k and c' filters, each with batch norm and ReLU.
    Multiplications a cell are 9 (n c' k + k k + k c'), the ConvLSTM's 9 x 4 c' c' (2 m - 1).
    """

    def aggregate(maps):
        x = join()(maps)
        half = (x.shape[-1] / filters + 1) / 2
        k = round(filters * (math.sqrt(half**2 + 4 * (2 * len(maps) - 1)) - half))
        for width in (k, k, filters):
            x = Conv2D(width, 3, padding="same", dilation_rate=2, use_bias=False)(x)
            x = layers.ReLU()(BatchNormalization()(x))
        return x

    return aggregate


_SUM = functools.partial(_convolve_maps, join=layers.Add)
_CONCATENATION = functools.partial(_convolve_maps, join=layers.Concatenate)
_UNDILATED = functools.partial(ConvLSTMAggregator, recurrent_dilation_rate=1, name="aggregator")


def _average(filters):
    return layers.Average(name="mean")


class Row(NamedTuple):
    """One network."""

    label: str  # what it is
    function: str  # name of its function in `models`
    arguments: dict = {}  # those of the function
    width: float = 1  # factor on the protocol's c'
    aggregator: object = None  # function from c' to the aggregator
    stem: str = "backbone"  # entry of the protocol that is its backbone


_SKIPS = {f"skip_{t}": Row(f"skip connection {t}", "FCN", {"skip": t}) for t in _TAPS}
_AUXILIARIES = {
    f"auxiliary_{t}": Row(f"auxiliary loss {t}", "FCN", {"auxiliary": t}) for t in _TAPS
}
_WITHOUT = {
    f"without_{t}": Row(f"without {t}", "SANet", {"taps": tuple(u for u in _TAPS if u != t)})
    for t in _TAPS
}
ROWS = {
    "stem": Row("FCN", "FCN", stem="other_backbone"),
    "fcn": Row("FCN", "FCN"),
    "psp": Row("FCN + PSP", "PSPNet", {"bins": (1, 2, 3, 4, 6)}),
    "aggregation": Row("FCN + aggregation", "SANet", {"bins": None}),
    "sanet": Row("FCN + PSP + aggregation (SANet)", "SANet"),
    **_SKIPS,
    **_AUXILIARIES,
    "coarse_to_fine": Row("taps s4 to s0", "SANet", {"taps": _TAPS[::-1]}),
    "mean": Row("mean of the adapted maps", "SANet", aggregator=_average),
    "sum": Row("sum, three convolutions", "SANet", aggregator=_SUM),
    "concatenate": Row("concatenation, three convolutions", "SANet", aggregator=_CONCATENATION),
    "dilation_1": Row("both convolutions undilated", "SANet", {"aggregator_dilation_rate": 1}),
    "recurrent_1": Row("recurrence undilated", "SANet", aggregator=_UNDILATED),
    **_WITHOUT,
    "only_s4": Row("s4 alone", "SANet", {"taps": ("s4",)}),
    "grid_s1": Row("on the grid of s1, 1/4", "SANet", {"grid": "s1"}),
    "normalized": Row("batch norm after each adapter", "SANet", {"normalize_taps": True}),
    "plain_branches": Row("branches without batch norm", "SANet", {"normalize_branches": False}),
    "plain_psp": Row(
        "FCN + PSP, branches without batch norm", "PSPNet",
        {"bins": (1, 2, 3, 4, 6), "normalize_branches": False},
    ),
    "add": Row("joined by adding", "SANet", {"fusion": "add"}),
    "aggregated": Row("aggregated map alone", "SANet", {"fusion": "aggregated"}),
    **{f"width_x{factor}": Row(f"c' x {factor}", "SANet", width=factor) for factor in (0.5, 2, 4)},
}  # fmt: skip

_SKIP_NOTE = (
    "A skip connection meets the last 1x1 convolution alone, as the paper is read here; the "
    "aggregator's map the 3x3 before it too."
)


class Experiment(NamedTuple):
    """Rows that answer a question; the first is the baseline."""

    title: str
    rows: tuple
    note: str = ""  # what a reader of the table must know


EXPERIMENTS = {
    "table1": Experiment(
        "Table I: one skip connection or auxiliary loss, against none and the aggregator",
        ("fcn", *_SKIPS, *_AUXILIARIES, "aggregation"),
        _SKIP_NOTE,
    ),
    "table3": Experiment(
        "Table III: what pyramid and aggregator add", ("fcn", "stem", "psp", "aggregation", "sanet")
    ),
    "with_psp": Experiment("What the aggregator adds to a pyramid", ("psp", "sanet")),
    "branches": Experiment(
        "Pyramid branches with batch norm (PSPNet's) or without", ("sanet", "plain_branches")
    ),
    "psp_branches": Experiment(
        "Pyramid branches with batch norm or without, no aggregator", ("psp", "plain_psp")
    ),
    # Of the skips and the auxiliary losses, those that Table I has best on NYU Depth v2, Figure 3's
    # data set; where others are trained too, the best of all.
    "figure3": Experiment(
        "Figure 3: mean accuracy over the epochs, best skip connection and auxiliary loss",
        ("fcn", "skip_s4", "auxiliary_s2", "aggregation"),
        "Skip connection and auxiliary loss are, of those with most seeds, the ones of most mean "
        f"IoU: where several are trained, that choice favors them. {_SKIP_NOTE}",
    ),
    "order": Experiment(
        "Fine to coarse (the paper's) or coarse to fine", ("sanet", "coarse_to_fine")
    ),
    "recurrence": Experiment(
        "The ConvLSTM, a mean, or as many multiplications without recurrence",
        ("sanet", "mean", "sum", "concatenate"),
        "Sum and concatenation have 4.5 times as many weights as the ConvLSTM, which uses its own "
        "at every step, and batch norms.",
    ),
    "dilation": Experiment(
        "Dilation 2 (the paper's) or 1", ("sanet", "dilation_1", "recurrent_1")
    ),
    "taps": Experiment("Which taps matter", ("sanet", *_WITHOUT, "only_s4")),
    "grid": Experiment(
        "Aggregated at 1/8 (the paper's) or 1/4", ("sanet", "grid_s1"),
        "At 1/4 a 3x3 reaches half as far.",
    ),
    "width": Experiment(
        "Channels c' of the aggregator", ("sanet", "width_x0.5", "width_x2", "width_x4")
    ),
    "adapters": Experiment(
        "Adapters without batch norm (the paper's) or with", ("sanet", "normalized")
    ),
    "fusion": Experiment("How y joins the last map", ("sanet", "add", "aggregated")),
}  # fmt: skip


def list_rows(experiments, protocol, only=None):
    """Names of the rows of some experiments, each once.

    The row "stem" is left out where the protocol has no other stem.

    Args:
        experiments: names of `EXPERIMENTS`.
        protocol: see `protocol`.
        only: names of the rows to keep; None keeps all.

    Raises:
        ValueError: an experiment is not known, or a row of `only` stands in none of them.
    """
    for name in experiments:
        if name not in EXPERIMENTS:
            raise ValueError(f"Unknown experiment {name!r}. Known: {', '.join(EXPERIMENTS)}.")
    found = dict.fromkeys(row for name in experiments for row in EXPERIMENTS[name].rows)
    other = protocol["other_backbone"], protocol["other_weights"]
    if other[0] is None or other == (protocol["backbone"], protocol["weights"]):
        found.pop("stem", None)
    for row in only or ():
        if row not in found:
            raise ValueError(
                f"{row!r} is no row of {', '.join(experiments)} with this protocol. "
                f"Rows: {', '.join(found)}."
            )
    return [row for row in found if only is None or row in only]


def build(row, num_classes, protocol):
    """The model of a row.

    Args:
        row: name of `ROWS`.
        num_classes: number of classes.
        protocol: see `protocol`.

    Raises:
        ValueError: the row is not known.
    """
    if row not in ROWS:
        raise ValueError(f"Unknown row {row!r}. Known: {', '.join(ROWS)}.")
    _, function, arguments, width, aggregator, stem = ROWS[row]
    weights = protocol[stem.replace("backbone", "weights")]
    arguments = {**arguments, "backbone": protocol[stem], "backbone_weights": weights}
    arguments["filters" if function == "FCN" else "pyramid_filters"] = protocol["head_filters"]
    if function == "SANet":
        c = round(width * protocol["aggregator_filters"])
        arguments |= {"aggregator_filters": c, "aggregator": aggregator and aggregator(c)}
    return getattr(models, function)(num_classes, **arguments)
