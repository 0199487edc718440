"""Calls of a library that a signal cannot interrupt."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

R = TypeVar("R")
NOTICED_AFTER_S = 0.5


def interruptible(call: Callable[[], R]) -> R:
    """Return `call()`, made by a daemon thread if this is the main thread.

    Signals are handled in the main thread only, between steps of Python. There, an exception of a handler, such as
    KeyboardInterrupt, leaves the call behind, and the end of the process does not wait for it.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    answer: Future[R] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 # raised in the main thread
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not wait([answer], timeout=NOTICED_AFTER_S).done:
        pass  # a signal that arrives just before a wait is handled only after it
    return answer.result()
