"""Time of an update of MeanIoU: one map of 473x473, 19 classes, beside NumPy and Keras's own.

    KERAS_BACKEND=jax python tests/benchmarks/metrics.py

Prints the median and least time of each, and the ratio of its median to that of NumPy's argmax +
bincount. The three run in turn, so that a load on the machine slows all alike; but PyTorch's
threads wait for each other on a loaded machine: OMP_NUM_THREADS=1 compares what is computed.
"""

import time

import keras
import numpy as np

from keras_sanet.metrics import MeanIoU

SIZE, CLASSES, ROUNDS = 473, 19, 15
SLOW = 1.0  # seconds: what takes longer runs three times only


def main():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES + 1, (1, SIZE, SIZE)).astype("int32")
    labels[labels == CLASSES] = 255
    logits = rng.standard_normal((1, SIZE, SIZE, CLASSES)).astype("float32")
    y_true, y_pred = keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(logits)
    ours = MeanIoU(CLASSES)
    stock = keras.metrics.MeanIoU(CLASSES, ignore_class=255, sparse_y_pred=False)

    def with_numpy():
        ids, valid = logits.argmax(-1), labels != 255
        return np.bincount(labels[valid] * CLASSES + ids[valid], minlength=CLASSES**2)

    def with_ours():
        ours.update_state(y_true, y_pred)
        return keras.ops.convert_to_numpy(ours.low.value)  # waits for the device

    def with_stock():
        stock.update_state(y_true, y_pred)
        return keras.ops.convert_to_numpy(stock.total_cm.value)

    peers = {
        "numpy argmax + bincount": with_numpy,
        "keras_sanet MeanIoU": with_ours,
        "keras.metrics.MeanIoU": with_stock,
    }
    for peer in peers.values():
        peer()  # compiles
    times = {name: [] for name in peers}
    for turn in range(ROUNDS):
        for name, peer in peers.items():
            if turn >= 3 and np.median(times[name]) > SLOW:
                continue
            start = time.perf_counter()
            peer()
            times[name].append(time.perf_counter() - start)

    print(
        f"MeanIoU.update_state, {SIZE}x{SIZE}, batch 1, {CLASSES} classes, "
        f"backend {keras.backend.backend()}"
    )
    print(f"{'':26}{'median ms':>10}{'least ms':>10}{'runs':>6}{'ratio':>8}")
    base = np.median(times["numpy argmax + bincount"])
    for name, seconds in times.items():
        median = np.median(seconds)
        print(
            f"{name:26}{1000 * median:10.1f}{1000 * min(seconds):10.1f}"
            f"{len(seconds):6}{median / base:8.2f}"
        )


if __name__ == "__main__":
    main()
