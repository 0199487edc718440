"""A rank that hangs says where, and ends: in a job of many processes one that waits for ever stops all of them."""

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STDERR = 2  # the file descriptor: sys.stderr may have been replaced


@contextmanager
def watchdog(timeout_s: float | None) -> Iterator[Callable[[], None]]:
    """Give a function that says "still alive", to be called at least every `timeout_s`; with None it does nothing.

    When the calls stay away, the stacks of all threads go to the process's stderr, and the process ends with exit
    code 1. A thread without Python does it, so it works while a collective or a loader blocks the interpreter. All
    ranks of a job end so: the one to blame is the one whose stack is not in a collective.
    """
    if timeout_s is None:
        yield lambda: None
        return

    def alive() -> None:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=STDERR)

    alive()
    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()
