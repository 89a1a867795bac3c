"""Predicts masks with an exported model, without Keras and keras_sanet: what a server needs.

    python examples/run_exported.py model.onnx street.png ...     NumPy, Pillow, onnxruntime
    python examples/run_exported.py saved_model street.png ...    NumPy, Pillow, TensorFlow

MODEL is from `keras-sanet export ... --preprocessing --postprocessing`. Expect `street_mask.png`,
of class ids, and `street_colour.png` where the file knows its colours. Not measured: other machines
than two CPU cores (examples/results/speed.md).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def load_onnx(path):
    """A function from images (1, height, width, 3) to masks (1, height, width), and the classes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    classes = session.get_modelmeta().custom_metadata_map
    return lambda images: session.run(None, {"image": images})[0], {
        name: json.loads(classes[name]) for name in ("class_names", "palette") if name in classes
    }


def load_saved_model(path):
    """As `load_onnx`."""
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    file = path / "assets.extra" / "classes.json"
    classes = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return lambda images: model.serve(images)["mask"].numpy(), classes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help=".onnx, or the folder of a SavedModel")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("deployed"), help="folder")
    options = parser.parse_args()

    predict, classes = (load_saved_model if options.model.is_dir() else load_onnx)(options.model)
    options.output.mkdir(parents=True, exist_ok=True)
    for path in options.images:
        image = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        (mask,) = predict(image[None])
        picture = Image.fromarray(mask)
        picture.save(options.output / f"{path.stem}_mask.png")
        if "palette" in classes:
            picture.putpalette(np.array(classes["palette"], "uint8").tobytes())
            picture.save(options.output / f"{path.stem}_colour.png")
    print(f"Masks of {len(options.images)} images are in {options.output}.")


if __name__ == "__main__":
    main()
