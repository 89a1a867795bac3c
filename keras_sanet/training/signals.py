"""Ctrl-C and SIGTERM, which wait until the run can stop."""

import contextlib
import os
import signal
import sys
import threading

from keras_sanet import _backend


@contextlib.contextmanager
def deferred_signals():
    """Context in which Ctrl-C and SIGTERM wait for `stop_if_signaled`; a second one acts at once.

    Yields:
        A list, which holds the signal's number once one came.
    """
    received = []
    # Signals come to the main thread alone; and processes that wait for each other stop together.
    if threading.current_thread() is not threading.main_thread() or _backend.process()[1] > 1:
        yield received
        return
    # What is ignored stays so, as Ctrl-C by what a shell script has put into the background.
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    ]

    def restore():
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)

    def note(number, frame):
        received.append(number)
        restore()
        os.write(2, b"\nStopping after this step, or after validation. Once more: at once.\n")

    before = [signal.signal(number, note) for number in numbers]
    try:
        yield received
    finally:
        restore()


def stop_if_signaled(received, message):
    """Ends the run as the signal says that `deferred_signals` has received, if there is one."""
    if received and received[0] == signal.SIGTERM:
        print(message, file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)
    if received:
        raise KeyboardInterrupt(message)
