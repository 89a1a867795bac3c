"""The paper's Table II: what SANet and its rivals cost, here and there."""

import functools

import keras
from rich.progress import track

from keras_sanet import backbones, measurement, models
from keras_sanet._tables import html_lines, html_table
from keras_sanet.summary import Summary

_COLUMNS = {  # of figures: title, unit, digits
    "parameters": ("M parameters", 1e6, 1), "gmac": ("GMAC", 1, 1), "gmac_ratio": ("ratio", 1, 2),
    "paper_flops_ratio": ("paper's", 1, 2), "seconds": ("seconds", 1, 2), "memory": ("GB", 1e9, 2),
    "memory_ratio": ("ratio", 1, 2), "paper_memory_ratio": ("paper's", 1, 2),
}  # fmt: skip
_TITLES = ["method", "stem", "size", *(title for title, _, _ in _COLUMNS.values())]
_FIGURES = (
    "method", "stem", "size", "parameters", "gmac", "gmac_ratio", "seconds", "memory",
    "memory_ratio", "memory_kind", "paper_stem", "paper_flops", "paper_flops_ratio", "paper_memory",
    "paper_memory_ratio", "reason",
)  # fmt: skip
_CLASSES = 40  # NYU Depth v2's; the paper does not say, and a class costs 0.001 % of SANet
_REFERENCE = "PSPNet-50"


def deeplab_v3_plus(num_classes, backbone="resnet50", *, image_size=(512, 512)):
    """DeepLabV3+ of keras-hub on a backbone of ours, output stride 8.

    keras-hub has it with a ResNet-50 of output stride 32, and its Xception, the paper's stem, has
    no output stride 8 (a block that widens has a stride). Its decoder joins by one 1x1 convolution
    where Chen et al. (2018) have two 3x3.

    Args:
        num_classes: number of classes.
        backbone: a name of `backbones.build`.
        image_size: (height, width) in pixels, multiples of 8.

    Returns:
        `keras.Model`, images (batch, height, width, 3), 0..255, to logits.

    Raises:
        ImportError: keras-hub is not installed.
    """
    try:
        from keras_hub import models as hub
    except ImportError as error:
        raise ImportError("DeepLabV3+ needs `pip install keras-hub`") from error
    encoder = backbones.build(backbone, input_shape=(*image_size, 3))
    encoder.pyramid_outputs = {"P2": encoder.output["s1"], "P3": encoder.output["s4"]}
    model = hub.DeepLabV3Backbone(
        encoder,
        spatial_pyramid_pooling_key="P3",
        upsampling_size=2,  # of a side, from P3 to P2
        dilation_rates=[12, 24, 36],
        low_level_feature_key="P2",
        image_shape=(*image_size, 3),
    )
    return hub.DeepLabV3ImageSegmenter(model, num_classes)


# The paper's columns are 1e8 "FLOPs" and "G" of memory.
#    method           stem there    here          size  FLOPs memory builder
_ROWS = (
    ("FCN-101",       "ResNet-101", "ResNet-101", 512, 1.04, 3.25, models.FCN),
    ("PSPNet-50",     "ResNet-50",  "ResNet-50",  473, 0.93, 1.96, models.PSPNet),
    ("PSPNet-101",    "ResNet-101", "ResNet-101", 473, 1.31, 3.38, models.PSPNet),
    ("DeepLabV3+",    "Xception",   "ResNet-50",  512, 0.82, 5.14, deeplab_v3_plus),
    ("RefineNet-101", "ResNet-101", None,         512, 2.61, 1.92, None),
    ("SANet",         "ResNeXt-50", "ResNeXt-50", 473, 1.65, 2.68, models.SANet),
)  # fmt: skip


class TableII:
    """Parameters, multiply-accumulates and, if measured, time and memory of Table II's models.

    For one image, beside the paper's figures, and both relative to PSPNet-50. `print(TableII())` is
    a Markdown table.

    Args:
        methods: names of the rows, None for all; PSPNet-50 must be one.
        measure: whether each model also predicts in a fresh process (`measurement.measure`).
        rounds: timed predictions of each.
        verbose: whether a progress bar is shown.

    Attributes:
        rows: list of dicts by `_FIGURES`, for JSON: `size` in pixels a side, `memory` in bytes and
            the paper's in G, `memory_kind` "resident" or "gpu", `reason` why a model is left out.
            What was not found is None.
        summaries: dict from a method to its `Summary`.
        backend: name of Keras's.

    Raises:
        ValueError: a method is not known; as `measurement.measure`.

    Reference: section IV-A, Table II.
    """

    def __init__(self, methods=None, *, measure=False, rounds=3, verbose=False):
        known = [row[0] for row in _ROWS]
        methods = known if methods is None else list(methods)
        if _REFERENCE not in methods or not set(methods) <= set(known):
            raise ValueError(
                f"`methods` must be {_REFERENCE} and others of {', '.join(known)}. Received: "
                f"methods={methods}."
            )
        self.backend, self.rows, self.summaries = keras.backend.backend(), [], {}
        chosen = [row for row in _ROWS if row[0] in methods]
        for method, paper_stem, stem, size, flops, memory, builder in track(
            chosen, "Measuring", disable=not verbose
        ):
            row = {**dict.fromkeys(_FIGURES), "method": method, "stem": stem, "size": size}
            row |= {"paper_stem": paper_stem, "paper_flops": flops * 1e8, "paper_memory": memory}
            row["reason"] = None if builder else "no model of it is here"
            self.rows.append(row)
            if builder is None:
                continue
            build = functools.partial(builder, _CLASSES, stem.replace("-", "").lower())
            try:
                summary = self.summaries[method] = Summary(build(), size)
            except ImportError as error:
                row["reason"] = str(error)
                continue
            row.update(parameters=summary.parameters, gmac=round(summary.macs / 1e9, 3))
            if measure:
                found = measurement.measure(build, size, rounds=rounds)
                row.update(seconds=found.seconds, memory=found.memory, memory_kind=found.kind)
        (reference,) = (row for row in self.rows if row["method"] == _REFERENCE)
        for row in self.rows:
            for name in ("gmac", "memory", "paper_flops", "paper_memory"):
                if row[name] is not None:
                    row[f"{name}_ratio"] = round(row[name] / reference[name], 3)

    def as_dict(self):
        """All figures, for JSON."""
        return {"table": "II", "backend": self.backend, "rows": self.rows}

    def __str__(self):
        lines = [f"| {' | '.join(cells)} |" for cells in (_TITLES, *self._cells())]
        lines.insert(1, f"|{'---|' * len(_TITLES)}")
        return "\n".join([*lines, "", *self._notes()])

    def __repr__(self):
        return f"<TableII: {', '.join(row['method'] for row in self.rows)} on {self.backend}>"

    def _repr_html_(self):
        return html_table(_TITLES, self._cells(), left=2) + html_lines(self._notes())

    def _cells(self):
        """A list of texts a row, by `_TITLES`."""
        return [
            [row["method"], row["stem"] or row["paper_stem"], str(row["size"])]
            + [
                "" if row[name] is None else f"{row[name] / unit:.{digits}f}"
                for name, (_, unit, digits) in _COLUMNS.items()
            ]
            for row in self.rows
        ]

    def _notes(self):
        """The lines below the table."""
        lines = [f"One image of size x size pixels; ratios are to {_REFERENCE}."]
        kinds = sorted({row["memory_kind"] for row in self.rows} - {None})
        if kinds:
            where = " and ".join({"resident": "RAM", "gpu": "GPU memory"}[kind] for kind in kinds)
            lines.append(
                f"Seconds of a prediction and GB of {where} to build the model and predict, on "
                f"{self.backend}; the paper does not say of what its memory is."
            )
        for row in self.rows:
            if row["reason"]:
                lines.append(f"{row['method']} is left out: {row['reason']}.")
            elif row["stem"] != row["paper_stem"]:
                lines.append(f"{row['method']} is on {row['paper_stem']} in the paper.")
        own = self.rows[-1]
        if own["method"] != "SANet":
            return lines
        flops, parameters = own["paper_flops"], own["parameters"]
        lines.append(
            f"The paper's unit can't be right: its {flops:.2e} FLOPs of SANet would use each of "
            f"{parameters / 1e6:.0f} M parameters {flops / parameters:.0f} times, where most are "
            f"used at 60 x 60 positions; the multiply-accumulates are {own['gmac']:.0f}e9. So only "
            f"ratios compare: SANet to {_REFERENCE}, {own['paper_flops_ratio']:.2f} there and "
            f"{own['gmac_ratio']:.2f} here."
        )
        return lines
