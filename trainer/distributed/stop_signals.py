"""SIGTERM and Ctrl-C as requests to stop: training finishes its step and writes a checkpoint."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECOND_SIGNAL_S = 2.0  # a Ctrl-C this long after the first signal ends the process at once


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list to which each SIGTERM and SIGINT is appended; a second, later Ctrl-C raises KeyboardInterrupt.

    Outside the main thread, which cannot handle signals, the list stays empty.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    first_at = math.inf

    def ask(signum: int, frame: object) -> None:
        nonlocal first_at
        now = time.monotonic()
        if signum == signal.SIGINT and now - first_at > SECOND_SIGNAL_S:
            raise KeyboardInterrupt
        first_at = min(first_at, now)
        signals.append(signum)

    old = {signum: signal.signal(signum, ask) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
