"""The notebooks run from top to bottom, and are committed as such a run left them."""

import importlib.util
import json
import re
from pathlib import Path

import keras
import pytest

from keras_sanet.datasets import scenes

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
LARGEST = 600_000  # bytes of a file
# A path from the root of a disk, at the beginning of a word.
ABSOLUTE = re.compile(r"""(?:^|[\s"'(=])(/[\w.-]+/[\w.-]+|[A-Za-z]:\\\w+)""", re.MULTILINE)


@pytest.fixture
def notebooks():
    """The module that executes them."""
    for name in ("nbclient", "ipykernel", "matplotlib"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import notebooks

    return notebooks


@pytest.mark.slow
def test_quickstart_trains_saves_and_loads_the_same_model(notebooks, tmp_path):
    scenes.write(tmp_path / "scenes", size=(32, 48), splits={"train": 8, "val": 4})
    executed = notebooks.execute(
        "quickstart",
        tmp_path,
        data_folder=str(tmp_path / "scenes"),
        output_folder="out",
        epochs=2,
        crop_size=(32, 48),
    )
    printed = notebooks.text(executed)
    assert "8 train images, 4 val images" in printed
    assert "the loaded model predicts the same mask: True" in printed
    # The table of `evaluate`, where rich would show it by itself.
    assert "4 images of scenes, val; percent" in printed
    rows = (tmp_path / "out/log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1"]
    # 4 sheets of pictures as PNG and JPEG; curves, confusion matrix and gates are PNG alone.
    kinds = [kind for kind in _kinds(executed) if kind.startswith("image/")]
    assert (kinds.count("image/jpeg"), kinds.count("image/png")) == (4, 4 + 3)


@pytest.mark.slow
def test_own_data_is_checked_trained_shared_and_deployed(notebooks, tmp_path):
    backend = keras.backend.backend()
    for name in {
        "tensorflow": ("tf2onnx", "onnxruntime"),
        "torch": ("onnxscript", "onnxruntime"),
        "jax": ("tensorflow",),
    }[backend]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    executed = notebooks.execute(
        "own_data",
        tmp_path,
        pictures="pictures",
        output_folder="out",
        count=10,
        size=(32, 48),
        crop_size=(32, 48),
        epochs=1,
    )
    printed = notebooks.text(executed)
    # Every fifth is for validation; 0 is the first line of classes.txt, void.
    assert "8 train images, 2 val images" in printed
    assert "{255: 255, 0: 255, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6}" in printed
    assert "colours to ids and back: True" in printed
    assert "pictures: training would be safe." in printed
    assert "PROBLEM: train: masks look resized with interpolation" in printed
    same = re.search(r"same class as by Keras: ([\d.]+) %", printed)
    assert float(same[1]) > 99.9
    exported = "saved_model/saved_model.pb" if backend == "jax" else "model.onnx"
    for file in ("best.keras", "preset/config.json", "evaluation/evaluation.txt", exported):
        assert (tmp_path / "out" / file).stat().st_size > 100, file


def _kinds(notebook):
    """What the outputs of a notebook are there as."""
    return [
        kind
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        for kind in output.get("data", ())
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_one_run_without_noise(path):
    notebook = json.loads(path.read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code[0]["metadata"]["tags"] == ["parameters"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert "error" not in [output["output_type"] for output in outputs]
    assert "stderr" not in [output.get("name") for output in outputs]
    texts = [output.get("text", output.get("data", {}).get("text/plain")) for output in outputs]
    for text in texts:
        assert not ABSOLUTE.search("".join(text)), text
    assert "image/jpeg" in _kinds(notebook)
    assert path.stat().st_size < LARGEST


def test_a_path_from_the_root_is_told_from_a_share_and_an_address():
    assert ABSOLUTE.search("saved in /home/me/model.keras")
    assert ABSOLUTE.search("C:\\Users\\me")
    assert not ABSOLUTE.search("100/100 - 9s, runs/own_data/best.keras, https://keras.io/api")
