"""The experiments: their rows, their statistics, and what a folder of them keeps."""

import contextlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from support import call

from keras_sanet import datasets, experiments, recipes
from keras_sanet.datasets import scenes
from keras_sanet.experiments import ROWS
from keras_sanet.experiments.protocol import as_stored
from keras_sanet.experiments.results import _T
from keras_sanet.presets.config import describe
from keras_sanet.summary import Summary

TINY = {
    "crop_size": [32, 48], "aggregator_filters": 4, "head_filters": 4, "epochs": 2, "batch_size": 2,
    "val_batch_size": 2, "learning_rate": 1e-3,
}  # fmt: skip
KEPT = {"images": {"classes": 5}, "backend": keras.backend.backend()}  # in a folder's protocol


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A data set of 4 training and 2 validation scenes of 32 x 48."""
    root = tmp_path_factory.mktemp("drawn")
    scenes.write(root / "scenes", size=(32, 48), splits={"train": 4, "val": 2})
    return datasets.load("scenes", root / "scenes")


@pytest.fixture(scope="module")
def small():
    return experiments.protocol("scenes", **TINY)


def results(values, epochs=1):
    """Results of rows by {row: {seed: last value, or list of all}}, the same in each figure."""
    protocol = {**experiments.protocol("scenes"), **KEPT, "epochs": epochs}
    runs = {
        row: {
            seed: dict.fromkeys(experiments.FIGURES, np.atleast_1d(value).tolist())
            for seed, value in seeds.items()
        }
        for row, seeds in values.items()
    }
    return experiments.Results(protocol, runs)


# Rows


def test_a_row_of_several_experiments_is_trained_once(small):
    rows = experiments.list_rows(["table3", "figure3", "table1"], small)
    assert len(rows) == len(set(rows))
    assert rows[:4] == ["fcn", "psp", "aggregation", "sanet"]


def test_the_other_stem_is_a_row_where_the_protocol_has_one(small):
    with_other = {**small, "other_backbone": "resnet18"}
    assert "stem" not in experiments.list_rows(["table3"], small)
    assert "stem" in experiments.list_rows(["table3"], with_other)
    # The same stem with the same weights would be the FCN again.
    same = {**small, "other_backbone": small["backbone"]}
    assert "stem" not in experiments.list_rows(["table3"], same)
    assert "stem" in experiments.list_rows(["table3"], {**same, "other_weights": "imagenet"})


def test_only_the_rows_that_are_asked_for(small):
    assert experiments.list_rows(["table1"], small, ["aggregation", "fcn"]) == [
        "fcn",
        "aggregation",
    ]
    with pytest.raises(ValueError, match="'psp' is no row of table1 with this protocol. Rows: fcn"):
        experiments.list_rows(["table1"], small, ["fcn", "psp"])


def test_every_row_stands_in_an_experiment():
    named = {row for experiment in experiments.EXPERIMENTS.values() for row in experiment.rows}
    assert named == set(experiments.ROWS)


@pytest.mark.parametrize("row", [row for row in experiments.ROWS if row != "stem"])
def test_a_row_is_a_model_of_the_classes(row, small):
    output = experiments.build(row, 5, small).output
    logits = output["logits"] if isinstance(output, dict) else output
    assert isinstance(output, dict) == row.startswith("auxiliary")
    assert logits.shape == (None, None, None, 5)


# The arguments in which a row differs from the baseline of its kind, FCN, PSPNet or SANet.
PYRAMID, TAPS = [1, 2, 3, 4, 6], ["s0", "s1", "s2", "s3", "s4"]
DIFFERENCES = {
    "fcn": {},
    "psp": {},
    "sanet": {},
    "aggregation": {"bins": None},
    **{f"skip_{tap}": {"skip": tap} for tap in TAPS},
    **{f"auxiliary_{tap}": {"auxiliary": tap} for tap in TAPS},
    "coarse_to_fine": {"taps": ["s4", "s3", "s2", "s1", "s0"]},
    "dilation_1": {"aggregator_dilation_rate": 1},
    "without_s0": {"taps": ["s1", "s2", "s3", "s4"]},
    "without_s1": {"taps": ["s0", "s2", "s3", "s4"]},
    "without_s2": {"taps": ["s0", "s1", "s3", "s4"]},
    "without_s3": {"taps": ["s0", "s1", "s2", "s4"]},
    "without_s4": {"taps": ["s0", "s1", "s2", "s3"]},
    "only_s4": {"taps": ["s4"]},
    "grid_s1": {"grid": "s1"},
    "normalized": {"normalize_taps": True},
    "plain_branches": {"normalize_branches": False},
    "plain_psp": {"normalize_branches": False},
    "add": {"fusion": "add"},
    "aggregated": {"fusion": "aggregated"},
}
BASELINES = {
    "FCN": {"filters": 4, "skip": None, "auxiliary": None},
    "PSPNet": {"pyramid_filters": 4, "bins": PYRAMID, "normalize_branches": True},
    "SANet": {
        "pyramid_filters": 4, "bins": PYRAMID, "normalize_branches": True, "aggregator_filters": 4,
        "aggregator_dilation_rate": 2, "taps": TAPS, "normalize_taps": False, "grid": None,
        "fusion": "concatenate",
    },
}  # fmt: skip


@pytest.mark.parametrize("row", DIFFERENCES)
def test_a_row_differs_from_its_baseline_in_what_its_label_says(row, small):
    kind, arguments = describe(experiments.build(row, 5, small))
    shared = {"num_classes", "backbone", "input_shape", "dropout", "class_names", "palette", "name"}
    found = {name: value for name, value in arguments.items() if name not in shared}
    assert found == {**BASELINES[kind], **DIFFERENCES[row]}


def test_the_rows_that_replace_the_aggregator_say_by_what(small):
    replaced = set(ROWS) - set(DIFFERENCES) - {"stem", "width_x0.5", "width_x2", "width_x4"}
    assert replaced == {"mean", "sum", "concatenate", "recurrent_1"}
    undilated = experiments.build("recurrent_1", 5, small).get_layer("aggregator")
    assert (undilated.dilation_rate, undilated.recurrent_dilation_rate) == (2, 1)
    mean = experiments.build("mean", 5, small).get_layer("mean")
    assert isinstance(mean, keras.layers.Average) and len(mean.input) == 5


def test_the_stem_row_takes_the_other_backbone(small):
    model = experiments.build("stem", 5, {**small, "other_backbone": "resnet18"})
    # 512 channels come out of ResNet-18, 128 out of resnet_tiny.
    assert model.get_layer("head").input.shape[-1] == 512


def test_widths_are_multiples_of_the_protocols(small):
    widths = [
        experiments.build(row, 5, small).get_layer("aggregator").filters
        for row in ("width_x0.5", "sanet", "width_x2", "width_x4")
    ]
    assert widths == [2, 4, 8, 16]


@pytest.mark.parametrize(("row", "joined"), [("sum", 1), ("concatenate", 5)])
def test_convolutions_without_recurrence_multiply_as_much_as_the_convlstm(row, joined, small):
    c = 32
    model = experiments.build(row, 5, {**small, "aggregator_filters": c})
    after = [
        layer.kernel.shape
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.name != "classifier"
    ]
    assert [shape[:2] for shape in after] == [(3, 3)] * 3
    assert after[0][2] == joined * c and after[-1][3] == c
    # Five input and four recurrent convolutions, 3x3, from c' to 4 c'.
    convlstm = 9 * 4 * c * c * (5 + 4)
    assert sum(np.prod(shape) for shape in after) == pytest.approx(convlstm, rel=0.01)


def test_an_unknown_row_or_experiment_lists_the_known_ones(small):
    with pytest.raises(ValueError, match="Unknown row 'fnc'. Known: stem, fcn, psp"):
        experiments.build("fnc", 5, small)
    with pytest.raises(ValueError, match="Unknown experiment 'table9'. Known: table1, table3"):
        experiments.list_rows(["table9"], small)


# Protocol


def test_a_data_set_without_a_protocol_gets_the_papers_stem_and_crop():
    found = experiments.protocol("ade20k")
    assert (found["backbone"], found["crop_size"]) == ("resnext50", (473, 473))
    assert (found["aggregator_filters"], found["other_weights"]) == (256, "imagenet")


def test_an_unknown_value_of_a_protocol_is_named():
    with pytest.raises(ValueError, match="no 'epoch'. It has: val_split, backbone"):
        experiments.protocol("scenes", epoch=3)


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"crop_size": (0, 32)}, {"aggregator_filters": 1.5}]
)
def test_a_number_that_is_not_positive_is_named(changes):
    (name,) = changes
    with pytest.raises(
        ValueError, match=f"`{name}` must be .*positive integers?. Received: {name}="
    ):
        experiments.protocol("scenes", **changes)


def test_none_is_the_word_for_no_weights_and_no_other_stem():
    found = experiments.protocol("camvid", weights="none")
    assert found["weights"] is None and found["other_weights"] is None
    found = experiments.protocol("ade20k", other_backbone="none", weights="resnext50.pth")
    assert found["other_backbone"] is None and found["weights"] == "resnext50.pth"


@pytest.mark.parametrize("name", ["nyuv2", "sunrgbd", "ade20k", "cityscapes"])
def test_the_papers_data_sets_are_validated_on_the_split_of_their_recipe(name):
    found = experiments.protocol(name)
    assert found["val_split"] == recipes.get(f"paper_{name}")["val_split"]


def test_the_other_stem_starts_as_the_first_one():
    found = experiments.protocol("camvid", weights="imagenet", other_backbone="resnet50")
    assert found["other_weights"] == "imagenet"
    with pytest.raises(ValueError, match="`other_weights` must be given with a file as `weights`"):
        experiments.protocol("camvid", weights="resnet18.pth", other_backbone="resnet50")


def test_a_folder_without_runs_takes_a_new_protocol(drawn, tmp_path):
    assert experiments.begin(tmp_path, drawn, **TINY)["epochs"] == 2
    assert experiments.begin(tmp_path, drawn, **{**TINY, "epochs": 5})["epochs"] == 5


def test_a_folder_keeps_its_protocol_in_the_words_of_0_1_0(drawn, tmp_path):
    experiments.begin(tmp_path, drawn, **TINY)
    kept = json.loads((tmp_path / "protocol.json").read_text("utf-8"))
    assert kept["crop"] == [32, 48] and "crop_size" not in kept


# Statistics


def test_the_interval_is_students():
    # Mean 2, deviation 1 of three values; t of two degrees of freedom is 4.303.
    mean, low, high = experiments.interval([1, 2, 3])
    assert mean == 2
    assert high - mean == mean - low == pytest.approx(4.303 / 3**0.5)


def test_the_quantiles_are_those_of_students_t():
    stats = pytest.importorskip("scipy.stats", reason="SciPy has the quantiles to compare with")
    expected = [stats.t.ppf(0.975, n) for n in range(1, 31)]
    assert pytest.approx(expected, abs=5e-4) == _T


def test_one_seed_has_no_interval():
    mean, low, high = experiments.interval([5.0])
    assert mean == 5 and np.isnan([low, high]).all()


def test_a_difference_is_taken_seed_by_seed():
    found = results({"fcn": {0: 0.1, 1: 0.5}, "psp": {0: 0.2, 1: 0.4, 2: 0.9}})
    # 0.2 - 0.1 and 0.4 - 0.5; the baseline lacks seed 2.
    assert found.values("psp", "mean_iou", "fcn") == pytest.approx([0.1, -0.1])


def cells(table):
    """The cells of each row of a table, by the first one."""
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_difference_is_clear_where_its_interval_leaves_zero_out():
    found = results({
        "fcn": {0: 0.1, 1: 0.1, 2: 0.1},
        "psp": {0: 0.21, 1: 0.20, 2: 0.19},  # 10 +- 4.303 / 3^0.5 points
        "sanet": {0: 0.31, 1: 0.10, 2: 0.19},
    })  # fmt: skip
    lines = cells(found.table("table3"))
    assert lines["FCN + PSP"][-2] == "+10.00 (+7.52 to +12.48, 3 seeds), clear"
    assert not lines["FCN + PSP + aggregation (SANet)"][-2].endswith("clear")


def test_two_seeds_make_no_difference_clear():
    # Equal differences: their interval has no width.
    found = results({"fcn": {0: 0.1, 1: 0.2}, "psp": {0: 0.2, 1: 0.3}})
    difference = cells(found.table("table3"))["FCN + PSP"][-2]
    assert difference == "+10.00 (+10.00 to +10.00, 2 seeds)"


def test_the_baseline_is_the_first_row_of_the_experiment_trained_or_not():
    found = results({"psp": {0: 0.2}, "sanet": {0: 0.3}})
    table = found.table("table3")
    assert "Not trained: FCN, FCN + aggregation." in table
    assert [row[-2:] for row in cells(table).values()][2:] == [["", ""]] * 2


def test_figure_3_shows_the_best_skip_and_auxiliary_loss_that_are_trained():
    values = {"fcn": 0.1, "skip_s0": 0.3, "skip_s4": 0.2, "auxiliary_s1": 0.1, "aggregation": 0.4}
    found = results({row: {0: value} for row, value in values.items()})
    assert found.trained_rows("figure3") == ["fcn", "skip_s0", "auxiliary_s1", "aggregation"]


def test_figure_3_says_which_kind_is_not_trained():
    found = results({"fcn": {0: 0.1}, "skip_s0": {0: 0.3}})
    assert "Not trained: auxiliary loss s2, FCN + aggregation." in found.table("figure3")


def test_the_best_row_is_one_of_those_with_most_seeds():
    found = results({"skip_s0": {0: 0.9}, "skip_s1": {0: 0.2, 1: 0.3}, "skip_s2": {0: 0.1, 1: 0.2}})
    assert found.trained_rows("figure3") == ["skip_s1"]


def test_figure_3_counts_the_epochs_to_the_best_of_the_baseline():
    found = results({
        "fcn": {0: [0.1, 0.4, 0.3], 1: [0.1, 0.2, 0.3]},
        "aggregation": {0: [0.2, 0.3, 0.4], 1: [0.3, 0.4, 0.5]},
        "skip_s1": {0: [0.2, 0.3, 0.35], 1: [0.1, 0.3, 0.2]},
    }, epochs=3)  # fmt: skip
    # The bests are 0.4 and 0.3.
    assert found.epochs_to_reach("aggregation") == [3, 1]
    assert found.epochs_to_reach("skip_s1") == [None, 2]


def test_seeds_stand_in_order():
    found = results({"fcn": {0: 0.1, 1: 0.1}, "aggregation": {1: 0.3, 0: 0.2}})
    assert found.values("aggregation", "mean_iou").tolist() == [0.2, 0.3]


def test_the_best_rows_of_figure_3_have_their_differences():
    found = results({"fcn": {0: 0.1}, "skip_s0": {0: 0.3}, "aggregation": {0: 0.4}})
    lines = cells(found.table("figure3"))
    assert lines["skip connection s0"][-2:] == ["+20.00 (1 seed)", "1"]


def test_without_a_difference_the_curves_are_the_only_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    (tmp_path / "table3.png").write_bytes(b"of rows that are gone")
    results({"fcn": {0: 0.1}}).write(tmp_path, "table3")
    assert {path.name for path in tmp_path.iterdir()} == {"table3.md", "table3_curves.png"}


# Folders


@pytest.fixture(scope="module")
def command(drawn, tmp_path_factory):
    """The arguments of a command for two rows of two epochs, its folder, and what it gave."""
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    data, folder = drawn.samples("train")[0].image.parents[2], tmp_path_factory.mktemp("out")
    arguments = ["ablate", "adapters", "--data", data, "--output", folder, "--seeds", 1]
    flags = [
        text
        for name, value in TINY.items()
        for text in (f"--{name.replace('_', '-')}", *(value if name == "crop_size" else [value]))
    ]
    return arguments, folder, call(*arguments, *flags, "--rounds", 1)


@pytest.mark.slow
def test_the_command_trains_and_writes_tables_and_plots(command):
    _, folder, (code, out, error) = command
    assert code == 0, error
    assert "1/2 FCN + PSP + aggregation (SANet) (sanet), seed 0: mean IoU" in out
    written = {path.name for path in folder.iterdir() if path.is_file()}
    assert written == {
        "protocol.json", "costs.json", "results.json", "adapters.md", "adapters.png",
        "adapters_curves.png",
    }  # fmt: skip
    assert (folder / "adapters.md").read_text("utf-8") in out
    assert list(cells(out)) == [
        "",
        "---",
        "FCN + PSP + aggregation (SANet)",
        ROWS["normalized"].label,
    ]


@pytest.mark.slow
def test_a_run_keeps_its_figures_and_no_weights(command):
    kept = {path.name for path in (command[1] / "sanet/seed-0").iterdir()}
    assert kept == {"config.json", "data.json", "cross_entropy.csv", ".lock"}


@pytest.mark.slow
def test_the_same_command_trains_and_times_nothing_again(command):
    arguments, folder, _ = command
    files = [folder / "sanet/seed-0/cross_entropy.csv", folder / "costs.json"]
    before = [path.stat().st_mtime_ns for path in files]
    code, _, error = call(*arguments)
    assert code == 0, error
    assert [path.stat().st_mtime_ns for path in files] == before


@pytest.mark.slow
def test_what_a_killed_run_left_beside_its_figures_is_removed(command):
    arguments, folder, _ = command
    left = folder / "sanet/seed-0/cross_entropy_state.keras"
    left.write_bytes(b"state")
    call(*arguments)
    assert not left.exists()


@pytest.mark.slow
def test_a_report_leaves_the_results_as_they_are(command):
    arguments, folder, _ = command
    before = (folder / "results.json").read_bytes()
    code, out, error = call(*arguments, "--report")
    assert code == 0 and "seed 0" not in out, error
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.slow
def test_other_values_than_a_folder_began_with_are_refused(command, drawn):
    arguments, folder, _ = command
    code, _, error = call(*arguments, "--epochs", 3)
    assert code == 1 and "began with epochs 2" in error and "Received: 3. Give another" in error


def test_the_file_of_the_weights_may_lie_elsewhere_now(drawn, tmp_path):
    began = experiments.begin(tmp_path, drawn, **TINY, weights="/old/stem.pth")
    (tmp_path / "fcn/seed-0").mkdir(parents=True)
    (tmp_path / "fcn/seed-0/config.json").write_text("{}")
    assert experiments.begin(tmp_path, drawn) == began
    assert experiments.begin(tmp_path, drawn, weights="/new/stem.pth")["weights"] == "/new/stem.pth"
    with pytest.raises(ValueError, match="began with weights /new/stem.pth, .* /new/other.pth"):
        experiments.begin(tmp_path, drawn, weights="/new/other.pth")


@pytest.mark.slow
def test_other_images_than_a_folder_began_with_are_refused(command, tmp_path):
    scenes.write(tmp_path / "scenes", size=(32, 48), splits={"train": 5, "val": 2})
    other = datasets.load("scenes", tmp_path / "scenes")
    with pytest.raises(ValueError, match="began with other images, masks or classes of scenes"):
        experiments.begin(command[1], other)


@pytest.mark.slow
def test_another_backend_than_a_folder_began_with_is_refused(command, drawn, tmp_path):
    protocol = json.loads((command[1] / "protocol.json").read_text())
    (tmp_path / "fcn/seed-0").mkdir(parents=True)
    (tmp_path / "fcn/seed-0/config.json").write_text("{}")
    (tmp_path / "protocol.json").write_text(json.dumps({**protocol, "backend": "numpy"}))
    with pytest.raises(ValueError, match="began on numpy.* Give another folder"):
        experiments.begin(tmp_path, drawn)


def test_results_whose_runs_are_not_there_are_not_written_over(drawn, tmp_path):
    results({"fcn": {0: 0.1}}).save(tmp_path / "results.json")
    with pytest.raises(ValueError, match="results.json is of runs that are not there"):
        experiments.begin(tmp_path, drawn)


def test_a_new_protocol_forgets_what_the_rows_of_the_one_before_cost(drawn, tmp_path):
    experiments.begin(tmp_path, drawn)
    (tmp_path / "costs.json").write_text("{}")
    experiments.begin(tmp_path, drawn, epochs=1)
    assert not (tmp_path / "costs.json").exists()


@pytest.mark.slow
def test_only_the_asked_rows_are_trained(command, tmp_path):
    arguments = [tmp_path if value == command[1] else value for value in command[0]]
    small = ("--crop-size", 32, 48, "--aggregator-filters", 2, "--head-filters", 2, "--epochs", 1)
    small += ("--batch-size", 2, "--val-batch-size", 2, "--rounds", 0)
    code, out, error = call(*arguments, *small, "--rows", "normalized")
    assert code == 0, error
    assert "1/1 batch norm after each adapter (normalized), seed 0" in out
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["normalized"]


@pytest.mark.parametrize("arguments", [("order", "--report"), ("table2",)])
def test_rows_are_refused_where_nothing_is_trained(arguments, tmp_path):
    code, _, error = call("ablate", *arguments, "--rows", "sanet", "--output", tmp_path / "new")
    assert code == 1 and "`--rows` says what to train" in error


@pytest.mark.slow
def test_without_matplotlib_nothing_is_trained(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    code, out, error = call(*command[0])
    assert code == 1 and "pip install keras-sanet[plots]" in error and "seed 0" not in out


def test_without_matplotlib_a_report_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    results({"fcn": {0: 0.1}}).save(tmp_path / "results.json")
    code, _, error = call("ablate", "table3", "--report", "--output", tmp_path)
    assert code == 1 and "pip install keras-sanet[plots]" in error
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_without_matplotlib_a_report_of_nothing_says_that_it_is_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    code, _, error = call("ablate", "order", "--report", "--output", tmp_path)
    assert code == 1 and "holds no experiments" in error


@pytest.mark.slow
def test_results_hold_every_epoch_of_the_finished_runs_and_what_made_them(command):
    folder = command[1]
    (folder / "psp/seed-0").mkdir(parents=True, exist_ok=True)
    (folder / "psp/seed-0/cross_entropy.csv").write_text("epoch,val_mean_iou\n0,0.5\n")
    (folder / "sanet/seed-0 (copy)").mkdir(exist_ok=True)
    found = experiments.Results.load(folder)
    assert set(found.runs) == {"sanet", "normalized"}  # psp has one epoch of two
    for seeds in found.runs.values():
        assert list(seeds) == [0]
        assert {len(values) for values in seeds[0].values()} == {2}
    (made,) = found.made
    assert made["versions"]["backend"] == keras.backend.backend()


@pytest.mark.slow
def test_results_come_back_from_their_file(command, tmp_path):
    found = experiments.Results.load(command[1])
    found.save(tmp_path / "results.json")
    again = experiments.Results.load(tmp_path / "results.json")
    assert vars(again) == vars(found)


def test_a_folder_that_holds_results_alone_gives_a_report(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    results({"fcn": {0: 0.1}, "psp": {0: 0.2}}).save(tmp_path / "results.json")
    code, out, error = call("ablate", "all", "--report", "--output", tmp_path)
    assert code == 0, error
    assert "FCN + PSP" in cells((tmp_path / "table3.md").read_text("utf-8"))
    assert out.count("Nothing there yet of ") == 1 and "order, recurrence" in out
    assert {path.name for path in tmp_path.glob("table*")} == {
        "table1.md", "table1_curves.png", "table3.md", "table3.png", "table3_curves.png",
    }  # fmt: skip


def test_results_do_not_say_where_a_file_of_weights_lies(tmp_path):
    found = results({"fcn": {0: 0.1}})
    found.protocol["weights"] = "/home/me/resnet18.pth"
    found.save(tmp_path / "results.json")
    assert experiments.Results.load(tmp_path / "results.json").protocol["weights"] == "resnet18.pth"


def test_a_folder_without_experiments_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="holds no experiments: there is no .*protocol.json"
    ):
        experiments.Results.load(tmp_path)


def crafted(**changes):
    """results.json with other entries."""
    found = results({"fcn": {0: 0.1}})
    good = {"protocol": as_stored(found.protocol), "runs": found.runs, "costs": {}, "made": []}
    return json.dumps({**good, **changes}).encode()


def of_protocol(**changes):
    return crafted(protocol={**as_stored(results({}).protocol), **changes})


def of_run(**changes):
    return crafted(runs={"fcn": {"0": {**dict.fromkeys(experiments.FIGURES, [0.5]), **changes}}})


COST = {"parameters": 1, "macs": 2, "step_ratio": 1.5}
CRAFTED = {
    "no JSON": (b"{", "is damaged: Expecting"),
    "no UTF-8": (b'{"runs": "\xff"}', "is damaged: 'utf-8' codec"),
    "nested deep": (b'{"runs": ' + b"[" * 100_000, "is damaged: .*recursion"),
    "a list": (b"[]", "is damaged: it must be a dict"),
    "nothing in it": (b"{}", "is damaged: `made` must be a list of dicts. It is: nothing"),
    "empty protocol": (crafted(protocol={}), "is damaged: protocol: `dataset` must be text"),
    "protocol as text": (crafted(protocol="paper"), "is damaged: protocol: it must be a dict"),
    "epochs as text": (of_protocol(epochs="1"), "is damaged: protocol: `epochs`"),
    "true epochs": (of_protocol(epochs=True), "is damaged: protocol: `epochs`"),
    "crop of one": (of_protocol(crop=[3]), "is damaged: protocol: `crop`"),
    "crop as a number": (of_protocol(crop=3), "is damaged: protocol: `crop`"),
    "scale as text": (of_protocol(image_scale="half"), "is damaged: protocol: `image_scale`"),
    "weights as a list": (of_protocol(weights=[]), "is damaged: protocol: `weights`"),
    "backbone as a number": (of_protocol(backbone=18), "is damaged: protocol: `backbone`"),
    "images as a list": (of_protocol(images=[3]), "is damaged: protocol: `images`"),
    "runs as a list": (crafted(runs=[]), "is damaged: `runs`"),
    "run as a list": (crafted(runs={"fcn": {"0": []}}), "is damaged: fcn with seed 0: it must be"),
    "unknown row": (crafted(runs={"skip_s9": {}}), "is damaged: `runs` must be .* of stem, fcn"),
    "seed as a word": (crafted(runs={"fcn": {"a": {}}}), "is damaged: fcn has a seed 'a'"),
    "negative seed": (crafted(runs={"fcn": {"-1": {}}}), "is damaged: fcn has a seed '-1'"),
    "no figures": (crafted(runs={"fcn": {"0": {}}}), "is damaged: fcn with seed 0: `pixel_accu"),
    "an epoch less": (of_run(mean_iou=[]), "is damaged: fcn with seed 0: `mean_iou` must be"),
    "an epoch more": (of_run(mean_iou=[0.5, 0.5]), "is damaged: fcn with seed 0: `mean_iou`"),
    "figure as text": (of_run(mean_iou=["0.5"]), "is damaged: fcn with seed 0: `mean_iou`"),
    "figures as text": (of_run(mean_iou="5"), "is damaged: fcn with seed 0: `mean_iou`"),
    "infinite figure": (of_run(mean_iou=[1e999]), "is damaged: fcn with seed 0: `mean_iou`"),
    "figure of 10^400": (of_run(mean_iou=[10**400]), "is damaged: fcn with seed 0: `mean_iou`"),
    "costs as a list": (crafted(costs=[]), "is damaged: `costs`"),
    "cost as a number": (crafted(costs={"fcn": {"psp": 3}}), "is damaged: costs of 'psp': it must"),
    "cost without a time": (
        crafted(costs={"fcn": {"psp": {"parameters": 1, "macs": 1}}}),
        "is damaged: costs of 'psp': `step_ratio` must be .*nothing",
    ),
    "made as text": (crafted(made="here"), "is damaged: `made`"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_results_are_named(tmp_path, name):
    written, said = CRAFTED[name]
    (tmp_path / "results.json").write_bytes(written)
    with pytest.raises(ValueError, match=f"results.json {said}"):
        experiments.Results.load(tmp_path / "results.json")


def test_crafted_costs_of_a_folder_are_named(tmp_path):
    protocol = json.dumps(as_stored(results({}).protocol))
    (tmp_path / "protocol.json").write_text(protocol, "utf-8")
    (tmp_path / "costs.json").write_text('{"fcn": {"psp": 3}}', "utf-8")
    with pytest.raises(ValueError, match="costs.json is damaged: costs of 'psp': it must be"):
        experiments.Results.load(tmp_path)


@pytest.mark.parametrize("row", ["0,0.5,0.6", "0,x"])
def test_a_damaged_log_is_named(row, small, tmp_path):
    log = tmp_path / "fcn/seed-0/cross_entropy.csv"
    log.parent.mkdir(parents=True)
    log.write_text(f"epoch,val_mean_iou\n{row}\n")
    with pytest.raises(ValueError, match="cross_entropy.csv is damaged"):
        experiments.train(None, "fcn", 0, small, tmp_path)


def test_a_log_that_lacks_a_figure_is_named(small, tmp_path):
    log = tmp_path / "fcn/seed-0/cross_entropy.csv"
    log.parent.mkdir(parents=True)
    log.write_text("epoch,val_mean_iou\n0,0.5\n1,0.5\n")
    with pytest.raises(ValueError, match="cross_entropy.csv lacks 'val_pixel_accuracy'"):
        experiments.train(None, "fcn", 0, small, tmp_path)


@contextlib.contextmanager
def another_process_in(folder):
    code = "import sys; from keras_sanet import _files\nwith _files.locked(sys.argv[1]):"
    code += " print('locked', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, **pipes) as other:
        assert other.stdout.readline().strip() == b"locked"
        yield
        other.stdin.close()


@pytest.mark.slow
def test_a_row_that_another_process_trains_is_left_to_it(small, tmp_path):
    with (
        another_process_in(tmp_path / "fcn/seed-0"),
        pytest.raises(FileExistsError, match="Another process writes into"),
    ):
        experiments.train(None, "fcn", 0, small, tmp_path)


@pytest.mark.slow
def test_a_command_that_finds_all_its_rows_taken_says_so(command, tmp_path):
    arguments = [tmp_path if value == command[1] else value for value in command[0]]
    with another_process_in(tmp_path / "sanet/seed-0"):
        code, out, error = call(*arguments, "--rows", "sanet")
    assert code == 0, error
    assert "1 runs are other processes': the same command goes on with them." in out


@pytest.mark.slow
def test_a_row_whose_loss_is_not_finite_leaves_the_others_their_turn(command, tmp_path):
    arguments = [tmp_path if value == command[1] else value for value in command[0]]
    small = ("--crop-size", 32, 48, "--aggregator-filters", 2, "--head-filters", 2, "--epochs", 1)
    small += ("--batch-size", 2, "--val-batch-size", 2, "--rounds", 0)
    code, out, error = call(*arguments, *small, "--learning-rate", 1e30)
    assert code == 1
    assert out.count("not finite") + out.count("The loss is nan") == 2
    assert "2 runs failed: the same command goes on with them" in out


def test_a_report_of_nothing_says_so_and_makes_no_folder(tmp_path):
    code, _, error = call("ablate", "order", "--report", "--output", tmp_path / "new")
    assert code == 1 and "holds no experiments" in error
    code, _, error = call("ablate", "table2", "--report", "--output", tmp_path / "new")
    assert code == 1 and "holds nothing of table2 yet" in error
    assert not (tmp_path / "new").exists()


# Results of several machines


@pytest.fixture
def places(tmp_path):
    """Function from results, some {row: {seed: last value}}, to the folders that hold them."""

    def save(*found):
        folders = [tmp_path / letter for letter in "abc"[: len(found)]]
        for folder, one in zip(folders, found):
            folder.mkdir()
            (one if isinstance(one, experiments.Results) else results(one)).save(
                folder / "results.json"
            )
        return folders

    return save


def test_results_of_machines_that_shared_the_work_are_joined_seed_by_seed(places):
    a, b = places({"fcn": {0: 0.1, 2: 0.3}}, {"fcn": {1: 0.2}, "psp": {0: 0.4}})
    found = experiments.Results.join([a, b / "results.json"])
    assert found.values("fcn", "mean_iou").tolist() == [0.1, 0.2, 0.3]
    assert found.values("psp", "mean_iou").tolist() == [0.4]


def test_a_run_that_is_in_two_places_must_be_the_same(places):
    a, b, c = places({"fcn": {0: 0.1}}, {"fcn": {0: 0.1}}, {"fcn": {0: 0.2}})
    assert experiments.Results.join([a, b]).values("fcn", "mean_iou").tolist() == [0.1]
    with pytest.raises(ValueError, match="/c can't be added to .*/a: fcn with seed 0 is there"):
        experiments.Results.join([a, b, c])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("crop_size", [32, 32], r"in its crop_size \(\[32, 32\], not \[144, 192\]\)"),
        ("images", {"classes": 3}, "in its images, so"),
    ],
)
def test_results_of_another_protocol_are_not_joined(name, value, said, places):
    other = results({"psp": {0: 0.1}})
    other.protocol[name] = value
    with pytest.raises(ValueError, match=f"/b can't be added to .*/a: it differs {said}"):
        experiments.Results.join(places({"fcn": {0: 0.1}}, other))


def test_a_damaged_place_is_named(places):
    a, b = places({"fcn": {0: 0.1}}, {"fcn": {0: 0.1}})
    (b / "results.json").write_text("{")
    with pytest.raises(ValueError, match="/b can't be added to .*/b/results.json is damaged"):
        experiments.Results.join([a, b])


def test_the_first_place_says_what_a_row_costs(places):
    found, other = results({"fcn": {0: 0.1}}), results({"psp": {0: 0.2}})
    one, two, three = ({**COST, "parameters": n} for n in (1, 2, 3))
    found.costs, other.costs = {"fcn": {"fcn": one}}, {"fcn": {"fcn": two, "psp": three}}
    joined = experiments.Results.join(places(found, other))
    assert joined.costs == {"fcn": {"fcn": one, "psp": three}}


def test_a_report_joins_the_results_of_folders_in_a_new_one(places, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    a, b, c = places({"fcn": {0: 0.1}}, {"psp": {0: 0.1}}, {"sanet": {0: 0.1}})
    report = ("ablate", "table3", "--report", "--output", tmp_path / "new", "--add")
    code, _, error = call(*report, a, b)
    assert code == 0, error
    code, _, error = call(*report, c)  # with what it holds
    assert code == 0, error
    assert set(experiments.Results.load(tmp_path / "new").runs) == {"fcn", "psp", "sanet"}
    assert len(cells((tmp_path / "new/table3.md").read_text("utf-8"))) == 2 + 3


def test_results_are_not_added_where_the_next_report_would_lose_them(places, tmp_path):
    (place,) = places({"fcn": {0: 0.1}})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/protocol.json").write_text("{}")
    report = ("ablate", "order", "--report", "--output", tmp_path / "runs", "--add", place)
    code, _, error = call(*report)
    assert code == 1 and "runs has runs of its own" in error and "add it too" in error


@pytest.mark.parametrize("arguments", [("order",), ("table2", "--report")])
def test_results_are_added_to_a_report_of_trained_rows_alone(arguments, tmp_path):
    code, _, error = call("ablate", *arguments, "--output", tmp_path / "new", "--add", tmp_path)
    assert code == 1 and "`--add` is for --report" in error


# Costs


@pytest.mark.slow
def test_costs_are_the_parameters_and_products_of_each_row(small):
    found = experiments.costs(["fcn", "auxiliary_s2"], 5, small, rounds=1)
    alone = experiments.build("fcn", 5, small)
    # The auxiliary classifier is not there in a prediction.
    assert found["fcn"]["parameters"] == found["auxiliary_s2"]["parameters"] == alone.count_params()
    assert found["fcn"]["macs"] == found["auxiliary_s2"]["macs"] == Summary(alone, (32, 48)).macs
    assert found["fcn"]["step_ratio"] == 1 and found["auxiliary_s2"]["step_ratio"] > 0


@pytest.mark.slow
def test_costs_are_those_of_the_trained_rows_and_the_first(small, tmp_path):
    protocol = {**small, **KEPT}
    (tmp_path / "protocol.json").write_text(json.dumps(as_stored(protocol)))
    log = tmp_path / "skip_s0/seed-0/cross_entropy.csv"
    log.parent.mkdir(parents=True)
    names = [f"val_{name}" for name in experiments.FIGURES]
    log.write_text("\n".join([",".join(["epoch", *names])] + ["0" + ",0.5" * len(names)] * 2))
    (log.parent / "config.json").write_text('{"versions": {}}')
    experiments.add_costs(tmp_path, "figure3", protocol, rounds=1)
    written = (tmp_path / "costs.json").read_bytes()
    assert list(json.loads(written)["fcn"]) == ["fcn", "skip_s0"]
    experiments.add_costs(tmp_path, "table1", protocol, rounds=1)  # begins with the same row
    assert (tmp_path / "costs.json").read_bytes() == written


def test_costs_stand_in_the_table_relative_to_the_first_row():
    found = results({"fcn": {0: 0.1}, "psp": {0: 0.2}})
    cost = {"parameters": 2_000_000, "macs": 3_000_000_000, "step_ratio": 1.0}
    found.costs["fcn"] = {"fcn": cost, "psp": {**cost, "step_ratio": 1.5}}
    lines = cells(found.table("table3"))
    # (figure3 has the first row alone, and nothing to compare it with.)
    assert "GMAC" not in cells(found.table("figure3"))[""]
    assert lines[""][1:4] == ["M parameters", "GMAC", "train step / FCN's"]
    assert lines["FCN + PSP"][1:4] == ["2.00", "3.00", "1.50"]
