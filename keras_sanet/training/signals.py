import contextlib
import os
import signal
import sys
import threading

from keras_sanet import _backend


def stop(asked, said):
    """Ends the run as the signal asks that `stoppable` has noted, if there is one."""
    if asked and asked[0] == signal.SIGTERM:
        print(said, file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)
    if asked:
        raise KeyboardInterrupt(said)


@contextlib.contextmanager
def stoppable():
    """Context in which Ctrl-C and SIGTERM wait until the run can stop; a second one acts at once.

    Yields: a list, which then has the signal's number.
    """
    asked = []
    # Signals come to the main thread alone; and processes that wait for each other stop together.
    if threading.current_thread() is not threading.main_thread() or _backend.process()[1] > 1:
        yield asked
        return
    # What is ignored stays so, as Ctrl-C by what a shell script has put into the background.
    left_alone = (signal.SIG_IGN, None)
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in left_alone
    ]

    def note(number, frame):
        asked.append(number)
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
        os.write(2, b"\nStopping after this step, or after validation. Once more: at once.\n")

    before = [signal.signal(number, note) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
