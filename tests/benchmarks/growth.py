"""How time and memory grow: a train step with the size of the image, the batch and the number of
maps; Lovász-softmax and the metric with the number of classes.

    python tests/benchmarks/growth.py [--backends torch] [--rounds 3]
"""

import argparse

from peers import BACKENDS, Peer, compare, table

STEP = {"size": 233, "batch_size": 2, "taps": 5}
GROWING = {"size": (121, 233, 345), "batch_size": (2, 4, 8), "taps": (1, 3, 5)}
MAP = {"size": 473, "batch_size": 1}
CLASSES = (10, 20, 40, 80, 160)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for backend in options.backends:
        for argument, values in GROWING.items():
            fixed = {**STEP, "size": 121} if argument == "batch_size" else STEP
            peers = [
                Peer(
                    f"{argument} {value}", "ours", "train_step", {**fixed, argument: value}, backend
                )
                for value in values
            ]
            compare(peers, options.rounds)
            others = ", ".join(f"{k} {v}" for k, v in fixed.items() if k != argument)
            table(f"{backend}, train step of SANet-ResNeXt-50, {others}", peers)
        for what, arguments in (
            ("lovasz_softmax", {**MAP, "num_bins": None}),
            ("lovasz_softmax", {**MAP, "num_bins": 1024}),
            ("mean_iou", MAP),
        ):
            peers = [
                Peer(f"{n} classes", "ours", what, {**arguments, "num_classes": n}, backend)
                for n in CLASSES
            ]
            compare(peers, options.rounds)
            others = ", ".join(f"{k} {v}" for k, v in arguments.items())
            table(f"{backend}, {what}, {others}", peers)


if __name__ == "__main__":
    main()
