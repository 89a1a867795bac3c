"""Several devices, and several processes, compute what one device does."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sanet import _backend, distribution, layers, pipeline, saving
from keras_sanet.datasets import load, scenes

BACKEND = keras.backend.backend()
SCRIPT = Path(__file__).with_name("replicas.py")
needs_replicas = pytest.mark.skipif(BACKEND == "torch", reason="`fit` of PyTorch has one device")
needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of tf.distribute")
needs_jax = pytest.mark.skipif(BACKEND != "jax", reason="several processes are for JAX")


def start(*arguments, backend=BACKEND):
    environment = {
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",  # whose convolutions fail without an image
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def finish(*processes):
    """What they printed."""
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that waits for another
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-3000:]
    return outputs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Folder of 8 images to train with and 5 to validate, 16 x 16, of 4 classes and more and more
    void."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 5)):
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for i in range(count):
            mask = rng.integers(0, 4, (16, 16)).astype("uint8")
            mask[:, : 2 * i] = 255
            Image.fromarray(mask).save(root / f"masks/{split}/{i}.png")
            image = rng.integers(0, 256, (16, 16, 3)).astype("uint8")
            Image.fromarray(image).save(root / f"images/{split}/{i}.png")
    (root / "classes.txt").write_text("a\nb\nc\nd\n", "utf-8")
    return root


@pytest.fixture(scope="module")
def runs(pairs, tmp_path_factory):
    """Folders of what 1 device and 2 wrote."""
    folders = {n: tmp_path_factory.mktemp(f"devices{n}") for n in (1, 2)}
    finish(*(start(SCRIPT, n, pairs, folder) for n, folder in folders.items()))
    return folders


def figures(folder, case):
    """Figures of a case, by name."""
    with np.load(folder / "figures.npz") as file:
        return {name.partition("/")[2]: file[name] for name in file if name.startswith(f"{case}/")}


def assert_same(found, expected, tolerance=1e-5, without=()):
    assert found.keys() == expected.keys()
    for name in found.keys() - set(without):
        np.testing.assert_allclose(found[name], expected[name], tolerance, tolerance, err_msg=name)


# Steps


@pytest.mark.slow
@needs_replicas
def test_two_devices_train_as_one_loss_metrics_weights_and_statistics(runs):
    one, two = (figures(runs[n], "sanet") for n in (1, 2))
    assert [int(figures(runs[n], "devices")[""]) for n in (1, 2)] == [1, 2]
    # `val_loss` counts the void sample beside the last image.
    assert_same(two, one, without=["val_loss"])
    assert {"loss", "weights", "statistics", "mean_iou", "val_cross_entropy"} <= one.keys()
    assert one["loss"][1] != one["loss"][0]


@pytest.mark.slow
@needs_replicas
def test_batches_of_one_image_are_evaluated_by_two_devices(runs):
    assert_same(*(figures(runs[n], "single") for n in (2, 1)))


@pytest.mark.slow
@needs_replicas
def test_three_images_are_predicted_by_two_devices(runs):
    assert_same(*(figures(runs[n], "predicted") for n in (2, 1)))


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize(
    "loss",
    ["cross_entropy", "class_weights", "binned", "binned_sum", "binned_none",
     "binned_two_classes", "per_image", "per_image_sum"],
)  # fmt: skip
def test_a_loss_and_its_gradient_are_of_the_batch_of_all_replicas(loss, runs):
    # 9 images in batches of 4, 4 and 1: the last is of one replica, and void is in few.
    assert_same(*(figures(runs[n], loss) for n in (2, 1)))


@pytest.mark.slow
@needs_tensorflow
def test_statistics_of_two_replicas_in_bfloat16_are_float32_and_those_of_one(runs):
    one, two = (figures(runs[n], "mixed") for n in (1, 2))
    assert two["statistics"].dtype == np.float32
    assert_same(two, one, tolerance=2e-2)  # bfloat16 has 8 bits: 4e-3


@pytest.mark.slow
@needs_replicas
def test_a_model_saved_by_two_devices_is_the_same_here_and_on_another_backend(runs, rng):
    path = runs[2] / "model.keras"
    image = rng.integers(0, 256, (1, 16, 16, 3)).astype("float32")
    np.save(runs[2] / "image.npy", image)
    other = "jax" if BACKEND == "tensorflow" else "tensorflow"
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    code = (
        "import keras, keras_sanet, numpy as np\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        f"image = np.load({str(runs[2] / 'image.npy')!r})\n"
        f"np.save({str(runs[2] / 'logits.npy')!r}, model.predict(image, verbose=0))"
    )
    finish(start("-c", code, backend=other))
    expected = saving.load_model(path).predict(image, verbose=0)
    np.testing.assert_allclose(np.load(runs[2] / "logits.npy"), expected, rtol=0, atol=1e-4)


@needs_tensorflow
def test_stock_batch_norm_alone_is_synchronized_by_a_switch():
    norms = [keras.layers.BatchNormalization(), layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((4, 4, 3)), *norms])
    assert distribution.synchronize_batch_norm(model) == 1
    assert [norm.synchronized for norm in norms] == [True, False]
    assert distribution.synchronize_batch_norm(model, synchronized=False) == 1
    assert not norms[0].synchronized


@pytest.mark.skipif(BACKEND == "tensorflow", reason="on TensorFlow no error")
def test_synchronized_batch_norm_off_tensorflow_is_an_error():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.BatchNormalization()])
    with pytest.raises(ValueError, match="`synchronized` needs TensorFlow. Received: synchronized"):
        distribution.synchronize_batch_norm(model)


# Processes


@pytest.fixture(scope="module")
def hosts(pairs, tmp_path_factory):
    """Folders of what each of two processes wrote."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    folders = [tmp_path_factory.mktemp(f"process{i}") for i in range(2)]
    finish(*(start(SCRIPT, "auto", pairs, f, address, i) for i, f in enumerate(folders)))
    return folders


@pytest.mark.slow
@needs_jax
def test_two_processes_have_the_very_same_weights_and_figures(hosts):
    for case in ("sanet", "single"):
        assert_same(*(figures(folder, case) for folder in hosts), tolerance=0)


@pytest.mark.slow
@needs_jax
def test_two_processes_train_as_one(hosts, runs):
    # Each loads 2 of the 4 images of a batch; of the last one of `val` a process has a void one.
    assert_same(figures(hosts[0], "sanet"), figures(runs[1], "sanet"), without=["val_loss"])
    assert_same(figures(hosts[0], "single"), figures(runs[1], "single"))


@pytest.mark.slow
@needs_jax
def test_process_0_alone_saves(hosts):
    assert [(folder / "model.keras").is_file() for folder in hosts] == [True, False]
    saving.load_model(hosts[0] / "model.keras")


@pytest.fixture
def two_processes(monkeypatch):
    """Makes data sets of each of two processes."""

    def make(index, *arguments, **options):
        monkeypatch.setattr(_backend, "process", lambda: (index, 2))
        monkeypatch.setattr(_backend, "devices", lambda: 4)
        return pipeline.make_dataset(*arguments, **options)

    return make


def batches(dataset):
    if isinstance(dataset, keras.utils.PyDataset):
        return [dataset[i] for i in range(len(dataset))]
    return [tuple(np.asarray(part) for part in batch) for batch in dataset.as_numpy_iterator()]


LOADERS = ["pillow"] + ["tf.data"] * (BACKEND == "tensorflow")


@pytest.mark.parametrize("loader", LOADERS)
def test_shares_of_two_processes_are_the_batches_of_one(loader, pairs, two_processes):
    options = {"crop_size": (8, 8), "batch_size": 4, "seed": 3, "loader": loader}
    whole = batches(pipeline.make_dataset(load("folder", pairs), "train", **options))
    shares = [
        batches(two_processes(i, load("folder", pairs), "train", **options)) for i in range(2)
    ]
    assert len(whole) == 2
    for batch, *parts in zip(whole, *shares):
        assert [len(part[0]) for part in parts] == [2, 2]
        for array, *halves in zip(batch, *parts):
            np.testing.assert_array_equal(array, np.concatenate(halves))


@pytest.mark.parametrize("loader", LOADERS)
def test_the_last_batch_of_an_evaluation_is_filled_up_with_void(loader, pairs, two_processes):
    data, options = load("folder", pairs), {"batch_size": 4, "training": False, "loader": loader}
    first, second = (batches(two_processes(i, data, "val", **options)) for i in range(2))
    # 5 images: a batch of 4, and 1 + 3 void ones for 4 devices, 2 of each process
    images, masks = (np.concatenate(parts) for parts in zip(first[1], second[1]))
    assert len(first[1][0]) == 2
    assert len(images) == 4
    assert images[0].any() and (masks[0] != 255).any()
    assert not images[1:].any() and (masks[1:] == 255).all()


@pytest.mark.parametrize(("batch_size", "drop"), [(6, None), (3, False)])
def test_training_batches_that_devices_cannot_share_are_refused(
    batch_size, drop, pairs, two_processes
):
    options = {"crop_size": 8, "batch_size": batch_size, "drop_remainder": drop}
    with pytest.raises(ValueError, match=f"each of 4 devices.*batch_size={batch_size}"):
        two_processes(0, load("folder", pairs), "train", loader="pillow", **options)


# The scope


def test_one_device_has_no_strategy():
    with distribution.scope(1) as devices:
        assert len(devices) == 1
        assert (_backend.devices(), _backend.replicas(), _backend.process()) == (1, 1, (0, 1))
        assert keras.distribution.distribution() is None
    assert distribution.is_chief()


@pytest.mark.parametrize("devices", [0, -1, True, 1.5, [], "gpu", [0, 1], None])
def test_what_names_no_devices_is_refused(devices):
    with (
        pytest.raises(ValueError, match='`devices` must be "auto", a positive number or a list'),
        distribution.scope(devices),
    ):
        pass


@needs_replicas
def test_a_started_backend_cannot_split_its_cpu():
    keras.ops.zeros(1) + 1
    for devices in (64, [f"cpu:{i}" for i in range(64)]):
        with (
            pytest.raises(ValueError, match="open the scope first, in a new process"),
            distribution.scope(devices),
        ):
            pass


@pytest.mark.skipif(BACKEND != "torch", reason="an error of PyTorch alone")
@pytest.mark.parametrize("devices", [2, ["cuda:0", "cuda:1"]])
def test_several_devices_on_pytorch_are_refused_with_the_way_out(devices):
    with (
        pytest.raises(ValueError, match="trains on one device.*DistributedDataParallel"),
        distribution.scope(devices),
    ):
        pass


@pytest.mark.slow
@needs_replicas
def test_the_command_trains_on_two_devices(tmp_path):
    scenes.write(tmp_path / "scenes", size=(32, 48), splits={"train": 4, "val": 3})
    arguments = (
        f"-m keras_sanet train --devices 2 --dataset scenes --data {tmp_path}/scenes --model fcn "
        "--backbone resnet_tiny --crop-size 32 48 --batch-size 4 --epochs 1 "
        f"--output {tmp_path}/run"
    )
    (printed,) = finish(start(*arguments.split()))
    assert "2 replicas: cpu:0, cpu:1" in printed
    config = json.loads((tmp_path / "run/config.json").read_text("utf-8"))
    assert config["devices"] == 2
    assert "devices" not in config["arguments"]  # which another machine may repeat
    assert (tmp_path / "run/evaluation.txt").is_file()
