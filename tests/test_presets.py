"""Presets: what is saved comes back, other classes, addresses, and what is refused."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from keras_sanet import FCN, PSPNet, SANet, _files, backbones, datasets, evaluation, models, presets
from keras_sanet.layers import ConvLSTMAggregator
from keras_sanet.presets.config import describe

SIZE = {"aggregator_filters": 4, "pyramid_filters": 4}


@pytest.fixture(scope="module")
def model():
    return SANet(3, "resnet_tiny", class_names=["a", "b", "c"], dropout=0.2, **SIZE)


@pytest.fixture
def folder(model, tmp_path):
    presets.save_preset(model, tmp_path / "mine")
    return tmp_path / "mine"


def values(model):
    return {
        f"{layer.name} {index}": value
        for layer in model.layers
        for index, value in enumerate(layer.get_weights())
    }


def assert_same_weights(model, other, rtol=0.0):
    first, second = values(model), values(other)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=rtol, err_msg=name)


def edit(folder, **changes):
    """Writes other values into the config of a preset; "arguments" are merged."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["arguments"].update(changes.pop("arguments", {}))
    path.write_text(json.dumps({**config, **changes}))


# What a model is made of


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [
        (
            SANet,
            {
                "taps": ["s3", "s1"],
                "fusion": "add",
                "bins": None,
                "aggregator_dilation_rate": 3,
                "class_names": ["a", "b"],
                "palette": [[1, 2, 3], [4, 5, 6]],
                "input_shape": [64, 48, 3],
                "name": "mine",
                **SIZE,
            },
        ),
        (SANet, {"fusion": "aggregated", "dropout": 0.4, **SIZE}),
        (SANet, {"grid": "s1", "normalize_taps": True, **SIZE}),
        (SANet, {"normalize_branches": False, **SIZE}),
        (SANet, {"taps": ["s4"], **SIZE}),
        (PSPNet, {"bins": [2], "pyramid_filters": 4, "normalize_branches": False}),
        (FCN, {"filters": 4, "skip": "s1", "auxiliary": "s3"}),
        (FCN, {"filters": 4}),
    ],
    ids=[
        "sanet",
        "sanet_aggregated",
        "sanet_grid",
        "sanet_branches",
        "sanet_one_tap",
        "pspnet",
        "fcn_skip_auxiliary",
        "fcn",
    ],
)
def test_a_model_from_a_file_says_how_it_was_built(builder, arguments, tmp_path):
    builder(2, "resnet_tiny", **arguments).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    name, found = describe(loaded)
    assert name == builder.__name__
    assert {key: found[key] for key in arguments} == arguments
    backbone = {"variant": "resnet_tiny", "output_stride": 8}
    assert (found["num_classes"], found["backbone"]) == (2, backbone)


@pytest.mark.slow
@pytest.mark.parametrize("variant", backbones.names())
def test_every_backbone_is_known_by_its_layers(variant):
    expected = {"variant": variant, "input_shape": [None, None, 3], "output_stride": 16}
    assert backbones.describe(backbones.build(variant, output_stride=16)) == expected


@pytest.mark.parametrize(
    "aggregator",
    [
        keras.layers.Average(name="mean"),
        ConvLSTMAggregator(4, recurrent_dilation_rate=1, name="aggregator"),
        ConvLSTMAggregator(4, kernel_size=5, name="aggregator"),
    ],
    ids=["mean", "recurrent_dilation_rate", "kernel_size"],
)
def test_an_aggregator_of_ones_own_is_not_described(aggregator):
    model = SANet(2, "resnet_tiny", aggregator=aggregator, **SIZE)
    with pytest.raises(ValueError, match="'sanet' has an `aggregator` of its own"):
        describe(model)


def test_a_model_of_other_layers_is_not_described():
    x = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="'other' is no SANet, PSPNet or FCN"):
        describe(keras.Model(x, keras.layers.Conv2D(2, 1)(x), name="other"))


# Saving and loading


def test_a_preset_comes_back_with_weights_names_and_arguments(model, folder):
    loaded = presets.from_preset(folder)
    assert_same_weights(model, loaded)
    assert describe(loaded) == describe(model)


@pytest.mark.slow
def test_half_precision_halves_the_file_and_keeps_three_digits(model, folder, tmp_path):
    presets.save_preset(model, tmp_path / "half", dtype="float16")
    loaded = presets.from_preset(tmp_path / "half")
    # float16 has 11 bits: rounding is at most 2^-12 of a value (subnormal ones aside).
    for name, value in values(loaded).items():
        np.testing.assert_allclose(value, values(model)[name], rtol=2**-11, atol=1e-7)
        assert value.dtype == "float32"

    def stored(path):
        with h5py.File(path) as file:
            sizes = []
            file.visititems(lambda _, x: sizes.append(getattr(x, "nbytes", 0)))
        return sum(sizes)

    whole, half = stored(folder / "model.weights.h5"), stored(tmp_path / "half/model.weights.h5")
    assert half == pytest.approx(whole / 2, rel=1e-3)  # the seed of the dropout keeps its integers


def test_another_number_of_classes_keeps_all_but_the_classifier(model, folder):
    loaded = presets.from_preset(folder, num_classes=5)
    assert loaded.output.shape[-1] == 5
    kept, new = values(model), values(loaded)
    changed = {name for name in kept if not np.array_equal(kept[name], new[name])}
    assert changed == {"classifier 0", "classifier 1"}
    assert loaded.get_layer("logits").class_names is None
    presets.save_preset(loaded, folder)
    assert_same_weights(loaded, presets.from_preset(folder))


def test_a_foreign_model_gets_other_classes_too(model, tmp_path):
    # The taps under other names: `describe` does not know this backbone.
    body = model.get_layer("backbone")
    backbone = keras.Model(body.input, {"a": body.output["s3"], "b": body.output["s4"]})
    FCN(3, keras.Model(backbone.input, backbone.output, name="backbone"), filters=4).save(
        tmp_path / "foreign.keras"
    )
    loaded = presets.from_preset(tmp_path / "foreign.keras", 5, class_names=list("vwxyz"))
    assert loaded.output.shape[-1] == 5
    assert loaded.get_layer("logits").class_names == list("vwxyz")


def test_the_same_number_of_classes_keeps_the_classifier(model, folder):
    assert_same_weights(model, presets.from_preset(folder, num_classes=3, class_names=list("xyz")))


def test_names_and_colours_alone_can_be_changed(model, folder):
    loaded = presets.from_preset(folder, palette=np.ones((3, 3), "uint8"))
    assert_same_weights(model, loaded)
    assert loaded.get_layer("logits").class_names == ["a", "b", "c"]
    assert loaded.get_layer("logits").palette == [[1, 1, 1]] * 3


def test_images_of_another_size_or_other_channels(model, folder):
    fixed = presets.from_preset(folder, input_shape=(64, 48, 3))
    assert fixed.input_shape == (None, 64, 48, 3)
    assert_same_weights(model, fixed)
    new = presets.from_preset(folder, load_weights=False, input_shape=(None, None, 4))
    assert new.get_layer("backbone").input_shape == (None, None, None, 4)


def test_weights_of_a_backbone_go_with_no_weights_of_the_preset(folder):
    with pytest.raises(ValueError, match="Pass load_weights=False too"):
        presets.from_preset(folder, backbone_weights="imagenet")


def test_an_auxiliary_classifier_goes_with_the_classes(tmp_path):
    presets.save_preset(FCN(2, "resnet_tiny", auxiliary="s3", filters=4), tmp_path / "fcn")
    loaded = presets.from_preset(tmp_path / "fcn", 4)
    assert loaded.output["auxiliary"].shape[-1] == loaded.output["logits"].shape[-1] == 4


def test_arguments_can_be_changed(folder):
    assert presets.from_preset(folder, dropout=0.7).get_layer("dropout").rate == 0.7


def test_without_weights_the_model_is_new(model, folder):
    (folder / "model.weights.h5").unlink()
    keras.utils.set_random_seed(1)
    loaded = presets.from_preset(folder, load_weights=False)
    assert describe(loaded) == describe(model)
    assert not np.array_equal(values(loaded)["classifier 0"], values(model)["classifier 0"])


def test_a_keras_file_is_a_preset_too(model, tmp_path):
    model.save(tmp_path / "model.keras")
    assert_same_weights(model, presets.from_preset(tmp_path / "model.keras"))
    loaded = presets.from_preset(str(tmp_path / "model.keras"), 7)
    assert loaded.output.shape[-1] == 7
    np.testing.assert_array_equal(values(loaded)["aggregator 0"], values(model)["aggregator 0"])


def test_figures_recipe_and_crop_are_kept_and_in_the_card(model, tmp_path):
    # class a: 3 of 4 pixels right, b: 1 of 2; IoU 3/5 and 1/3; c is in neither
    result = evaluation.Evaluation(
        ["a", "b", "c"], [[0, 0, 0]] * 3, source="mine, val", mode={"scales": [1.0]}
    )
    result.add("1.png", np.array([[3, 1, 0], [1, 1, 0], [0, 0, 0]]))
    recipe = {"epochs": np.int64(7)}
    presets.save_preset(
        model, tmp_path / "x", metrics=result, recipe=recipe, crop_size=(40, 56), license="CC0"
    )
    config = presets.read_config(tmp_path / "x")
    assert config["figures"]["mean_iou"] == pytest.approx((3 / 5 + 1 / 3) / 2)
    assert config["figures"]["source"] == "mine, val"
    assert (config["recipe"], config["crop"], config["license"]) == ({"epochs": 7}, [40, 56], "CC0")
    card = (tmp_path / "x/README.md").read_text()
    for text in (
        "# x",
        "mine, val",
        "| mean iou | 46.67 |",
        "| b | 33.33 |",
        "epochs: 7",
        "CC0",
        "license: cc0",
    ):
        assert text in card


def test_values_too_large_for_half_precision_stay_whole(tmp_path):
    model = FCN(2, "resnet_tiny", filters=4)
    variance = model.get_layer("backbone").get_layer("bn1").moving_variance
    variance.assign(np.full(16, 1e6, "float32"))
    presets.save_preset(model, tmp_path / "half", dtype="float16")
    loaded = presets.from_preset(tmp_path / "half").get_layer("backbone").get_layer("bn1")
    np.testing.assert_array_equal(np.asarray(loaded.get_weights()[3]), np.float32(1e6))


def test_a_path_is_a_folder_and_a_text_first_a_name(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    presets.save_preset(model, "sanet_tiny_scenes")
    assert presets.from_preset(Path("sanet_tiny_scenes")).output.shape[-1] == 3
    assert presets.from_preset("./sanet_tiny_scenes").output.shape[-1] == 3
    assert presets.from_preset("sanet_tiny_scenes").output.shape[-1] == 8


def test_a_preset_is_replaced_whole(model, folder):
    other = FCN(2, "resnet_tiny", filters=4)
    presets.save_preset(other, folder)
    assert_same_weights(other, presets.from_preset(folder))
    assert sorted(os.listdir(folder.parent)) == ["mine"]  # nothing temporary is left


def test_a_save_that_fails_leaves_the_old_preset(model, folder):
    other = FCN(2, "resnet_tiny", filters=4)
    with pytest.raises(TypeError, match="must be JSON"):
        presets.save_preset(other, folder, recipe={"rate": object()})
    assert_same_weights(model, presets.from_preset(folder))
    assert sorted(os.listdir(folder.parent)) == ["mine"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_full_disk_is_one_error_and_leaves_the_old_preset(dtype, model, folder, full_disk, capfd):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with full_disk(10_000), pytest.raises(OSError, match=f"File too large: '{folder}'"):
        presets.save_preset(model, folder, dtype=dtype)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.glob(".*")) == []
    assert "Traceback" not in capfd.readouterr().err  # HDF5's


def test_a_folder_with_other_files_is_not_replaced(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"is no preset, and holds thesis\.txt"):
        presets.save_preset(model, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_with_a_readme_alone_is_not_replaced(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is no preset, and holds README\.md"):
        presets.save_preset(model, tmp_path)


def test_a_preset_is_no_file(model, tmp_path):
    with pytest.raises(ValueError, match=r"Leave out \.keras"):
        presets.save_preset(model, tmp_path / "model.keras")
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError, match="taken is a file"):
        presets.save_preset(model, tmp_path / "taken")


def test_a_model_that_was_changed_is_not_saved_as_a_preset(model, tmp_path):
    changed = keras.Model(model.input, keras.layers.Softmax()(model.output), name="changed")
    with pytest.raises(ValueError, match="'changed' was changed after SANet built it"):
        presets.save_preset(changed, tmp_path / "x")


@pytest.mark.parametrize(
    ("argument", "value"), [("metrics", {"mean_iou": 0.5}), ("recipe", "adam"), ("crop_size", 473)]
)
def test_odd_arguments_are_named(argument, value, model, tmp_path):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        presets.save_preset(model, tmp_path / "x", **{argument: value})


def test_a_foreign_model_is_not_saved_as_a_preset(tmp_path):
    x = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match=r"model\.save"):
        presets.save_preset(keras.Model(x, keras.layers.Conv2D(2, 1)(x)), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_unknown_dtype_is_named(model, tmp_path):
    with pytest.raises(ValueError, match="dtype='int8'"):
        presets.save_preset(model, tmp_path / "x", dtype="int8")


# Names of the package


def test_the_preset_in_the_package_is_small_and_segments_scenes():
    assets = Path(presets.__file__).parent / "assets/sanet_tiny_scenes"
    size = sum(path.stat().st_size for path in assets.iterdir())
    assert size <= 3 * 2**20
    model = presets.from_preset("sanet_tiny_scenes")
    image, mask = datasets.scenes.draw(12345, 0)
    logits = keras.ops.convert_to_numpy(model(image[None].astype("float32")))
    known = mask != 255
    assert (logits[0].argmax(-1) == mask)[known].mean() > 0.75
    assert model.get_layer("logits").class_names == list(datasets.scenes.CLASS_NAMES)


def test_the_figures_of_the_preset_in_the_package_name_their_protocol():
    config = presets.read_config("sanet_tiny_scenes")
    assert config["figures"]["source"] == "scenes, val"
    assert config["figures"]["images"] == 60
    assert config["weights"]["dtype"] == "float16"


@pytest.mark.parametrize("name", presets.REFERENCES)
def test_the_papers_models_have_its_figures_and_no_weights(name):
    config = presets.read_config(name)
    assert config["weights"] is None
    assert config["crop"] == [473, 473]
    assert config["figures"]["source"].startswith("the paper's Table")
    with pytest.raises(ValueError, match=f"{name} has no weights: .*load_weights=False"):
        presets.from_preset(name)


def test_the_papers_figures_are_those_of_table_iv():
    figures = presets.read_config("sanet_resnext50_nyuv2")["figures"]
    assert (figures["pixel_accuracy"], figures["mean_iou"]) == (0.759, 0.507)


@pytest.mark.slow
def test_a_model_of_the_paper_is_built_without_weights():
    model = presets.from_preset("fcn_resnet50_nyuv2", load_weights=False, filters=8)
    assert model.output.shape[-1] == 40
    assert model.get_layer("logits").class_names[0] == "wall"


@pytest.mark.slow
def test_a_model_of_the_paper_starts_from_weights_of_its_backbone(random_checkpoint, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    state = random_checkpoint("resnext50")
    safetensors.save_file(state, tmp_path / "stem.safetensors")
    start = {"load_weights": False, "backbone_weights": tmp_path / "stem.safetensors"}
    model = presets.from_preset("fcn_resnext50_nyuv2", filters=4, **start)
    kernel = model.get_layer("backbone").get_layer("conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel, state["conv1.weight"].transpose(2, 3, 1, 0))


def test_presets_with_weights_are_listed():
    assert list(presets.list_presets()) == ["sanet_tiny_scenes"]


def test_the_papers_models_are_listed_when_asked_for():
    listed = presets.list_presets(references=True)
    assert {"sanet_tiny_scenes", *presets.REFERENCES} == {*listed}
    assert "mean IoU 80.9 %" in listed["sanet_resnext50_cityscapes"]


def test_a_preset_of_version_0_1_0_loads(model, folder):
    config = json.loads((folder / "config.json").read_text())
    del config["license"]
    (folder / "config.json").write_text(json.dumps({**config, "licence": "CC0"}))
    assert presets.read_config(folder)["license"] == "CC0"
    assert_same_weights(model, presets.from_preset(folder))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="no preset 'sanet'.*sanet_tiny_scenes"):
        presets.from_preset("sanet")


# What is damaged, does not fit, or is not safe


def test_damaged_weights_are_told_by_their_checksum(folder):
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        file["layers/conv2d/vars/0"][0] += 1
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is damaged.*Get or save the preset"):
        presets.from_preset(folder)


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {name}"):
        presets.from_preset(folder)


def test_changes_that_the_weights_do_not_fit_are_named(folder):
    with pytest.raises(ValueError, match="layer 'adapter_s0'.*load_weights=False"):
        presets.from_preset(folder, aggregator_filters=8)


def test_an_unknown_argument_lists_the_known_ones(folder):
    with pytest.raises(ValueError, match="Unknown arguments filter of SANet. Known: num_classes"):
        presets.from_preset(folder, filter=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "`format` must be 1, which keras_sanet .* reads. It is: 2"),
        ({"builder": []}, "is no config"),
        ({"arguments": {"input_shape": [None]}}, "can't be loaded"),
        ({"weights": 5}, "config"),
        ({"builder": "os.system"}, "`builder` must be one of SANet, PSPNet, FCN"),
        ({"arguments": {"backbone_weights": "/etc/passwd"}}, "unknown ones: backbone_weights"),
        (
            {"arguments": {"backbone": {"variant": "resnet_tiny", "weights": "x"}}},
            "`backbone` must",
        ),
        ({"arguments": {"backbone": "resnet_tiny"}}, "`backbone` must be a dict"),
        ({"arguments": {"aggregator_filters": 10**9}}, "holds 1000000000; sizes from 0 to 65,536"),
        (
            {"arguments": {"aggregator_filters": 60_000}},
            "can't be loaded",
        ),  # 60 000^2 weights a gate
        ({"arguments": {"bins": [70_000]}}, "holds 70000"),
        ({"arguments": {"bins": [1] * 20_000}}, "`bins` has 20,000 entries; 256 are loaded"),
        ({"arguments": {"input_shape": [12_000, 12_000, 3]}}, "at most 134,217,728 values"),
        ({"arguments": {"num_classes": "3"}}, "num_classes"),
        ({"arguments": {"taps": [["s0"]]}}, "can't be loaded"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:40],
)
def test_a_config_that_asks_for_what_no_preset_needs_is_refused(changes, message, folder):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        presets.from_preset(folder)


def test_a_config_without_weights_can_not_ask_for_all_memory(folder):
    edit(folder, arguments={"aggregator_filters": 60_000})
    with pytest.raises(ValueError, match="60000|values"):
        presets.from_preset(folder, load_weights=False)


def test_a_giant_config_is_not_read(folder):
    (folder / "config.json").write_text(" " * (2**20 + 1))
    with pytest.raises(ValueError, match="has 1,048,577 bytes; a preset's has 1,048,576 at most"):
        presets.from_preset(folder)


def test_a_config_nested_too_deep_is_refused(folder):
    (folder / "config.json").write_text("[" * 500_000)
    with pytest.raises(ValueError, match=r"config\.json is damaged: maximum recursion depth"):
        presets.from_preset(folder)


def test_weights_with_a_link_to_another_file_are_refused(folder):
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = h5py.ExternalLink("/etc/passwd", "/x")
    edit(folder, weights={"sha256": _files.digest(folder / "model.weights.h5")})
    with pytest.raises(ValueError, match="link"):
        presets.from_preset(folder)


# Addresses


def run(code, *arguments, **environment):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


needs_hub = functools.partial(
    pytest.mark.skipif, importlib.util.find_spec("huggingface_hub") is None
)
needs_kaggle = functools.partial(pytest.mark.skipif, importlib.util.find_spec("kagglehub") is None)


@pytest.mark.slow
@needs_hub(reason="huggingface_hub is not installed")
def test_hugging_face_is_read_once_then_from_the_cache_and_offline_is_clear(folder, tmp_path):
    # A server on this machine that answers as the hub does for the files of one repository.
    code = """
        import hashlib, http.server, json, os, pathlib, sys, threading

        folder = pathlib.Path(sys.argv[1])
        asked = []

        class Hub(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                path = folder / self.path.rpartition("/")[2]
                known = self.path.startswith("/someone/mine/resolve/v1/") and path.is_file()
                body = path.read_bytes() if known else b""
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(body)))
                if known:
                    self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                    self.send_header("X-Repo-Commit", "0" * 40)
                else:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"

        from keras_sanet import presets

        def load(address):
            try:
                return presets.from_preset(address).output.shape[-1]
            except Exception as error:
                return f"{type(error).__name__}: {error}"

        found = [load("hf://someone/mine@v1"), load("hf://someone/else@v1"), load("hf://mine")]
        files = sorted({path.rpartition("/")[2] for path in asked if "mine" in path})
        server.shutdown()
        server.server_close()
        found += [load("hf://someone/mine@v1"), load("hf://someone/else@v1")]
        print(json.dumps([files, *found]))
    """
    files, online, unknown, short, cached, offline = run(
        code, folder, HF_HOME=str(tmp_path / "cache"), HF_HUB_DISABLE_XET="1"
    )
    assert files == ["config.json", "model.weights.h5"]  # and nothing else
    assert (online, cached) == (3, 3)
    assert unknown.startswith("ValueError: hf://someone/else@v1 can't be loaded")
    assert "must be hf://owner/name" in short
    assert offline.startswith("ConnectionError: hf://someone/else@v1 can't be reached")
    assert "HF_HOME" in offline


@pytest.mark.slow
@needs_kaggle(reason="kagglehub is not installed")
def test_kaggle_is_read_from_its_cache_and_offline_is_clear(folder, tmp_path):
    code = """
        import json, pathlib, shutil, sys
        import kagglehub.cache, kagglehub.handle
        from keras_sanet import presets

        handle = "someone/mine/keras/tiny/3"
        parsed, cache = kagglehub.handle.parse_model_handle(handle), kagglehub.cache.Cache()
        for name in ("config.json", "model.weights.h5"):
            place = pathlib.Path(cache.get_path(parsed, name))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pathlib.Path(sys.argv[1]) / name, place)
            cache.mark_as_complete(parsed, name)
        found = [presets.from_preset(f"kaggle://{handle}").output.shape[-1]]
        for other in ("someone/else/keras/tiny/3", "nonsense"):
            try:
                presets.from_preset(f"kaggle://{other}")
            except Exception as error:
                found.append(f"{type(error).__name__}: {error}")
        print(json.dumps(found))
    """
    # A proxy that nobody answers stands for a machine without a network.
    offline = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    cached, unreachable, nonsense = run(
        code, folder, KAGGLEHUB_CACHE=str(tmp_path / "cache"), NO_PROXY="", no_proxy="", **offline
    )
    assert cached == 3
    assert unreachable.startswith("ConnectionError: kaggle://someone/else/keras/tiny/3 can't be")
    assert "KAGGLEHUB_CACHE" in unreachable
    assert nonsense.startswith("ValueError") and "nonsense" in nonsense


# One logit


LANE = {"class_names": ["background", "lane"], "palette": [[0, 0, 9], [9, 9, 0]]}


@pytest.fixture(scope="module")
def binary():
    return FCN(1, "resnet_tiny", filters=4, **LANE)


def test_one_logit_has_two_names_and_colours_in_every_file(binary, tmp_path):
    presets.save_preset(binary, tmp_path / "preset")
    binary.save(tmp_path / "model.keras")
    for source in (tmp_path / "preset", tmp_path / "model.keras"):
        layer = presets.from_preset(source).get_layer("logits")
        assert {name: getattr(layer, name) for name in LANE} == LANE
    assert "0 background, 1 lane; 255 is void" in (tmp_path / "preset/README.md").read_text()


def test_the_card_of_one_logit_without_names_counts_two_classes(tmp_path):
    presets.save_preset(FCN(1, "resnet_tiny", filters=4), tmp_path / "preset")
    assert "0 class 0, 1 class 1; 255 is void" in (tmp_path / "preset/README.md").read_text()


@pytest.mark.parametrize("num_classes", [None, 1, 2])
def test_one_logit_stays_for_two_classes(binary, num_classes):
    changed = models.with_classes(binary, num_classes, class_names=["no", "yes"])
    assert_same_weights(binary, changed)
    assert changed.get_layer("logits").class_names == ["no", "yes"]
    assert changed.get_layer("logits").palette == LANE["palette"]


@pytest.mark.parametrize("names", [["lane"], ["a", "b", "c"]])
def test_one_logit_with_other_than_two_names_is_refused(names):
    with pytest.raises(ValueError, match="2: one channel is of background and foreground"):
        FCN(1, "resnet_tiny", filters=4, class_names=names)
