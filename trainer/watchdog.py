"""A rank that hangs says where, and ends: in a job of many processes one that waits for ever stops all of them."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STDERR = 2  # the file descriptor: sys.stderr may have been replaced


@contextmanager
def watchdog(timeout_s: float | None) -> Iterator[Callable[[], None]]:
    """Give a function that says "still alive", to be called at least every `timeout_s`; with None it does nothing.

    When the calls stay away, the stacks of all threads go to the process's stderr, and the process ends with exit
    code 1. A thread without Python does it, so it works while a collective or a loader blocks the interpreter. All
    ranks of a job end so: the one to blame is the one whose stack is not in a collective. A line that names
    the recipe's key comes at half of the time, from a thread that does need the interpreter.
    """
    if timeout_s is None:
        yield lambda: None
        return
    called, ended = threading.Event(), threading.Event()

    def alive() -> None:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=STDERR)
        called.set()

    alive()
    warner = threading.Thread(target=_warn, args=(timeout_s, called, ended), name="watchdog", daemon=True)
    warner.start()
    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()
        ended.set()
        called.set()
        warner.join()


def _warn(timeout_s: float, called: threading.Event, ended: threading.Event) -> None:
    """Say once for every silence that half of `timeout_s` has passed."""
    while not ended.is_set():
        called.clear()
        if called.wait(timeout_s / 2):
            continue
        print(
            f"process {os.environ.get('RANK', '0')}: no step has ended for {timeout_s / 2:g} s. After {timeout_s:g} s "
            "it shows where it hangs and ends: loop.hang_timeout_s in the recipe, for steps that need longer",
            file=sys.stderr,
            flush=True,
        )
        called.wait()
