"""Size, latency and loss in mean IoU of a model's exported files, each in its own runtime.

    python tests/benchmarks/deployment.py sanet_tiny_scenes --dataset scenes --size 144 192
    python tests/benchmarks/deployment.py --size 473 473    # a random SANet-ResNeXt-50, no IoU

Files are for images of --size, and for any size where it says so; they give logits of one image.
Latency is the median of runs in turn with the Keras model's `predict_on_batch`, whose median is 1.
Mean IoU is of the split's images and masks, resized to --size (bilinear, nearest); int8 is
calibrated with training images. OpenVINO computes in float32, but in its last row as it chooses
(bfloat16 where the processor has it). `KERAS_BACKEND` chooses who exports: TensorFlow all formats.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image

import keras_sanet
from keras_sanet.export import export

CALIBRATION = 32  # images
SUFFIXES = {"tf_saved_model": "", "onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}
FILES = [  # format, precision, whether for any size
    *[(format, "float32", open) for open in (False, True) for format in SUFFIXES],
    *[(format, precision, False) for format in ("openvino", "litert")
      for precision in ("float16", "int8")],
]  # fmt: skip


def runner(path, format, shape, hint="f32"):
    """A function from float32 images of this shape to logits."""
    if format == "tf_saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))  # kept alive by the function
        return lambda x: loaded.signatures["serving_default"](image=tf.constant(x))["logits"]
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return lambda x: session.run(None, {"image": x})[0]
    if format == "openvino":
        import openvino

        config = {"INFERENCE_PRECISION_HINT": hint} if hint else {}
        compiled = openvino.compile_model(path, "CPU", config)
        return lambda x: compiled({"image": x})[0]
    import os

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=os.cpu_count())
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
    run = interpreter.get_signature_runner("serving_default")
    return lambda x: run(image=x)["logits"]


def megabytes(path):
    """Of a file, of OpenVINO's two, or of a folder."""
    if path.suffix == ".xml":
        return megabytes(path.with_suffix(".bin")) + path.stat().st_size / 1e6
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def read(dataset, split, size, count=None):
    """Images and masks of a split, evenly spread, at this size."""
    samples = dataset.samples(split)
    pairs = []
    for sample in samples[:: max(1, len(samples) // (count or len(samples)))][:count]:
        image, mask = dataset.read(sample)
        image = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        mask = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
        pairs.append((np.array(image), np.array(mask)))
    return pairs


def mean_iou(run, pairs, classes):
    """Mean over the classes that occur in truth or prediction, percent."""
    confusion = np.zeros((classes, classes), "int64")  # rows: truth
    for image, mask in pairs:
        predicted = np.asarray(run(image[None].astype("float32")))[0].argmax(axis=-1)
        cells = (mask.astype("int64") * classes + predicted)[mask != 255]
        confusion += np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    with np.errstate(invalid="ignore"):  # 0 / 0 of absent classes
        iou_per_class = keras_sanet.metrics.iou(
            confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        )
    return 100 * np.nanmean(iou_per_class)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--dataset")
    parser.add_argument("--data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--size", type=int, nargs=2, default=(473, 473))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    size = tuple(options.size)
    model = keras_sanet.from_preset(options.model) if options.model else keras_sanet.SANet(19)
    rng = np.random.default_rng(0)
    pairs, calibration = [], list(rng.integers(0, 256, (4, *size, 3), dtype="uint8"))
    if options.dataset:
        dataset = keras_sanet.datasets.load(options.dataset, options.data)
        pairs = read(dataset, options.split, size)
        calibration = [image for image, _ in read(dataset, "train", size, CALIBRATION)]

    x = rng.integers(0, 256, (1, *size, 3)).astype("float32")
    runs = {"keras": model.predict_on_batch}
    sizes = {"keras": 4e-6 * model.count_params()}  # of its weights
    with tempfile.TemporaryDirectory() as folder:
        for format, precision, any_size in FILES:
            name = f"{format} {precision}{' any size' if any_size else ''}"
            path = Path(folder, name.replace(" ", "_") + SUFFIXES[format])
            images = calibration if precision == "int8" else None
            try:
                export(
                    model,
                    path,
                    format,
                    image_size=None if any_size else size,
                    precision=precision,
                    calibration_images=images,
                )
            except (ValueError, ImportError) as error:
                print(f"{name}: {error}")
                continue
            runs[name], sizes[name] = runner(path, format, x.shape), megabytes(path)
            if name == "openvino float32":
                chosen = runner(path, format, x.shape, hint=None)
        if "openvino float32" in runs:
            runs["openvino as it chooses"] = chosen
            sizes["openvino as it chooses"] = sizes["openvino float32"]
        seconds = {name: [] for name in runs}
        for turn in range(options.rounds + 2):
            for name, run in runs.items():
                start = time.perf_counter()
                np.asarray(run(x))
                if turn >= 2:  # those before compile and warm up
                    seconds[name].append(time.perf_counter() - start)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        scores = {}
        if pairs:
            scores = {name: mean_iou(run, pairs, dataset.num_classes) for name, run in runs.items()}

    print(f"\n{model.name}, {model.count_params():,} parameters, {size[0]}x{size[1]}, "
          f"{keras.backend.backend()}; {len(pairs)} images")  # fmt: skip
    print(f"{'':32}{'MB':>8}{'ms':>9}{'/ keras':>9}{'mIoU':>8}{'loss':>8}")
    for name in runs:
        line = f"{name:32}{sizes[name]:8.2f}{1e3 * median[name]:9.1f}"
        line += f"{median[name] / median['keras']:9.2f}"
        if scores:
            line += f"{scores[name]:8.2f}{scores['keras'] - scores[name]:8.2f}"
        print(line)


if __name__ == "__main__":
    main()
