"""Times programs against each other: each in a process of its own, run in turn.

A machine that is shared is now faster, now slower. Peers that take turns see the same of it, and
the ratio of their medians tells more than any time. Who waits for its turn is stopped, for threads
that wait may spin.
"""

import dataclasses
import importlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BACKENDS = ("tensorflow", "jax", "torch")


@dataclasses.dataclass
class Peer:
    """A function `make` of the file `module`, called with `arguments`, gives the step to time.

    Where the step has an attribute `macs`, it says how many multiplications one takes.
    """

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
        }
        command = [sys.executable, str(HERE / "peers.py"), self.module, self.make]
        self.process = subprocess.Popen(
            [*command, repr(self.arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.times = []
        _, self.before, self.macs = self._read()
        self.process.send_signal(signal.SIGSTOP)

    def run(self):
        self.process.send_signal(signal.SIGCONT)
        print("run", file=self.process.stdin, flush=True)
        seconds, self.peak, _ = self._read()
        self.process.send_signal(signal.SIGSTOP)
        self.times.append(seconds)

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
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

    @property
    def rise(self):
        """MiB by which the peak resident set rose from before the first step on."""
        return (self.peak - self.before) / 1024


def compare(peers, rounds):
    """Runs all peers in turn; the first two rounds compile and warm up."""
    for peer in peers:
        peer.start()
        peer.run()
    for _ in range(rounds + 1):
        for peer in peers:
            peer.run()
    for peer in peers:
        peer.stop()


def table(title, peers):
    """Prints first, median and least time, the ratio of the median to that of the first peer, the
    rise of the peak resident set, and billions of multiplications a second where they are known."""
    counted = any(peer.macs for peer in peers)
    print(
        f"\n{title}\n"
        f"{'':30}{'first s':>9}{'median ms':>11}{'least ms':>10}{'ratio':>8}{'rise MiB':>10}"
        + f"{'GMAC':>8}{'GMAC/s':>8}"
        * counted
    )
    for peer in peers:
        print(
            f"{peer.name:30}{peer.first:9.2f}{1000 * peer.median:11.1f}{1000 * peer.least:10.1f}"
            f"{peer.median / peers[0].median:8.2f}{peer.rise:10.0f}",
            f"{peer.macs / 1e9:7.1f}{peer.macs / peer.median / 1e9:8.1f}" * counted,
            flush=True,
        )


def _worker(module, make, arguments):
    step = getattr(importlib.import_module(module), make)(**eval(arguments))  # our own repr
    _report(0, getattr(step, "macs", 0))
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        _report(time.perf_counter() - start)


def _report(seconds, macs=0):
    """Seconds, the peak resident set in KiB, and the multiplications of a step."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("peer:", seconds, peak, macs, flush=True)


if __name__ == "__main__":
    _worker(*sys.argv[1:])
