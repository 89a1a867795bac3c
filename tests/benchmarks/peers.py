"""Times programs against each other: each in a process of its own, run in turn.

A machine that is shared is now faster, now slower. Peers that take turns see the same of it, and
the ratio of their medians tells more than any time.
"""

import dataclasses
import importlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


@dataclasses.dataclass
class Peer:
    """A function `make` of the file `module`, called with `arguments`, gives the step to time."""

    name: str
    module: str
    make: str
    arguments: dict = dataclasses.field(default_factory=dict)
    backend: str = "torch"

    def start(self):
        environment = {
            **os.environ,
            "KERAS_BACKEND": self.backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, str(HERE / "peers.py"), self.module, self.make]
        self.process = subprocess.Popen(
            [*command, repr(self.arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.times, self.peaks = [], []
        self._read()

    def run(self):
        print("run", file=self.process.stdin, flush=True)
        seconds, peak = self._read()
        self.times.append(seconds)
        self.peaks.append(peak)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("peer: "):
                return [float(x) for x in line[6:].split()]
        raise RuntimeError(f"{self.name} ended with status {self.process.wait()}.")

    @property
    def first(self):
        """Seconds of the first step."""
        return self.times[0]

    @property
    def median(self):
        """Seconds of the median step after the first two."""
        return float(np.median(self.times[2:]))

    @property
    def least(self):
        return min(self.times[2:])


def compare(peers, rounds):
    """Runs all peers in turn; the first two rounds compile and warm up. Returns the peers."""
    for peer in peers:
        peer.start()
        peer.run()
    for _ in range(rounds + 1):
        for peer in peers:
            peer.run()
    for peer in peers:
        peer.stop()
    return peers


def table(title, peers, base):
    """Prints medians and their ratio to that of the peer `base`."""
    reference = next(peer for peer in peers if peer.name == base)
    print(f"\n{title}")
    print(f"{'':28}{'first s':>9}{'median ms':>11}{'least ms':>10}{'ratio':>8}")
    for peer in peers:
        print(
            f"{peer.name:28}{peer.first:9.2f}{1000 * peer.median:11.1f}{1000 * peer.least:10.1f}"
            f"{peer.median / reference.median:8.2f}",
            flush=True,
        )


def _worker(module, make, arguments):
    step = getattr(importlib.import_module(module), make)(**eval(arguments))  # our own repr
    print("peer: 0 0", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        print("peer:", seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


if __name__ == "__main__":
    _worker(*sys.argv[1:])
