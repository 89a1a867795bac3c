"""The command line: what its commands write, print and return."""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from PIL import Image
from support import call

import keras_sanet
from keras_sanet import _files, backbones, pipeline, weights
from keras_sanet.cli.config import new_folder
from keras_sanet.version import __version__

SIZE = (24, 40)  # height and width of the images
OPTIONS = {
    "demo": ("--output", "--epochs"),
    "train": (
        "--dataset", "--data", "--val-split", "--output", "--resume", "--model", "--backbone",
        "--preset", "--weights", "--aggregator-filters", "--crop-size", "--val-crop-size",
        "--batch-size", "--val-batch-size", "--epochs", "--lovasz-epochs", "--learning-rate",
        "--scale-range", "--image-scale", "--seed", "--precision", "--verbose", "--recipe",
        "--steps", "--optimizer",
        "--weight-decay", "--head-learning-rate-multiple", "--gradient-accumulation-steps",
        "--global-clipnorm", "--ema-momentum", "--freeze-batch-norm", "--contrast-range",
        "--rotation-range", "--blur-range", "--config", "--save-every", "--on-bad-image",
        "--deterministic", "--devices", "--max-pixels", "--lovasz-learning-rate", "--class-limit",
        "--no-flip", "--brightness-range", "--saturation-range", "--hue-range", "--logger",
    ),
    "evaluate": (
        "--dataset", "--data", "--split", "--output", "--absent-as-zero", "--scales", "--flip",
        "--window", "--bucket", "--batch-size", "--max-pixels", "--shard", "--join",
    ),
    "ablate": (
        "--dataset", "--data", "--output", "--rows", "--seeds", "--rounds", "--report", "--verbose",
        "--backbone", "--weights", "--other-backbone", "--other-weights", "--aggregator-filters",
        "--head-filters", "--image-scale", "--crop-size", "--scale-range", "--batch-size",
        "--val-batch-size", "--val-split", "--epochs", "--learning-rate",
        "--head-learning-rate-multiple",
    ),
    "compare": (),
    "summary": (
        "--image-size", "--batch-size", "--num-classes", "--depth", "--measure", "--rounds",
    ),
    "save-preset": ("--dtype", "--license"),
    "convert": ("--backbone", "--channels"),
    "inspect": ("--data", "--sheet", "--class-weights", "--max-pixels"),
    "predict": (
        "--output", "--write", "--ids", "--scales", "--flip", "--window", "--bucket",
        "--batch-size", "--max-pixels", "--shard",
    ),
    "export": (
        "--format", "--image-size", "--batch-size", "--preprocessing", "--postprocessing",
        "--precision", "--calibration-images", "--max-pixels",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder data set: 4 training and 2 validation pairs, classes dark and light."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for i in range(count):
            mask = rng.integers(0, 2, SIZE, dtype="uint8")
            Image.fromarray(200 * mask).save(root / f"images/{split}/{split}{i}.png")
            Image.fromarray(mask).save(root / f"masks/{split}/{split}{i}.png")
    (root / "classes.txt").write_text("dark,10,20,30\nlight,200,100,0\n", "utf-8")
    return root


NEW = ("--model", "fcn", "--backbone", "resnet_tiny")


def train(data, *arguments, model=NEW):
    return call(
        *("train", "--dataset", "folder", "--data", data, *model, "--crop-size", 32, 32),
        *("--batch-size", 4, "--epochs", 1, "--learning-rate", 1e-3, "--verbose", 0, *arguments),
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a run of one epoch, and what the command gave."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train(data, "--output", folder)


@pytest.fixture(scope="module")
def model(trained):
    return trained[0] / "model.keras"


# train


@pytest.mark.slow
def test_train_writes_the_model_its_figures_and_pictures(trained):
    folder, (code, _, error) = trained
    assert code == 0, error
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {
        "model.keras",
        "config.json",
        "data.json",
        ".lock",
        "cross_entropy.csv",
        "evaluation.txt",
        "overlays.png",
        "evaluation.json",
        "classes.csv",
    }


@pytest.mark.slow
def test_train_prints_the_figures_and_where_things_are(trained):
    folder, (_, out, _) = trained
    for text in ("4 training and 2 validation images; 1 steps of 4", "dark", str(folder)):
        assert text in out
    assert (folder / "evaluation.txt").read_text("utf-8") in out + "\n"


@pytest.mark.slow
def test_the_sheet_of_train_has_three_pictures_a_row(trained):
    width, height = Image.open(trained[0] / "overlays.png").size
    assert width == 3 * SIZE[1]
    assert height > 2 * SIZE[0]  # two rows, and the legend


@pytest.mark.slow
def test_train_writes_its_arguments_and_versions(trained, data):
    config = json.loads((trained[0] / "config.json").read_text("utf-8"))
    arguments = config["arguments"]
    assert (arguments["model"], arguments["crop_size"], arguments["epochs"]) == ("fcn", [32, 32], 1)
    assert arguments["data"] == str(data.resolve())
    found = {
        name: config["versions"][name] for name in ("keras_sanet", "keras", "backend", "numpy")
    }
    assert found == {
        "keras_sanet": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
    }


@pytest.mark.slow
def test_config_repeats_a_run_to_the_last_bit(data, tmp_path):
    def deterministic(*arguments):
        command = [sys.executable, "-m", "keras_sanet", "train", "--deterministic", *arguments]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    first, again = tmp_path / "first", tmp_path / "again"
    options = f"--dataset folder --data {data} --crop-size 32 32 --batch-size 2 --epochs 2"
    options += f" --learning-rate 1e-3 {' '.join(map(str, NEW))} --output {first}"
    deterministic(*options.split())
    deterministic("--config", first / "config.json", "--output", again)
    one, other = ((folder / "cross_entropy.csv").read_bytes() for folder in (first, again))
    assert one == other
    assert one.count(b"\n") == 3


@pytest.mark.slow
def test_a_run_that_stopped_in_its_evaluation_is_finished_by_resume(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    (run / "evaluation.json").unlink()
    code, out, error = call("train", "--resume", run)
    assert code == 0, error
    assert (run / "evaluation.json").is_file()
    code, out, error = call("train", "--resume", run)
    assert code == 1
    assert f"The run {run} is finished" in error


@pytest.fixture
def stopped(trained, tmp_path):
    """A run that was stopped in its evaluation."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    (run / "evaluation.json").unlink()
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "began"),
    [
        (("--batch-size", "2"), "4, not 2"),
        (("--learning-rate", "0.1"), "0.001, not 0.1"),
        (("--crop-size", "64", "64"), "32 32, not 64 64"),
        (("--model", "sanet"), "fcn, not sanet"),
        (("--epochs", "2"), "1, not 2"),
        (("--steps", "9"), "None, not 9"),
        (("--seed", "1"), "0, not 1"),
        (("--deterministic",), "False, not True"),
        (("--data-options", "depth=1"), ", not depth=1"),
        (("--rotation-range", "-0.00001", "10.0"), "0.0 0.0, not -1e-05 10.0"),
    ],
    ids=str,
)
def test_resume_names_an_option_that_a_run_can_not_change(stopped, option, began):
    code, _, error = call("train", "--resume", stopped, *option)
    again = f"keras-sanet train --config {stopped}/config.json {' '.join(option)} --output FOLDER"
    assert code == 1
    assert f"{option[0]} is {began}. Leave these out, or begin another run: {again}\n" in error


@pytest.mark.slow
def test_resume_says_how_to_type_a_switch(stopped):
    code, _, error = call("train", "--resume", stopped, "--no-flip")
    assert code == 1
    assert "--flip is True, not False." in error
    assert f"--config {stopped}/config.json --no-flip --output FOLDER" in error


@pytest.mark.slow
def test_resume_takes_no_other_output(stopped, tmp_path):
    code, _, error = call("train", "--resume", stopped, "--output", tmp_path / "other")
    assert code == 1 and f"--output is {stopped}, not {tmp_path / 'other'}." in error
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_resume_takes_the_same_values_and_moved_data(stopped, data, tmp_path):
    shutil.copytree(data, tmp_path / "moved")
    code, _, error = call(
        *("train", "--resume", stopped, "--data", tmp_path / "moved", "--batch-size", 4),
        *("--crop-size", 32, 32, "--output", stopped, "--save-every", 9, "--on-bad-image", "skip"),
        *("--verbose", 0),
    )
    assert code == 0, error
    arguments = json.loads((stopped / "config.json").read_text("utf-8"))["arguments"]
    assert (arguments["data"], arguments["save_every"]) == (str(tmp_path / "moved"), 9)


@pytest.mark.slow
def test_resume_refuses_other_data_with_the_difference(stopped, data, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    shutil.copy(other / "images/val/val0.png", other / "images/val/val1.png")
    code, _, error = call("train", "--resume", stopped, "--data", other)
    assert code == 1 and "validation: 1 changed (val1.png). Put it back" in error


@pytest.mark.slow
def test_a_run_has_one_process(stopped):
    with ThreadPoolExecutor(1) as other, _files.locked(stopped):
        code, _, error = other.submit(call, "train", "--resume", stopped).result()
    assert code == 1 and f"Another process writes into {stopped}: process {os.getpid()} on" in error


@pytest.mark.slow
def test_resume_writes_through_no_link(stopped, tmp_path):
    (tmp_path / "mine").write_text("kept")
    (stopped / "evaluation.txt").unlink()
    (stopped / "evaluation.txt").symlink_to(tmp_path / "mine")
    code, _, error = call("train", "--resume", stopped)
    assert code == 1 and f"{stopped / 'evaluation.txt'} is a link to" in error
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_run_killed_while_its_config_was_written_is_begun_by_the_same_call(tmp_path):
    (tmp_path / ".lock").write_text("process 7 on moon")
    (tmp_path / ".new-7-140-config.json").write_text("{")
    assert new_folder(tmp_path) == tmp_path
    (tmp_path / ".new-thesis").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        new_folder(tmp_path)


def as_first_version(run):
    """Gives a run's config.json the words of 0.1.0."""
    path = run / "config.json"
    config = json.loads(path.read_text("utf-8"))
    arguments = config["arguments"]
    arguments["crop"], arguments["val_crop"] = (
        arguments.pop(name) for name in ("crop_size", "val_crop_size")
    )
    del arguments["logger"]
    path.write_text(json.dumps(config), "utf-8")


@pytest.mark.slow
def test_a_run_of_the_first_version_is_finished_by_resume(stopped):
    as_first_version(stopped)
    code, _, error = call("train", "--resume", stopped, "--batch-size", 4, "--crop-size", 32, 32)
    assert code == 0, error
    assert (stopped / "evaluation.json").is_file()


@pytest.mark.slow
def test_a_run_of_the_first_version_becomes_a_preset(trained, tmp_path):
    as_first_version(run := shutil.copytree(trained[0], tmp_path / "run"))
    code, _, error = call("save-preset", run, tmp_path / "preset")
    assert code == 0, error
    assert keras_sanet.presets.read_config(tmp_path / "preset")["crop"] == [32, 32]


@pytest.mark.slow
def test_what_is_given_beside_a_config_wins(trained, tmp_path):
    code, _, error = call(
        *("train", "--config", trained[0] / "config.json", "--output", tmp_path / "run"),
        *("--batch-size", 2, "--verbose", 0),
    )
    assert code == 0, error
    arguments = json.loads((tmp_path / "run/config.json").read_text("utf-8"))["arguments"]
    before = json.loads((trained[0] / "config.json").read_text("utf-8"))["arguments"]
    assert arguments == {**before, "batch_size": 2, "output": str(tmp_path / "run")}


def test_train_hands_the_augmentation_on(data, tmp_path, monkeypatch):
    given = {}

    @functools.wraps(pipeline.make_dataset)
    def make_dataset(*_, **arguments):
        given.update(arguments)
        raise ValueError("seen")

    monkeypatch.setattr(pipeline, "make_dataset", make_dataset)
    code, _, error = train(
        *(data, "--output", tmp_path / "run", "--no-flip", "--class-limit", 0.75),
        *("--hue-range", -0.1, 0.1, "--brightness-range", 0.9, 1.2),
        *("--saturation-range", 0.5, 2, "--blur-range", 0, 1),
    )
    assert (code, "seen" in error) == (1, True)
    assert (given["flip"], given["class_limit"]) == (False, 0.75)
    assert (given["hue_range"], given["brightness_range"]) == ([-0.1, 0.1], [0.9, 1.2])
    assert (given["saturation_range"], given["blur_range"]) == ([0.5, 2], [0, 1])


@pytest.mark.slow
def test_a_config_and_a_recipe_are_refused_together(trained):
    code, _, error = call(
        "train", "--config", trained[0] / "config.json", "--recipe", "paper_nyuv2"
    )
    assert (code, error) == (1, "keras-sanet: error: Give --recipe or --config, not both.\n")


def test_a_run_of_training_fit_is_no_config_of_train(tmp_path):
    (tmp_path / "config.json").write_text('{"arguments": {"epochs": 3}}')
    code, _, error = call("train", "--resume", tmp_path)
    assert code == 1
    assert "config.json is of no run of `keras-sanet train`: call again what wrote it." in error


@pytest.mark.slow
def test_broken_images_are_skipped_if_asked_for(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    path = sorted((copy / "images/val").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-40])  # its header is whole
    refused = train(copy, "--output", tmp_path / "refused")
    assert refused[0] == 1
    assert f"{path} can't be read as an image" in refused[2]
    code, out, error = train(
        copy, "--output", tmp_path / "run", "--on-bad-image", "skip", "--batch-size", 2
    )
    assert code == 0, error
    assert "1 images" in (tmp_path / "run/evaluation.txt").read_text("utf-8")  # of 2
    assert str(path) in (tmp_path / "run/skipped.txt").read_text("utf-8")
    assert "1 images could not be read and did not count" in out


@pytest.mark.slow
def test_the_saved_model_knows_its_classes(model):
    layer = keras.saving.load_model(model, compile=False).get_layer("logits")
    assert layer.class_names == ["dark", "light"]
    assert layer.palette == [[10, 20, 30], [200, 100, 0]]


def write(state, path):
    path.write_bytes(pytest.importorskip("safetensors.numpy").save(state))
    return path


@pytest.mark.slow
def test_train_takes_imagenet_by_name(data, random_checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "home" / "keras_sanet"
    folder.mkdir(parents=True)
    path = write(random_checkpoint("resnet_tiny"), folder / "tiny.safetensors")
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    source = weights.Pretrained("https://example.org/tiny.safetensors", digest, 12.3, "CC0-1.0")
    monkeypatch.setitem(weights.IMAGENET, "resnet_tiny", source)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    code, out, error = train(data, "--output", tmp_path / "run", "--weights", "imagenet")
    assert code == 0, error
    config = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert config["arguments"]["weights"] == "imagenet"  # a name, no path


def test_train_names_the_backbones_that_imagenet_has(data, tmp_path):
    code, _, error = train(data, "--output", tmp_path / "run", "--weights", "imagenet")
    assert code == 1
    assert "There are no ImageNet weights of resnet_tiny. There are of: resnet18, " in error


@pytest.mark.slow
def test_train_resumes_a_run_from_its_config(trained, tmp_path):
    # A run of both phases, stopped before its first epoch was over: it has a config and no state.
    config = json.loads((trained[0] / "config.json").read_text("utf-8"))
    config["arguments"]["lovasz_epochs"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, error = call("train", "--resume", tmp_path, "--verbose", 0)
    assert code == 0, error
    first, again = ((folder / "cross_entropy.csv").read_text() for folder in (trained[0], tmp_path))
    assert first.splitlines()[0] == again.splitlines()[0]
    assert (tmp_path / "model.keras").is_file()


def test_train_resume_without_a_run_is_an_error(tmp_path):
    code, _, error = call("train", "--resume", tmp_path / "nothing")
    assert code == 1
    assert f"error: {tmp_path}/nothing holds no config.json" in error


@pytest.mark.slow
def test_train_does_not_resume_a_finished_run(trained):
    code, _, error = call("train", "--resume", trained[0])
    assert (code, str(trained[0] / "model.keras") in error) == (1, True)
    assert "is finished" in error


@pytest.mark.slow
def test_train_into_a_folder_that_is_not_empty_names_the_ways_out(trained, data):
    code, _, error = train(data, "--output", trained[0])
    assert code == 1
    assert f"{trained[0]} exists and is not empty" in error
    assert "--output" in error and f"--resume {trained[0]}" in error


def test_the_format_of_a_folder_is_told_by_what_lies_in_it(data):
    code, out, _ = call("inspect", "--data", data)
    assert code == 0
    assert "note: read as 'folder', for it holds classes.txt and images." in out


def test_train_without_a_data_set_is_an_error():
    code, _, error = call("train", "--backbone", "resnet_tiny")
    assert code == 1
    assert "--dataset must be given" in error


def test_train_of_no_epochs_is_an_error(data, tmp_path):
    code, _, error = train(data, "--output", tmp_path / "run", "--epochs", 0)
    assert code == 1
    assert "--epochs, --steps or --lovasz-epochs must be above 0" in error
    assert not (tmp_path / "run").exists()


def test_train_names_a_data_folder_that_is_not_there(tmp_path):
    code, _, error = train(tmp_path / "nowhere", "--output", tmp_path / "run")
    assert code == 1
    assert f"{tmp_path}/nowhere" in error
    assert not (tmp_path / "run").exists()


def test_train_names_an_unknown_validation_split(data, tmp_path):
    code, _, error = train(data, "--val-split", "test", "--output", tmp_path / "run")
    assert code == 1
    assert "no split 'test'" in error and "train, val" in error


# evaluate


@pytest.mark.slow
def test_evaluate_prints_the_table_of_the_training(trained, model, data):
    code, out, error = call("evaluate", model, "--dataset", "folder", "--data", data)
    assert code == 0, error
    assert (trained[0] / "evaluation.txt").read_text("utf-8") in out


@pytest.mark.slow
def test_evaluate_takes_a_split_scales_flip_and_windows(model, data):
    code, out, error = call(
        *("evaluate", model, "--dataset", "folder", "--data", data, "--split", "train"),
        *("--scales", 0.5, 1, "--flip", "--window", 24),
    )
    assert code == 0, error
    assert "4 images" in out


@pytest.mark.slow
def test_shards_are_evaluated_apart_and_joined(model, data, tmp_path):
    split = ("--data", data, "--split", "train")
    for i in (1, 2, 3):
        code, _, error = call(
            "evaluate", model, *split, "--shard", f"{i}/3", "--output", tmp_path / f"{i}"
        )
        assert code == 0, error
    _, whole, _ = call("evaluate", model, *split)
    code, joined, error = call(
        "evaluate", "--join", *(tmp_path / f"{i}" for i in (3, 1, 2)), "--output", tmp_path / "all"
    )
    assert code == 0, error
    assert joined.splitlines()[1:] == whole.splitlines()[2:]  # after the machine and the format
    code, _, error = call("evaluate", "--join", tmp_path / "1")
    assert code == 1 and "Missing: 2/3, 3/3" in error


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b"])
def test_a_shard_that_is_none_is_a_wrong_usage(text):
    code, _, error = call("evaluate", "model.keras", "--data", "x", "--shard", text)
    assert code == 2 and "must be I/N" in error


@pytest.fixture(scope="module")
def evaluated(model, data, tmp_path_factory):
    """Folders of two evaluations of the same images, and the output of the second."""
    root = tmp_path_factory.mktemp("evaluated")
    for name, more in (("plain", ()), ("flipped", ("--flip",))):
        code, out, error = call(
            *("evaluate", model, "--dataset", "folder", "--data", data, "--split", "train"),
            *("--output", root / name, *more),
        )
        assert code == 0, error
    return root, out


@pytest.mark.slow
def test_evaluate_leaves_figures_counts_and_a_report(evaluated):
    root, out = evaluated
    assert {path.name for path in (root / "plain").iterdir()} == {
        ".lock", "images.jsonl", "evaluation.json", "evaluation.txt", "classes.csv", "report.html",
    }  # fmt: skip
    assert str(root / "flipped/report.html") in out


@pytest.mark.slow
def test_evaluate_refuses_a_folder_of_another_evaluation(evaluated, model, data):
    code, _, error = call(
        *("evaluate", model, "--dataset", "folder", "--data", data, "--split", "train"),
        *("--output", evaluated[0] / "plain", "--scales", 0.5),
    )
    assert code == 1
    assert "plain holds an evaluation of another mode" in error


@pytest.mark.slow
def test_compare_prints_every_figure_of_both_with_its_difference(evaluated):
    code, out, error = call("compare", evaluated[0] / "plain", evaluated[0] / "flipped")
    assert code == 0, error
    for figure in ("pixel accuracy", "mean accuracy", "mean IoU", "frequency-weighted IoU"):
        assert f"{figure}: " in out
    assert out.count("% of bootstrap samples") == 4


@pytest.mark.slow
def test_compare_names_a_folder_without_an_evaluation(evaluated, tmp_path):
    code, _, error = call("compare", evaluated[0] / "plain", tmp_path / "nowhere")
    assert code == 1
    assert "nowhere holds no evaluation" in error


def test_evaluate_names_a_missing_model(data, tmp_path):
    code, _, error = call(
        "evaluate", tmp_path / "gone.keras", "--dataset", "folder", "--data", data
    )
    assert code == 1
    assert f"error: There is no model file {tmp_path}/gone.keras" in error


@pytest.mark.slow
def test_evaluate_names_an_unknown_split(model, data):
    code, _, error = call(
        "evaluate", model, "--dataset", "folder", "--data", data, "--split", "test"
    )
    assert code == 1
    assert "no split 'test'" in error


# predict


@pytest.fixture
def predicted(model, data, tmp_path):
    """The folder of the results of an image and a folder of two, and the exit code."""
    code, _, error = call(
        *("predict", model, data / "images/train/train0.png", data / "images/val"),
        *("--output", tmp_path / "results"),
    )
    return tmp_path / "results", code, error


@pytest.mark.slow
def test_predict_writes_a_mask_and_an_overlay_of_each_image(predicted):
    folder, code, error = predicted
    assert code == 0, error
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}_{kind}.png" for stem in ("train0", "val0", "val1") for kind in ("mask", "overlay")
    }


@pytest.mark.slow
def test_predicted_masks_have_the_images_size_and_class_ids(predicted):
    mask = np.array(Image.open(predicted[0] / "val0_mask.png"))
    assert (mask.shape, mask.dtype) == (SIZE, "uint8")
    assert set(np.unique(mask)) <= {0, 1}


@pytest.mark.slow
def test_overlays_mix_the_image_with_the_models_colours(predicted, data):
    mask = np.array(Image.open(predicted[0] / "val0_mask.png"))
    image = np.array(Image.open(data / "images/val/val0.png").convert("RGB"))
    colours = np.array([[10, 20, 30], [200, 100, 0]])[mask]
    overlay = np.array(Image.open(predicted[0] / "val0_overlay.png"))
    np.testing.assert_array_equal(overlay, (image + colours) // 2)  # all are even sums


@pytest.mark.slow
def test_predict_writes_what_is_asked_for(model, data, tmp_path):
    code, _, error = call(
        *("predict", model, data / "images/val/val0.png", "--output", tmp_path),
        *("--write", "probabilities", "color", "mask"),
    )
    assert code == 0, error
    names = {f"val0_{name}" for name in ("probabilities.npz", "color.png", "mask.png")}
    assert {path.name for path in tmp_path.iterdir()} == names
    saved = np.load(tmp_path / "val0_probabilities.npz")
    mask = np.array(Image.open(tmp_path / "val0_mask.png"))
    assert saved["probabilities"].dtype == "float32"
    np.testing.assert_array_equal(saved["probabilities"].argmax(axis=-1), mask)
    np.testing.assert_array_equal(
        np.array(Image.open(tmp_path / "val0_color.png")),
        np.array([[10, 20, 30], [200, 100, 0]])[mask],
    )
    assert (
        saved["class_names"].tolist()
        == keras.saving.load_model(model, compile=False).get_layer("logits").class_names
    )


def written(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_predict_takes_patterns_of_files(model, data, tmp_path):
    code, _, error = call(
        *("predict", model, f"{data}/images/*/*0.png", "--output", tmp_path, "--write", "mask")
    )
    assert code == 0, error
    assert written(tmp_path) == ["train0_mask.png", "val0_mask.png"]


@pytest.mark.slow
def test_predict_takes_the_frames_of_an_animated_picture(model, rng, tmp_path):
    frames = [Image.fromarray(rng.integers(0, 256, (*SIZE, 3), "uint8")) for _ in range(11)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    code, _, error = call(
        *("predict", model, tmp_path / "clip.gif", "--output", tmp_path / "out"),
        *("--write", "mask"),
    )
    assert code == 0, error
    assert written(tmp_path / "out") == [f"clip_{index:02}_mask.png" for index in range(11)]


@pytest.mark.slow
def test_predict_turns_a_photograph_as_its_exif_says(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "photo.jpg", exif=exif)
    code, _, error = call("predict", model, tmp_path / "photo.jpg", "--output", tmp_path / "out")
    assert code == 0, error
    for kind in ("mask", "overlay"):
        with Image.open(tmp_path / f"out/photo_{kind}.png") as written:
            assert written.size == SIZE  # as high as the stored one is wide


@pytest.mark.slow
def test_predict_says_what_it_leaves_out_of_a_folder(model, tmp_path):
    for name in ("a.heic", "b.mp4", "c.txt"):
        (tmp_path / name).touch()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "photo.JFIF", "JPEG")
    code, out, error = call("predict", model, tmp_path, "--output", tmp_path / "out")
    assert code == 0, error
    assert "of 1 images" in out
    assert f"Left out of {tmp_path}" in error
    for text in ("1 pictures in HEIC", "1 videos", "1 files of kinds that are not read"):
        assert text in error


@pytest.mark.slow
def test_train_and_evaluate_say_what_the_data_leaves_out(data, model, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    (root / "images/val/more.psd").touch()
    _, _, error = train(root, "--output", tmp_path / "run")
    assert "Left out of data: 1 files of kinds that are not read: val/more.psd" in error
    code, _, error = call("evaluate", model, "--dataset", "folder", "--data", root)
    assert code == 0 and "Left out of data: 1 files" in error


def test_inspect_says_once_what_the_data_leaves_out(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    (root / "images/val/more.psd").touch()
    _, out, error = call("inspect", "folder", "--data", root)
    assert "note: left out: 1 files of kinds that are not read: val/more.psd." in out
    assert "more.psd" not in error


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_max_pixels_bounds_the_pictures_of_one_command(data, model):
    before = Image.MAX_IMAGE_PIXELS
    source = ("--dataset", "folder", "--data", data)
    for command in (
        ("predict", model, data / "images/val"),
        ("evaluate", model, *source),
        ("train", *source, *NEW),
    ):
        code, _, error = call(*command, "--max-pixels", 900)  # of 24 x 40 = 960
        assert code == 1 and "more than 900" in error and "--max-pixels" in error
    assert before == Image.MAX_IMAGE_PIXELS


def test_max_pixels_of_0_reads_any_picture(data, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    command = ("inspect", "folder", "--data", data)
    assert call(*command)[0] == 1
    assert call(*command, "--max-pixels", 0)[0] == 0


@pytest.mark.slow
def test_predict_says_how_to_make_frames_of_a_video(model, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"video")
    code, _, error = call("predict", model, tmp_path / "clip.mp4", "--output", tmp_path / "out")
    assert code == 1
    assert "clip.mp4 is a video" in error and "ffmpeg -i clip.mp4 frames/%06d.png" in error


def test_predict_names_the_image_that_a_fixed_window_would_mend(data, tmp_path):
    inputs = keras.Input((8, 8, 3))
    layer = keras_sanet.layers.SegmentationOutput(name="logits")
    fixed = keras.Model(inputs, layer(keras.layers.Conv2D(2, 1)(inputs), inputs))
    fixed.save(tmp_path / "fixed.keras")
    image = data / "images/val/val0.png"
    code, _, error = call("predict", tmp_path / "fixed.keras", image, "--output", tmp_path)
    assert code == 1
    assert f"{image}: The model takes images of 8 x 8" in error
    code, _, error = call(
        "predict", tmp_path / "fixed.keras", image, "--output", tmp_path, "--window", 8, 8
    )
    assert code == 0, error


def test_predict_writes_the_34_ids_of_cityscapes(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(19, 1)(inputs)
    layer = keras_sanet.layers.SegmentationOutput(name="logits")
    model = keras.Model(inputs, layer(x, inputs))
    model.set_weights([np.zeros((1, 1, 3, 19)), np.eye(19)[13]])  # car, label id 26, everywhere
    model.save(tmp_path / "cars.keras")
    Image.fromarray(np.zeros((*SIZE, 3), "uint8")).save(tmp_path / "ulm_000000_000019.png")
    code, _, error = call(
        *("predict", tmp_path / "cars.keras", tmp_path / "ulm_000000_000019.png"),
        *("--output", tmp_path / "out", "--write", "mask", "--ids", "cityscapes"),
    )
    assert code == 0, error
    mask = np.array(Image.open(tmp_path / "out/ulm_000000_000019_mask.png"))
    assert (np.unique(mask).tolist(), mask.dtype) == ([26], "uint8")


@pytest.mark.slow
def test_wrong_options_are_told_before_anything_is_done(model, data, tmp_path):
    code, _, error = call(
        *("predict", model, data / "images/val", "--output", tmp_path / "out"),
        *("--window", 1, 2, 3),
    )
    assert code == 1
    assert "error: --window must be one or two positive integers" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ids_of_cityscapes_need_19_classes(model, data, tmp_path):
    image = data / "images/val/val0.png"
    code, _, error = call(
        *("predict", model, image, "--ids", "cityscapes", "--output", tmp_path / "out")
    )
    assert code == 1
    assert "--ids cityscapes needs a model of 19 classes. This one has 2" in error


@pytest.mark.slow
def test_predict_names_a_missing_image(model, tmp_path):
    code, _, error = call("predict", model, tmp_path / "gone.jpg", "--output", tmp_path / "out")
    assert code == 1
    assert f"{tmp_path}/gone.jpg" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_predict_refuses_two_images_of_one_name(model, data, tmp_path):
    image = data / "images/val/val0.png"
    code, _, error = call("predict", model, image, image, "--output", tmp_path / "out")
    assert code == 1
    assert "overwrite each other's results: val0" in error


@pytest.mark.slow
def test_predict_names_a_file_that_is_no_image(model, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    code, _, error = call("predict", model, tmp_path / "text.png", "--output", tmp_path / "out")
    assert code == 1
    assert "text.png can't be read as an image" in error


def test_predict_names_a_missing_model(tmp_path):
    code, _, error = call("predict", tmp_path / "gone.keras", "a.png")
    assert code == 1
    assert "gone.keras" in error


# convert


@pytest.mark.parametrize(("channels", "adapted"), [((), ""), (("--channels", 1), "1 channels")])
def test_convert_writes_weights_and_prints_its_report(
    channels, adapted, random_checkpoint, tmp_path
):
    state = random_checkpoint("resnet_tiny")
    path = write(state, tmp_path / "tiny.safetensors")
    output = tmp_path / "tiny.weights.h5"
    code, out, error = call("convert", path, output, "--backbone", "resnet_tiny", *channels)
    assert code == 0, error
    assert f"{path}: 60 of 60 arrays of resnet_tiny loaded" in out
    assert adapted in out and str(output) in out
    backbone = backbones.build(
        "resnet_tiny", input_shape=(None, None, channels[-1] if channels else 3)
    )
    backbone.load_weights(output)
    found = keras.ops.convert_to_numpy(backbone.get_layer("bn1").moving_mean)
    np.testing.assert_array_equal(found, state["bn1.running_mean"])


def test_convert_names_what_does_not_fit(random_checkpoint, tmp_path):
    path = write(random_checkpoint("resnet_tiny"), tmp_path / "tiny.safetensors")
    output = tmp_path / "tiny.weights.h5"
    code, _, error = call("convert", path, output, "--backbone", "resnet18")
    assert code == 1
    assert f"{path} does not fit resnet18; nothing was loaded." in error
    assert "bn1.bias: shape (16,) in the file, (64,) in resnet18" in error
    assert not output.exists()


# demo


def test_demo_into_a_folder_that_is_not_empty_is_an_error(data):
    code, _, error = call("demo", "--output", data)
    assert code == 1
    assert f"{data} exists and is not empty" in error
    assert "--resume" not in error  # it holds no run


# Usage


def help_of(command):
    """What --help prints, and what shows all options."""
    code, short, _ = call(command, "--help")
    assert code == 0
    return short, call(command, "--help-all")[1] if "--help-all" in short else short


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(command):
    _, out = help_of(command)
    assert [option for option in OPTIONS[command] if option not in out] == []


COMMANDS = (*OPTIONS, "datasets", "presets", "recipes")


def test_help_names_every_command():
    code, out, _ = call("--help")
    assert code == 0
    assert set(re.findall("^    ([a-z-]+)", out, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_two_screens(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = help_of(command)[0].splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 100


def test_rare_options_are_shown_by_help_all_alone():
    short, whole = help_of("train")
    assert "--hue-range" not in short and "--hue-range LEAST MOST" in whole
    assert set(short.splitlines()) <= set(whole.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "--crop-size", "32"],
        ["train", "--crop-size", "0", "32"],
        ["train", "--model", "unet"],
        ["train", "--epochs", "many"],
        ["evaluate", "model.keras"],
        ["predict", "model.keras"],
        ["predict", "model.keras", "a.png", "--window", "wide"],
        ["predict", "model.keras", "a.png", "--write", "poster"],
        ["compare", "one"],
    ],
    ids=" ".join,
)
def test_a_wrong_usage_exits_with_2(arguments):
    code, _, error = call(*arguments)
    assert code == 2
    assert "usage: keras-sanet" in error


@pytest.mark.slow
def test_a_module_of_the_package_is_a_command():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ran = subprocess.run(
        [sys.executable, "-m", "keras_sanet", "--version"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == f"keras-sanet {__version__}"


# Presets


@pytest.fixture(scope="module")
def preset(trained, tmp_path_factory):
    """A preset of the trained run."""
    folder = tmp_path_factory.mktemp("presets") / "dark_and_light"
    code, out, error = call("save-preset", trained[0], folder, "--dtype", "float16")
    assert (code, str(folder) in out) == (0, True), error
    return folder


@pytest.mark.slow
def test_a_preset_of_a_run_holds_its_recipe_and_figures(preset, trained):
    config = keras_sanet.presets.read_config(preset)
    assert config["arguments"]["class_names"] == ["dark", "light"]
    assert (config["crop"], config["recipe"]["learning_rate"]) == ([32, 32], 1e-3)
    saved = json.loads((trained[0] / "evaluation.json").read_text())
    assert config["figures"]["mean_iou"] == saved["mean_iou"]


@pytest.mark.slow
def test_commands_take_a_preset_for_a_model(preset, data, tmp_path):
    code, out, error = call("predict", preset, data / "images/val/val0.png", "--output", tmp_path)
    assert code == 0, error
    assert Image.open(tmp_path / "val0_mask.png").size == SIZE[::-1]


@pytest.mark.slow
def test_train_starts_from_a_preset_with_the_classes_of_the_data(preset, data, tmp_path):
    (tmp_path / "data").mkdir()
    for part in ("images", "masks"):
        (tmp_path / "data" / part).symlink_to(data / part)
    (tmp_path / "data/classes.txt").write_text("dark\nlight\nglow\n", "utf-8")
    run = tmp_path / "run"
    arguments = ("--output", run, "--learning-rate", 1e-12)
    code, _, error = train(tmp_path / "data", *arguments, model=("--preset", preset))
    assert code == 0, error
    tuned = keras_sanet.from_preset(run / "model.keras")
    assert tuned.get_layer("logits").class_names == ["dark", "light", "glow"]
    models = keras_sanet.from_preset(preset), tuned
    before, after = (model.get_layer("head").get_weights()[0] for model in models)
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("option", [("--weights", "x.pth"), ("--backbone", "resnet18")])
def test_train_refuses_what_a_preset_says_already(option, data, preset, tmp_path):
    code, _, error = train(data, "--output", tmp_path, *option, model=("--preset", preset))
    assert (code, f"is a whole model. Leave out {option[0]}." in error) == (1, True)


@pytest.mark.slow
def test_a_run_knows_its_preset_by_name(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sanet_tiny_scenes").mkdir()  # a folder of the same name
    run = tmp_path / "run"
    code, _, error = train(data, "--output", run, model=("--preset", "sanet_tiny_scenes"))
    assert code == 0, error
    arguments = json.loads((run / "config.json").read_text())["arguments"]
    assert (arguments["preset"], arguments["model"]) == ("sanet_tiny_scenes", None)


def test_save_preset_names_what_a_folder_lacks(tmp_path):
    code, _, error = call("save-preset", tmp_path, tmp_path / "x")
    assert (code, "is no finished run: it holds no model.keras" in error) == (1, True)


def test_presets_are_listed():
    code, out, _ = call("presets")
    assert code == 0
    assert "sanet_tiny_scenes" in out and "mean IoU 80.9 %" in out
