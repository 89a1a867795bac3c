"""The command `ablate`."""

import itertools
import json
import sys
import time
from pathlib import Path

from keras_sanet import _files, experiments, visualization
from keras_sanet.cli.options import (
    RANGE,
    SIZE,
    VERBOSE,
    Group,
    add_backbone,
    add_command,
    add_dataset,
    count,
    duration,
    integer,
    load_dataset,
    positive,
)
from keras_sanet.experiments.table2 import TableII

_PROTOCOL = list(experiments.PROTOCOLS["scenes"])  # names of what all rows share


def add_commands(commands):
    """Adds the command of this module."""
    titles = {name: experiment.title for name, experiment in experiments.EXPERIMENTS.items()}
    titles |= {"table2": "Table II: what the models cost", "all": "all of them"}
    parser = add_command(commands, ablate, "EXPERIMENT ... [options]")
    parser.epilog = "\n".join(
        ["experiments:", *(f"  {name:13}{title}" for name, title in titles.items())]
    )
    parser.add_argument(
        "experiments", nargs="+", choices=titles, metavar="EXPERIMENT", help="some of those below"
    )
    add_dataset(parser, rare=True, default="scenes")
    group = Group(parser, "experiments", experiments.add_costs)
    add = group.add
    add("output", "folder, new or to go on with [ablation/DATASET]", metavar="FOLDER")
    add(
        "rows", "train only these rows of the tables; a wrong one lists all", nargs="+",
        choices=experiments.ROWS, metavar="ROW",
    )  # fmt: skip
    add("seeds", "trainings of each row", type=integer, default=3)
    add("rounds", "timed training steps of each row, 0 for none", type=count)
    add("verbose", "as of `train`", default=0, **VERBOSE)
    add("report", "train nothing; write tables and plots of what is there", default=False)
    add(
        "add", "with --report, join the results of these folders", nargs="+", default=[],
        metavar="FOLDER",
    )  # fmt: skip
    group = Group(parser, "protocol that all rows share; the data set's if absent", rare=True)
    add = group.add
    add_backbone(group)
    add_backbone(group, "other_backbone", more=["none"])
    add("weights", "imagenet, the file of a checkpoint, or none", metavar="FILE")
    add("other_weights", "as --weights, of --other-backbone", metavar="FILE")
    add("val_split", "split of the metrics")
    add("aggregator_filters", "channels c' of the aggregator", type=integer)
    add("head_filters", "filters of the 3x3 before the classifier", type=integer)
    add("image_scale", "factor on all images", type=positive)
    add("crop_size", "training crop", **SIZE)
    add("scale_range", "random scaling", **RANGE)
    add("batch_size", "training images a step", type=integer)
    add("val_batch_size", "validation images a step", type=integer)
    add("epochs", "passes over the training images", type=integer)
    add("learning_rate", "learning rate of the first step", type=positive)
    add("head_learning_rate_multiple", "factor on that of all but the backbone", type=positive)


def ablate(options):
    """Tests the paper's claims: trains rows of its tables with several seeds.

    All rows of a data set share one recipe, which the folder keeps. A row that is trained stays, so
    that the same command goes on after a stop, more experiments share rows with those before, and
    several processes, started with the same command, share the work. Writes results.json and, of
    each experiment, a table (.md), the differences from its first row and the curves (.png).
    Table II needs no training.
    """
    folder = Path(options.output or f"ablation/{options.dataset}")
    asked = list(dict.fromkeys(options.experiments))
    if "all" in asked:
        asked = [*experiments.EXPERIMENTS, "table2"]
    trained = [name for name in asked if name != "table2"]
    if options.rows and (options.report or not trained):
        raise ValueError("`--rows` says what to train, and not what --report or table2 shows.")
    if options.add and not (options.report and trained):
        raise ValueError("`--add` is for --report of experiments that are trained.")
    if options.add and (folder / experiments.PROTOCOL).is_file():
        raise ValueError(
            f"`--add` needs a folder of results alone as --output, or a new one. {folder} has runs "
            "of its own, whose next report would leave the others out: add it too."
        )
    failed, left = [], []
    if trained and not options.report:
        visualization.pyplot()  # or its error, before anything is trained
        dataset = load_dataset(options)
        changes = {name: getattr(options, name) for name in _PROTOCOL}
        for name in ("weights", "other_weights"):
            if changes[name] not in (None, "imagenet", "none"):
                changes[name] = str(Path(changes[name]).resolve())
        protocol = experiments.begin(folder, dataset, **changes)
        rows = experiments.list_rows(trained, protocol, options.rows)
        failed, left = _train_rows(dataset, rows, protocol, folder, options)
        if options.rounds and not left:
            print("Timing the rows' training steps ...", flush=True)
            for experiment in trained:
                experiments.add_costs(folder, experiment, protocol, options.rounds)
    tables = _report(folder, trained, options.add) if trained else {}
    for table in tables.values():
        print(f"\n{table}", flush=True)
    if "table2" in asked and ((folder / "table2.md").is_file() or not options.report):
        tables["table2"] = _table2(folder, options)
        print(f"\n{tables['table2']}")
    absent = [name for name in asked if name not in tables]
    if not (tables or failed or left):
        raise FileNotFoundError(f"{folder} holds nothing of {', '.join(absent)} yet.")
    if absent:
        print(f"\nNothing there yet of {', '.join(absent)}.")
    for number, what in ((len(failed), "failed"), (len(left), "are other processes'")):
        if number:
            print(f"{number} runs {what}: the same command goes on with them.")
    print(f"Results:   {folder.resolve()}")
    return 1 if failed else 0


def _train_rows(dataset, rows, protocol, folder, options):
    """Trains what is not trained. Returns the runs that failed, and those of other processes."""
    failed, left = [], []
    todo = list(itertools.product(range(options.seeds), rows))
    for number, (seed, row) in enumerate(todo, start=1):
        label = f"{number}/{len(todo)} {experiments.ROWS[row].label} ({row}), seed {seed}"
        print(f"{label}: ", end="", flush=True)
        start = time.monotonic()
        try:
            figures = experiments.train(
                dataset, row, seed, protocol, folder, verbose=options.verbose
            )
        except FileExistsError:
            left.append(label)
            print("another process is at it", flush=True)
        except ArithmeticError as error:  # a loss that is not finite
            failed.append(label)
            print(error, flush=True)
        else:
            took = duration(time.monotonic() - start)
            print(f"mean IoU {100 * figures['mean_iou']:.2f} %, {took}", flush=True)
    return failed, left


def _report(folder, trained, others):
    """Writes what there is of experiments. Returns a dict from their names to their tables."""
    own = [] if others and not (folder / experiments.RESULTS).is_file() else [folder]
    results = experiments.Results.join([*own, *others])
    visualization.pyplot()  # or its error, before anything is written
    there = [experiment for experiment in trained if results.trained_rows(experiment)]
    if there:
        folder.mkdir(parents=True, exist_ok=True)
        results.save(folder / experiments.RESULTS)
    return {experiment: results.write(folder, experiment) for experiment in there}


def _table2(folder, options):
    """Measures Table II, where its file is not there; returns it."""
    path = folder / "table2.md"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        table = TableII(
            measure=True,
            rounds=options.rounds or 1,
            verbose=sys.stdout.isatty(),
        )
        for name, text in (
            ("table2.json", json.dumps(table.as_dict(), indent=1) + "\n"),
            ("table2.md", f"**Table II: what the models cost**\n\n{table}\n"),
        ):
            with _files.replacing(folder / name) as written:
                written.write_text(text, "utf-8")
    return path.read_text("utf-8")
