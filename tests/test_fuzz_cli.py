"""Nonsense on the command line: exit code 1 or 2, the argument named, nothing left in the way."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support import call

import keras_sanet
from keras_sanet import cli, models, schedules, training
from keras_sanet.cli.train import _arguments, source_defaults
from keras_sanet.layers import PyramidPooling
from keras_sanet.pipeline import make_dataset

TRAIN = ("--model", "fcn", "--backbone", "resnet_tiny", "--crop-size", 32, 32, "--batch-size", 2)
SMALL = ("--model", "fcn", "--backbone", "resnet_tiny", "--rounds", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder data set of 2 training and 1 validation pair."""
    root = tmp_path_factory.mktemp("data")
    mask = np.random.default_rng(0).integers(0, 2, (24, 40), dtype="uint8")
    for split, count in (("train", 2), ("val", 1)):
        for part, pixels in (("images", 200 * mask), ("masks", mask)):
            (root / part / split).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(pixels).save(root / f"{part}/{split}/{index}.png")
    (root / "classes.txt").write_text("dark\nlight\n", "utf-8")
    return root


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("--crop-size", ("--crop-size", 0, 0)),
        ("--crop-size", ("--crop-size", -5, 32)),
        ("--val-crop-size", ("--val-crop-size", 0, 5)),
        ("--batch-size", ("--batch-size", 0)),
        ("--val-batch-size", ("--val-batch-size", -1)),
        ("--epochs", ("--epochs", -1)),
        ("--lovasz-epochs", ("--lovasz-epochs", -2)),
        ("--learning-rate", ("--learning-rate", "nan")),
        ("--learning-rate", ("--learning-rate", "inf")),
        ("--learning-rate", ("--learning-rate", 0)),
        ("--scale-range", ("--scale-range", 2, 0.5)),
        ("--scale-range", ("--scale-range", "nan", 1)),
        ("--scale-range", ("--scale-range", 1, "inf")),
        ("--hue-range", ("--hue-range", 0.5, 0.1)),
        ("--class-limit", ("--class-limit", 1.5)),
        ("--image-scale", ("--image-scale", 0)),
        ("--image-scale", ("--image-scale", "nan")),
        ("--image-scale", ("--image-scale", "inf")),
        ("--seed", ("--seed", -1)),
        ("--seed", ("--seed", 2**32)),
        ("--aggregator-filters", ("--model", "sanet", "--aggregator-filters", 0)),
        ("no split 'nope'", ("--val-split", "nope")),
        ("/nope.pth", ("--weights", "/nope.pth")),
        ("--data-options", ("--data-options", "depth=1")),
    ],
    ids=str,
)
def test_train_names_a_wrong_argument_and_leaves_nothing(data, tmp_path, named, arguments):
    output = tmp_path / "run"
    code, _, error = call(
        *("train", "--dataset", "folder", "--data", data, "--output", output, *TRAIN, *arguments)
    )
    assert code in (1, 2) and named in error.splitlines()[-1], error
    assert not output.exists()


@pytest.mark.parametrize(
    ("named", "argument"),
    [
        ("--gradient-accumulation-steps", ("--gradient-accumulation-steps", 0)),
        ("--head-learning-rate-multiple", ("--head-learning-rate-multiple", 0)),
        ("--global-clipnorm", ("--global-clipnorm", -1)),
        ("ema_momentum", ("--ema-momentum", 1.5)),
    ],
    ids=str,
)
def test_what_compile_refuses_leaves_a_folder_that_the_next_try_takes(
    data, tmp_path, named, argument
):
    command = ("train", "--dataset", "folder", "--data", data, "--output", tmp_path, *TRAIN)
    code, _, error = call(*command, *argument)
    assert code == 1 and named in error.splitlines()[-1], error
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("--epochs", ("demo", "--epochs", -1)),
        ("--channels", ("convert", "a.pth", "b.h5", "--backbone", "resnet18", "--channels", -1)),
    ],
    ids=str,
)
def test_a_command_names_a_wrong_argument(tmp_path, monkeypatch, named, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, error = call(*arguments)
    assert code in (1, 2) and named in error.splitlines()[-1], error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config",
    [b"", b"{", b"[1]", b"null", b"{}", b"\xff\xfe", b'{"arguments": 3}'],
    ids=str,
)
@pytest.mark.parametrize("command", ["resume", "save-preset"])
def test_a_damaged_config_of_a_run_is_named(tmp_path, command, config):
    (tmp_path / "config.json").write_bytes(config)
    if command == "save-preset":
        for name in ("model.keras", "evaluation.json"):
            (tmp_path / name).write_text("{}")
        code, _, error = call("save-preset", tmp_path, tmp_path / "preset")
    else:
        code, _, error = call("train", "--resume", tmp_path)
    assert code == 1
    assert f"{tmp_path / 'config.json'} is damaged" in error


ARGUMENTS = {"dataset": "folder", "val_split": "val", "batch_size": 2}


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("--batch-size: invalid integer value: 'many'", {"batch_size": "many"}),
        ("--batch-size: invalid integer value: '4.5'", {"batch_size": 4.5}),
        ("--batch-size: expected one argument", {"batch_size": True}),
        ("--batch-size: must have a value, and is null", {"batch_size": None}),
        ("--batch-size: must have a value, and is false", {"batch_size": False}),
        ("--batch-size: must be a text or a number, and is {'a': 1}", {"batch_size": {"a": 1}}),
        ("unrecognized arguments: 4", {"batch_size": [2, 4]}),
        ("--crop-size: must be a text or a number, and is [1]", {"crop_size": [[1], 2]}),
        ("--crop-size: must have a value, and is []", {"crop_size": []}),
        ("--crop-size: expected 2 arguments", {"crop": [32]}),
        ("--data-options: '--resume=a' looks like an option", {"data_options": ["--resume=a"]}),
        ("--data: '-h' looks like an option", {"data": "-h"}),
        ("--learning-rate: must be a number above 0", {"learning_rate": 0}),
        ("--learning-rate: must be a number above 0", {"learning_rate": float("nan")}),
        ("--model: invalid choice: 'unet'", {"model": "unet"}),
        ("--model: must have a value, and is null", {"model": None}),
        ("--verbose: invalid choice: 7", {"verbose": 7}),
        ("--recipe: invalid choice: 'mine'", {"recipe": "mine"}),
        ("unrecognized arguments: yes", {"deterministic": "yes"}),
        ("what is no option of a run: 'lr'", {"lr": 1}),
        ("what is no option of a run: 'resume'", {"resume": "elsewhere"}),
        ("what is no option of a run: 'command'", {"command": "demo"}),
        ("what is no option of a run: 'config'", {"config": "a"}),
        ("must have at most 1048576 bytes", {"data": "a" * 2**20}),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("source", ["config", "resume"])
def test_what_could_not_be_typed_is_refused_in_a_config(tmp_path, named, arguments, source):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"arguments": {**ARGUMENTS, **arguments}}))
    code, _, error = call("train", f"--{source}", path if source == "config" else tmp_path)
    assert code == 1 and str(path) in error and named in error, error
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_a_config_nested_without_end_is_damaged(tmp_path):
    (tmp_path / "config.json").write_text('{"arguments": ' + "[" * 10**5)
    code, _, error = call("train", "--config", tmp_path / "config.json")
    assert code == 1 and f"{tmp_path / 'config.json'} is damaged" in error


def written(tmp_path, **arguments):
    """Options of `train` with the config.json of these arguments, and what was said."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"arguments": {**ARGUMENTS, **arguments}}))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        defaults = source_defaults(cli.parser().parse_args(["train", "--config", str(path)]))
    return cli.parser(defaults).parse_args(["train"]), said.getvalue()


def test_every_option_of_a_config_is_taken_as_it_was(tmp_path):
    line = "train --dataset folder --data d --crop-size 8 9 --no-flip --deterministic"
    line += " --rotation-range -0.00001 10"
    line += " --weight-decay 1e-300 --freeze-batch-norm --data-options a=1 b= --seed 4294967295"
    given = cli.parser().parse_args(line.split())
    arguments = json.loads(json.dumps(_arguments(given)))
    options, said = written(tmp_path, **arguments)
    assert (json.loads(json.dumps(_arguments(options))), said) == (arguments, "")


def test_a_config_of_the_first_version_is_taken(tmp_path):
    first = {"devices": ["auto"], "output": "runs/a", "cache": None, "scale_range": [0.5, 2.0]}
    first |= {"crop": [32, 48], "val_crop": [64, 96]}
    options, said = written(tmp_path, **first)
    assert (options.batch_size, options.output, options.optimizer, said) == (2, None, "adamw", "")
    assert (options.crop_size, options.val_crop_size) == ([32, 48], [64, 96])


def test_a_folder_to_write_into_is_not_taken_from_a_config(tmp_path):
    options, said = written(tmp_path, cache=str(tmp_path / "theirs"))
    assert options.cache is None
    assert f"says --cache {tmp_path / 'theirs'}. It is written to, and so not taken" in said
    for arguments in (
        {"dataset": "scenes", "data": str(tmp_path / "theirs")},
        {"dataset": "tfds", "data": "a", "data_options": [f"data_dir={tmp_path / 'theirs'}"]},
    ):
        with pytest.raises(ValueError, match="config.json says --data.*Give --data"):
            written(tmp_path, **arguments)


def test_damaged_figures_of_a_run_are_named(tmp_path):
    whole = {"arguments": ARGUMENTS, "versions": {}}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    (tmp_path / "evaluation.json").write_text("[")
    models.FCN(2, "resnet_tiny", filters=8).save(tmp_path / "model.keras")
    code, _, error = call("save-preset", tmp_path, tmp_path / "preset")
    assert code == 1
    assert "evaluation.json is damaged" in error


@pytest.mark.slow
def test_a_picture_that_breaks_off_is_named_without_a_traceback(data, tmp_path):
    broken = shutil.copytree(data, tmp_path / "broken") / "images/train/1.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    code, _, error = call(
        *("train", "--dataset", "folder", "--data", tmp_path / "broken", *TRAIN),
        *("--output", tmp_path / "run", "--epochs", 1, "--verbose", 0),
    )
    assert code == 1
    assert f"{broken} can't be read as an image" in error


# The same from Python


@pytest.mark.parametrize("value", [-1, 1.5, "many", None])
@pytest.mark.parametrize("name", ["epochs", "lovasz_epochs"])
def test_fit_names_a_wrong_number_of_epochs(tmp_path, name, value):
    model = models.FCN(2, "resnet_tiny", filters=8)
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        training.fit(model, [], [], folder=tmp_path / "run", **{"epochs": 0, name: value})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf")])
def test_a_wrong_learning_rate_is_named(rate):
    with pytest.raises(ValueError, match="`learning_rate` must be"):
        schedules.poly_decay(rate, 10)


@pytest.mark.parametrize("dropout", [None, -0.1, 1.0, float("nan"), "much"])
def test_a_wrong_dropout_is_named(dropout):
    with pytest.raises(ValueError, match="`dropout` must be"):
        keras_sanet.FCN(2, "resnet_tiny", filters=8, dropout=dropout)


@pytest.mark.parametrize(
    "arguments",
    [{"bins": 3}, {"bins": "12"}, {"bins": (0,)}, {"bins": (1, 2.0)}, {"bins": [True]},
     {"filters": 0}, {"filters": True}],
    ids=str,
)  # fmt: skip
def test_a_wrong_pyramid_is_named(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be (a )?positive integer"):
        PyramidPooling(**{"filters": 4, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [{"image_scale": float("nan")}, {"image_scale": float("inf")}, {"seed": -1}, {"seed": 2**64},
     {"seed": 0.5}, {"seed": "one"}],
    ids=str,
)  # fmt: skip
def test_make_dataset_names_a_wrong_argument(data, arguments):
    (name,) = arguments
    dataset = keras_sanet.datasets.load("folder", data)
    with pytest.raises(ValueError, match=f"`{name}`"):
        make_dataset(dataset, "train", crop_size=8, batch_size=1, **arguments)
