"""Ray's terminal output, hidden unless the user asks for it. Our own output is unaffected."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from bevt_core.console.terminal import print_lines

RayLog = Literal["hidden", "shown"]
LOGGERS = ("ray", "ray.data")  # Ray's loggers with a console handler
LOW_MEMORY = "running low on memory"  # part of Ray's message when it kills a worker
PART_RETRIED = "memory ran low: Ray killed a worker, and its part is retried. The job is slow until memory is freed"


@contextmanager
def ray_output(log: RayLog) -> Iterator[None]:
    """Drop Ray's terminal output in the block, or with `log` "shown" send it to stderr. Our own stderr output is kept.

    Ray writes from native code, through its loggers, with print in its threads, and in tracebacks of its threads and
    of objects that are being deleted.
    """
    with contextlib.ExitStack() as stack:
        if log == "shown":
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            yield
            return
        devnull = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(_descriptors_to(devnull))
        stack.enter_context(contextlib.redirect_stdout(_StdoutFilter(sys.stderr)))
        stack.enter_context(_without_console_handlers())
        stack.enter_context(_without_tracebacks())
        yield


class _StdoutFilter:
    """Replaces sys.stdout: drops Ray's text, and warns the user once when memory runs low."""

    def __init__(self, terminal: IO[str]) -> None:
        self._terminal = terminal
        self._warned = False

    def write(self, text: str) -> int:
        if LOW_MEMORY in text and not self._warned:
            self._warned = True
            print_lines(f"warning: {PART_RETRIED}", self._terminal)
        return len(text)

    def flush(self) -> None:
        pass


@contextmanager
def _descriptors_to(devnull: IO[str]) -> Iterator[None]:
    """Redirect descriptors 1 and 2, for native code. A sys.stderr that wrote to 2 gets a copy of the original."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    ours, saved = sys.stderr, [os.dup(descriptor) for descriptor in (1, 2)]
    if _descriptor(ours) == 2:
        sys.stderr = open(saved[1], "w", buffering=1, encoding=ours.encoding, errors=ours.errors, closefd=False)  # noqa: SIM115
    try:
        for descriptor in (1, 2):
            os.dup2(devnull.fileno(), descriptor)
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = ours
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # streams of notebooks and tests have none
        return None


@contextmanager
def _without_console_handlers() -> Iterator[None]:
    """Remove the console handlers of Ray's loggers in the block; its log files still receive everything."""
    import ray.data  # creates the second logger's handler  # noqa: F401

    removed = []
    for logger in map(logging.getLogger, LOGGERS):
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
                removed.append((logger, handler))
    silent = logging.NullHandler()  # without any handler, logging.lastResort would print errors
    for logger in map(logging.getLogger, LOGGERS):
        logger.addHandler(silent)
    try:
        yield
    finally:
        for logger in map(logging.getLogger, LOGGERS):
            logger.removeHandler(silent)
        for logger, handler in removed:
            logger.addHandler(handler)


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Suppress tracebacks from threads and deleted objects in the block: no caller can catch those errors."""
    in_thread, in_deletion = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = _ignore
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = in_thread, in_deletion


def _ignore(_: Any) -> None:
    pass
