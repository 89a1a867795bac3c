"""What the paper states, found in the defaults (its sections and tables by number)."""

import inspect

import keras
import pytest

import keras_sanet
from keras_sanet import backbones, recipes, training
from keras_sanet.pipeline import make_dataset


def default(function, argument):
    return inspect.signature(function).parameters[argument].default


@pytest.fixture(scope="module")
def sanet():
    return keras_sanet.SANet(40, input_shape=(473, 473, 3))


def test_section_3b_the_stem_is_a_resnext_50():
    assert default(keras_sanet.SANet, "backbone") == "resnext50"


@pytest.mark.slow
def test_section_4b_the_last_map_is_an_eighth_of_473_pixels(sanet):
    # 473 -> 237 -> 119 -> 60, each half rounded up; then no stride.
    assert sanet.get_layer("aggregator").input[-1].shape[1:3] == (60, 60)


@pytest.mark.slow
def test_section_3b_five_maps_are_aggregated(sanet):
    assert len(sanet.get_layer("aggregator").input) == 5


def test_section_4b_bin_sizes_are_pooling_windows_on_that_map():
    bins = default(keras_sanet.SANet, "bins")
    assert [60 / n for n in bins] == [60, 30, 20, 15, 10]


def test_section_3a_both_convolutions_of_the_aggregator_are_dilated_by_2():
    layer = keras_sanet.layers.ConvLSTMAggregator(8)
    assert (layer.dilation_rate, layer.recurrent_dilation_rate) == (2, None)  # None: the same


def test_section_4b_stages_3_and_4_are_dilated_by_2_and_4():
    model = backbones.build("resnet_tiny")
    dilations = {
        stage: model.get_layer(f"layer{stage}_0_conv1").dilation_rate[0] for stage in (1, 2, 3, 4)
    }
    assert dilations == {1: 1, 2: 1, 3: 2, 4: 4}


@pytest.mark.slow
def test_the_network_has_57_million_parameters_with_256_channels(sanet):
    # backbone 23.0 M, adapters (64 + 256 + 512 + 1024 + 2048) 256 = 1.0 M,
    # aggregator 2 x 9 x 256 x 1024 + 1024 = 4.7 M, pyramid 5 x 2304 x 512 = 5.9 M and
    # 9 x (2304 + 5 x 512) 512 = 22.4 M, classifier 20,520; batch norms the rest.
    trainable = sum(keras.ops.size(v) for v in sanet.trainable_variables)
    assert round(int(trainable) / 1e6, 1) == 57.0


def test_section_4c_adamw_starts_at_1e_5_and_decays_to_0_by_power_09():
    model = keras_sanet.FCN(3, "resnet_tiny", filters=4)
    recipe = recipes.get("paper_nyuv2")
    training.compile(model, decay_steps=100, learning_rate=recipe["learning_rate"])
    rate = model.optimizer._learning_rate
    assert isinstance(model.optimizer, keras.optimizers.AdamW)
    # 1e-5 (1 - 50 / 100)^0.9 = 1e-5 x 0.535887
    assert [float(rate(step)) for step in (0, 50, 100)] == pytest.approx([1e-5, 5.35887e-6, 0.0])


def test_section_4b_batches_of_8():
    assert default(make_dataset, "batch_size") == 8
