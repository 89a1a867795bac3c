"""Backbones against a plain PyTorch reading of section IV-B, and their normalisation."""

import lzma

import keras
import numpy as np
import pytest
from support import SHARED, to_numpy

from keras_sanet import backbones, weights
from keras_sanet.backbones import preprocessing

RESNET18 = SHARED / "weights/resnet18.safetensors.xz"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def random_image(rng, height, width):
    return rng.integers(0, 256, (1, height, width, 3), dtype="uint8")


@pytest.fixture(scope="module")
def tiny():
    return backbones.build("resnet_tiny")


@pytest.fixture(scope="module")
def resnext50():
    return backbones.ResNeXt50()


# The paper's dilation


def reference_taps(state, image, groups=1):
    """Taps by PyTorch: in stages 3 and 4 no strides, every 3x3 dilated by 2 and by 4."""
    import torch
    import torch.nn.functional as F

    state = {name: torch.tensor(np.asarray(value, "float32")) for name, value in state.items()}

    def conv(x, name, stride=1, dilation=1, groups=1):
        kernel = state[f"{name}.weight"]
        padding = dilation * (kernel.shape[-1] // 2)
        return F.conv2d(x, kernel, None, stride, padding, dilation, groups)

    def bn(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys), eps=1e-5)

    def basic(x, name, stride, dilation):
        x = F.relu(bn(conv(x, f"{name}.conv1", stride, dilation), f"{name}.bn1"))
        return bn(conv(x, f"{name}.conv2", 1, dilation), f"{name}.bn2")

    def bottleneck(x, name, stride, dilation):
        x = F.relu(bn(conv(x, f"{name}.conv1"), f"{name}.bn1"))
        x = F.relu(bn(conv(x, f"{name}.conv2", stride, dilation, groups), f"{name}.bn2"))
        return bn(conv(x, f"{name}.conv3"), f"{name}.bn3")

    block = bottleneck if "layer1.0.conv3.weight" in state else basic
    x = torch.tensor((image / 255 - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
    x = F.relu(bn(conv(x, "conv1", stride=2), "bn1"))
    taps = {"s0": x}
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, stride, dilation in ((1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 1, 4)):
        index = 0
        while (name := f"layer{stage}.{index}") + ".conv1.weight" in state:
            first = stride if index == 0 else 1
            shortcut = x
            if f"{name}.downsample.0.weight" in state:
                shortcut = bn(conv(x, f"{name}.downsample.0", first), f"{name}.downsample.1")
            x = F.relu(block(x, name, first, dilation) + shortcut)
            index += 1
        taps[f"s{stage}"] = x
    return {name: tap.permute(0, 2, 3, 1).numpy() for name, tap in taps.items()}


def assert_taps_close(taps, expected):
    assert list(taps) == list(expected) == ["s0", "s1", "s2", "s3", "s4"]
    for name, tap in taps.items():
        tap, size = to_numpy(tap), np.abs(expected[name]).max()
        assert tap.shape == expected[name].shape
        np.testing.assert_allclose(tap / size, expected[name] / size, 0, 1e-4, err_msg=name)


def test_iv_b_resnet18_with_real_weights_equals_the_reference(compiled, rng):
    pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.numpy")
    if not RESNET18.is_file():
        pytest.skip(f"no pretrained weights at {RESNET18}")
    backbone = backbones.ResNet18()
    weights.load_checkpoint(backbone, RESNET18)
    image = random_image(rng, 65, 97)
    with lzma.open(RESNET18) as file:
        state = safetensors.load(file.read())
    assert_taps_close(compiled(backbone)(image), reference_taps(state, image))


@pytest.mark.slow
def test_iv_b_resnext50_equals_the_reference(resnext50, random_checkpoint, compiled, tmp_path, rng):
    torch = pytest.importorskip("torch")
    state = random_checkpoint("resnext50")
    torch.save({name: torch.tensor(v) for name, v in state.items()}, tmp_path / "resnext50.pth")
    weights.load_checkpoint(resnext50, tmp_path / "resnext50.pth")
    image = random_image(rng, 49, 65)
    assert_taps_close(compiled(resnext50)(image), reference_taps(state, image, groups=32))


# Variants


@pytest.mark.slow
def test_resnext50_has_22979904_trainable_parameters(resnext50):
    # torchvision's 25,028,904 less the classifier, 2048 x 1000 + 1000 = 2,049,000.
    counted = sum(np.prod(tuple(v.shape)) for v in resnext50.trainable_variables)
    assert counted == 25_028_904 - 2_049_000 == 22_979_904


def test_names_lists_the_known_backbones():
    known = ["resnet_tiny", "resnet18", "resnet50", "resnet101", "resnext50", "resnext101"]
    assert backbones.names() == known


@pytest.mark.parametrize(
    ("output_stride", "strides"),
    [(8, (2, 4, 8, 8, 8)), (16, (2, 4, 8, 16, 16)), (32, (2, 4, 8, 16, 32))],
)
def test_taps_have_the_strides_and_channels_of_the_table(output_stride, strides):
    # A quarter of ResNet-18's width: 64 64 128 256 512 / 4.
    backbone = backbones.build("resnet_tiny", input_shape=(64, 96, 3), output_stride=output_stride)
    assert {name: tuple(tap.shape) for name, tap in backbone.output.items()} == {
        f"s{i}": (None, 64 // stride, 96 // stride, channels)
        for i, (stride, channels) in enumerate(zip(strides, (16, 16, 32, 64, 128)))
    }


@pytest.mark.slow
def test_bottleneck_taps_have_four_times_the_channels(resnext50):
    channels = {name: tap.shape[-1] for name, tap in resnext50.output.items()}
    assert channels == {"s0": 64, "s1": 256, "s2": 512, "s3": 1024, "s4": 2048}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "resnet19"}, "Unknown backbone 'resnet19'. Known: resnet_tiny, resnet18,"),
        ({"output_stride": 12}, "`output_stride` must be 8, 16 or 32. Received: 12"),
        ({"input_shape": (64, 64)}, r"must be \(height, width, channels\).*\(64, 64\)"),
        ({"input_shape": (64, 64, 0)}, r"at least one channel.*\(64, 64, 0\)"),
        ({"weights": "imagenet"}, "no ImageNet weights of resnet_tiny. There are of: resnet18, "),
    ],
)
def test_build_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        backbones.build(**{"variant": "resnet_tiny", **arguments})


# Other frameworks


@pytest.mark.parametrize(
    ("variant", "theirs"), [("resnet18", "resnet18"), ("resnext50", "resnext50_32x4d")]
)
def test_taps_equal_timms_at_output_stride_32(variant, theirs, timm, compiled, tmp_path, rng):
    # At 32 nothing is dilated: timm gives the first block of a stage the dilation before it.
    import torch

    torch.manual_seed(0)
    network = timm.create_model(theirs, features_only=True).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 1:  # a batch norm's, so that no map is zero
                value.uniform_(*((0.5, 1.5) if name.endswith(("var", "weight")) else (-0.2, 0.2)))
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    backbone = backbones.build(variant, output_stride=32, weights=tmp_path / "timm.pth")
    image = random_image(rng, 65, 97)
    with torch.no_grad():
        x = torch.tensor((image / 255 - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
        expected = {f"s{i}": y.permute(0, 2, 3, 1).numpy() for i, y in enumerate(network(x))}
    assert_taps_close(compiled(backbone)(image), expected)


# Normalisation


def test_channels_that_are_not_rgb_are_normalised_by_the_mean_of_the_three():
    mean, std = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3  # 0.449, 0.226
    for channels, means, deviations in (
        (1, [mean], [std]),
        (2, [mean, mean], [std, std]),
        (3, [*MEAN], [*STD]),
        (5, [*MEAN, mean, mean], [*STD, std, std]),
    ):
        found = preprocessing.statistics(channels)
        np.testing.assert_allclose(found, (means, deviations), rtol=1e-12)
        layer = backbones.build("resnet_tiny", input_shape=(None, None, channels)).get_layer(
            "normalization"
        )
        y = layer(np.full((1, 2, 2, channels), 51, "float32"))  # 51 / 255 = 0.2
        expected = (0.2 - np.array(means)) / deviations
        np.testing.assert_allclose(to_numpy(y)[0, 0, 0], expected, rtol=1e-5)


def test_uint8_and_float_images_give_the_same_taps(tiny, compiled, rng):
    image = random_image(rng, 17, 24)
    run = compiled(tiny)
    taps, expected = run(image), run(image.astype("float32"))
    for name in expected:
        np.testing.assert_array_equal(to_numpy(taps[name]), to_numpy(expected[name]))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_normalization_is_that_of_imagenet_in_float32(policy, rng):
    keras.config.set_dtype_policy(policy)
    image = rng.uniform(0, 255, (1, 8, 8, 3)).astype("float32")
    y = backbones.build("resnet_tiny").get_layer("normalization")(image)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_allclose(to_numpy(y), (image / 255 - MEAN) / STD, rtol=0, atol=1e-5)


def test_mixed_precision_does_not_round_the_image_before_its_normalization(compiled):
    # bfloat16 has eight bits: from 64 to 128 it steps by 0.5, and 100.2 would become 100. After
    # the normalisation 100.2 is -0.40 and the step 0.002, that is 0.11 of a grey level.
    keras.config.set_dtype_policy("mixed_bfloat16")
    run = compiled(backbones.build("resnet_tiny"))
    exact, near = (
        to_numpy(run(np.full((1, 16, 16, 3), value, "float32"))["s0"]) for value in (100.0, 100.2)
    )
    assert np.any(exact != near)
