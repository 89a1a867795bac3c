"""What scales, flip and windows cost: SANet-ResNet-18, c' = 128, one image of 360x480, 40 classes.

    python tests/benchmarks/inference.py

`KERAS_BACKEND` chooses the backend. Medians of runs in turn, and their ratios: six scales with
flip against the sum of their single predictions and against the network alone (softmax, resizing
and averaging left out); windows computed several at once against one by one.
"""

import statistics
import time

import keras
import numpy as np

import keras_sanet
from keras_sanet.inference import predict_probabilities

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
ROUNDS = 5


def medians(calls):
    """Median seconds of each function, run in turn after a first time each."""
    seconds = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main():
    image = np.random.default_rng(0).integers(0, 256, (360, 480, 3)).astype("float32")
    model = keras_sanet.SANet(40, "resnet18", aggregator_filters=128)
    sizes = [(round(360 * scale), round(480 * scale)) for scale in SCALES]

    def network(size):
        return model.predict_on_batch(np.zeros((1, *size, 3), "float32"))

    found = medians(
        {
            "scales": lambda: predict_probabilities(model, image, scales=SCALES, flip=True),
            **{s: lambda s=s: predict_probabilities(model, image, scales=(s,)) for s in SCALES},
            **{size: lambda size=size: network(size) for size in sizes},
        }
    )
    single, alone = sum(found[s] for s in SCALES), sum(found[size] for size in sizes)
    print(keras.backend.backend())
    print(f"six scales and flip      {found['scales']:6.2f} s")
    print(f"  / single predictions   {found['scales'] / (2 * single):6.2f}")
    print(f"  / the network alone    {found['scales'] / (2 * alone):6.2f}")

    windows = {
        size: lambda size=size: predict_probabilities(model, image, window=233, batch_size=size)
        for size in (1, 2, 3, 6)  # 2 x 3 windows
    }
    found = medians(windows)
    for size, seconds in found.items():
        print(f"windows of 233, {size} at once {seconds:5.2f} s, / one {seconds / found[1]:.2f}")


if __name__ == "__main__":
    main()
