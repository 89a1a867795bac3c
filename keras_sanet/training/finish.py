"""What follows a training: its model file, evaluation and overlays; a preset of it."""

import dataclasses
import warnings
from pathlib import Path

from keras_sanet import (
    _backend,
    _files,
    distribution,
    evaluation,
    inference,
    models,
    presets,
    saving,
    visualization,
)
from keras_sanet._arguments import sides
from keras_sanet.datasets.files import UNREADABLE
from keras_sanet.training import run_folder

_OVERLAYS = 4  # images on the page
# Arguments of a run that its preset keeps: no paths and nothing of the machine.
_RECIPE = (
    "recipe", "dataset", "preset", "weights", "scale_range", "contrast_range", "flip",
    "rotation_range", "brightness_range", "saturation_range", "hue_range", "blur_range",
    "class_limit", "image_scale", "batch_size", "epochs", "steps", "lovasz_epochs",
    "learning_rate", "lovasz_learning_rate", "optimizer", "weight_decay",
    "head_learning_rate_multiple", "gradient_accumulation_steps", "global_clipnorm",
    "ema_momentum", "freeze_batch_norm", "precision", "seed",
)  # fmt: skip


def finish(model, folder, validation_data, evaluate=True):
    """Writes what a finished run's folder holds, as far as it is not there.

    Args:
        model: the best model of the last phase, images to logits, not compiled.
        folder: of the run.
        validation_data: from `pipeline.make_dataset`, whose split is evaluated at the full size of
            its masks and at the same image scale; others are not evaluated, nor are those of
            several processes.
        evaluate: whether to evaluate and to draw overlays.
    """
    path = folder / run_folder.MODEL
    if distribution.is_chief() and not path.is_file():
        with _files.replacing(path) as written, distribution.alone():
            model.save(written)
    plan = getattr(validation_data, "plan", None)
    if not evaluate or plan is None or _backend.process()[1] > 1:
        return
    if (folder / run_folder.EVALUATION).is_file():
        return
    dataset, split = plan.dataset, plan.split
    if plan.on_bad_image == "skip":
        readable = [sample for sample in dataset.samples(split) if _is_readable(dataset, sample)]
        dataset = dataclasses.replace(dataset, splits={**dataset.splits, split: readable})
    low, high = plan.augmentation.scale_range
    size = model.input_shape[1:3]
    mode = {
        "scales": (low if low == high else 1.0,),
        "window": size if all(size) else None,  # of a model that takes one size alone
    }
    with warnings.catch_warnings():  # training has warned of the same, and the table says it
        warnings.simplefilter("ignore", evaluation.AbsentClasses)
        result = evaluation.evaluate(model, dataset, split, **mode)
    _draw_overlays(model, dataset, split, mode, folder / "overlays.png")
    result.save(folder)


def save_preset_from_run(run, folder, *, dtype="float32", license=None):
    """Writes the model of a finished run as a preset, with its recipe and metrics.

    Args:
        run: folder of a finished run, of `training.fit` or `keras-sanet train`.
        folder: of the preset; see `presets.save_preset`.
        dtype: "float32", or "float16" for a file of half the size.
        license: of the weights, for the model card.

    Raises:
        FileNotFoundError: where the run is not finished.
        ValueError: where a file of it is damaged; as `presets.save_preset`.
    """
    run = Path(run)
    for name in (run_folder.MODEL, "config.json", run_folder.EVALUATION):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} is no finished run: it holds no {name}.")
    recipe, crop_size = _read_recipe(run)
    presets.save_preset(
        models.without_auxiliary(saving.load_model(run / run_folder.MODEL)),
        folder,
        metrics=evaluation.read_metrics(run / run_folder.EVALUATION),
        recipe=recipe,
        crop_size=crop_size,
        license=license,
        dtype=dtype,
    )


def _read_recipe(run):
    """How a run was trained, as JSON, and the (height, width) of its crops; of whatever source."""
    config, way_out = run_folder.read_config(run / "config.json"), "Train anew."
    where = f"{run / 'config.json'} is damaged:"
    is_dict = ("a dict", _files.is_dict)
    _files.check(config, {"arguments": is_dict, "versions": is_dict}, where, way_out)
    arguments = config["arguments"]
    if (run / "data.json").is_file():  # what `training.fit` is not told
        train = _files.read_json(run / "data.json", way_out)
        train = train.get("train") if _files.is_dict(train) else None
        if _files.is_dict(train) and _files.is_dict(train.get("augmentation")):
            batch_size = train.get("batch_size")
            arguments = {"batch_size": batch_size, **train["augmentation"], **arguments}
    recipe = {name: arguments[name] for name in _RECIPE if arguments.get(name) is not None}
    for name in {"weights", "preset"} & recipe.keys():
        recipe[name] = Path(str(recipe[name])).name  # where the file lies is nobody's business
    crop_size = arguments.get("crop_size")
    if crop_size is not None:
        crop_size = sides("crop_size", crop_size)
    return {**recipe, "versions": config["versions"]}, crop_size


def _is_readable(dataset, sample):
    try:
        dataset.open(sample)
    except UNREADABLE:
        return False
    return True


def _draw_overlays(model, dataset, split, mode, path):
    """Writes a page of images, truths and predictions, all of the first one's size."""
    rows, samples = [], dataset.samples(split)
    for sample in samples[:: max(1, len(samples) // _OVERLAYS)][:_OVERLAYS]:
        image, truth = dataset.read(sample)
        if rows and image.shape != rows[0][0].shape:
            continue
        mask = inference.predict_mask(model, image, **mode)
        truth = visualization.color_mask(truth, dataset.palette)
        rows.append((image, truth, visualization.overlay(image, mask, dataset.palette)))
    titles = ("image", "truth", "prediction")
    page = visualization.sheet(rows, dataset.class_names, dataset.palette, titles=titles)
    with _files.replacing(path) as written:
        page.save(written)
