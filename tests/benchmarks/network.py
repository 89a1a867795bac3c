"""Train step and prediction of SANet-ResNeXt-50 on each backend, against plain PyTorch.

    python tests/benchmarks/network.py [--train 121 233] [--predict 473] [--rounds 7]

Training: batches of two, AdamW, cross-entropy. Prediction: one image. Both from images in memory.
"""

import argparse

from peers import BACKENDS, Peer, compare, table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, nargs="*", default=[121, 233], help="sizes")
    parser.add_argument("--predict", type=int, nargs="*", default=[473], help="sizes")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    runs = [("train_step", size, 2) for size in options.train]
    runs += [("prediction", size, 1) for size in options.predict]
    for what, size, batch_size in runs:
        arguments = {"size": size, "batch_size": batch_size}
        peers = [Peer("plain PyTorch", "plain_torch", what, arguments)]
        peers += [Peer(b, "ours", what, arguments, b) for b in options.backends]
        compare(peers, options.rounds)
        table(f"SANet-ResNeXt-50, {what}, {size}x{size}, batch {batch_size}", peers)


if __name__ == "__main__":
    main()
