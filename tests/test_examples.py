"""The examples run as their headers say."""

import ast
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sanet import experiments
from keras_sanet.datasets import cityscapes, scenes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "examples/results"
TABLES = sorted(RESULTS.glob("*/*.md"))


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="MirroredStrategy needs TensorFlow"
)
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_train_on_two_replicas_then_load_on_jax(tmp_path):
    scenes.write(tmp_path / "scenes", size=(32, 48), splits={"train": 4, "val": 4})
    saved = tmp_path / "two.keras"
    arguments = f"--data {tmp_path}/scenes --crop 32 48 --batch-size 4 --devices 2 --epochs 1"
    ran = _run("tensorflow", ROOT / "examples/train.py", *arguments.split(), "--output", saved)
    assert "2 replicas" in ran.stdout

    load = f"""
import json, keras, numpy, keras_sanet
model = keras.saving.load_model({str(saved)!r})
logits = model.predict(numpy.zeros((1, 20, 30, 3), "uint8"), verbose=0)
print(json.dumps([keras.backend.backend(), list(logits.shape), bool(numpy.isfinite(logits).all())]))
"""
    loaded = _run("jax", "-c", load)
    assert json.loads(loaded.stdout.splitlines()[-1]) == ["jax", [1, 20, 30, 8], True]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="several hosts need JAX")
def test_several_hosts_train_one_model_and_go_on_with_it(tmp_path):
    scenes.write(tmp_path / "scenes", size=(32, 48), splits={"train": 4, "val": 3})

    def sums(epochs):
        """What each of two processes on this machine says of its weights."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        arguments = f"--address {address} --processes 2 --data {tmp_path}/scenes --crop 32 48 "
        arguments += f"--batch-size 4 --epochs {epochs} --output {tmp_path}/run --process"
        with ThreadPoolExecutor() as pool:
            ran = pool.map(
                lambda process: _run(
                    "jax", ROOT / "examples/several_hosts.py", *arguments.split(), process
                ),
                ("0", "1"),
            )
            return [one.stdout.splitlines()[-1].partition(": ")[2] for one in ran]

    one, other = sums(epochs=1)
    assert one == other
    assert one.startswith("the weights' absolute sum is")
    rows = (tmp_path / "run/cross_entropy.csv").read_text().splitlines()
    assert len(rows) == 2
    one, other = sums(epochs=2)
    assert one == other
    # The first row of the second run's file is the first run's.
    assert (tmp_path / "run/cross_entropy.csv").read_text().splitlines()[:2] == rows


@pytest.mark.slow
def test_drop_in_prints_the_mean_iou_without_and_with_the_aggregator(tmp_path):
    scenes.write(tmp_path / "scenes", size=(32, 48), splits={"train": 8, "val": 8})
    arguments = f"--data {tmp_path}/scenes --crop 32 48 --epochs 1"
    ran = _run(keras.backend.backend(), ROOT / "examples/drop_in.py", *arguments.split())
    lines = ran.stdout.splitlines()[-2:]
    assert [line.rpartition(" ")[0] for line in lines] == [
        "without the aggregator: mean IoU",
        "with the aggregator: mean IoU",
    ]
    assert all(0 <= float(line.rpartition(" ")[2]) <= 1 for line in lines)


@pytest.mark.slow
def test_cityscapes_walks_from_the_folder_to_a_file_that_runs_without_keras(tmp_path):
    backend, data, output = keras.backend.backend(), tmp_path / "data", tmp_path / "out"
    for package in {"tensorflow": ["tf2onnx"], "torch": ["onnxscript"], "jax": []}[backend]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    runtime = "tensorflow" if backend == "jax" else "onnxruntime"
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    frames = {"train": ["ulm_000000_000019", "bonn_000001_000019"], "val": ["lindau_000000_000019"]}
    for split, names in {**frames, "test": ["berlin_000000_000019"]}.items():
        for name in names:
            _write_frame(data, split, name)

    arguments = f"--data {data} --output {output} --crop-size 32 32 --image-size 32 64 "
    arguments += "--batch-size 2 --preset sanet_tiny_scenes --epochs 1 --lovasz-epochs 0 --seed 3"
    ran = _run(backend, ROOT / "examples/cityscapes.py", *arguments.split())
    commands = [line.split()[2] for line in ran.stdout.splitlines() if line.startswith("$ keras-")]
    assert commands == ["inspect", "train", "evaluate", "predict", "save-preset", "export"]
    # What the script does not know went to `train`, over the recipe.
    trained = json.loads((output / "run/config.json").read_text())["arguments"]
    assert (trained["seed"], trained["recipe"], trained["epochs"]) == (3, "paper_cityscapes", 1)
    # The server's four figures: IoU and iIoU of classes and of categories.
    figures = json.loads((output / "evaluation/evaluation.json").read_text())
    server = {"mean_iou", "mean_category_iou", "mean_instance_iou", "mean_category_instance_iou"}
    assert all(0 <= figures[name] <= 1 for name in server)
    # One PNG an image of the test split, which begins with its city and numbers; label ids.
    with zipfile.ZipFile(output / "masks.zip") as archive:
        assert archive.namelist() == ["berlin_000000_000019_leftImg8bit_mask.png"]
    mask = np.array(Image.open(output / "masks/berlin_000000_000019_leftImg8bit_mask.png"))
    assert mask.shape == (32, 64)
    label_ids = [i for i, c in cityscapes.TRAIN_IDS.items() if c != 255]
    assert set(np.unique(mask)) <= set(label_ids)
    # The exported file's own, of class ids.
    deployed = output / "deployed/berlin_000000_000019_leftImg8bit"
    assert np.array(Image.open(f"{deployed}_mask.png")).max() < 19
    assert Image.open(f"{deployed}_colour.png").getpalette()[:3] == [128, 64, 128]
    assert "% of the pixels are of the class of step 4" in ran.stdout


def test_run_exported_imports_neither_keras_nor_this_package():
    tree = ast.parse((ROOT / "examples/run_exported.py").read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {
        (getattr(node, "module", None) or node.names[0].name).partition(".")[0] for node in imports
    }
    assert names - sys.stdlib_module_names == {"numpy", "PIL", "onnxruntime", "tensorflow"}


def _write_frame(root, split, frame):
    """A drawn scene of 32 x 64 as a frame of Cityscapes: image, label ids and instances."""
    # sky, building, tree (vegetation), road, pavement (sidewalk), car, pole, sign
    label_ids = np.full(256, 0, "uint16")
    label_ids[:8] = 23, 11, 21, 7, 8, 26, 17, 20
    image, mask = scenes.draw(seed=0, index=sum(map(ord, frame)), size=(32, 64))
    ids = label_ids[mask]
    arrays = {
        "leftImg8bit/{}_leftImg8bit.png": image,
        "gtFine/{}_gtFine_labelIds.png": ids.astype("uint8"),
        # Things are 1000 x id + number: all cars are the first one.
        "gtFine/{}_gtFine_instanceIds.png": np.where(ids == 26, 26000, ids),
    }
    for name, array in arrays.items():
        kind, _, name = name.partition("/")
        path = root / kind / split / frame.partition("_")[0] / name.format(frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def _run(backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ran = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran


@pytest.mark.parametrize(
    "label, row",
    [
        ("FCN", "fcn"),
        ("+ skip connection of s2", "skip_s2"),
        ("+ pyramid", "psp"),
        ("+ aggregation", "aggregation"),
        ("+ both (SANet)", "sanet"),
    ],
)
def test_the_summary_of_the_results_is_what_they_say(label, row):
    cells = [label]
    for name in ("camvid", "scenes"):
        results = experiments.Results.load(RESULTS / name)
        mean, _, _ = experiments.interval(100 * results.values(row, "mean_iou"))
        cells.append(f"{mean:.1f}")
        mean, low, high = experiments.interval(100 * results.values(row, "mean_iou", "fcn"))
        cells.append(f"{mean:+.1f} ({low:+.1f} to {high:+.1f})" if row != "fcn" else "")
    assert f"| {' | '.join(cells)} |" in (RESULTS / "README.md").read_text("utf-8")


def test_a_difference_in_the_summary_is_what_the_results_say():
    text = (RESULTS / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == 10
    for folder, row, baseline, written in rows:
        results = experiments.Results.load(RESULTS / folder)
        mean, low, high = experiments.interval(100 * results.values(row, "mean_iou", baseline))
        assert written == f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_table_of_results_is_what_its_figures_say(path):
    results = experiments.Results.load(path.with_name("results.json"))
    assert path.read_text("utf-8") == results.table(path.stem)
