"""Recipes: their facts, and `keras-sanet train --recipe`."""

import csv
import inspect
import json

import numpy as np
import pytest
from PIL import Image
from support import call

from keras_sanet import cli, datasets, pipeline, presets, recipes, training
from keras_sanet.cli.train import _check_preset, source_defaults

NAMES = recipes.names()


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_an_option_of_train(name):
    options = cli.parser().parse_args(["train"])
    assert recipes.get(name).keys() <= vars(options).keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_data_set_is_known_and_has_the_split_that_chooses(name):
    recipe = recipes.get(name)
    (info,) = [info for info in datasets.infos() if info.name == recipe["dataset"]]
    assert {"train", recipe["val_split"]} <= info.counts.keys()
    assert recipe["dataset"] in name and recipes.source(name)


@pytest.mark.parametrize("dataset", ["nyuv2", "sunrgbd", "ade20k", "cityscapes"])
def test_the_papers_recipe_is_that_of_section_iv(dataset):
    recipe = recipes.get(f"paper_{dataset}")
    assert (recipe["optimizer"], recipe["learning_rate"], recipe["batch_size"]) == (
        "adamw",
        1e-5,
        8,
    )
    assert (recipe["model"], recipe["backbone"]) == ("sanet", "resnext50")
    assert recipe["crop_size"] == (473, 473)  # 60 cells of 8 pixels, less 7
    assert (recipe["lovasz_epochs"] > 0) == (dataset in ("ade20k", "cityscapes"))


@pytest.mark.parametrize(
    ("name", "crop", "epochs"), [("semseg_ade20k", 473, 100), ("semseg_cityscapes", 713, 200)]
)
def test_semsegs_recipe_is_that_of_its_file(name, crop, epochs):
    recipe = recipes.get(name)
    assert recipe["crop_size"] == (crop, crop)
    assert (recipe["epochs"], recipe["batch_size"]) == (epochs, 16)
    assert (recipe["learning_rate"], recipe["weight_decay"]) == (0.01, 1e-4)
    assert recipe["head_learning_rate_multiple"] == 10
    assert (recipe["scale_range"], recipe["rotation_range"]) == ((0.5, 2.0), (-10.0, 10.0))


def test_without_a_recipe_train_is_compiled_and_augmented_as_the_functions_are():
    options = vars(cli.parser().parse_args(["train"]))
    for function in (training.compile, pipeline.make_dataset):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in options and name not in ("dataset", "model", "seed", "crop_size"):
                assert options[name] == parameter.default, name


@pytest.mark.parametrize(
    ("function", "others"),
    [
        (pipeline.make_dataset, {"split", "training", "drop_remainder", "loader", "transform"}),
        (training.compile, {"decay_steps", "loss", "ignore_class"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_train_has_an_option_for_each_argument(function, others):
    names = {
        p.name for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD
    }
    assert names - others <= vars(cli.parser().parse_args(["train"])).keys()


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown recipe 'paper'. Known: paper_nyuv2, "):
        recipes.get("paper")


@pytest.mark.parametrize("name", presets.REFERENCES)
def test_the_papers_models_name_their_recipe(name):
    dataset = name.rpartition("_")[2]
    recipe = presets.read_config(name)["recipe"]
    assert (recipe["recipe"], recipe["learning_rate"]) == (f"paper_{dataset}", 1e-5)


# On the command line


def parsed(*arguments):
    """The options of `train` with what its recipe says."""
    options = cli.parser().parse_args(["train", *arguments])
    return cli.parser(source_defaults(options)).parse_args(["train", *arguments])


def test_a_recipe_gives_what_is_not_given():
    options = parsed("--recipe", "semseg_cityscapes", "--data", "here")
    assert (options.dataset, options.data, options.model) == ("cityscapes", "here", "pspnet")
    assert (options.crop_size, options.optimizer, options.epochs) == ((713, 713), "sgd", 200)


def test_what_is_given_wins_even_where_it_is_the_default_of_the_option():
    options = parsed(
        *("--recipe", "semseg_ade20k", "--optimizer", "adamw", "--batch-size", "8"),
        *("--weights", "none"),
    )
    assert (options.optimizer, options.batch_size, options.weights) == ("adamw", 8, None)
    assert options.learning_rate == 0.01  # the recipe's


@pytest.mark.parametrize(
    ("preset", "weights"), [("sanet_tiny_scenes", None), ("sanet_resnext50_nyuv2", "imagenet")]
)
def test_a_preset_is_the_model_whatever_the_recipe_says(preset, weights):
    options = parsed("--recipe", "semseg_ade20k", "--preset", preset)
    _check_preset(options)
    assert (options.model, options.weights, options.optimizer) == (None, weights, "sgd")


def test_recipes_are_listed_with_their_arguments_and_source():
    code, out, _ = call("recipes")
    assert code == 0
    for name in NAMES:
        assert f"\n{name}: {recipes.source(name)}\n" in out
    assert "    --crop-size 713 713\n" in out and "    --head-learning-rate-multiple 10.0\n" in out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 3 steps, 2 an epoch, of a recipe with all that changes the optimizer."""
    root, rng = tmp_path_factory.mktemp("recipe"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for i in range(count):
            mask = rng.integers(0, 2, (24, 40), dtype="uint8")
            Image.fromarray(200 * mask).save(root / f"images/{split}/{i}.png")
            Image.fromarray(mask).save(root / f"masks/{split}/{i}.png")
    (root / "classes.txt").write_text("dark\nlight\n", "utf-8")
    code, _, error = call(
        *("train", "--recipe", "semseg_ade20k", "--dataset", "folder", "--data", root),
        *("--model", "fcn", "--backbone", "resnet_tiny", "--weights", "none"),
        *("--crop-size", 32, 32, "--batch-size", 2, "--steps", 3),
        *("--gradient-accumulation-steps", 2),
        *("--global-clipnorm", 1, "--ema-momentum", 0.9, "--freeze-batch-norm", "--verbose", 0),
        *("--output", root / "run"),
    )
    assert code == 0, error
    return root / "run"


@pytest.mark.slow
def test_a_run_keeps_its_arguments_and_the_name_of_its_recipe(run):
    arguments = json.loads((run / "config.json").read_text("utf-8"))["arguments"]
    assert (arguments["recipe"], arguments["model"]) == ("semseg_ade20k", "fcn")
    assert (arguments["optimizer"], arguments["weight_decay"]) == ("sgd", 1e-4)
    assert (arguments["crop_size"], arguments["steps"]) == ([32, 32], 3)
    assert arguments["gradient_accumulation_steps"] == 2


@pytest.mark.slow
def test_a_run_of_steps_has_as_many_epochs_as_it_takes(run):
    with open(run / "cross_entropy.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]  # 2 + 1 steps


@pytest.mark.slow
def test_a_preset_of_the_run_names_the_recipe(run, tmp_path):
    code, _, error = call("save-preset", run, tmp_path / "preset")
    assert code == 0, error
    recipe = presets.read_config(tmp_path / "preset")["recipe"]
    assert (recipe["recipe"], recipe["optimizer"], recipe["steps"]) == ("semseg_ade20k", "sgd", 3)
