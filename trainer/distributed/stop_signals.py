"""SIGTERM and Ctrl-C as a wish to stop: training ends its step and writes a checkpoint."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECOND_SIGNAL_S = 2.0  # a Ctrl-C so much later than the first ends the process at once


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield the list that each SIGTERM and SIGINT is added to. A second, later Ctrl-C interrupts at once."""
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
