"""ConvLSTMAggregator, forward and backward, against `keras.layers.ConvLSTM2D`, and against one
plain convolution of as many multiplications (nine: five of the maps, four of the states).

    python tests/benchmarks/aggregator.py [--grids 30 60] [--backends jax] [--rounds 5]
"""

import argparse

from peers import BACKENDS, Peer, compare, table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grids", type=int, nargs="+", default=[30, 60])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for grid in options.grids:
        for backend in options.backends:
            peers = [
                Peer(kind, "ours", "aggregation", {"kind": kind, "grid": grid}, backend)
                for kind in ("one convolution", "ConvLSTMAggregator", "ConvLSTM2D")
            ]
            compare(peers, options.rounds)
            table(f"{backend}, {grid}x{grid}, 256 channels, 5 maps, batch 1", peers)


if __name__ == "__main__":
    main()
