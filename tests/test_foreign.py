"""Backbones of keras.applications, keras-cv and keras-hub against their own pipelines."""

import functools
import importlib

import keras
import numpy as np
import pytest
from keras import applications
from support import to_numpy

from keras_sanet import FCN, PSPNet, SANet, saving
from keras_sanet.backbones import from_model
from keras_sanet.losses import SegmentationLoss

CLASSES = 3
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def photo(rng, height=64, width=96):
    """A smooth picture with noise, (1, height, width, 3), uint8."""
    y, x = np.mgrid[:height, :width][..., None] / 32
    smooth = 127 + 90 * np.sin(x * [1.0, 0.7, 0.4] + y * [0.3, 0.9, 1.3])
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype("uint8")[None]


def filled(build, draw=True):
    """The model with values drawn by NumPy, or zeros: JAX would compile a draw for each shape."""
    rng = np.random.default_rng(0)

    def initializer(name):
        def value(shape, dtype):
            if not draw:
                return np.zeros(shape, dtype)
            if name in ("gamma", "beta", "moving_mean", "moving_variance"):
                return rng.uniform(0.5, 1.0, shape).astype(dtype)
            fan_in = np.prod(shape[:-1], initial=1)
            return (rng.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(dtype)

        return lambda shape, dtype=None: keras.ops.convert_to_tensor(value(shape, dtype))

    with keras.StatelessScope():  # variables get their values when it ends
        model = build()
        for variable in model.trainable_variables + model.non_trainable_variables:
            variable._initializer = initializer(variable.name)
    return model


@functools.cache
def application(name):
    return filled(lambda: getattr(applications, name)(include_top=False, weights=None))


def sketch(name, **arguments):
    """For taps and preprocessing, which need no values."""
    build = getattr(applications, name)
    return filled(lambda: build(include_top=False, weights=None, **arguments), draw=False)


def hub(name="ResNetBackbone", **arguments):
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    few = {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 64, 64, 64],
        "stackwise_num_blocks": [1, 1, 1, 1],
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": "basic_block",
        "image_shape": (None, None, 3),
    }
    few = few if name == "ResNetBackbone" else {}
    return filled(lambda: getattr(keras_hub.models, name)(**{**few, **arguments}))


def cv(include_rescaling):
    pytest.importorskip("tensorflow", reason="keras-cv needs TensorFlow")
    keras_cv = pytest.importorskip("keras_cv", reason="keras-cv is not installed")
    return filled(
        lambda: keras_cv.models.ResNetBackbone(
            stackwise_filters=[64, 16, 32, 32],
            stackwise_blocks=[1, 1, 1, 1],
            stackwise_strides=[1, 2, 2, 2],
            block_type="basic_block",
            include_rescaling=include_rescaling,
        )
    )


def mit():
    return hub(
        "MiTBackbone",
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 1, 1, 1],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.0,
        image_shape=(64, 64, 3),
        hidden_dims=[8, 8, 16, 16],
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
    )


def own(name):
    """The `preprocess_input` of a module of keras.applications."""
    return importlib.import_module(f"keras.applications.{name}").preprocess_input


def raw(image):
    return image


def torch_style(image):
    return (image / 255 - MEAN) / STD


def unit(image):
    return image / 255


# What builds it, its own pipeline, the last of its taps by its own name.
FOREIGN = {
    "ResNet50": (lambda: application("ResNet50"), own("resnet")),
    "MobileNetV2": (lambda: application("MobileNetV2"), own("mobilenet_v2")),
    "EfficientNetV2B0": (lambda: application("EfficientNetV2B0"), raw),
    "ConvNeXtTiny": (lambda: application("ConvNeXtTiny"), raw),
    "keras-hub": (lambda: hub(), torch_style),
    "keras-cv": (lambda: cv(False), unit),
    "keras-cv with rescaling": (lambda: cv(True), raw),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_the_last_tap_of_a_photo_is_what_the_own_pipeline_gives(name, compiled, rng):
    build, pipeline = FOREIGN[name]
    model, image = build(), photo(rng)
    taps = compiled(from_model(model))(image)
    expected = to_numpy(compiled(model)(pipeline(image.astype("float32"))))
    last = to_numpy(taps[list(taps)[-1]])
    size = np.abs(expected).max()
    assert size > 0.01
    assert np.abs(expected - expected.mean((1, 2), keepdims=True)).max() > 1e-3 * size
    np.testing.assert_allclose(last / size, expected / size, rtol=0, atol=1e-4)


# Taps and preprocessing by table, built but not run


def layer_of(tensor):
    return tensor._keras_history.operation.name


def taps_of(backbone):
    """Taps and the layers that they come from."""
    return {name: layer_of(tap) for name, tap in backbone.layers[-1].output.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("ResNet50", "conv1_relu conv2_block3_out conv3_block4_out conv4_block6_out "
         "conv5_block3_out"),
        # A stage's last block has its stride: the map before it, normalised.
        ("ResNet50V2", "conv1_conv conv2_block3_preact_relu conv3_block4_preact_relu "
         "conv4_block6_preact_relu post_relu"),
        ("VGG16", "block2_conv2 block3_conv3 block4_conv3 block5_conv3 block5_pool"),
        ("MobileNetV2", "block_1_expand_relu block_3_expand_relu block_6_expand_relu "
         "block_13_expand_relu out_relu"),
        # All that a dense block has, before its transition halves the channels.
        ("DenseNet121", "conv1_relu pool2_relu pool3_relu pool4_relu relu"),
        ("EfficientNetV2B0", "block1a_project_activation block2b_add block4a_expand_activation "
         "block6a_expand_activation top_activation"),
    ],
)  # fmt: skip
def test_taps_of_applications_are_the_last_maps_of_each_stride(name, layers):
    assert list(taps_of(from_model(sketch(name))).values()) == layers.split()


def test_convnext_has_no_map_of_stride_2_and_its_taps_are_the_sums_of_its_blocks():
    taps = from_model(sketch("ConvNeXtTiny")).layers[-1].output
    assert {n: tap.shape[-1] for n, tap in taps.items()} == {
        "s1": 96,
        "s2": 192,
        "s3": 384,
        "s4": 768,
    }
    for name, stage in (
        ("s1", "stage_0_block_2"),
        ("s2", "stage_1_block_2"),
        ("s3", "stage_2_block_8"),
    ):
        x, branch = taps[name]._keras_history.operation._inbound_nodes[0].input_tensors
        assert layer_of(branch) == f"convnext_tiny_{stage}_identity"
        assert x.shape == branch.shape


def test_a_classifier_is_left_out():
    backbone = from_model(
        filled(lambda: applications.MobileNetV2(weights=None, input_shape=(32, 32, 3)), draw=False)
    )
    assert backbone.input_shape == (None, 32, 32, 3)
    assert taps_of(backbone)["s4"] == "out_relu"


def test_keras_hub_and_keras_cv_have_taps_of_their_own():
    model = hub()
    names = [layer_of(model.pyramid_outputs[f"P{level}"]) for level in (2, 3, 4, 5)]
    assert taps_of(from_model(model)) == dict(zip(("s1", "s2", "s3", "s4"), names))
    model = cv(True)
    names = list(model.pyramid_level_inputs.values())
    assert taps_of(from_model(model)) == dict(zip(("s1", "s2", "s3", "s4"), names))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "pipeline"),
    [
        ("ResNet50V2", {}, own("resnet_v2")),
        ("VGG16", {}, own("vgg16")),
        ("DenseNet121", {}, own("densenet")),
        ("Xception", {}, own("xception")),
        ("MobileNet", {}, own("mobilenet")),
        ("MobileNetV3Small", {}, raw),
        ("MobileNetV3Small", {"include_preprocessing": False}, lambda x: x / 127.5 - 1),
        ("EfficientNetB0", {}, raw),
    ],
)
def test_applications_get_the_image_as_they_want_it(name, arguments, pipeline, rng):
    model = sketch(name, **arguments)
    backbone = from_model(model)
    image = photo(rng, 8, 8).astype("float32")
    got = keras.Model(backbone.input, fed(backbone))(image)
    np.testing.assert_allclose(to_numpy(got), to_numpy(pipeline(image.copy())), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers"), [("EfficientNetV2B0", 3), ("EfficientNetV2S", 2), ("ConvNeXtTiny", 2)]
)
def test_a_family_without_its_own_rescaling_gets_the_same_from_ours(name, layers, rng):
    image = photo(rng, 8, 8).astype("float32")
    inside = sketch(name).layers[1:layers]
    expected = image
    for layer in inside:
        expected = to_numpy(layer(expected))
    backbone = from_model(sketch(name, include_preprocessing=False))
    got = to_numpy(keras.Model(backbone.input, fed(backbone))(image))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def fed(backbone):
    """What comes into the foreign model."""
    return backbone.layers[-1]._inbound_nodes[-1].input_tensors[0]


def test_keras_hub_with_preactivation_gets_minus_one_to_one():
    (layer,) = [x for x in from_model(hub(use_pre_activation=True)).layers if "norm" in x.name]
    assert (np.ravel(layer.scale), np.ravel(layer.offset)) == (1 / 127.5, -1.0)


def test_an_image_converter_of_keras_hub_is_taken_by_scale_and_offset(compiled, rng):
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=(224, 224), scale=[0.01, 0.02, 0.03], offset=[-1.0, -2.0, -3.0]
    )
    backbone = from_model(hub(), preprocessing=converter)
    image = photo(rng, 8, 8)
    converter.image_size = None
    got = keras.Model(backbone.input, fed(backbone))(image)
    np.testing.assert_allclose(to_numpy(got), to_numpy(converter(image)), rtol=0, atol=1e-5)


# Models


def models_of(backbone):
    few = {"bins": (1, 2), "pyramid_filters": 4}
    return {
        "SANet": lambda: SANet(CLASSES, backbone, aggregator_filters=4, **few),
        "PSPNet": lambda: PSPNet(CLASSES, backbone, **few),
        "FCN": lambda: FCN(CLASSES, backbone, filters=4, skip="s1", auxiliary="s3"),
    }


BUILDERS = {
    "ResNet50": lambda: FOREIGN["ResNet50"][0](),
    "ConvNeXtTiny": lambda: FOREIGN["ConvNeXtTiny"][0](),
    "keras-hub": hub,
    "keras-hub MiT": mit,
    "keras-cv": lambda: cv(True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_models_are_built_on_any_backbone(name):
    backbone = BUILDERS[name]()
    for build in models_of(backbone).values():
        model = build()
        output = model.output if isinstance(model.output, dict) else {"logits": model.output}
        size = (None, 64, 64) if "MiT" in name else (None, None, None)
        assert all(logits.shape == (*size, CLASSES) for logits in output.values())
        assert model.get_layer("backbone").trainable


def test_sanet_reads_all_taps_that_the_backbone_has():
    model = models_of(hub())["SANet"]()
    adapters = [layer.name for layer in model.layers if layer.name.startswith("adapter_")]
    assert adapters == ["adapter_s1", "adapter_s2", "adapter_s3", "adapter_s4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BUILDERS if "MiT" not in name])
def test_a_keras_file_gives_the_same_logits(name, tmp_path, rng):
    model, image = models_of(BUILDERS[name]())["SANet"](), photo(rng, 64, 64)
    model.save(tmp_path / "model.keras")
    loaded = saving.load_model(tmp_path / "model.keras")
    jit = keras.backend.backend() == "jax"
    logits = []
    for each in (model, loaded):
        each.compile(jit_compile=jit)
        logits.append(each.predict_on_batch(image))
    assert logits[0].shape == (1, 64, 64, CLASSES)
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_frozen_backbone_keeps_its_weights_and_statistics_and_the_head_learns(rng):
    model = models_of(hub())["SANet"]()
    backbone = model.get_layer("backbone")
    backbone.trainable = False
    before = [to_numpy(variable).copy() for variable in backbone.variables]
    kernel = to_numpy(model.get_layer("classifier").kernel).copy()
    jit = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.SGD(0.1), SegmentationLoss(num_bins=64), jit_compile=jit)
    labels = rng.integers(0, CLASSES, (1, 64, 96))
    history = model.fit(photo(rng), labels, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for variable, value in zip(backbone.variables, before):
        np.testing.assert_array_equal(to_numpy(variable), value, err_msg=variable.path)
    assert (to_numpy(model.get_layer("classifier").kernel) != kernel).any()


@pytest.mark.slow
def test_a_step_of_fit_moves_a_foreign_backbone(rng):
    model = models_of(cv(True))["SANet"]()
    kernel = model.get_layer("backbone").layers[-1].get_layer("conv1_conv").kernel
    before = to_numpy(kernel).copy()
    jit = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.SGD(0.1), SegmentationLoss(num_bins=64), jit_compile=jit)
    model.fit(photo(rng), rng.integers(0, CLASSES, (1, 64, 96)), verbose=0)
    assert np.isfinite(to_numpy(kernel)).all()
    assert (to_numpy(kernel) != before).any()


# Arguments


def small(name="mine"):
    image = keras.Input((None, None, 3))
    fine = keras.layers.Conv2D(4, 3, 2, padding="same", name="fine")(image)
    coarse = keras.layers.Conv2D(8, 3, 2, padding="same", name="coarse")(fine)
    top = keras.layers.GlobalAveragePooling2D(name="top")(coarse)
    return keras.Model(image, top, name=name)


def test_taps_are_layers_by_name_in_a_list_or_a_dict():
    given = ["fine", "coarse"]
    assert taps_of(from_model(small(), taps=given, preprocessing="tf")) == {
        "s3": "fine",
        "s4": "coarse",
    }
    assert taps_of(from_model(small(), taps={"a": "fine", "b": "coarse"}, preprocessing="tf")) == {
        "a": "fine",
        "b": "coarse",
    }
    assert taps_of(from_model(small(), preprocessing="tf")) == {"s3": "fine", "s4": "coarse"}


def test_a_dict_of_taps_stays_as_it_was_given():
    taps = {"a": "fine", "b": "coarse"}
    for _ in range(2):
        assert taps_of(from_model(small(), taps=taps, preprocessing="tf")) == {
            "a": "fine",
            "b": "coarse",
        }
    assert taps == {"a": "fine", "b": "coarse"}


def wrapped(name="inner"):
    """A model around one whose last map is "coarse", of 8 channels."""
    inner = small(name)
    inner = keras.Model(inner.input, inner.get_layer("coarse").output, name=name)
    image = keras.Input((None, None, 3))
    x = inner(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Conv2D(6, 3, 2, padding="same", name="own")(x)
    return inner, keras.Model(image, x, name="outer")


def test_a_model_inside_of_a_model_is_a_tap_with_the_values_of_the_outer_one(compiled, rng):
    inner, outer = wrapped()
    image = photo(rng, 8, 8).astype("float32")
    taps = compiled(from_model(outer, taps=["inner", "own"]))(image)
    np.testing.assert_allclose(
        to_numpy(taps["s3"]), to_numpy(inner(image / 255)), rtol=0, atol=1e-5
    )
    assert to_numpy(taps["s4"]).shape[-1] == 6


def test_a_model_that_only_wraps_another_is_an_error_that_names_it():
    image = keras.Input((None, None, 3))
    outer = keras.Model(image, wrapped()[0](keras.layers.Rescaling(1 / 255)(image)), name="outer")
    with pytest.raises(ValueError, match="inside of its layer 'inner': pass that model to `back"):
        from_model(outer)


def test_preprocessing_may_be_a_layer(compiled, rng):
    image = photo(rng, 8, 8).astype("float32")
    backbone = from_model(small(), preprocessing=keras.layers.ReLU(threshold=100.0))
    got = keras.Model(backbone.input, fed(backbone))(image)
    np.testing.assert_array_equal(to_numpy(got), np.where(image > 100, image, 0))


@pytest.mark.parametrize("preprocessing", ["caffe", "torch"])
def test_mixed_precision_does_not_round_the_image_before_its_preprocessing(preprocessing, rng):
    # In bfloat16 100.2 would become 100.
    keras.config.set_dtype_policy("mixed_bfloat16")
    backbone = from_model(small(), preprocessing=preprocessing)
    feed = keras.Model(backbone.input, fed(backbone))
    exact, near = (to_numpy(feed(np.full((1, 4, 4, 3), v, "float32"))) for v in (100.0, 100.2))
    assert (exact != near).all()


def test_an_unknown_family_needs_preprocessing():
    for build in (from_model, lambda model: SANet(CLASSES, model)):
        with pytest.raises(
            ValueError, match="What keras mine was trained with is not known.*Known: "
        ):
            build(small())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preprocessing": "bgr"}, "`preprocessing` must be one of none, unit, .*'bgr'"),
        ({"taps": ["fine", "other"]}, "`taps` must name layers of the model.*'other'"),
        ({"taps": ["top"]}, "`taps` must name layers of the model.*'top'"),
        ({"taps": "fine"}, "`taps` must name one layer at least, in a list. Received: 'fine'"),
        ({"taps": []}, "`taps` must name one layer at least"),
        ({"taps": ["coarse", "fine"]}, "must go from fine to coarse.*, of strides 4, 2"),
        ({"taps": ["fine", "fine"]}, "`taps` must go from fine to coarse, each layer once"),
        ({"preprocessing": 5}, "`preprocessing` must be one of none, .* or a layer. Received: 5"),
    ],
)
def test_from_model_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        from_model(small(), **{"preprocessing": "tf", **arguments})


def test_from_model_needs_a_graph_of_images_of_three_channels_last():
    image = keras.Input((3, None, None))
    first = keras.Model(image, keras.layers.ReLU()(image))
    sequential = keras.Sequential([keras.Input((None, None, 3)), keras.layers.ReLU()])
    for model in (first, sequential, keras.Sequential()):
        with pytest.raises(ValueError, match="`model` must be a functional.*channels last"):
            from_model(model, preprocessing="tf")


@pytest.mark.parametrize("build", [FCN, SANet])
@pytest.mark.parametrize("taps", [False, True])
def test_a_backbone_with_the_channels_first_is_refused(build, taps):
    image = keras.Input((96, 96, 3))  # whose 96 rows would be taken for channels
    x = keras.layers.AveragePooling2D(2, data_format="channels_first", name="first")(image)
    backbone = keras.Model(image, {"s4": x} if taps else x, name="mine")
    with pytest.raises(ValueError, match="must have the channels last.*'mine'.*'first' has them"):
        build(CLASSES, backbone)
