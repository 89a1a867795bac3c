"""Lovász-softmax, value and gradient, binned against exact and against the authors' algorithm.

python tests/benchmarks/losses.py [--classes 19 150] [--backends jax] [--rounds 5]
"""

import argparse

from peers import BACKENDS, Peer, compare, table

SIZE, BATCH, BINS = 473, 2, 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for classes in options.classes:
        for backend in options.backends:
            compare_forms(classes, backend, options.rounds)


def compare_forms(classes, backend, rounds):
    arguments = {"size": SIZE, "batch_size": BATCH, "num_classes": classes}
    exact, binned = (
        Peer(name, "ours", "lovasz_softmax", {**arguments, "num_bins": bins}, backend)
        for name, bins in (("exact", None), (f"{BINS} bins", BINS))
    )
    peers = [Peer("authors' algorithm", "plain_torch", "lovasz_softmax", arguments), exact, binned]
    compare(peers, rounds)
    table(f"Lovász-softmax, {SIZE}x{SIZE}, batch {BATCH}, {classes} classes, {backend}", peers)
    print(
        f"bins: {exact.median / binned.median:.1f} times as fast as the sort, "
        f"{binned.rise / exact.rise:.2f} of its memory"
    )


if __name__ == "__main__":
    main()
