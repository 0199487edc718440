"""End a process that hangs, and show where: in a job of many processes one that waits for ever stops all of them."""

import faulthandler
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STDERR = 2  # the file descriptor: sys.stderr may have been replaced

# A process's first step may compile the model, tune kernels, capture graphs and load libraries. Its limit is the larger
# of these two.
FIRST_STEP_S = 1800.0
FIRST_STEP_TIMEOUTS = 10  # times `timeout_s`


@contextmanager
def watchdog(timeout_s: float | None) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step, at least every `timeout_s`; with None it does nothing.

    The first call may come later, within `first_step_limit(timeout_s)`. When a call is late, the stacks of all threads
    go to the process's stderr, and the process ends with exit code 1. A thread without Python does it, so it works
    while a collective or a loader blocks the interpreter. All ranks of a job end so: the culprit is the one whose stack
    is not in a collective. At half of the limit a thread that does need the interpreter warns, and names the recipe's
    key.
    """
    if timeout_s is None:
        yield lambda: None
        return
    called, ended = threading.Event(), threading.Event()
    first_limit_s, limit_s = first_step_limit(timeout_s), timeout_s

    def alive() -> None:
        _end_after(limit_s)
        called.set()

    _end_after(first_limit_s)
    warner = threading.Thread(target=_warn, args=(first_limit_s, limit_s, called, ended), name="watchdog", daemon=True)
    warner.start()
    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()
        ended.set()
        called.set()
        warner.join()


def first_step_limit(timeout_s: float) -> float:
    """Return the seconds that a process's first step may take where later steps may take `timeout_s`."""
    return max(FIRST_STEP_S, FIRST_STEP_TIMEOUTS * timeout_s)


def _end_after(limit_s: float) -> None:
    """Start the countdown again."""
    faulthandler.dump_traceback_later(limit_s, exit=True, file=STDERR)


def _warn(first_limit_s: float, limit_s: float, called: threading.Event, ended: threading.Event) -> None:
    """Warn once in each silence when half of its limit has passed."""
    for silence_s in itertools.chain([first_limit_s], itertools.repeat(limit_s)):
        if not called.wait(silence_s / 2):
            print(
                f"process {os.environ.get('RANK', '0')}: no step has ended for {silence_s / 2:g} s. The process prints "
                f"its stacks and exits after {silence_s:g} s; raise loop.hang_timeout_s if steps take longer",
                file=sys.stderr,
                flush=True,
            )
            called.wait()
        called.clear()  # before `ended` is read: what is set after it is seen in the next round
        if ended.is_set():
            return
