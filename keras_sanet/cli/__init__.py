"""The command line, `keras-sanet`: demo, train, evaluate, compare, predict, convert, export,
summary, ablate, inspect, save-preset, datasets, presets, recipes."""

import argparse
import contextlib
import sys

from PIL import Image

from keras_sanet import (
    backbones,
    datasets,
    experiments,
    recipes,
)
from keras_sanet.cli.ablate import ablate
from keras_sanet.cli.data import inspect, list_datasets
from keras_sanet.cli.models import convert, export, list_presets, list_recipes, save_preset, summary
from keras_sanet.cli.options import (
    _add_data,
    _add_folder,
    _add_inference,
    _add_max_pixels,
    _add_model,
    _count,
    _flag,
    _machine,
    _positive,
    _seed,
)
from keras_sanet.cli.predict import compare, evaluate, predict
from keras_sanet.cli.train import _SOURCES, _defaults, _scope, demo, train
from keras_sanet.export import FORMATS, PRECISIONS
from keras_sanet.training.loggers import LOGGERS
from keras_sanet.version import __version__


def main(arguments=None):
    """Runs a command.

    Args: arguments, list of strings; those of the process if None.
    Returns: the exit code: 0, or 1 after an error that the user can mend and where `inspect` finds
        a problem (2 is argparse's, for a wrong usage).
    """
    options = _parser().parse_args(arguments)
    try:
        if any(getattr(options, name, None) for name in _SOURCES):
            # Their values come after those that are given.
            options = _parser(_defaults(options)).parse_args(arguments)
        with _scope(options) as devices, _pixel_limit():
            print(f"keras-sanet {__version__}, {_machine()}", flush=True)
            if len(devices) > 1:
                print(f"{len(devices)} replicas: {', '.join(devices)}", flush=True)
            return options.command(options) or 0
    except (ValueError, OSError, ImportError, MemoryError, ArithmeticError) as error:
        print(f"keras-sanet: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"keras-sanet: {error or 'interrupted'}", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _pixel_limit():
    """What a command changes with --max-pixels is as it was after it."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _parser(recipe=None, kind=argparse.ArgumentParser):
    """Args: recipe, dict of defaults of `train`; kind, of the parser."""
    parser = kind(
        prog="keras-sanet",
        description="Scene parsing with SANet. The backend is Keras's: set KERAS_BACKEND to "
        "tensorflow, jax or torch.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(function, name=None):
        words = function.__doc__ or ""  # `python -OO` has none
        sub = commands.add_parser(
            name or function.__name__,
            help=words.partition("\n")[0],
            description=words,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        sub.set_defaults(command=function)
        return sub

    sub = command(demo)
    sub.add_argument("--output", default="demo", help="folder of the results, new or empty")
    sub.add_argument("--epochs", type=_count, default=6, help="with cross-entropy")
    sub.add_argument("--lovasz-epochs", type=_count, default=2, help="with Lovász-softmax, after")

    sub = command(train)
    sub.add_argument(
        "--recipe",
        choices=recipes.names(),
        help="values of all options that are not given; `keras-sanet recipes` lists them",
    )
    _add_data(sub, required=False)
    sub.add_argument("--val-split", default="val", help="split that chooses the checkpoint")
    sub.add_argument("--output", help="folder of the run, new or empty [runs/DATASET-MODEL]")
    sub.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder, with its options"
    )
    sub.add_argument(
        "--config",
        metavar="RUN/config.json",
        help="another run's values of all options that are not given",
    )
    sub.add_argument(
        "--save-every",
        type=_count,
        metavar="STEPS",
        help="save what a run goes on from inside of epochs too, not only at their ends",
    )
    sub.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="what an unreadable image does; skip leaves it out and writes it to skipped.txt",
    )
    sub.add_argument(
        "--deterministic",
        action="store_true",
        help="the same figures to the last bit again, with the same backend on one device",
    )
    _add_model(sub)
    sub.add_argument("--preset", help="start from this preset or saved model, whatever its classes")
    sub.add_argument(
        "--weights",
        type=lambda value: None if value == "none" else value,
        help='of the backbone: "imagenet", the file of a torchvision or timm checkpoint, or "none"',
    )
    size = {"type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
    sub.add_argument("--crop-size", **size, default=(473, 473), help="training crop, in pixels")
    sub.add_argument(
        "--val-crop-size", **size, help="validate on center crops; whole images if absent"
    )
    sub.add_argument("--batch-size", type=int, default=8, help="training images a step")
    sub.add_argument("--val-batch-size", type=int, default=1, help="validation images a step")
    sub.add_argument("--epochs", type=_count, default=30, help="with cross-entropy")
    sub.add_argument("--steps", type=_count, help="instead of --epochs: batches in all")
    sub.add_argument("--lovasz-epochs", type=_count, default=0, help="with Lovász-softmax, after")
    sub.add_argument(
        "--learning-rate", type=_positive, default=1e-4, help="first; the paper's: 1e-5"
    )
    sub.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="of all phases")
    sub.add_argument("--weight-decay", type=float, default=0.01, help="semseg's for sgd is 1e-4")
    sub.add_argument(
        "--head-learning-rate-multiple",
        type=float,
        default=1.0,
        help="factor on the rate of all that is not the backbone",
    )
    sub.add_argument(
        "--gradient-accumulation-steps",
        type=int,
        default=1,
        help="batches that make one update, for a larger batch in the same memory",
    )
    sub.add_argument("--global-clipnorm", type=float, help="largest norm of all gradients")
    sub.add_argument(
        "--ema-momentum", type=float, help="validate and save an average of the weights, as 0.999"
    )
    sub.add_argument(
        "--freeze-batch-norm", action="store_true", help="keep the backbone's as they are"
    )
    limits = {"type": float, "nargs": 2, "metavar": ("LEAST", "MOST")}
    sub.add_argument("--scale-range", **limits, default=(0.5, 2.0), help="random scaling")
    sub.add_argument(
        "--contrast-range", **limits, default=(0.75, 1.5), help="random a of 127 + a (x - 127)"
    )
    sub.add_argument(
        "--rotation-range", **limits, default=(0.0, 0.0), help="random rotation, in degrees"
    )
    sub.add_argument(
        "--blur-range", **limits, default=(0.0, 0.0), help="random blur, its deviation in pixels"
    )
    sub.add_argument(
        "--image-scale",
        type=_positive,
        default=1.0,
        help="factor on all images, as 0.5 for half size",
    )
    sub.add_argument(
        "--devices",
        nargs="+",
        default=["auto"],
        help="auto (all accelerators), the first so many (of a CPU without them too), or names "
        "such as gpu:0 gpu:1",
    )
    sub.add_argument("--seed", type=_seed, default=0, help="of weights, order and augmentation")
    sub.add_argument(
        "--logger",
        choices=LOGGERS,
        help="send the metrics of each epoch there too, besides to the CSV files",
    )
    sub.add_argument(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        help="no output, a progress bar (on terminals if absent), a line an epoch",
    )
    sub.set_defaults(**recipe or {})

    sub = command(evaluate)
    sub.add_argument("saved_model", metavar="MODEL", help="a preset, or a saved model.keras")
    _add_data(sub, required=True)
    sub.add_argument("--split", default="val", help="split of the data set")
    sub.add_argument("--output", help="folder of the counts and the report, to be resumed too")
    sub.add_argument(
        "--absent-as-zero",
        action="store_true",
        help="count classes in neither truth nor prediction as 0 instead of leaving them out",
    )
    _add_inference(sub)

    sub = command(compare)
    sub.add_argument("first", metavar="FOLDER", help="of one evaluation")
    sub.add_argument("second", metavar="FOLDER", help="of the other")

    sub = command(predict)
    sub.add_argument("saved_model", metavar="MODEL", help="a preset, or a saved model.keras")
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or patterns")
    sub.add_argument("--output", default="predictions", help="folder of the results")
    sub.add_argument(
        "--write",
        nargs="+",
        choices=("mask", "color", "overlay", "probabilities"),
        default=("mask", "overlay"),
        help="PNGs of class ids, of colors, of colors over the image; float32 .npz",
    )
    sub.add_argument(
        "--ids",
        choices=("classes", "cityscapes"),
        default="classes",
        help="what masks hold: class ids, or the 34 label ids that Cityscapes' server takes",
    )
    _add_max_pixels(sub)
    _add_inference(sub)

    sub = command(convert)
    sub.add_argument(
        "checkpoint", metavar="CHECKPOINT", help=".pth, .safetensors or .safetensors.xz"
    )
    sub.add_argument("output", metavar="OUTPUT.weights.h5", help="file to write")
    sub.add_argument("--backbone", choices=backbones.names(), required=True, help="its network")
    sub.add_argument("--channels", type=int, default=3, help="of the images; 3 is RGB")

    sub = command(export)
    sub.add_argument("saved_model", metavar="MODEL", help="a preset, or a saved model.keras")
    sub.add_argument("output", metavar="OUTPUT", help=".onnx, .xml or .tflite, or a folder")
    sub.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    sub.add_argument("--image-size", **size, help="that it computes at; any if absent")
    sub.add_argument("--batch-size", type=int, default=1, help="images at once; 0 for any")
    sub.add_argument(
        "--preprocessing",
        action="store_true",
        help="take uint8 images of any size, and resize them to --image-size",
    )
    sub.add_argument(
        "--postprocessing",
        action="store_true",
        help="give the mask of class ids at the size of the image, instead of logits",
    )
    sub.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="float16 and int8 are for openvino and litert",
    )
    sub.add_argument(
        "--calibration-images",
        nargs="+",
        metavar="IMAGE",
        help="for int8, files, folders or patterns of some images as they will come",
    )
    _add_max_pixels(sub)

    sub = command(summary)
    sub.add_argument(
        "saved_model", metavar="MODEL", help="a preset, with weights or not, or a saved model.keras"
    )
    sub.add_argument(
        "--image-size", **size, help="of the images; 473 473 if absent and any will do"
    )
    sub.add_argument("--batch-size", type=int, default=1, help="images")
    sub.add_argument("--num-classes", type=int, help="another number of classes")
    sub.add_argument("--depth", type=_count, default=1, help="layers in layers; 0 for all")
    sub.add_argument(
        "--measure", action="store_true", help="time and memory of a prediction, in a fresh process"
    )
    sub.add_argument("--rounds", type=int, default=5, help="timed predictions of --measure")

    sub = command(ablate)
    titles = {name: experiment.title for name, experiment in experiments.EXPERIMENTS.items()}
    titles = {**titles, "table2": "Table II: what the models cost", "all": "all of them"}
    sub.add_argument(
        "experiments",
        nargs="+",
        choices=titles,
        metavar="EXPERIMENT",
        help="; ".join(f"{name}: {title}" for name, title in titles.items()),
    )
    _add_data(sub, required=False)
    sub.set_defaults(dataset="scenes")
    sub.add_argument("--output", help="folder, new or to go on with [ablation/DATASET]")
    sub.add_argument(
        "--rows",
        nargs="+",
        choices=experiments.ROWS,
        metavar="ROW",
        help=f"train only these of the experiments' rows: {', '.join(experiments.ROWS)}",
    )
    sub.add_argument(
        "--seeds", type=int, choices=range(1, 100), metavar="N", default=3, help="trainings a row"
    )
    sub.add_argument(
        "--rounds",
        type=_count,
        default=5,
        help="timed training steps of each row, 0 for none; of Table II predictions",
    )
    sub.add_argument("--verbose", type=int, choices=(0, 1, 2), default=0, help="as of `train`")
    sub.add_argument(
        "--report", action="store_true", help="train nothing; tables and plots of what is there"
    )
    sub.add_argument(
        "--add",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="with --report, join the results of these folders, as of several machines, in a new "
        "--output or with those that it holds",
    )
    shared = sub.add_argument_group(
        "protocol", "what all rows share; that of the data set if absent"
    )
    shared.add_argument("--backbone", choices=backbones.names())
    shared.add_argument("--other-backbone", choices=[*backbones.names(), "none"])
    for name in ("weights", "other_weights"):
        shared.add_argument(_flag(name), help='"imagenet", the file of a checkpoint, or "none"')
    shared.add_argument("--val-split", help="split of the figures")
    shared.add_argument("--aggregator-filters", type=int, help="channels c' of the aggregator")
    shared.add_argument("--head-filters", type=int, help="of the 3x3 before the classifier")
    for name in ("image_scale", "learning_rate", "head_learning_rate_multiple"):
        shared.add_argument(_flag(name), type=_positive)
    for name in ("batch_size", "val_batch_size", "epochs"):
        shared.add_argument(_flag(name), type=int)
    shared.add_argument("--crop-size", **size)
    shared.add_argument("--scale-range", **limits)

    sub = command(inspect)
    sub.add_argument("dataset", choices=datasets.names(), help="kind of data set")
    _add_folder(sub)
    sub.add_argument("--sheet", metavar="FILE.png", help="write a page of overlays to look at")
    sub.add_argument(
        "--class-weights", metavar="SPLIT", help="print median-frequency weights of this split"
    )
    command(list_datasets, "datasets")
    command(list_presets, "presets")
    command(list_recipes, "recipes")

    sub = command(save_preset, "save-preset")
    sub.add_argument("run", metavar="RUN", help="folder of a finished `train`")
    sub.add_argument("output", metavar="FOLDER", help="of the preset")
    sub.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="in file")
    sub.add_argument("--license", help="of the weights, for the model card")
    return parser
