"""The experiments: their rows, their statistics, and what a folder of them keeps."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from test_cli import call

from keras_sanet import ablation, datasets
from keras_sanet.datasets import scenes
from keras_sanet.summary import Summary

TINY = {
    "crop": [32, 48], "filters": 4, "head_filters": 4, "epochs": 2, "batch_size": 2,
    "val_batch_size": 2, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A data set of 4 training and 2 validation scenes of 32 x 48."""
    root = tmp_path_factory.mktemp("drawn")
    scenes.write(root / "scenes", size=(32, 48), splits={"train": 4, "val": 2})
    return datasets.load("scenes", root / "scenes")


@pytest.fixture(scope="module")
def small():
    return ablation.protocol("scenes", **TINY)


def results(values, figure="mean_iou", epochs=1):
    """Results of rows by {row: {seed: last value, or list of all}}, of one figure alone."""
    protocol = {**ablation.protocol("scenes"), "epochs": epochs}
    runs = {
        row: {
            seed: dict.fromkeys(ablation.FIGURES, np.atleast_1d(value).tolist())
            for seed, value in seeds.items()
        }
        for row, seeds in values.items()
    }
    return ablation.Results(protocol, runs)


# Rows


def test_a_row_of_several_experiments_is_trained_once(small):
    rows = ablation.rows_of(["table3", "figure3", "table1"], small)
    assert len(rows) == len(set(rows))
    assert rows[:4] == ["fcn", "psp", "aggregation", "sanet"]


def test_the_other_stem_is_a_row_where_the_protocol_has_one(small):
    with_other = {**small, "other_backbone": "resnet18"}
    assert "stem" not in ablation.rows_of(["table3"], small)
    assert "stem" in ablation.rows_of(["table3"], with_other)


def test_every_row_stands_in_an_experiment():
    named = {row for _, rows in ablation.EXPERIMENTS.values() for row in rows}
    assert named == set(ablation.ROWS)


@pytest.mark.parametrize("row", [row for row in ablation.ROWS if row != "stem"])
def test_a_row_is_a_model_of_the_classes(row, small):
    output = ablation.build(row, 5, small).output
    logits = output["logits"] if isinstance(output, dict) else output
    assert isinstance(output, dict) == row.startswith("auxiliary")
    assert logits.shape == (None, None, None, 5)


def test_the_stem_row_takes_the_other_backbone(small):
    model = ablation.build("stem", 5, {**small, "other_backbone": "resnet18"})
    # 512 channels come out of ResNet-18, 128 out of resnet_tiny.
    assert model.get_layer("head").input.shape[-1] == 512


def test_widths_are_multiples_of_the_protocols(small):
    widths = [
        ablation.build(row, 5, small).get_layer("aggregator").filters
        for row in ("filters_x0.5", "sanet", "filters_x2", "filters_x4")
    ]
    assert widths == [2, 4, 8, 16]


@pytest.mark.parametrize(("row", "joined"), [("sum", 1), ("concatenate", 5)])
def test_convolutions_without_recurrence_multiply_as_much_as_the_convlstm(row, joined, small):
    c = 32
    model = ablation.build(row, 5, {**small, "filters": c})
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
        ablation.build("fnc", 5, small)
    with pytest.raises(ValueError, match="Unknown experiment 'table9'. Known: table1, table3"):
        ablation.rows_of(["table9"], small)


# Protocol


def test_a_folder_keeps_its_protocol(tmp_path):
    began = ablation.protocol("scenes", tmp_path, **TINY)
    assert began["epochs"] == 2
    assert ablation.protocol("scenes", tmp_path) == began


def test_other_values_than_a_folder_began_with_are_refused(tmp_path):
    ablation.protocol("scenes", tmp_path, **TINY)
    with pytest.raises(ValueError, match="began with epochs 2.*Received: 3. Give another folder"):
        ablation.protocol("scenes", tmp_path, epochs=3)
    with pytest.raises(ValueError, match="began with dataset scenes.*Received: camvid"):
        ablation.protocol("camvid", tmp_path)


def test_an_unknown_value_of_a_protocol_is_named():
    with pytest.raises(ValueError, match="no 'epoch'. It has: dataset, backbone"):
        ablation.protocol("scenes", epoch=3)


def test_a_data_set_without_a_protocol_gets_the_papers_stem_and_crop():
    found = ablation.protocol("ade20k")
    assert (found["backbone"], found["crop"], found["filters"]) == ("resnext50", (473, 473), 256)


# Statistics


def test_the_interval_is_students():
    # Mean 2, deviation 1 of three values; t of two degrees of freedom is 4.303.
    mean, low, high = ablation.interval([1, 2, 3])
    assert mean == 2
    assert high - mean == mean - low == pytest.approx(4.303 / 3**0.5)


def test_the_quantiles_are_those_of_students_t():
    stats = pytest.importorskip("scipy.stats", reason="SciPy has the quantiles to compare with")
    expected = [stats.t.ppf(0.975, n) for n in range(1, 31)]
    assert pytest.approx(expected, abs=5e-4) == ablation._T


def test_one_seed_has_no_interval():
    mean, low, high = ablation.interval([5.0])
    assert mean == 5 and np.isnan([low, high]).all()


def test_a_difference_is_taken_seed_by_seed():
    found = results({"fcn": {0: 0.1, 1: 0.5}, "psp": {0: 0.2, 1: 0.4, 2: 0.9}})
    # 0.2 - 0.1 and 0.4 - 0.5; the baseline lacks seed 2.
    assert found.values("psp", "mean_iou", "fcn") == pytest.approx([0.1, -0.1])


def test_a_difference_is_clear_where_its_interval_leaves_zero_out():
    found = results({
        "fcn": {0: 0.1, 1: 0.1, 2: 0.1},
        "psp": {0: 0.21, 1: 0.20, 2: 0.19},  # 10 +- 4.303 / 3^0.5 points
        "sanet": {0: 0.31, 1: 0.10, 2: 0.19},
    })  # fmt: skip
    lines = {
        line.split("|")[1].strip(): line
        for line in found.table("table3").splitlines()
        if "|" in line
    }
    assert "+10.00 (+7.52 to +12.48), clear" in lines["FCN + PSP"]
    assert "clear" not in lines["FCN + PSP + aggregation (SANet)"]


def test_figure_3_counts_the_epochs_to_the_best_of_the_baseline():
    found = results({
        "fcn": {0: [0.1, 0.4, 0.3], 1: [0.1, 0.2, 0.3]},
        "aggregation": {0: [0.2, 0.3, 0.4], 1: [0.3, 0.4, 0.5]},
        "skip_s1": {0: [0.2, 0.3, 0.35], 1: [0.1, 0.3, 0.2]},
    }, "mean_accuracy", epochs=3)  # fmt: skip
    # The bests are 0.4 and 0.3.
    assert found.epochs_to_reach("aggregation") == [3, 1]
    assert found.epochs_to_reach("skip_s1") == [None, 2]


# Folders


@pytest.fixture(scope="module")
def trained(drawn, small, tmp_path_factory):
    """A folder with two rows, and their last figures."""
    folder = tmp_path_factory.mktemp("ablation")
    protocol = ablation.protocol("scenes", folder, **TINY)
    rows = ("fcn", "auxiliary_s2")
    return folder, {row: ablation.train(drawn, row, 0, protocol, folder) for row in rows}


def test_a_run_keeps_its_figures_and_no_weights(trained):
    folder, last = trained
    kept = {path.name for path in (folder / "fcn/seed-0").iterdir()}
    assert kept == {"config.json", "data.json", "cross_entropy.csv", ".lock"}
    assert last["fcn"].keys() == ablation.FIGURES.keys()


def test_a_run_that_is_finished_is_not_repeated(trained, drawn):
    folder, last = trained
    log = folder / "fcn/seed-0/cross_entropy.csv"
    before = log.stat().st_mtime_ns
    again = ablation.train(drawn, "fcn", 0, ablation.protocol("scenes", folder), folder)
    assert again == last["fcn"]
    assert log.stat().st_mtime_ns == before


def test_results_of_a_folder_hold_every_epoch_of_the_finished_runs(trained):
    folder, last = trained
    (folder / "psp/seed-0").mkdir(parents=True, exist_ok=True)
    (folder / "psp/seed-0/cross_entropy.csv").write_text("epoch,val_mean_iou\n0,0.5\n")
    found = ablation.Results.load(folder)
    assert set(found.runs) == {"fcn", "auxiliary_s2"}  # psp has one epoch of two
    for row, seeds in found.runs.items():
        assert {len(values) for values in seeds[0].values()} == {2}
        assert {name: values[-1] for name, values in seeds[0].items()} == last[row]


def test_results_come_back_from_their_file(trained, tmp_path):
    found = ablation.Results.load(trained[0])
    found.save(tmp_path / "results.json")
    again = ablation.Results.load(tmp_path / "results.json")
    assert (again.runs, again.protocol) == (found.runs, found.protocol)


def test_results_do_not_say_where_a_file_of_weights_lies(tmp_path):
    found = results({"fcn": {0: 0.1}})
    found.protocol["weights"] = "/home/me/resnet18.pth"
    found.save(tmp_path / "results.json")
    assert ablation.Results.load(tmp_path / "results.json").protocol["weights"] == "resnet18.pth"


def test_a_folder_without_experiments_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="holds no experiments: there is no .*protocol.json"
    ):
        ablation.Results.load(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="results.json is damaged"):
        ablation.Results.load(tmp_path / "results.json")


def test_a_row_that_another_process_trains_is_left_to_it(drawn, small, tmp_path):
    code = "import sys; from keras_sanet import runs\nwith runs.locked(sys.argv[1]):"
    code += " print('locked', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(tmp_path / "fcn/seed-0")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, **pipes) as other:
        assert other.stdout.readline().strip() == b"locked"
        with pytest.raises(FileExistsError, match="Another run trains into"):
            ablation.train(drawn, "fcn", 0, small, tmp_path)
        other.stdin.close()


# Costs


def test_costs_are_the_parameters_and_products_of_each_row(small):
    found = ablation.costs(["fcn", "auxiliary_s2"], 5, small, rounds=1)
    alone = ablation.build("fcn", 5, small)
    # The auxiliary classifier is not there in a prediction.
    assert found["fcn"]["parameters"] == found["auxiliary_s2"]["parameters"] == alone.count_params()
    assert found["fcn"]["macs"] == found["auxiliary_s2"]["macs"] == Summary(alone, (32, 48)).macs
    assert all(cost["step_seconds"] > 0 for cost in found.values())


def test_costs_stand_in_the_table_relative_to_the_first_row():
    found = results({"fcn": {0: 0.1}, "psp": {0: 0.2}})
    cost = {"parameters": 2_000_000, "macs": 3_000_000_000, "step_seconds": 0.5}
    found.costs["table3"] = {"fcn": cost, "psp": {**cost, "step_seconds": 0.75}}
    lines = found.table("table3").splitlines()
    assert "| M parameters | GMAC | train step / that of FCN |" in lines[2]
    assert lines[5].startswith("| FCN + PSP | 1 | 2.00 | 3.00 | 1.50 |")


# The command


def test_the_command_trains_and_writes_tables_and_plots(drawn, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    data, folder = drawn.samples("train")[0].image.parents[2], tmp_path / "out"
    common = ("--data", data, "--output", folder, "--seeds", 1)
    flags = ("--crop", 32, 48, "--filters", 4, "--head-filters", 4, "--epochs", 1)
    flags += ("--batch-size", 2, "--val-batch-size", 2, "--rounds", 1)
    code, out, error = call("ablate", "adapters", *common, *flags)
    assert code == 0, error
    assert "1/2 FCN + PSP + aggregation (SANet), seed 0: mean IoU" in out
    written = {path.name for path in folder.iterdir() if path.is_file()}
    assert written == {
        "protocol.json", "costs.json", "results.json", "adapters.md", "adapters.png",
        "adapters_curves.png",
    }  # fmt: skip
    assert (folder / "adapters.md").read_text("utf-8") in out
    runs = json.loads((folder / "results.json").read_text("utf-8"))["runs"]
    assert list(runs) == ["sanet", "normalized"]

    before = (folder / "results.json").read_bytes()
    code, out, error = call("ablate", "adapters", *common, "--report")
    assert code == 0 and "seed 0" not in out
    assert (folder / "results.json").read_bytes() == before
    code, _, error = call("ablate", "adapters", *common, "--epochs", 3)
    assert code == 1 and "began with epochs 1" in error


def test_a_report_of_nothing_says_so(tmp_path):
    code, _, error = call("ablate", "order", "--report", "--output", tmp_path / "new")
    assert code == 1
    assert "No row of order is trained yet" in error
