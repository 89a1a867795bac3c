"""The examples run as their headers say."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="MirroredStrategy needs TensorFlow"
)
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_train_on_two_replicas_then_load_on_jax(tmp_path):
    from keras_sanet.datasets import scenes

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


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="several hosts need JAX")
def test_several_hosts_train_one_model_and_go_on_with_it(tmp_path):
    from keras_sanet.datasets import scenes

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


def test_drop_in_prints_the_mean_iou_without_and_with_the_aggregator(tmp_path):
    from keras_sanet.datasets import scenes

    scenes.write(tmp_path / "scenes", size=(32, 48), splits={"train": 8, "val": 8})
    arguments = f"--data {tmp_path}/scenes --crop 32 48 --epochs 1"
    ran = _run(keras.backend.backend(), ROOT / "examples/drop_in.py", *arguments.split())
    lines = ran.stdout.splitlines()[-2:]
    assert [line.rpartition(" ")[0] for line in lines] == [
        "without the aggregator: mean IoU",
        "with the aggregator: mean IoU",
    ]
    assert all(0 <= float(line.rpartition(" ")[2]) <= 1 for line in lines)


def _run(backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ran = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran
