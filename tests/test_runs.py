"""A run's folder, and that a run survives what happens to it.

Faults are real ones: the process kills itself or gets signals, files are damaged, the system allows
no larger files.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from small_run import EPOCHS, At, network, run, stop, write_pairs

from keras_sanet import FCN, datasets, presets, training
from keras_sanet.pipeline import make_dataset
from keras_sanet.training import run_folder
from keras_sanet.training import state as run_state
from keras_sanet.training.callbacks import LogMetrics, SaveBest, SaveState

pytestmark = pytest.mark.slow  # they train

STEPS = 4  # an epoch


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The folder of 8 training and 2 validation pairs of 24 x 32."""
    root = tmp_path_factory.mktemp("pairs")
    write_pairs(root, 8)
    return root


@pytest.fixture
def own_pairs(tmp_path):
    """Such a folder, for a test that spoils it."""
    write_pairs(tmp_path / "pairs", 8)
    return tmp_path / "pairs"


class Seen(keras.callbacks.Callback):
    """Epoch and number of steps of each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append([epoch, 0])

    def on_train_batch_end(self, batch, logs=None):
        self.epochs[-1][1] += 1


def script(root, folder, *where, check=True):
    """The same run in a process that may kill itself."""
    command = [sys.executable, Path(__file__).with_name("small_run.py"), root, folder, *where]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if check and not where:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    script(pairs, folder)
    return folder


@pytest.fixture(scope="module")
def short(pairs, tmp_path_factory):
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("short")
    run(pairs, folder, epochs=1)
    return folder


@pytest.fixture
def begun(short, tmp_path):
    """A copy of it, for a test that spoils it or goes on."""
    return shutil.copytree(short, tmp_path / "begun")


def figures(folder):
    return run_state.read_log(folder / "cross_entropy.csv")


def arguments(folder):
    return run_folder.read_config(folder / "config.json")["arguments"]


# Kills


@pytest.fixture(scope="module")
def killed(pairs, tmp_path_factory):
    """The folder of a run that was killed in a step, before a state replaced the old one, in the
    middle of writing it, and between best model and CSV; after each its exit code and place."""
    folder = tmp_path_factory.mktemp("killed")
    state = "cross_entropy_state.keras"
    kills = []
    for where in (("kill",), ("os.rename", state), ("open", state), ("os.rename", "entropy.csv")):
        done = script(pairs, folder, *where)
        kills.append((done.returncode, run_state.read_state(folder / state)[:2]))
    script(pairs, folder)
    return folder, kills


def test_each_kill_was_one_and_left_a_state_of_a_whole_step(killed):
    codes, places = zip(*killed[1])
    assert codes == (-signal.SIGKILL,) * 4
    # States are written after steps 3 and 4 of an epoch; the CSV after step 4.
    assert places == ((1, 0), (1, 0), (1, 0), (1, 3))


def test_a_killed_run_gives_the_very_figures_of_one_that_was_not(killed, whole):
    csv = [(folder / "cross_entropy.csv").read_bytes() for folder in (killed[0], whole)]
    assert csv[0] == csv[1]


def test_leftovers_of_kills_are_removed(killed):
    assert not [path.name for path in killed[0].iterdir() if path.name.startswith(".new-")]


# Signals


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C as on a terminal, where the tests run in the background too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def stopped(pairs, tmp_path_factory):
    """The folder of a run with Ctrl-C in the second step of the second epoch and of one that went
    on with it, what was said, and the place in between."""
    folder = tmp_path_factory.mktemp("stopped")
    done = script(pairs, folder, "interrupt")
    place = run_state.read_state(folder / "cross_entropy_state.keras")
    script(pairs, folder)
    return folder, done.stderr.splitlines()[-1], place


def test_ctrl_c_ends_after_the_step_with_its_state(stopped):
    _, said, place = stopped
    assert place[:2] == (1, 2)
    assert said.startswith("KeyboardInterrupt: Stopped after step 2 of epoch 2; ")
    assert said.endswith("_state.keras holds what the run goes on from.")


def test_a_stopped_run_gives_the_very_figures_of_one_that_was_not(stopped, whole):
    csv = [(folder / "cross_entropy.csv").read_bytes() for folder in (stopped[0], whole)]
    assert csv[0] == csv[1]


def test_a_stopped_run_goes_on_with_the_next_step(pairs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, At(1, 1, stop(signal.SIGINT)))
    seen = Seen()
    run(pairs, tmp_path, seen)
    assert seen.epochs == [[1, STEPS - 2], [2, STEPS]]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_ignored_where_it_was(pairs, tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(pairs, tmp_path, At(0, 1, stop(signal.SIGINT)), epochs=1)
    assert len(figures(tmp_path)) == 1


def test_sigterm_in_validation_ends_after_it_with_the_epochs_state(pairs, tmp_path):
    end = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(SystemExit) as error:
        run(pairs, tmp_path, end, epochs=2)
    assert error.value.code == 128 + signal.SIGTERM
    assert run_state.read_state(tmp_path / "cross_entropy_state.keras")[:2] == (1, 0)


def test_a_second_ctrl_c_stops_at_once(pairs, tmp_path):
    def press_twice(model):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, At(0, 1, press_twice))
    assert not (tmp_path / "cross_entropy_state.keras").exists()


# The folder


def test_a_second_run_into_a_folder_is_refused(pairs, tmp_path):
    pytest.importorskip("fcntl", reason="Windows locks by another module")
    hold = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'w'); file.write('process 7 on moon'); file.flush()\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", hold, tmp_path / ".lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(FileExistsError, match="Another .*: process 7 on moon. Wait"):
                run(pairs, tmp_path)
        finally:
            other.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


# What a run began with


def test_config_has_what_makes_a_run(whole):
    config = json.loads((whole / "config.json").read_text("utf-8"))
    assert config["arguments"]["epochs"] == EPOCHS
    assert config["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    train = config["data"]["train"]
    assert (train["split"], train["images"], train["seed"]) == ("train", 8, 0)
    assert len(train["sha256"]) == 64


def test_the_revision_is_gits(whole):
    revision = json.loads((whole / "config.json").read_text("utf-8"))["revision"]
    root = Path(run_folder.__file__).parent
    git = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert (revision or "").removesuffix("-dirty") == git


def change(root):
    (root / "images/train/3.png").unlink()
    (root / "masks/train/3.png").unlink()
    Image.new("L", (32, 24), 1).save(root / "masks/train/5.png")
    for part, mode in (("images", "RGB"), ("masks", "L")):
        Image.new(mode, (32, 24)).save(root / f"{part}/val/new.png")


def test_other_data_are_refused_with_the_difference(own_pairs, tmp_path):
    folder = tmp_path / "run"
    run(own_pairs, folder, epochs=1)
    change(own_pairs)
    expected = (
        r"train: 1 changed \(5.png\); train: 1 less \(3.png\); validation: 1 more \(new.png\). Put"
    )
    with pytest.raises(ValueError, match=expected):
        run(own_pairs, folder)
    assert len(figures(folder)) == 1


def test_an_epochs_state_is_saved_without_another_optimizer(tmp_path):
    # Keras numbers optimizers by name: each one here is the next, if a save makes none.
    names = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: names.append(keras.optimizers.Optimizer(1.0).name)
    )
    state = SaveState(tmp_path / "lovasz_state.keras", None, None)
    model.fit(np.ones((2, 2)), np.ones((2, 1)), epochs=4, verbose=0, callbacks=[state, note])
    numbers = [int(name.rpartition("_")[2]) for name in names[1:]]
    assert np.diff(numbers).tolist() == [1, 1]


def test_another_batch_size_is_refused(pairs, tmp_path):
    dataset = datasets.load("folder", pairs)
    for size in (2, 4):
        loaders = {"train": make_dataset(dataset, "train", crop_size=24, batch_size=size)}
        expected = pytest.raises(ValueError, match="train: batch_size 2, now 4. Put it back")
        with expected if size == 4 else contextlib.nullcontext():
            run_folder.write_config(tmp_path, {}, loaders)


def test_another_order_of_the_classes_is_refused(own_pairs, tmp_path):
    def write():
        loader = make_dataset(
            datasets.load("folder", own_pairs), "train", crop_size=24, batch_size=2
        )
        run_folder.write_config(tmp_path, {}, {"train": loader})

    write()
    (own_pairs / "classes.txt").write_text("low\nhigh\nmiddle\n", "utf-8")
    with pytest.raises(ValueError, match=r"train: class_names \['low', 'middle', 'high'\], now \["):
        write()


def test_a_run_killed_before_its_config_was_whole_writes_it_again(pairs, tmp_path):
    loaders = {
        "train": make_dataset(datasets.load("folder", pairs), "train", crop_size=24, batch_size=2)
    }
    run_folder.write_config(tmp_path, {}, loaders)
    (tmp_path / "data.json").unlink()
    run_folder.write_config(tmp_path, {"epochs": 3}, loaders)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["arguments"] == {"epochs": 3}
    assert (tmp_path / "data.json").is_file()


def test_data_may_move(own_pairs, tmp_path):
    folder = tmp_path / "run"
    run(own_pairs, folder, epochs=1)
    own_pairs.rename(tmp_path / "moved")
    run(tmp_path / "moved", folder, epochs=2)
    assert len(figures(folder)) == 2


def test_another_augmentation_is_refused(pairs, tmp_path):
    dataset = datasets.load("folder", pairs)
    for size in (24, 16):
        loaders = {"train": make_dataset(dataset, "train", crop_size=size, batch_size=2)}
        expected = pytest.raises(ValueError, match=r"crop_size \[24, 24\], now \[16, 16\]")
        with expected if size == 16 else contextlib.nullcontext():
            run_folder.write_config(tmp_path, {}, loaders)


def test_pictures_read_through_a_cache_are_the_same_data(pairs, tmp_path):
    for cache in (None, tmp_path / "cache"):
        dataset = datasets.load("folder", pairs, cache=cache)
        loaders = {"train": make_dataset(dataset, "train", crop_size=24, batch_size=2)}
        run_folder.write_config(tmp_path, {}, loaders)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 1e-2}, "`learning_rate` 0.001, now 0.01"),
        ({"weight_decay": 0.1}, "`weight_decay` 0.01, now 0.1"),
        ({"global_clipnorm": 1.0}, "`global_clipnorm` None, now 1.0"),
        ({"epochs": None, "steps": 9}, "`epochs` 1, now None"),
    ],
    ids=str,
)
def test_other_arguments_are_refused_with_both_values(pairs, begun, change, said):
    with pytest.raises(ValueError, match=f"began with other arguments: .*{said}"):
        run(pairs, begun, **{"epochs": 1, **change})
    assert arguments(begun)["learning_rate"] == 1e-3


def test_another_number_of_batches_is_refused(tmp_path):
    batch = (np.zeros((2, 24, 32, 3), "uint8"), np.zeros((2, 24, 32), "uint8"))
    (tmp_path / "config.json").write_text('{"arguments": {"steps_per_epoch": 4}}')
    with pytest.raises(ValueError, match="`steps_per_epoch` 4, now 3"):
        training.fit(network(), [batch] * 3, [batch], folder=tmp_path, epochs=1)


def test_a_run_does_not_become_shorter(pairs, begun):
    run(pairs, begun, epochs=2)
    assert (
        run_folder.read_config(begun / "config.json")["arguments"]["epochs"] == 2
    )  # longer it may become, and says so
    with pytest.raises(ValueError, match="`epochs` 2, now 1"):
        run(pairs, begun, epochs=1)


def test_the_first_phase_does_not_become_longer_once_the_second_began(pairs, begun):
    shutil.copy(begun / "cross_entropy_state.keras", begun / "lovasz_state.keras")
    with pytest.raises(ValueError, match="`epochs` 1, now 2"):
        run(pairs, begun, epochs=2)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_run_without_what_it_began_with_is_refused(pairs, begun, name):
    (begun / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing, which says what the run began with"):
        run(pairs, begun, epochs=1)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
@pytest.mark.parametrize("content", ["[" * 10**5, "[1]", '{"arguments": 3, "train": 3}'])
def test_damaged_files_of_a_run_are_named(pairs, begun, name, content):
    (begun / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        run(pairs, begun, epochs=1)


# Figures


@pytest.fixture(scope="module")
def figured(tmp_path_factory):
    """The folder of a state and the figures of two epochs."""
    folder, model = tmp_path_factory.mktemp("figured"), network()
    log = LogMetrics(folder / "lovasz.csv")
    for epoch in (0, 1):
        log.on_epoch_begin(epoch)
        log.on_epoch_end(epoch, {"loss": 0.5 / (epoch + 1), "val_mean_iou": float("nan")})
    run_state.save_state(model, folder / "lovasz_state.keras", 2, 0)
    return folder


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b"\n1,") + 1]),
        lambda path: path.write_text(path.read_text().replace("0.25", "0.125")),
        lambda path: path.write_text(path.read_text().replace("0.25", "low")),
        lambda path: path.write_text(path.read_text().replace("epoch", "time")),
        lambda path: path.write_bytes(b"\0" + path.read_bytes()),
    ],
    ids=["deleted", "emptied", "cut", "shorter", "edited", "a word", "a name", "a zero"],
)
def test_figures_that_are_not_those_of_the_state_are_refused(figured, tmp_path, spoil):
    folder = shutil.copytree(figured, tmp_path / "run")
    assert run_state.read_state(folder / "lovasz_state.keras")[:2] == (2, 0)
    spoil(folder / "lovasz.csv")
    with pytest.raises(
        ValueError, match="lovasz.csv (has not|is damaged).* Put it back; or delete"
    ):
        run_state.read_state(folder / "lovasz_state.keras")


def test_figures_that_a_table_calculator_saved_again_are_the_same(figured, tmp_path):
    folder = shutil.copytree(figured, tmp_path / "run")
    path = folder / "lovasz.csv"
    path.write_text(path.read_text().replace("0.25", "2.5e-1").replace("\n0,", '\n"0",'))
    assert run_state.read_state(folder / "lovasz_state.keras")[:2] == (2, 0)


def test_a_run_stops_at_spoilt_figures_before_it_trains(pairs, begun):
    (begun / "cross_entropy.csv").unlink()
    best = (begun / "cross_entropy.keras").read_bytes()
    with pytest.raises(ValueError, match="cross_entropy.csv has not the figures of the 1 epochs"):
        run(pairs, begun, epochs=2)
    assert (begun / "cross_entropy.keras").read_bytes() == best


def test_a_run_without_its_best_model_is_refused_before_it_trains(pairs, begun):
    (begun / "cross_entropy.keras").unlink()
    seen = Seen()
    with pytest.raises(FileNotFoundError, match="cross_entropy.keras, the best model of 1 epochs"):
        run(pairs, begun, seen, epochs=2)
    assert seen.epochs == [[1, 0]]


def test_figures_that_are_deleted_in_between_are_written_again(tmp_path):
    path = tmp_path / "lovasz.csv"
    log, best = LogMetrics(path), SaveBest(tmp_path, "lovasz")
    for epoch in (0, 1):
        for callback in (log, best):
            callback.on_epoch_begin(epoch)
        path.unlink(missing_ok=True)
        log.on_epoch_end(epoch, {"val_mean_iou": 0.5})
    assert [row["epoch"] for row in run_state.read_log(path)] == [0, 1]


def test_a_folders_name_is_taken_as_it_is(pairs, tmp_path):
    folder = tmp_path / "lr{epoch} {} {0} 100%d [a]*"
    run(pairs, folder, epochs=1)
    assert (folder / "cross_entropy.keras").is_file() and (folder / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_damaged_state_is_named(pairs, tmp_path):
    (tmp_path / "cross_entropy_state.keras").write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(ValueError, match="cross_entropy_state.keras can't be gone on from"):
        run(pairs, tmp_path)


# Finished runs


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    """The folder of a run of a network of the package, which a preset can hold."""
    folder, dataset = tmp_path_factory.mktemp("finished"), datasets.load("folder", pairs)
    model = FCN(dataset.num_classes, "resnet_tiny", filters=8)
    train = make_dataset(dataset, "train", crop_size=(24, 32), batch_size=4, blur_range=(0, 1))
    val = make_dataset(dataset, "val", batch_size=2, training=False)
    training.fit(model, train, val, folder=folder, epochs=1, learning_rate=1e-3, verbose=0)
    return folder


def test_a_preset_of_a_run_of_fit_holds_its_recipe_and_metrics(finished, tmp_path):
    training.save_preset_from_run(finished, tmp_path / "preset")
    config = presets.read_config(tmp_path / "preset")
    recipe = config["recipe"]
    assert (recipe["learning_rate"], recipe["batch_size"]) == (1e-3, 4)
    assert recipe["blur_range"] == [0, 1]
    saved = json.loads((finished / "evaluation.json").read_text("utf-8"))
    assert config["figures"]["mean_iou"] == saved["mean_iou"]
    loaded = presets.from_preset(tmp_path / "preset").get_weights()
    expected = keras.saving.load_model(finished / "model.keras", compile=False).get_weights()
    for one, other in zip(loaded, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["model.keras", "config.json", "evaluation.json"])
def test_a_preset_of_a_run_that_is_not_finished_is_refused(finished, tmp_path, name):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"is no finished run: it holds no {name}"):
        training.save_preset_from_run(run, tmp_path / "preset")
    assert not (tmp_path / "preset").exists()


def test_a_run_that_stopped_in_its_evaluation_is_evaluated_by_the_next_call(pairs, begun):
    evaluated = (begun / "evaluation.json").read_text("utf-8")
    (begun / "evaluation.json").unlink()
    seen = Seen()
    run(pairs, begun, seen, epochs=1)
    assert seen.epochs == []
    assert (begun / "evaluation.json").read_text("utf-8") == evaluated


def test_a_finished_run_without_states_is_loaded_and_becomes_no_longer(pairs, begun):
    best = keras.saving.load_model(begun / "model.keras", compile=False).get_weights()
    run_folder.remove_states(begun)
    assert [path.name for path in begun.glob("*.keras")] == ["model.keras"]
    seen = Seen()
    history = run(pairs, begun, seen, epochs=1)
    assert seen.epochs == [] and len(history.epoch) == 1
    for one, other in zip(history.model.get_weights(), best, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="`epochs` 1, now 2.*as long as the run's states are the"):
        run(pairs, begun, epochs=2)


def test_a_longer_run_is_evaluated_anew(pairs, begun):
    (begun / "evaluation.txt").write_text("of the shorter run")
    run(pairs, begun, epochs=2)
    assert "of the shorter run" not in (begun / "evaluation.txt").read_text("utf-8")
    files = {path.name for path in begun.iterdir()}
    assert {"model.keras", "evaluation.json", "cross_entropy_state.keras"} <= files


def test_without_evaluate_a_run_leaves_its_model_alone(pairs, tmp_path):
    run(pairs, tmp_path, epochs=1, evaluate=False)
    assert (tmp_path / "model.keras").is_file()
    assert not (tmp_path / "evaluation.json").exists()


def test_data_that_are_not_ours_are_not_evaluated(tmp_path):
    batch = (np.zeros((2, 24, 32, 3), "uint8"), np.zeros((2, 24, 32), "uint8"))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return batch

    model = network()
    training.fit(model, Batches(), Batches(), folder=tmp_path, epochs=1, verbose=0)
    assert (tmp_path / "model.keras").is_file()
    assert not (tmp_path / "evaluation.json").exists()


def test_a_config_of_the_first_version_says_the_same_in_its_words(tmp_path):
    old = {"crop": [24, 32], "val_crop": None, "epochs": 3}
    (tmp_path / "config.json").write_text(json.dumps({"arguments": old}))
    assert arguments(tmp_path) == {"crop_size": [24, 32], "val_crop_size": None, "epochs": 3}


# Loggers


def test_an_unknown_logger_is_refused_with_the_known_ones(pairs, tmp_path):
    with pytest.raises(ValueError, match="Unknown logger 'csv'. Known: tensorboard, wandb, mlflow"):
        run(pairs, tmp_path / "run", logger="csv")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_logger_without_its_package_is_refused_with_the_way_out(pairs, tmp_path, logger):
    if importlib.util.find_spec(logger):
        pytest.skip(f"{logger} is installed")
    with pytest.raises(ImportError, match=f"logger='{logger}' needs .*: pip install {logger}"):
        run(pairs, tmp_path / "run", logger=logger)
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_metrics_where_it_is_asked_for(pairs, tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("tensorflow")
    run(pairs, tmp_path, epochs=1, evaluate=False, logger="tensorboard")
    assert list(tmp_path.glob("tensorboard/cross_entropy/train/events.*"))


# Full disks


@contextlib.contextmanager
def largest_file(size):
    """Context in which no file grows past so many bytes, as with a quota."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.1, 0.7, 0.98])
def test_a_full_disk_ends_the_run_and_leaves_what_was_whole(pairs, tmp_path, share):
    run(pairs, tmp_path, epochs=1)
    size = (tmp_path / "cross_entropy_state.keras").stat().st_size
    with largest_file(int(share * size)), pytest.raises(OSError, match="File too large: .*keras"):
        run(pairs, tmp_path, epochs=2)
    assert run_state.read_state(tmp_path / "cross_entropy_state.keras")[:2] == (1, 0)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".new-")]
    run(pairs, tmp_path, epochs=2)
    assert [row["epoch"] for row in figures(tmp_path)] == [0, 1]


# Long runs


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to count open files in")
def test_no_files_stay_open_from_epoch_to_epoch(pairs, tmp_path):
    """More epochs, and memory: tests/benchmarks/soak.py."""
    counts = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: counts.append(len(os.listdir("/proc/self/fd")))
    )
    run(pairs, tmp_path, count, epochs=6)
    assert counts[2:] == [counts[2]] * 4


# Broken images


def spoil(root, name="images/train/3.png"):
    whole = (root / name).read_bytes()
    (root / name).write_bytes(whole[: len(whole) // 2])


def test_an_image_that_breaks_in_an_epoch_is_named_and_the_run_goes_on_once_it_is_whole(
    own_pairs, tmp_path
):
    path = own_pairs / "images/train/3.png"
    good = path.read_bytes()
    with pytest.raises(ValueError, match=r"images/train/3.png can't be read as an image"):
        run(own_pairs, tmp_path / "run", At(0, STEPS - 1, lambda model: spoil(own_pairs)))
    assert run_state.read_state(tmp_path / "run/cross_entropy_state.keras")[0] >= 1
    path.write_bytes(good)
    run(own_pairs, tmp_path / "run")
    assert [row["epoch"] for row in figures(tmp_path / "run")] == [0, 1, 2]


def test_skipped_images_are_in_the_report(own_pairs, tmp_path, capsys):
    spoil_both = At(0, 0, lambda model: [spoil(own_pairs), spoil(own_pairs, "masks/val/1.png")])
    run(own_pairs, tmp_path / "run", spoil_both, on_bad_image="skip")
    skipped = (tmp_path / "run/skipped.txt").read_text("utf-8").splitlines()
    assert [line.partition(" can't be read")[0] for line in sorted(skipped)] == [
        str(own_pairs / "images/train/3.png"),
        str(own_pairs / "masks/val/1.png"),
    ]
    assert "2 images could not be read and did not count" in capsys.readouterr().out
    assert np.isfinite(figures(tmp_path / "run")[-1]["val_cross_entropy"])


def test_more_than_a_tenth_of_broken_images_ends_the_run(own_pairs, tmp_path):
    spoil_two = At(0, 0, lambda model: [spoil(own_pairs, f"images/train/{i}.png") for i in (3, 5)])
    with pytest.raises(OSError, match="2 of 8 images can't be read, too many to leave out"):
        run(own_pairs, tmp_path / "run", spoil_two, on_bad_image="skip")


# NaN


def spoil_weights(model):
    bias = model.get_layer("classifier").bias
    bias.assign(bias * float("nan"))


def images_of(pairs, epoch, step):
    dataset = datasets.load("folder", pairs)
    plan = make_dataset(dataset, "train", crop_size=24, batch_size=2, seed=0).plan
    return ", ".join(plan.files(epoch, step))


def test_a_loss_that_is_nan_ends_the_run_with_the_steps_images_and_the_last_state(pairs, tmp_path):
    with pytest.raises(FloatingPointError) as error:
        run(pairs, tmp_path, At(1, 1, spoil_weights))
    # The second step spoils the third.
    images = images_of(pairs, 1, 2)
    assert str(error.value).startswith(f"The loss is nan in epoch 2, at the images {images}.")
    assert run_state.read_state(tmp_path / "cross_entropy_state.keras")[:2] == (1, 0)
    assert len(figures(tmp_path)) == 1


@pytest.mark.parametrize(("step", "save_every"), [(STEPS - 1, None), (1, 2)])
def test_weights_that_are_nan_are_not_saved(pairs, tmp_path, step, save_every):
    run(pairs, tmp_path, epochs=1)
    (tmp_path / "model.keras").unlink()  # which training on removes
    kept = {path: path.read_bytes() for path in tmp_path.glob("*.keras")}
    with pytest.raises(FloatingPointError, match="The weights are not finite in epoch 2, at the i"):
        run(pairs, tmp_path, At(1, step, spoil_weights), save_every=save_every)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.keras")} == kept


# Steps


def test_steps_end_a_run_within_an_epoch(pairs, tmp_path):
    seen = Seen()
    run(pairs, tmp_path, seen, epochs=None, steps=STEPS + 1)
    assert seen.epochs == [[0, STEPS], [1, 1]]
    again = Seen()
    run(pairs, tmp_path, again, epochs=None, steps=STEPS + 1)
    assert again.epochs == []


def test_a_stop_at_the_last_step_makes_no_further_one(pairs, tmp_path):
    press = At(1, 0, stop(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, press, epochs=None, steps=STEPS + 1)
    seen = Seen()
    run(pairs, tmp_path, seen, epochs=None, steps=STEPS + 1)
    assert seen.epochs == []


# Both phases, and what else a state holds


@pytest.mark.parametrize(
    "more",
    [
        {"ema_momentum": 0.9, "gradient_accumulation_steps": 3, "optimizer": "sgd"},
        {"head_learning_rate_multiple": 10.0, "global_clipnorm": 1.0, "freeze_batch_norm": True},
    ],
)
def test_a_run_stopped_in_its_second_phase_gives_the_figures_of_one_that_was_not(
    pairs, tmp_path, more
):
    more |= {"epochs": 1, "lovasz_epochs": 2}
    run(pairs, tmp_path / "whole", **more)
    phases = []

    def press(model):
        phases.append(type(model.loss).__name__)
        if phases[-1] == "LovaszSoftmax":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="Stopped after step 2 of epoch 1"):
        run(pairs, tmp_path / "run", At(0, 1, press), **more)
    run(pairs, tmp_path / "run", **more)
    for name in ("cross_entropy.csv", "lovasz.csv"):
        found, expected = (run_state.read_log(tmp_path / kind / name) for kind in ("run", "whole"))
        assert len(found) == len(expected) > 0
        # TensorFlow adds in another order from run to run.
        tolerance = 5e-3 if keras.backend.backend() == "tensorflow" else 1e-4
        for one, other in zip(found, expected):
            assert one == pytest.approx(other, rel=tolerance)


def test_a_run_killed_in_its_second_phase_before_a_state_gives_the_figures_of_one_that_was_not(
    pairs, tmp_path
):
    class Killed(BaseException):
        """Ends the run at once, as a kill does."""

    def kill(model):
        if type(model.loss).__name__ == "LovaszSoftmax":
            raise Killed

    phases = {"epochs": 1, "lovasz_epochs": 1}
    run(pairs, tmp_path / "whole", **phases)
    with pytest.raises(Killed):
        run(pairs, tmp_path / "run", At(0, 1, kill), **phases)
    run(pairs, tmp_path / "run", **phases)
    found, expected = (
        run_state.read_log(tmp_path / kind / "lovasz.csv") for kind in ("run", "whole")
    )
    # TensorFlow adds in another order from run to run.
    tolerance = 5e-3 if keras.backend.backend() == "tensorflow" else 1e-4
    assert found == [pytest.approx(expected[0], rel=tolerance)]


def test_a_run_that_stopped_early_is_not_gone_on_with(pairs, tmp_path):
    def stop_early(model):
        model.stop_training = True

    run(pairs, tmp_path, At(0, STEPS - 1, stop_early))
    seen = Seen()
    run(pairs, tmp_path, seen)
    assert seen.epochs == []
    run(pairs, tmp_path, seen, epochs=EPOCHS + 1)  # unless it is to be longer
    assert [epoch for epoch, _ in seen.epochs] == [1, 2, 3]


def test_a_state_of_another_optimizer_is_refused(begun):
    model, state = network(), begun / "cross_entropy_state.keras"
    training.compile(model, 1, ema_momentum=0.9)
    with pytest.raises(ValueError, match="of another model or optimizer"):
        run_state.load_state(model, state)


def test_the_state_of_a_step_needs_a_data_set_that_can_go_on(pairs, tmp_path):
    press = At(0, 1, stop(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, press)
    batch = (np.zeros((2, 24, 32, 3), "uint8"), np.zeros((2, 24, 32), "uint8"))
    with pytest.raises(ValueError, match="is of step 2 in an epoch, and `train` has no `rest`"):
        training.fit(
            network(), [batch] * STEPS, [batch], folder=tmp_path, epochs=EPOCHS, learning_rate=1e-3
        )
