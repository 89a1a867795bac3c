"""Checkpoints of torchvision and timm: the formats, errors that name what is wrong, first kernels
for other channels than RGB, `convert`, and ImageNet's weights from a server on this machine."""

import functools
import hashlib
import http.server
import lzma
import re
import shutil
import threading

import keras
import numpy as np
import pytest

from keras_sanet import FCN, SANet, backbones, weights


@pytest.fixture(scope="module")
def backbone():
    return backbones.build("resnet_tiny", name="tiny")


@pytest.fixture
def state(random_checkpoint):
    return random_checkpoint("resnet_tiny")


def write(state, path):
    """The state dict as a file of the format that the suffix says."""
    if path.suffix in (".pth", ".pt"):
        torch = pytest.importorskip("torch")
        torch.save({name: torch.tensor(value) for name, value in state.items()}, path)
        return path
    safetensors = pytest.importorskip("safetensors.numpy")
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "wb") as file:
        file.write(safetensors.save(state))
    return path


def value_of(model, layer, variable):
    (found,) = [v for v in model.get_layer(layer).variables if v.name == variable]
    return np.asarray(keras.ops.convert_to_numpy(found))


def assert_loaded(model, state):
    # (out, in, height, width) there, (height, width, in, out) here
    np.testing.assert_array_equal(
        value_of(model, "layer2_0_conv1", "kernel"),
        state["layer2.0.conv1.weight"].transpose(2, 3, 1, 0),
    )
    for ours, theirs in (
        ("gamma", "weight"),
        ("beta", "bias"),
        ("moving_mean", "running_mean"),
        ("moving_variance", "running_var"),
    ):
        np.testing.assert_array_equal(
            value_of(model, "layer3_0_downsample_1", ours),
            state[f"layer3.0.downsample.1.{theirs}"],
        )


def assert_refused(backbone, path, error, *messages):
    """The error says all of `messages`, and no weight has changed."""
    before = backbone.get_weights()
    with pytest.raises(error) as caught:
        weights.load_checkpoint(backbone, path)
    for message in (*messages, str(path)):
        assert message in str(caught.value)
    for old, new in zip(before, backbone.get_weights()):
        np.testing.assert_array_equal(new, old)


def test_a_state_dict_that_a_training_script_wrapped_is_found(state, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "last.pth")
    backbone = backbones.build("resnet_tiny")
    weights.load_checkpoint(backbone, tmp_path / "last.pth")
    assert_loaded(backbone, state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".safetensors.xz"])
def test_every_format_loads_without_the_classifier(suffix, state, tmp_path):
    backbone = backbones.build("resnet_tiny")
    assert "fc.weight" in state
    weights.load_checkpoint(backbone, write(state, tmp_path / f"tiny.v1{suffix}"))
    assert_loaded(backbone, state)


def test_all_variables_of_a_backbone_are_loaded(state, tmp_path):
    backbone = backbones.build("resnet_tiny")
    weights.load_checkpoint(backbone, write(state, tmp_path / "tiny.safetensors"))
    # Sums of all values, whatever their order; fc.* has no place here.
    expected = sum(v.sum(dtype="float64") for k, v in state.items() if not k.startswith("fc."))
    loaded = sum(v.sum(dtype="float64") for v in backbone.get_weights())
    np.testing.assert_allclose(loaded, expected, rtol=1e-9)


def test_counters_of_pytorchs_batch_norm_are_ignored(state, backbone, tmp_path):
    state["bn1.num_batches_tracked"] = np.array(7)
    weights.load_checkpoint(backbone, write(state, tmp_path / "tiny.safetensors"))
    assert_loaded(backbone, state)


def test_float16_kernels_are_widened(state, backbone, tmp_path):
    half = {k: v.astype("float16") if v.ndim == 4 else v for k, v in state.items()}
    weights.load_checkpoint(backbone, write(half, tmp_path / "tiny.safetensors"))
    kernel = value_of(backbone, "conv1", "kernel")
    assert kernel.dtype == "float32"
    expected = half["conv1.weight"].astype("float32").transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


def test_sanet_loads_its_backbone(state, tmp_path):
    path = write(state, tmp_path / "tiny.safetensors")
    model = SANet(
        2,
        "resnet_tiny",
        backbone_weights=path,
        aggregator_filters=4,
        pyramid_filters=4,
        bins=None,
        taps=("s4",),
    )
    assert_loaded(model.get_layer("backbone"), state)
    state = {name: value + 1 for name, value in state.items()}
    weights.load_checkpoint(model, write(state, tmp_path / "more.safetensors"))
    assert_loaded(model.get_layer("backbone"), state)


def test_names_missing_in_the_file_are_listed(state, backbone, tmp_path):
    del state["bn1.running_var"], state["layer4.0.conv2.weight"]
    assert_refused(
        backbone,
        write(state, tmp_path / "less.safetensors"),
        ValueError,
        "bn1.running_var: missing in the file",
        "layer4.0.conv2.weight: missing in the file",
        "does not fit tiny; nothing was loaded",
    )


def test_names_that_the_backbone_lacks_are_listed(state, backbone, tmp_path):
    state["layer1.1.conv1.weight"] = state["layer1.0.conv1.weight"].copy()
    path = write(state, tmp_path / "more.safetensors")
    assert_refused(backbone, path, ValueError, "layer1.1.conv1.weight: not in tiny")


def test_wrong_shapes_are_listed_with_both(state, backbone, tmp_path):
    state["conv1.weight"] = np.zeros((8, 3, 7, 7), "float32")
    assert_refused(
        backbone,
        write(state, tmp_path / "narrow.safetensors"),
        ValueError,
        "conv1.weight: shape (7, 7, 3, 8) in the file",
        "(7, 7, 3, 16) in tiny",
    )


def test_twenty_differences_are_listed_and_the_others_counted(state, backbone, tmp_path):
    # 12 convolutions (the first, 4 x 2, 3 shortcuts), each with 4 values of a batch norm: 60 names,
    # of which 59 are missing.
    path = write({"conv1.weight": state["conv1.weight"]}, tmp_path / "one.safetensors")
    assert_refused(backbone, path, ValueError, "and 39 more")


def test_another_backbone_is_named(state, tmp_path):
    path = write(state, tmp_path / "tiny.safetensors")
    theirs = keras.applications.MobileNet(weights=None, include_top=False)  # has a conv1 too
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="dense")
    for model, name in ((FCN(2, theirs, filters=4), "backbone"), (dense, "dense")):
        message = f"'{name}' is no backbone of `keras_sanet.backbones`; load its weights as its"
        assert_refused(model, path, ValueError, message)


def test_the_prefix_of_data_parallel_is_left_out(state, tmp_path):
    backbone = backbones.build("resnet_tiny")
    parallel = {f"module.{name}": value for name, value in state.items()}
    weights.load_checkpoint(backbone, write(parallel, tmp_path / "tiny.safetensors"))
    assert_loaded(backbone, state)


@pytest.mark.parametrize("names", [["encoder.conv1.weight"], []])
def test_a_file_of_which_nothing_fits_is_an_error_without_strict_too(
    names, state, backbone, tmp_path
):
    path = write(dict.fromkeys(names, state["conv1.weight"]), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not fit tiny; nothing was loaded"):
        weights.load_checkpoint(backbone, path, strict=False)


def test_an_unknown_suffix_is_named(backbone, tmp_path):
    path = tmp_path / "tiny.h5"
    path.write_bytes(b"")
    message = "must end in .safetensors, .safetensors.xz, .pth, .pt or .weights.h5"
    assert_refused(backbone, path, ValueError, message)


def test_a_missing_file_is_named(backbone, tmp_path):
    assert_refused(backbone, tmp_path / "none.pth", FileNotFoundError, "No weights file")


def test_a_damaged_file_is_named(backbone, tmp_path):
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(b"<html>404 Not Found</html>")
    assert_refused(backbone, path, ValueError, "can't be read as a checkpoint")


# The report


def test_what_fits_is_loaded_without_strict_and_the_rest_reported(state, tmp_path):
    del state["bn1.running_var"]
    state["conv1.weight"] = np.zeros((8, 3, 7, 7), "float32")
    state["layer1.1.conv1.weight"] = state["layer1.0.conv1.weight"].copy()
    path = write(state, tmp_path / "other.safetensors")
    backbone = backbones.build("resnet_tiny", name="tiny")
    before = value_of(backbone, "conv1", "kernel")
    report = weights.load_checkpoint(backbone, path, strict=False)
    assert_loaded(backbone, state)
    np.testing.assert_array_equal(value_of(backbone, "conv1", "kernel"), before)
    np.testing.assert_array_equal(value_of(backbone, "bn1", "moving_variance"), 1)  # as it began
    assert report.missing == ["bn1.running_var"]
    assert report.unexpected == ["layer1.1.conv1.weight"]
    assert report.shapes == {"conv1.weight": ((7, 7, 3, 8), (7, 7, 3, 16))}
    # 12 convolutions with 5 values each are 60, less the missing one and the one of another shape.
    assert len(report.loaded) == 58
    assert repr(report) == f"<Report of {path}: 58 of 60 arrays of tiny loaded, 1 unexpected>"
    assert str(report).splitlines() == [
        f"{path}: 58 of 60 arrays of tiny loaded",
        "  bn1.running_var: missing in the file",
        "  conv1.weight: shape (7, 7, 3, 8) in the file (height, width, in, out), "
        "(7, 7, 3, 16) in tiny",
        "  layer1.1.conv1.weight: not in tiny",
    ]


def test_a_checkpoint_that_fits_is_reported_in_one_line(state, backbone, tmp_path):
    path = write(state, tmp_path / "tiny.safetensors")
    assert str(weights.load_checkpoint(backbone, path)) == f"{path}: 60 of 60 arrays of tiny loaded"


# Other channels


@pytest.mark.parametrize(
    ("channels", "kernels"),  # R is 0, G 1, B 2
    [(1, None), (2, [0, 1]), (4, [0, 1, 2, 0]), (7, [0, 1, 2, 0, 1, 2, 0])],
)
def test_a_first_kernel_for_rgb_is_adapted_to_other_channels(channels, kernels, state, tmp_path):
    path = write(state, tmp_path / "tiny.safetensors")
    backbone = backbones.build("resnet_tiny", input_shape=(None, None, channels), name="tiny")
    report = weights.load_checkpoint(backbone, path)
    rgb = state["conv1.weight"].transpose(2, 3, 1, 0)
    # So that equal channels give what R = G = B would: the sum, or C kernels of 3 / C.
    expected = rgb.sum(2, keepdims=True) if kernels is None else rgb[:, :, kernels] * 3 / channels
    np.testing.assert_allclose(
        value_of(backbone, "conv1", "kernel"), expected, rtol=1e-5, atol=1e-6
    )
    assert_loaded(backbone, state)
    assert f"conv1.weight: adapted from RGB to {channels} channels" in str(report)


def test_first_kernels_are_adapted_as_timm_does(timm, state, tmp_path):
    import torch

    path = write(state, tmp_path / "tiny.safetensors")
    for channels in (1, 4, 6):
        backbone = backbones.build("resnet_tiny", input_shape=(None, None, channels))
        weights.load_checkpoint(backbone, path)
        expected = timm.models.adapt_input_conv(channels, torch.tensor(state["conv1.weight"]))
        found = value_of(backbone, "conv1", "kernel").transpose(3, 2, 0, 1)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_first_kernel_for_four_channels_is_not_adapted_to_rgb(state, backbone, tmp_path):
    state["conv1.weight"] = np.zeros((16, 4, 7, 7), "float32")
    path = write(state, tmp_path / "tiny.safetensors")
    assert_refused(backbone, path, ValueError, "conv1.weight: shape (7, 7, 4, 16) in the file")


# Converting


def test_what_convert_writes_is_loaded_by_keras_by_us_and_for_other_channels(state, tmp_path):
    checkpoint = write(state, tmp_path / "tiny.safetensors")
    output = tmp_path / "tiny.weights.h5"
    report = weights.convert(backbones.build("resnet_tiny", name="tiny"), checkpoint, output)
    assert str(report) == f"{checkpoint}: 60 of 60 arrays of tiny loaded"
    assert sorted(tmp_path.iterdir()) == [checkpoint, output]  # and nothing temporary
    keras_loads = backbones.build("resnet_tiny", output_stride=16)
    keras_loads.load_weights(output)
    we_load = backbones.build("resnet_tiny", weights=output)
    for backbone in (keras_loads, we_load):
        assert_loaded(backbone, state)
        kernel = value_of(backbone, "conv1", "kernel")
        np.testing.assert_array_equal(kernel, state["conv1.weight"].transpose(2, 3, 1, 0))
    for old, new in zip(keras_loads.get_weights(), we_load.get_weights()):
        np.testing.assert_array_equal(new, old)
    grey = value_of(
        backbones.build("resnet_tiny", input_shape=(9, 9, 1), weights=output), "conv1", "kernel"
    )
    np.testing.assert_allclose(grey, kernel.sum(2, keepdims=True), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_that_does_not_fit_leaves_the_output_as_it_was(state, backbone, tmp_path):
    output = tmp_path / "tiny.weights.h5"
    output.write_bytes(b"before")
    del state["conv1.weight"]
    checkpoint = write(state, tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match="conv1.weight: missing in the file"):
        weights.convert(backbone, checkpoint, output)
    assert output.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == [checkpoint, output]


def test_a_full_disk_is_one_error_and_leaves_what_was_there(
    state, backbone, full_disk, tmp_path, capfd
):
    output = tmp_path / "out.weights.h5"
    output.write_text("old")
    path = write(state, tmp_path / "a.safetensors")
    with full_disk(10_000), pytest.raises(OSError, match=r"File too large: .*out\.weights\.h5"):
        weights.convert(backbone, path, output)
    assert output.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [path, output]
    assert "Traceback" not in capfd.readouterr().err  # HDF5's


def test_convert_wants_the_suffix_of_keras(backbone, tmp_path):
    with pytest.raises(ValueError, match="must end in .weights.h5. Received: .*tiny.h5"):
        weights.convert(backbone, tmp_path / "tiny.pth", tmp_path / "tiny.h5")


# ImageNet


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the files in its `folder`; `requests` counts what it was asked for."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            server.requests.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    )
    server.folder, server.requests = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(server, state, tmp_path, monkeypatch):
    """resnet_tiny's "imagenet" is `state`, on the server; returns where it is cached."""
    path = write(state, server.folder / "tiny.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/{path.name}"
    source = weights.Pretrained(url, f"sha256:{digest}", 12.3, "CC0-1.0")
    monkeypatch.setitem(weights.IMAGENET, "resnet_tiny", source)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "keras_sanet"


def build():
    return backbones.build("resnet_tiny", weights="imagenet")


def test_imagenet_is_downloaded_once(server, published, state, capsys):
    assert_loaded(build(), state)
    assert [path.name for path in published.iterdir()] == ["tiny.safetensors"]
    assert "license CC0-1.0" in capsys.readouterr().out
    shutil.rmtree(server.folder)  # nothing is asked of the server any more
    arguments = {"aggregator_filters": 4, "pyramid_filters": 4, "bins": None, "taps": ("s4",)}
    model = SANet(2, "resnet_tiny", backbone_weights="imagenet", **arguments)
    assert_loaded(model.get_layer("backbone"), state)
    arguments |= {"backbone_weights": "imagenet", "input_shape": (None, None, 1)}
    grey = SANet(2, "resnet_tiny", **arguments)
    assert_loaded(grey.get_layer("backbone"), state)
    assert server.requests == ["/tiny.safetensors"]


def test_imagenet_for_other_channels_first_caches_that_for_rgb(published, state):
    grey = backbones.build("resnet_tiny", input_shape=(None, None, 1), weights="imagenet")
    kernel = state["conv1.weight"].transpose(2, 3, 1, 0)
    found = value_of(grey, "conv1", "kernel")
    np.testing.assert_allclose(found, kernel.sum(2, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(value_of(build(), "conv1", "kernel"), kernel)


def assert_not_fetched(published, error, *messages):
    """The error says all of `messages` and the way out, and nothing stays in the cache."""
    source = weights.IMAGENET["resnet_tiny"]
    before = sorted(published.iterdir()) if published.exists() else []
    with pytest.raises(error) as caught:
        build()
    way_out = f"Fetch {source.url} by other means, put it into {published} as tiny.safetensors"
    for message in (way_out, source.digest, *messages):
        assert message in str(caught.value)
    assert sorted(published.iterdir()) == before


def test_another_file_at_the_url_is_refused(server, published):
    (server.folder / "tiny.safetensors").write_bytes(b"something else")
    digest = hashlib.sha256(b"something else").hexdigest()
    message = f"gave not the file that was expected: its sha256 is {digest}"
    assert_not_fetched(published, ValueError, message)


def test_a_missing_file_at_the_url_is_told(server, published):
    (server.folder / "tiny.safetensors").unlink()
    assert_not_fetched(published, OSError, "weights of resnet_tiny were not downloaded", "404")


def test_without_a_network_the_error_says_what_to_put_where(server, published, state):
    server.shutdown()
    server.server_close()
    assert_not_fetched(published, OSError, "weights of resnet_tiny were not downloaded")
    write(state, published / "tiny.safetensors")
    assert_loaded(build(), state)
    assert [path.name for path in published.iterdir()] == ["tiny.safetensors"]


def test_what_version_0_1_0_converted_needs_no_download(server, published, state, tmp_path):
    published.mkdir(parents=True)
    checkpoint = write(state, tmp_path / "state.safetensors")
    weights.convert(backbones.build("resnet_tiny"), checkpoint, published / "tiny.weights.h5")
    assert_loaded(build(), state)
    assert server.requests == []


def test_another_file_put_into_the_cache_is_named(server, published):
    published.mkdir(parents=True)
    (published / "tiny.safetensors").write_bytes(b"something else")
    assert_not_fetched(published, ValueError, f"{published / 'tiny.safetensors'} is not the file")
    assert server.requests == []


def test_a_cached_file_that_changed_is_named(published):
    build()
    file = published / "tiny.safetensors"
    good = file.read_bytes()
    for content in (good[: len(good) // 2], good[:-1] + b"x"):
        file.write_bytes(content)
        assert_not_fetched(published, ValueError, f"{file} is not the file that was expected")


def test_imagenet_is_not_for_a_backbone_that_is_built_already(backbone):
    with pytest.raises(ValueError, match='"imagenet" is for the name of a backbone'):
        SANet(2, backbone, backbone_weights="imagenet")


def test_the_digests_of_imagenet_are_those_that_the_file_names_begin():
    assert set(weights.IMAGENET) == set(backbones.names()) - {"resnet_tiny"}
    for name, source in weights.IMAGENET.items():
        prefix = re.search(r"-([0-9a-f]{8})\.pth$", source.url)[1]
        algorithm, _, digest = source.digest.partition(":")
        if algorithm == "sha256":
            assert digest.startswith(prefix), name
        # Whole ones: 256 and 512 bits of 4 a digit; of resnext101 the name's eight alone.
        length = {"resnext50": 128, "resnext101": 8}.get(name, 64)
        assert re.fullmatch(f"[0-9a-f]{{{length}}}", digest), name
