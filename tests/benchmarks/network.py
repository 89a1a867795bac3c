"""SANet-ResNeXt-50 on each backend against plain PyTorch.

    python tests/benchmarks/network.py [--train 121 233] [--predict 473] [--rounds 7]

Training: batches of two, AdamW, cross-entropy. Prediction: one image, also with the backbone's
batch norms folded into its convolutions; beside it keras-hub's DeepLabV3+ with ResNet-50 on the
next multiple of 32 pixels (needs `pip install keras-hub`; left out without it), and a plain matrix
product, for how many multiplications a second the machine can do. Images are in memory.
"""

import argparse
import importlib.util

from peers import BACKENDS, Peer, compare, table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, nargs="*", default=[121, 233], help="sizes")
    parser.add_argument("--predict", type=int, nargs="*", default=[473], help="sizes")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for size in options.train:
        arguments = {"size": size, "batch_size": 2}
        peers = [Peer("plain PyTorch", "plain_torch", "train_step", arguments)]
        peers += [Peer(b, "ours", "train_step", arguments, b) for b in options.backends]
        compare(peers, options.rounds)
        table(f"SANet-ResNeXt-50, train step, {size}x{size}, batch 2", peers)
    for size in options.predict:
        for backend in options.backends:
            arguments = {"size": size}
            folded = {**arguments, "fold": True}
            peers = [
                Peer("plain PyTorch", "plain_torch", "prediction", arguments),
                Peer(backend, "ours", "prediction", arguments, backend),
                Peer("batch norms folded", "ours", "prediction", folded, backend),
                Peer("matrix product", "plain_torch", "matrix_products"),
            ]
            if importlib.util.find_spec("keras_hub"):
                arguments = {"size": -(-size // 32) * 32}
                peers.append(Peer("keras-hub DeepLabV3+", "ours", "deeplab", arguments, backend))
            compare(peers, options.rounds)
            table(f"SANet-ResNeXt-50, prediction, {size}x{size}, {backend}", peers)


if __name__ == "__main__":
    main()
