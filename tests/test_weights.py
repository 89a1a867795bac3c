"""Checkpoints of torchvision and timm: three formats in, and errors that name what is wrong."""

import lzma

import keras
import numpy as np
import pytest

from keras_sanet import SANet, backbones, weights


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
        2, "resnet_tiny", path, aggregator_filters=4, pyramid_filters=4, bins=None, taps=("s4",)
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


def test_an_unknown_suffix_is_named(backbone, tmp_path):
    path = tmp_path / "tiny.h5"
    path.write_bytes(b"")
    assert_refused(backbone, path, ValueError, "must end in .safetensors, .safetensors.xz, .pth")


def test_a_missing_file_is_named(backbone, tmp_path):
    assert_refused(backbone, tmp_path / "none.pth", FileNotFoundError, "No weights file")
