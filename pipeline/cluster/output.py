"""What a user sees of Ray: nothing, unless asked for. Its own words are dropped, ours reach the terminal."""

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
LOGGERS = ("ray", "ray.data")  # those of Ray that have a console
LOW_MEMORY = "running low on memory"  # in what Ray prints when it kills a worker
TRIED_AGAIN = "memory ran low: Ray ended a worker, and its part is tried again. The job is slower until memory is free"


@contextmanager
def rays_output(log: RayLog) -> Iterator[None]:
    """Drop what Ray writes to the terminal in the block, or send it to stderr; what we write to sys.stderr is kept.

    Ray writes from native code, by its loggers, by print in its threads, and in the tracebacks of threads and objects
    that it gives up.
    """
    with contextlib.ExitStack() as stack:
        if log == "shown":
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            yield
            return
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(_descriptors_to(nowhere))
        stack.enter_context(contextlib.redirect_stdout(_Prints(sys.stderr)))
        stack.enter_context(_no_consoles())
        stack.enter_context(_no_hooks())
        yield


class _Prints:
    """In place of sys.stdout: drops what is printed, and warns the user once when memory runs low."""

    def __init__(self, terminal: IO[str]) -> None:
        self._terminal = terminal
        self._warned = False

    def write(self, text: str) -> int:
        if LOW_MEMORY in text and not self._warned:
            self._warned = True
            print_lines(f"warning: {TRIED_AGAIN}", self._terminal)
        return len(text)

    def flush(self) -> None:
        pass


@contextmanager
def _descriptors_to(nowhere: IO[str]) -> Iterator[None]:
    """Of native code, 1 and 2. Where sys.stderr writes to 2, it is a copy of what that was."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    ours, saved = sys.stderr, [os.dup(descriptor) for descriptor in (1, 2)]
    if _descriptor(ours) == 2:
        sys.stderr = open(saved[1], "w", buffering=1, encoding=ours.encoding, errors=ours.errors, closefd=False)  # noqa: SIM115
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)
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
    except (AttributeError, OSError, ValueError):  # a notebook's, or a test's
        return None


@contextmanager
def _no_consoles() -> Iterator[None]:
    """Without the consoles of Ray's loggers; its log files get everything as before."""
    import ray.data  # makes the second logger's  # noqa: F401

    taken = []
    for logger in map(logging.getLogger, LOGGERS):
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
                taken.append((logger, handler))
    silent = logging.NullHandler()  # a logger without handlers prints its errors by logging's last resort
    for logger in map(logging.getLogger, LOGGERS):
        logger.addHandler(silent)
    try:
        yield
    finally:
        for logger in map(logging.getLogger, LOGGERS):
            logger.removeHandler(silent)
        for logger, handler in taken:
            logger.addHandler(handler)


@contextmanager
def _no_hooks() -> Iterator[None]:
    """Without the tracebacks of errors in threads and in objects' ends, which nobody can catch."""
    in_thread, in_end = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = _nothing
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = in_thread, in_end


def _nothing(_: Any) -> None:
    pass
