"""What Keras leaves behind at each save of a compiled model, and what `callbacks.SaveState` leaves.

    python tests/benchmarks/save_growth.py [SAVES]

prints MB resident a save. To find what it does not save, Keras makes an optimizer, and it keeps
what it found under a name that it does not look for, so that each save makes another one. On
TensorFlow 2.21 with Keras 3.15.1 that is 0.07 MB for good.
"""

import sys
import tempfile

import keras
import psutil

from keras_sanet.training import state


def growth(model, path, saves):
    """MB a save, after as many to warm up."""
    before = 0
    for index in range(2 * saves):
        if index == saves:
            before = psutil.Process().memory_info().rss
        model.save(path)
    return (psutil.Process().memory_info().rss - before) / 1e6 / saves


def main(saves):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        print(f"{keras.backend.backend()}, Keras {keras.__version__}, MB a save:")
        print(f"as Keras does    {growth(model, path, saves):8.4f}", flush=True)
        state.keep_skipped_attributes()
        print(f"as a run does    {growth(model, path, saves):8.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
