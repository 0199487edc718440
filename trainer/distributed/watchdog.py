"""End a process that hangs and print its stack: one process that hangs blocks all others of a run."""

import faulthandler
import math
import os
import select
import signal
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from bevt_core.console.progress import say

STDERR = 2  # the file descriptor: sys.stderr may have been replaced

# A process's first step may compile the model, tune kernels, capture graphs and load libraries. Its limit is the larger
# of these two.
FIRST_STEP_S = 1800.0
FIRST_STEP_TIMEOUTS = 10  # times `timeout_s`

# Time limit of a step after SIGTERM or SIGINT: the larger of these seconds and these multiples of the median step.
STOP_S = 20.0
STOP_STEPS = 3
STOPPING = (signal.SIGTERM, signal.SIGINT)

_unhurried = False

_RECHECK, _END = b"\xfe", b"\xff"  # bytes that are no signal numbers: the limit has changed; the block has ended

CHECK_S = 1.0  # interval of checks after a signal
BACKSTOP_S = 15.0  # after the limit, C code ends the process, in case a thread never releases the interpreter's lock


@contextmanager
def watchdog(timeout_s: float | None) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step, at least every `timeout_s` seconds unless that is None.

    The first call may take `first_step_limit(timeout_s)` seconds. At half of the limit a warning names the recipe's
    key. When a call is late, the stack of the thread that entered the block is printed to stderr and the process exits
    with status 1, even if a collective or a loader blocks that thread. All ranks of a run end this way: the culprit is
    the one whose stack is not in a collective.

    After SIGTERM or SIGINT, for which the main thread must have handlers, the current step has `STOP_S` seconds or
    `STOP_STEPS` median steps to end, whichever is longer; then the process exits with 128 + the signal. A handler alone
    would wait for a blocked step. Time inside `unhurried` does not count.
    """
    watch = _Watch(timeout_s)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.set_wakeup_fd(watch.wake, warn_on_full_buffer=False) if in_main else -1
    watch.start()
    try:
        yield watch.alive
    finally:
        faulthandler.cancel_dump_traceback_later()
        if in_main:
            signal.set_wakeup_fd(before)
        watch.end()


@contextmanager
def unhurried() -> Iterator[None]:
    """Suspend the time limit after SIGTERM or SIGINT in the block, which waits for a checkpoint to be written."""
    global _unhurried
    _unhurried = True
    try:
        yield
    finally:
        _unhurried = False


def first_step_limit(timeout_s: float) -> float:
    """Return the limit in seconds for a process's first step, if the limit for later steps is `timeout_s`."""
    return max(FIRST_STEP_S, FIRST_STEP_TIMEOUTS * timeout_s)


@dataclass(frozen=True)
class _Asked:
    """The signal that asked the process to stop, its time, and the seconds that the step has from then on."""

    signum: int
    at: float
    grace_s: float


class _Watch:
    """The thread that watches the thread that created it."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        first_s = math.inf if timeout_s is None else first_step_limit(timeout_s)
        self.step = (time.monotonic(), first_s)  # the current step: when it began, and its limit
        self.is_first = True
        self.steps_s: deque[float] = deque(maxlen=9)  # durations of the latest steps, without the first
        self.watched = threading.get_ident()
        self.events, self.wake = os.pipe()  # one byte per event: a signal's number, _RECHECK or _END
        os.set_blocking(self.wake, False)
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._arm()
        self.thread.start()

    def alive(self) -> None:
        """Record that a step has ended."""
        now = time.monotonic()
        if not self.is_first:
            self.steps_s.append(now - self.step[0])
        was_first, self.is_first = self.is_first, False
        self.step = (now, math.inf if self.timeout_s is None else self.timeout_s)
        self._arm()
        if was_first:
            os.write(self.wake, _RECHECK)

    def end(self) -> None:
        os.write(self.wake, _END)
        self.thread.join()
        os.close(self.wake)
        os.close(self.events)

    def _arm(self) -> None:
        """Restart the backstop's countdown, which runs in a thread without Python."""
        if self.timeout_s is not None:
            faulthandler.dump_traceback_later(self.step[1] + BACKSTOP_S, exit=True, file=STDERR)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self.events, select.POLLIN)
        warned_of, asked = -math.inf, None
        while True:
            (began, limit_s), now = self.step, time.monotonic()
            stop_at = math.inf if asked is None else max(began, asked.at) + asked.grace_s
            warn_at = math.inf if warned_of == began else began + limit_s / 2
            if asked is not None and _unhurried:
                asked, stop_at = replace(asked, at=now), now + asked.grace_s
            elif asked is not None and now >= stop_at:
                self._stop(asked)
            if now >= began + limit_s:
                self._hang(limit_s)
            if now >= warn_at:
                _warn(limit_s)
                warned_of = began
                continue
            until = min(stop_at, warn_at, began + limit_s, now + (CHECK_S if asked else math.inf))
            if not poll.poll(None if until == math.inf else 1000 * (until - now) + 1):
                continue
            events = os.read(self.events, 64)
            if _END in events:
                return
            for signum in events:
                if signum in STOPPING and asked is None:
                    asked = _Asked(signum, time.monotonic(), self._grace_s())

    def _grace_s(self) -> float:
        return max(STOP_S, STOP_STEPS * statistics.median(self.steps_s or [0.0]))

    def _hang(self, limit_s: float) -> None:
        stack = "".join(traceback.format_stack(self._frame()))
        _end(f"process {_rank()}: no step has ended for {limit_s:g} s (loop.hang_timeout_s). Its stack:\n{stack}", 1)

    def _stop(self, asked: _Asked) -> None:
        where = traceback.extract_stack(self._frame())[-1]
        message = (
            f"{signal.Signals(asked.signum).name}: no step has ended for {asked.grace_s:.0f} s since; exited in "
            f"{where.filename}:{where.lineno} ({where.name}) without a new checkpoint; --resume continues from the "
            "last one\n"
        )
        _end(message if _rank() == "0" else "", 128 + asked.signum)

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self.watched)


def _end(message: str, status: int) -> None:
    os.write(STDERR, message.encode())  # in one write, so that the lines of several ranks do not mix
    os._exit(status)


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _warn(limit_s: float) -> None:
    """Warn that no step has ended for half of the limit."""
    say(
        f"process {_rank()}: no step has ended for {limit_s / 2:g} s. The process prints its stack and exits after "
        f"{limit_s:g} s; raise loop.hang_timeout_s if steps take longer"
    )
