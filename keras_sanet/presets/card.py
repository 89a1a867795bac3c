"""The model card of a preset."""

from keras_sanet._labels import classes_of
from keras_sanet._tables import percent

_CARD = """---
library_name: keras
pipeline_tag: image-segmentation
tags: [semantic-segmentation, keras_sanet]
{license_tag}---

# {title}

{builder} with {variant}, {parameters:,} parameters ({dtype} in the file), {num_classes} classes.
Raw RGB of any size in, a class for every pixel out.

```python
import keras_sanet

model = keras_sanet.from_preset("./{title}")  # this folder, or "hf://..."
mask = keras_sanet.inference.predict_mask(model, "image.jpg")
```

## Figures

{figures}

## Training

{training}

## Classes

{classes}; 255 is void.

## License

{license}
"""


def model_card(title, model, config):
    """The card in Markdown, with the header that the Hugging Face Hub reads.

    Args:
        title: name of the preset.
        model: the model.
        config: the dict of its `config.json`.
    """
    arguments, license = config["arguments"], config["license"]
    num_classes = classes_of(arguments["num_classes"])
    names = arguments["class_names"] or [f"class {i}" for i in range(num_classes)]
    training = [f"- {name}: {value}" for name, value in (config["recipe"] or {}).items()]
    if config["crop"]:
        height, width = config["crop"]
        training.insert(0, f"- crop_size: {height} x {width} pixels")
    return _CARD.format(
        title=title,
        license_tag=f"license: {license.lower()}\n" if license else "",
        builder=config["builder"],
        variant=arguments["backbone"]["variant"],
        parameters=model.count_params(),
        dtype=config["weights"]["dtype"],
        num_classes=num_classes,
        figures="\n".join(_figures(config["figures"])),
        training="\n".join(training) or "Nothing was said of it when it was saved.",
        classes=", ".join(f"{i} {name}" for i, name in enumerate(names)),
        license=license or "Not stated by who saved it.",
    )


def _figures(figures):
    """Lines of what was measured."""
    if figures is None:
        return ["None were given when it was saved."]
    mode = ", ".join(f"{name} {value}" for name, value in figures["mode"].items() if value)
    rows = [
        " | ".join(
            [
                "|",
                name.replace("_", " "),
                percent(figures[name]),
                f"{percent(low)}, {percent(high)} |",
            ]
        )
        for name, (low, high) in figures["intervals_95"].items()
    ]
    classes = [f"| {row['class']} | {percent(row['iou'])} |" for row in figures["classes"]]
    return [
        f"Measured on {figures['source']}, {figures['images']} images at their full size ({mode}); "
        "95 % of bootstrap samples over images lie between the two numbers.",
        *("", "| figure | percent | between |", "|---|---|---|", *rows),
        *("", "| class | IoU, percent |", "|---|---|", *classes),
    ]
