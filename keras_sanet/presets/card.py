from keras_sanet._labels import classes_of
from keras_sanet._tables import percent


def _summary(figures):
    """Figures without what has a row for every image, or a cell for every two classes."""
    return {k: v for k, v in figures.items() if k not in ("iou_per_image", "confusion")}


def _card(title, model, config):
    """The model card, Markdown with the header that the Hugging Face Hub reads."""
    arguments, figures = config["arguments"], config["figures"]
    classes = classes_of(arguments["num_classes"])
    names = arguments["class_names"] or [f"class {i}" for i in range(classes)]
    lines = [
        "---",
        "library_name: keras",
        "pipeline_tag: image-segmentation",
        "tags: [semantic-segmentation, keras_sanet]",
        *([f"license: {config['licence'].lower()}"] if config["licence"] else []),
        "---",
        "",
        f"# {title}",
        "",
        f"{config['builder']} with {arguments['backbone']['variant']}, {model.count_params():,} "
        f"parameters ({config['weights']['dtype']} in the file), {classes} "
        "classes. Raw RGB of any size in, a class for every pixel out.",
        "",
        "```python",
        "import keras_sanet",
        "",
        f'model = keras_sanet.from_preset("./{title}")  # this folder, or "hf://..."',
        'mask = keras_sanet.inference.predict_mask(model, "image.jpg")',
        "```",
        "",
        "## Figures",
        "",
    ]
    if figures is None:
        lines.append("None were given when it was saved.")
    else:
        mode = ", ".join(f"{name} {value}" for name, value in figures["mode"].items() if value)
        lines += [
            f"Measured on {figures['source']}, {figures['images']} images at their full size "
            f"({mode}); 95 % of bootstrap samples over images lie between the two numbers.",
            "",
            "| figure | percent | between |",
            "|---|---|---|",
        ]
        for name, (low, high) in figures["intervals_95"].items():
            values = (percent(figures[name]), f"{percent(low)}, {percent(high)}")
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(values)} |")
        lines += ["", "| class | IoU, percent |", "|---|---|"]
        lines += [f"| {row['class']} | {percent(row['iou'])} |" for row in figures["classes"]]
    lines += ["", "## Training", ""]
    crop = config["crop"]
    if crop:
        lines.append(f"- crop: {crop[0]} x {crop[1]} pixels")
    lines += [f"- {name}: {value}" for name, value in (config["recipe"] or {}).items()]
    if not crop and not config["recipe"]:
        lines.append("Nothing was said of it when it was saved.")
    lines += [
        "",
        "## Classes",
        "",
        ", ".join(f"{i} {name}" for i, name in enumerate(names)) + "; 255 is void.",
        "",
        "## Licence",
        "",
        config["licence"] or "Not stated by who saved it.",
        "",
    ]
    return "\n".join(lines)
