"""A progress bar around what takes long."""

import os
import sys
import time

from rich import progress


def track(items, title, verbose="auto"):
    """Yields items behind a progress bar.

    Args:
        items: a list of what is worked on.
        title: what is done to them, such as "Predicting".
        verbose: "auto" shows the bar on a terminal; True also says the expected time after a few
            items, in one line; False shows nothing.
    """
    known, start = 2 * os.cpu_count(), None  # the first one compiles; several may be under way
    shown = bool(verbose) and sys.stdout.isatty()
    for index, item in enumerate(progress.track(items, title, disable=not shown), start=1):
        yield item
        if index == 1:
            start = time.monotonic()
        if index == known + 1 < len(items) and verbose not in (False, "auto"):
            seconds = (time.monotonic() - start) / known * (len(items) - index)
            left = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
            print(f"{title} {len(items)} images: about {left} to go.", flush=True)
