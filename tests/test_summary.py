"""Parameters and multiply-accumulates: by hand, and against PyTorch's own counter."""

import json
import re
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from support import call

import keras_sanet
from keras_sanet.experiments.table2 import TableII, deeplab_v3_plus
from keras_sanet.layers import (
    BatchNormalization,
    Conv2D,
    ConvLSTMAggregator,
    FeatureAdapter,
    PyramidPooling,
    SegmentationOutput,
)
from keras_sanet.summary import Summary, norms_of_one_value

H, W, C = 4, 6, 4  # height, width and channels of the small images


def model_of(*called):
    """A model of images (4, 6, 4) that calls one after another."""
    x = image = keras.Input((H, W, C))
    for layer in called:
        x = layer(x)
    return keras.Model(image, x, name="model")


# A layer and its multiply-accumulates, by hand.
BY_HAND = {
    "convolution": (lambda: model_of(layers.Conv2D(5, 3, padding="same")), 24 * 3 * 3 * 4 * 5),
    "strides": (lambda: model_of(layers.Conv2D(5, 3, 2, padding="same")), 2 * 3 * 3 * 3 * 4 * 5),
    "valid padding": (lambda: model_of(layers.Conv2D(5, 3)), 2 * 4 * 3 * 3 * 4 * 5),
    "groups": (lambda: model_of(layers.Conv2D(6, 1, groups=2)), 24 * 2 * 6),
    "ours": (lambda: model_of(Conv2D(6, 3, padding="same", groups=2)), 24 * 3 * 3 * 2 * 6),
    "depthwise": (
        lambda: model_of(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)),
        24 * 3 * 3 * 4 * 2,
    ),
    "separable": (
        lambda: model_of(layers.SeparableConv2D(5, 3, padding="same")),
        24 * (3 * 3 * 4 + 4 * 5),
    ),
    "transposed": (
        lambda: model_of(layers.Conv2DTranspose(5, 3, 2, padding="same")),
        24 * 3 * 3 * 4 * 5,  # each position of the map, not of the result
    ),
    "dense": (lambda: model_of(layers.Dense(7)), 24 * 4 * 7),
    "nothing": (
        lambda: model_of(
            layers.BatchNormalization(), BatchNormalization(), layers.GroupNormalization(2),
            layers.MaxPooling2D(), layers.Resizing(5, 5), layers.UpSampling2D(),
            layers.Normalization(mean=[0.0] * 4, variance=[1.0] * 4),
        ),
        0,
    ),
    "Eq. 1": (
        lambda: model_of(lambda x: FeatureAdapter(5)(x, layers.MaxPooling2D()(x))),
        2 * 3 * 4 * 5,  # at the grid of the target
    ),
    "psi alone": (lambda: model_of(lambda x: FeatureAdapter()(x, layers.MaxPooling2D()(x))), 0),
    "Eqs 2-8": (
        lambda: model_of(lambda x: ConvLSTMAggregator(5)([x, x, x])),
        24 * 9 * 20 * (3 * 4 + 2 * 5),  # three input convolutions, two recurrent ones
    ),
    "one map": (lambda: model_of(lambda x: ConvLSTMAggregator(5)([x])), 24 * 9 * 20 * 4),
    "pyramid": (
        lambda: model_of(PyramidPooling(5, (1, 2))),
        (1 + 4) * 4 * 5 + 24 * 9 * (4 + 5 + 5) * 5,
    ),
    "no pyramid": (lambda: model_of(PyramidPooling(5, None)), 24 * 9 * 4 * 5),
    "output": (lambda: model_of(lambda x: SegmentationOutput()(layers.MaxPooling2D()(x), x)), 0),
}  # fmt: skip


@pytest.mark.parametrize("rule", BY_HAND)
def test_a_layer_counts_as_by_hand(rule):
    build, macs = BY_HAND[rule]
    summary = Summary(build())
    assert (summary.macs, summary.uncounted, summary.unread) == (macs, [], [])


def test_two_images_count_twice():
    assert Summary(model_of(layers.Conv2D(5, 1)), batch_size=2).macs == 2 * 24 * 4 * 5


@pytest.mark.slow
def test_mixed_precision_changes_nothing():
    keras.config.set_dtype_policy("mixed_bfloat16")
    small = keras_sanet.SANet(3, "resnet_tiny", aggregator_filters=4, pyramid_filters=4)
    keras.config.set_dtype_policy("float32")
    same = keras_sanet.SANet(3, "resnet_tiny", aggregator_filters=4, pyramid_filters=4)
    assert Summary(small, (32, 40)).rows == Summary(same, (32, 40)).rows


def test_a_shared_layer_counts_as_often_as_it_is_called_and_its_weights_once():
    shared = layers.Dense(C, name="shared")
    summary = Summary(model_of(shared, shared, shared))
    (row,) = summary.rows
    assert (row.calls, row.macs) == (3, 3 * 24 * 4 * 4)
    assert row.parameters == summary.parameters == 4 * 4 + 4
    assert "shared (3 times)" in str(summary)


def test_weights_that_two_models_share_stand_at_the_first():
    inner = layers.Dense(C, name="inner")
    first, second = (keras.Sequential([inner], name=name) for name in ("first", "second"))
    rows = {row.name: row.parameters for row in Summary(model_of(first, second)).rows}
    assert rows == {"first": 20, "first/inner": 20, "second": 0, "second/inner": 0}


def test_a_layer_holds_those_inside_of_it():
    inner = keras.Sequential([layers.Dense(5), layers.BatchNormalization()], name="inner")
    inner.layers[0].trainable = False
    summary = Summary(model_of(inner, layers.Dense(2, name="last")))
    found = [(r.name.count("/"), r.depth, r.parameters, r.trainable, r.macs) for r in summary.rows]
    assert found == [
        (0, 0, 4 * 5 + 5 + 4 * 5, 2 * 5, 24 * 4 * 5),
        (1, 1, 4 * 5 + 5, 0, 24 * 4 * 5),
        (1, 1, 4 * 5, 2 * 5, 0),
        (0, 0, 5 * 2 + 2, 5 * 2 + 2, 24 * 5 * 2),
    ]
    assert (summary.parameters, summary.trainable) == (45 + 12, 10 + 12)
    assert summary.macs == 24 * (4 * 5 + 5 * 2)
    assert [row.output for row in summary.rows][::3] == [(1, H, W, 5), (1, H, W, 2)]


# What no rule is for


class Odd(layers.Layer):
    """Multiplies by its own weight what a layer inside makes."""

    def __init__(self, way=ops.matmul, **kwargs):
        super().__init__(**kwargs)
        self.way, self.inside = way, layers.Dense(C)

    def build(self, shape):
        self.inside.build(shape)
        self.kernel = self.add_weight((C, C), name="kernel")

    def call(self, x):
        return self.way(self.inside(x), self.kernel)


def test_of_another_layer_those_inside_count_and_its_own_weights_are_told():
    summary = Summary(model_of(Odd(name="odd")))
    assert summary.macs == 24 * 4 * 4  # the layer inside
    assert (summary.uncounted, summary.unread) == (["odd/kernel (4, 4)"], ["Odd"])
    told = "\nNot counted: odd/kernel (4, 4)\nNot looked for products in the own code of: Odd"
    assert str(summary).endswith(told)


def test_a_layer_of_a_loop_is_told_for_it_is_met_once():
    looped = layers.TimeDistributed(layers.Dense(5, name="looped"), name="loop")
    summary = Summary(model_of(looped))
    assert summary.macs == 0
    (what,) = summary.uncounted
    assert "looped/kernel (4, 5)" in what


def test_weights_that_nothing_calls_are_in_a_line_of_their_own():
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.unused = layers.Dense(2), layers.Dense(3)
            for layer in (self.used, self.unused):
                layer.build((None, None, None, 3))
            self.built = True

        def call(self, x):
            return self.used(x)

    summary = Summary(Unused(), (H, W))
    assert summary.macs == 24 * 3 * 2
    assert len(summary.uncounted) == 1 and "kernel (3, 3)" in summary.uncounted[0]
    (line,) = [line for line in str(summary).splitlines() if "no layer that is called" in line]
    assert line.split()[-5:] == ["12", "0", "0.000", "0.0", "%"]  # 3 x 3 + 3, trainable


# That the model stays as it is


def test_the_model_stays_as_it_is():
    model = keras_sanet.SANet(3, "resnet_tiny", aggregator_filters=4, pyramid_filters=4)
    variables = [(v.path, ops.convert_to_numpy(v)) for v in model.variables]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    call = keras.Layer.__call__
    Summary(model, (32, 40))
    assert [v.path for v in model.variables] == [path for path, _ in variables]
    for variable, (_, before) in zip(model.variables, variables):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), before)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert keras.Layer.__call__ == call
    assert model(np.zeros((1, 32, 40, 3), "uint8")).shape == (1, 32, 40, 3)


def test_keras_stays_as_it_is_after_a_layer_that_fails():
    def fail(x, kernel):
        raise RuntimeError("out of order")

    odd = Odd()
    model = model_of(odd)
    odd.way = fail
    call = keras.Layer.__call__
    with pytest.raises(RuntimeError, match="out of order"):
        Summary(model)
    assert keras.Layer.__call__ == call


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "`image_size` must be one or two positive integers.*image_size=0"),
        ({"image_size": (4, 6, 3)}, "`image_size` must be"),
        ({"image_size": (4, 7)}, r"images of \(4, 6\) alone. Received: image_size=\(4, 7\)"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: batch_size=0"),
    ],
)
def test_sizes_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Summary(model_of(layers.Dense(1)), **arguments)


def test_models_of_other_things_than_images_are_refused():
    with pytest.raises(ValueError, match=r"`model` must take images.*\(None, 5\)"):
        Summary(keras.Sequential([keras.Input((5,)), layers.Dense(1)]))
    with pytest.raises(ValueError, match="`model` must be a built Keras model: call it once"):
        Summary(layers.Dense(1))


def test_without_a_size_it_is_the_models_own_or_473():
    assert Summary(model_of(layers.Dense(1))).image_shape == (1, 4, 6, 4)
    open_size = keras.Sequential([keras.Input((None, 6, 3)), layers.Dense(1)])
    assert Summary(open_size).image_shape == (1, 473, 6, 3)


# Table II


@pytest.fixture(scope="module")
def table():
    hidden = pytest.MonkeyPatch()
    hidden.setitem(sys.modules, "keras_hub", None)  # as if it was not installed
    try:
        return TableII(["PSPNet-50", "DeepLabV3+", "RefineNet-101", "SANet"])
    finally:
        hidden.undo()


@pytest.mark.slow
def test_sanet_costs_what_its_sections_say(table):
    sanet = table.summaries["SANet"]
    macs = {row.name: row.macs for row in sanet.rows if row.depth == 0}
    positions = 60 * 60  # of a map of a 473 x 473 image
    taps = (64, 256, 512, 1024, 2048)
    for index, channels in enumerate(taps):
        assert macs[f"adapter_s{index}"] == positions * channels * 256  # Eq. 1
    assert macs["aggregator"] == positions * 9 * 256 * 1024 * (5 + 4)  # Eqs 2-8
    cells = 1 + 4 + 9 + 16 + 36
    head = positions * 9 * (2048 + 256 + 5 * 512) * 512 + cells * (2048 + 256) * 512
    assert macs["pyramid_pooling"] == head
    assert macs["classifier"] == positions * 512 * 40
    assert round(macs["backbone"] / 1e9, 1) == 85.8
    assert sum(macs.values()) == sanet.macs and round(sanet.macs / 1e9, 1) == 246.7
    assert round(sanet.parameters / 1e6, 1) == 57.1 and round(sanet.trainable / 1e6, 1) == 57.0
    assert sanet.uncounted == sanet.unread == []


@pytest.mark.slow
def test_ratios_are_to_pspnet_there_and_here(table):
    psp, deeplab, refinenet, sanet = table.rows
    assert (round(psp["gmac"], 1), round(psp["parameters"] / 1e6, 1)) == (155.6, 46.7)
    assert (psp["gmac_ratio"], psp["paper_flops_ratio"], psp["paper_memory_ratio"]) == (1, 1, 1)
    assert sanet["gmac_ratio"] == round(246.683 / 155.602, 3) == 1.585
    assert sanet["paper_flops_ratio"] == round(1.65 / 0.93, 3) == 1.774
    assert sanet["paper_memory_ratio"] == round(2.68 / 1.96, 3)
    assert refinenet["gmac_ratio"] is None and refinenet["paper_flops_ratio"] == 2.806


@pytest.mark.slow
def test_a_model_that_can_not_be_built_is_left_out_with_the_reason(table):
    text = str(table)
    assert "\nDeepLabV3+ is left out: DeepLabV3+ needs `pip install keras-hub`.\n" in text
    assert "\nRefineNet-101 is left out: no model of it is here.\n" in text


@pytest.mark.slow
def test_the_table_is_markdown_and_json(table):
    first, second, *rows = str(table).splitlines()[:6]
    assert {line.count("|") for line in (first, second, *rows)} == {12}
    cells = [cell.strip() for cell in rows[-1].split("|")[1:8]]
    assert cells == ["SANet", "ResNeXt-50", "473", "57.1", "246.7", "1.58", "1.77"]
    assert json.loads(json.dumps(table.as_dict()))["rows"] == table.rows


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="`methods` must be PSPNet-50 and others of FCN-101, .*"):
        TableII(["SANet"])


# Against PyTorch's own counter


pytorch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="FlopCounterMode is PyTorch's"
)


def flops(model, size):
    """Half of what PyTorch counts in a call of one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ops.ones((1, *size, 3)), training=False)
    return counter.get_total_flops() / 2


@pytorch
@pytest.mark.parametrize("name", ["MobileNetV2", "ConvNeXtTiny", "Xception"])
def test_pytorch_counts_the_same_of_keras_applications(name):
    build = getattr(keras.applications, name)
    model = build(weights=None, include_top=False, input_shape=(96, 96, 3))
    expected, summary = flops(model, (96, 96)), Summary(model)
    assert (summary.macs, summary.uncounted) == (expected, [])
    assert summary.parameters == model.count_params()


@pytorch
@pytest.mark.parametrize("variant", ["resnet_tiny", "resnext50"])
def test_pytorch_counts_the_same_of_our_backbones(variant):
    backbone = keras_sanet.backbones.build(variant)
    assert Summary(backbone, (64, 96)).macs == flops(backbone, (64, 96))


def resized(height, width, channels, new_height, new_width):
    """Products of the matrices of `layers.resizing.resize`: rows first, then columns."""
    rows = new_height * height * width * channels * (new_height != height)
    return rows + new_height * new_width * width * channels * (new_width != width)


@pytorch
def test_pytorch_counts_the_same_of_sanet_but_for_the_matrices_that_resize_and_pool():
    height, width, filters, bins, c, classes = 64, 96, 6, (1, 2, 3), 8, 5
    model = keras_sanet.SANet(
        classes, "resnet_tiny", aggregator_filters=c, pyramid_filters=filters, bins=bins
    )
    h, w = height // 8, width // 8
    # Eq. 1 and the logits: bilinear resizing.
    extra = resized(h, w, classes, height, width)
    for tap, stride in (("s0", 2), ("s1", 4)):
        channels = model.get_layer(f"adapter_{tap}").kernel.shape[2]
        extra += resized(height // stride, width // stride, channels, h, w)
    # The pyramid: pooling by two matrices; each cell times each kernel position instead of the
    # 3x3 over the resized branch; spreading of these over rows, then over columns.
    channels = model.get_layer("fusion").output.shape[-1]
    extra += sum(bins) * h * w * channels
    for n in bins:
        extra += n * n * w * channels
        extra += n * n * filters * 9 * filters - h * w * 9 * filters * filters
        extra += h * 3 * n * 3 * n * filters
    extra += h * w * 3 * sum(bins) * filters
    assert flops(model, (height, width)) == Summary(model, (height, width)).macs + extra


def hub():
    return pytest.importorskip("keras_hub", reason="keras-hub is not installed").models


@pytorch
def test_pytorch_counts_the_same_of_deeplab():
    hub()  # or skip
    model = deeplab_v3_plus(5, "resnet_tiny", image_size=(64, 96))
    summary = Summary(model)
    assert (summary.uncounted, summary.unread) == ([], ["SpatialPyramidPooling"])
    assert summary.parameters == model.count_params()
    assert summary.macs == flops(model, (64, 96))


@pytorch
def test_products_in_the_code_of_another_package_do_not_count_and_its_layer_is_named():
    model = hub().MiTBackbone(
        layerwise_depths=[1] * 4, num_layers=4, layerwise_num_heads=[1, 2, 4, 8],
        layerwise_sr_ratios=[8, 4, 2, 1], max_drop_path_rate=0.1, image_shape=(96, 96, 3),
        layerwise_patch_sizes=[7, 3, 3, 3], layerwise_strides=[4, 2, 2, 2],
        hidden_dims=[16, 32, 64, 128],
    )  # fmt: skip
    summary = Summary(model)
    assert "SegFormerMultiheadAttention" in summary.unread
    # Queries of 24, 12, 6 and 3 positions a side, all with 3 x 3 keys and values.
    products = sum(
        2 * side**2 * 9 * channels for side, channels in zip((24, 12, 6, 3), (16, 32, 64, 128))
    )
    assert summary.macs + products == flops(model, (96, 96))


# On the command line


@pytest.mark.slow
def test_the_command_prints_the_table_of_a_preset():
    code, out, _ = call(
        "summary", "sanet_tiny_scenes", "--image-size", 144, 192, "--num-classes", 3
    )
    model = keras_sanet.from_preset("sanet_tiny_scenes", 3)
    assert code == 0
    assert out.partition("cores\n")[2] == f"{Summary(model, (144, 192))}\n"
    assert out.splitlines()[1] == "sanet: 144x192x3, batch 1"


@pytest.mark.slow
def test_the_command_shows_layers_in_layers_and_takes_files(tmp_path):
    model = keras_sanet.FCN(3, "resnet_tiny", filters=4)
    model.save(tmp_path / "model.keras")
    code, out, _ = call("summary", tmp_path / "model.keras", "--depth", 0, "--image-size", 32, 32)
    assert code == 0 and "\n   layer4_0_conv2 " in out
    assert out.rstrip().endswith(Summary(model, 32).table(None).splitlines()[-1])


@pytest.mark.slow
def test_the_command_measures_in_a_fresh_process():
    code, out, _ = call(
        "summary", "sanet_tiny_scenes", "--image-size", 32, 40, "--measure", "--rounds", 1
    )
    assert code == 0
    assert re.search(r"\nA prediction in a process of its own: [\d.]+ ms \(median of 1\); ", out)


def test_the_command_names_an_unknown_preset():
    code, _, error = call("summary", "nowhere")
    assert code == 1 and error.startswith("keras-sanet: error: There is no preset 'nowhere'")


@pytest.mark.parametrize("wrong", [("--image-size", 0, 5), ("--batch-size", 0)], ids=str)
def test_the_command_names_a_wrong_option(wrong):
    code, _, error = call("summary", "sanet_tiny_scenes", *wrong)
    assert code == 2 and f"argument {wrong[0]}: must be 1 or more, and is 0" in error


def test_a_summary_shows_itself_shortly_and_in_a_notebook_as_a_table():
    summary = Summary(model_of(layers.Conv2D(5, 1, name="a")))
    # 24 positions x 4 x 5; 4 x 5 weights and 5 biases.
    assert repr(summary) == "<Summary of model: 4x6x4, batch 1: 25 parameters, 0.000 GMAC>"
    shown = summary._repr_html_()
    assert shown.count("<table>") == 1 and shown.count("<tr>") == 3
    assert ">Conv2D</td>" in shown and ">100.0 %</td>" in shown and "25 parameters" in shown


@pytest.mark.slow
def test_a_notebook_shows_table_2_as_a_table():
    table = TableII(["PSPNet-50"])
    assert repr(table).startswith("<TableII: PSPNet-50 on ")
    assert "<th" in table._repr_html_() and ">PSPNet-50</td>" in table._repr_html_()


@pytest.mark.parametrize(
    ("norm", "shape", "expected"),
    [
        (layers.BatchNormalization(name="norm"), (1, 4, 4, 3), ["norm"]),
        (layers.BatchNormalization(name="norm"), (2, 4, 4, 3), []),
        (layers.BatchNormalization(name="norm"), (1, 4, 8, 3), []),
        (layers.BatchNormalization(name="norm", trainable=False), (1, 4, 4, 3), []),
        (BatchNormalization(name="norm"), (1, 4, 4, 3), []),
    ],
    ids=["one value", "two images", "two cells", "frozen", "ours"],
)
def test_stock_batch_norms_of_one_value_a_channel_are_found_in_inner_models(norm, shape, expected):
    inner = keras.Sequential([keras.Input((None, None, 3)), layers.AveragePooling2D(4), norm])
    image = keras.Input((None, None, 3))
    assert norms_of_one_value(keras.Model(image, inner(image)), shape) == expected


def test_sizes_of_numpy_are_taken():
    model = model_of(layers.Conv2D(5, 1))
    found = Summary(model, np.array([H, W]), batch_size=np.int64(2))
    assert str(found) == str(Summary(model, (H, W), batch_size=2))
