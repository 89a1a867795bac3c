"""An evaluation as one HTML file: metrics, classes, confusion, and images to look at."""

import base64
import html
import io

import numpy as np
from PIL import Image

from keras_sanet._files import replacing
from keras_sanet._tables import html_table, percent
from keras_sanet.evaluation.result import METRICS
from keras_sanet.inference import predict_mask
from keras_sanet.visualization import color_mask, errors

_SHOWN = 4  # images, of the best and of the worst
_WIDTH = 480  # pixels of a picture
_WRITTEN = 40  # most classes whose shares are written into the cells of the confusion matrix
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em;
  color: #222 }
table { border-collapse: collapse }
th { text-align: left; font-weight: 600 }
td, th { padding: .15em .6em }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #ddd; width: 16em }
.bar div { height: .8em }
.color { display: inline-block; width: .9em; height: .9em; border: 1px solid #555 }
.confusion { overflow-x: auto }
.confusion td { padding: 0; width: 2.2em; min-width: .5em; height: 1.6em; text-align: center;
  font-size: 11px }
.confusion th { font-weight: 400; font-size: 12px; white-space: nowrap }
.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); padding: .3em 0 }
.pictures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px }
.pictures img { width: 100% }
.pictures figure { margin: 0 }
figcaption, .note { color: #555; font-size: 13px }
"""


def write_report(path, result, model, dataset, split, *, batch_size=None):
    """Writes the report; the images with the best and the worst mean IoU are predicted once more.

    Args:
        path: path of the HTML file, which needs no other file.
        result: the `Evaluation`.
        model: the model it is of.
        dataset: the data set it is of.
        split: the split it is of.
        batch_size: windows computed at once, as for `inference.predict_probabilities`.

    Raises:
        ValueError: the evaluation is of other images.
    """
    samples = dataset.samples(split)
    if [sample.image.stem for sample in samples] != result.images:
        raise ValueError(
            f"The evaluation is of {result.source}, whose images are not those of the split "
            f"{split!r} of {dataset.name!r}."
        )
    scores = result.iou_per_image
    order = [index for index in np.argsort(scores) if not np.isnan(scores[index])]
    worst = order[: min(_SHOWN, len(order) // 2)]
    best = order[::-1][: min(_SHOWN, len(order) - len(worst))]
    sections = [_metrics(result), _classes(result), _confusion(result)]
    for title, indexes in (("Best images", best), ("Worst images", worst)):
        rows = []
        for index in indexes:
            image, truth = dataset.read(samples[index])
            mask = predict_mask(model, image, batch_size=batch_size, **result.mode)
            name = f"{result.images[index]}: mean IoU {100 * scores[index]:.2f} %"
            rows.append(_pictures(name, image, truth, mask, dataset.palette))
        sections.append(f"<h2>{title}</h2>" + "".join(rows))
    title = html.escape(f"{result.source}: evaluation")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        + "\n".join(sections)
        + "</body></html>\n"
    )
    with replacing(path) as file:
        file.write_text(page, "utf-8", "backslashreplace")


def _metrics(result):
    values = result.as_dict()
    intervals = values["intervals_95"]
    names = {
        **METRICS,
        "mean_category_iou": "mean category IoU",
        "mean_instance_iou": "mean class iIoU",
        "mean_category_instance_iou": "mean category iIoU",
    }
    rows = [
        (words, percent(values[name]), " to ".join(map(percent, intervals.get(name, ()))))
        for name, words in names.items()
        if name in values
    ]
    how = ", ".join(f"{name}={value}" for name, value in result.mode.items())
    absent = "count as 0" if result.absent_as_zero else "are left out of the means"
    return (
        f"{html_table(('metric', 'percent', '95 % of samples'), rows)}<p class=note>"
        f"{len(result.images)} images at the size of their masks; percent, with 95 % of bootstrap "
        f"samples over images. Void pixels do not count; absent classes {absent}. Prediction: "
        f"{html.escape(how)}.</p>"
    )


def _classes(result):
    rows = []
    columns = (
        result.class_names,
        result.palette,
        result.confusion.sum(axis=1) / max(1, result.confusion.sum()),
        result.accuracy_per_class,
        result.iou_per_class,
    )
    for name, color, share, accuracy, iou in zip(*columns):
        width = 0 if np.isnan(iou) else 100 * iou
        rgb = f"rgb({', '.join(map(str, color))})"
        numbers = "".join(
            f'<td class="number">{percent(value)}</td>' for value in (share, accuracy, iou)
        )
        rows.append(
            f'<tr><td><span class="color" style="background: {rgb}"></span> {html.escape(name)}'
            f'</td>{numbers}<td><div class="bar"><div style="width: {width:.2f}%; background: '
            f'{rgb}"></div></div></td></tr>'
        )
    return (
        "<h2>Classes</h2><table><tr><th>class</th><th>pixels</th><th>accuracy</th><th>IoU</th>"
        f"<th></th></tr>{''.join(rows)}</table>"
    )


def _confusion(result):
    names = [html.escape(name) for name in result.class_names]
    truth = result.confusion.sum(axis=1, keepdims=True)
    shares = result.confusion / np.maximum(truth, 1)
    rows = []
    for true, row, pixels in zip(names, shares, truth[:, 0]):
        cells = []
        for predicted, share in zip(names, row):
            if not pixels or share < 0.0005:
                cells.append("<td></td>")
                continue
            text = f"{100 * share:.0f}" if share >= 0.005 and len(names) <= _WRITTEN else ""
            ink = "white" if share > 0.6 else "#222"
            cells.append(
                f'<td title="{true}, taken for {predicted}: {100 * share:.2f} %" style="background:'
                f' rgba(20, 70, 140, {share:.3f}); color: {ink}">{text}</td>'
            )
        rows.append(f"<tr><th>{true}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        "<h2>Confusion</h2><p class=note>Rows: true class; columns: what its pixels were taken "
        f'for, in percent.</p><div class="confusion"><table><thead><tr><td></td>{head}</tr></thead>'
        f"{''.join(rows)}</table></div>"
    )


def _pictures(name, image, truth, mask, palette):
    captions = {
        "image": image,
        "truth": color_mask(truth, palette),
        "prediction": color_mask(mask, palette),
        "errors (red)": errors(image, truth, mask),
    }
    figures = "".join(
        f'<figure><img alt="{caption}" src="{_encoded(picture)}"><figcaption>{caption}'
        "</figcaption></figure>"
        for caption, picture in captions.items()
    )
    return f'<h3>{html.escape(name)}</h3><div class="pictures">{figures}</div>'


def _encoded(picture):
    """A data URL of a thumbnail."""
    image = Image.fromarray(picture)
    image.thumbnail((_WIDTH, 2 * _WIDTH), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
