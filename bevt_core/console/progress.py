"""Progress of a job as one line on stderr: redrawn on a terminal, otherwise printed at intervals."""

import contextlib
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from bevt_core.console.inert import one_line
from bevt_core.console.readable import clock, percent
from schemas.text.credentials import masked

WINDOW_S = 60.0  # over which the rate is averaged
SAMPLE_S = 0.5  # between two points of the window; a rate over less time would be chance
REDRAW_S = 0.2  # on a terminal
LINE_S, LINE_SHARE = 30.0, 0.05  # elsewhere: a new line after this time, or this share of the work
MIN_LINE_S = 1.0  # minimum time between two such lines

_drawn: "ProgressLine | None" = None  # the progress line that the terminal shows now


class ProgressLine:
    """Progress from `first` to `total` units of work, as `step 120/4000  3.0%  loss 4.12  2.1 it/s  ...`.

    Without a total, as `list 120,000 files  9,000 files/s  ...`.

    Only rank 0 shows it. A context manager: leaving it shows the last state, finished or not.
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        *,
        unit: str = "",
        first: int = 0,
        now: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ) -> None:
        """`unit` is what is counted, such as `parts`; if it is empty, the rate is in `it` (iterations)."""
        self.name, self.total, self.unit, self.done, self._first = name, total, unit, first, first
        self.main, self.more = "", ""
        self._now, self._stream = now, stream or sys.stderr
        self._silent = os.environ.get("RANK", "0") != "0"
        self.on_terminal = self._stream.isatty()
        self._began = now()
        self._first_at = self._began
        self._points = deque([(self._began, first)])
        self._shown: tuple[float, int] | None = None  # time of the last output, and units done by then

    def update(self, done: int, main: str = "", more: str = "") -> None:
        """Set the units done, and redraw if due. Shows the text `main` before the rate, and `more` at the end."""
        at = self._now()
        if self.done == self._first < done:
            self._first_at = at
        # The rate excludes start-up time, and the results of parallel workers that arrive with the first one
        if at - self._first_at < SAMPLE_S:
            self._points = deque([(at, done)])
        self.done, self.main, self.more = done, main, more
        if at - self._points[-1][0] >= SAMPLE_S or len(self._points) == 1:
            self._points.append((at, done))
        while len(self._points) > 2 and at - self._points[1][0] >= WINDOW_S:
            self._points.popleft()
        if self._is_due(at):
            self._show(at)

    def add(self, units: int) -> None:
        """`update` with `units` more."""
        self.update(self.done + units, self.main, self.more)

    def text(self) -> str:
        """Return the line."""
        at = self._now()
        if self.total is None:
            words = [f"{self.name} {self.done:,}{self.unit and ' '}{self.unit}", self.main]
        else:
            share = self.done / self.total if self.total else 1.0
            words = [f"{self.name} {self.done}/{self.total}{self.unit and ' '}{self.unit}", percent(share), self.main]
        began, before = self._points[0]
        rate = (self.done - before) / (at - began) if at - began >= SAMPLE_S else 0.0
        if rate > 0:
            words.append(_rate(rate, self.unit or "it"))
        words.append(f"elapsed {clock(at - self._began)}")
        if rate > 0 and self.total is not None and self.done < self.total:
            words.append(f"left {clock((self.total - self.done) / rate)}")
        return "  ".join(word for word in [*words, self.more] if word)

    def __enter__(self) -> "ProgressLine":
        self._show(self._now())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _drawn
        if self._shown is None or self._shown[1] != self.done or self.on_terminal:
            self._show(self._now())
        if _drawn is self:
            self._stream.write("\n")
            self._stream.flush()
            _drawn = None

    def _is_due(self, at: float) -> bool:
        if self._shown is None:
            return True
        shown_at, shown = self._shown
        if self.on_terminal:
            return at - shown_at >= REDRAW_S
        enough = self.total is not None and self.done - shown >= LINE_SHARE * self.total
        return at - shown_at >= LINE_S or (enough and at - shown_at >= MIN_LINE_S)

    def _show(self, at: float) -> None:
        global _drawn
        self._shown = (at, self.done)
        if self._silent:
            return
        if self.on_terminal:
            self._stream.write(f"\r{self.text()[: _columns(self._stream) - 1]}\x1b[K")
            _drawn = self
        else:
            self._stream.write(self.text() + "\n")
        self._stream.flush()


def _columns(stream: TextIO) -> int:
    """Return the width of the terminal that `stream` writes to; stdout may be redirected elsewhere."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or shutil.get_terminal_size().columns
    return shutil.get_terminal_size().columns


def _rate(per_s: float, unit: str) -> str:
    if per_s < 0.1:
        return f"{1 / per_s:.3g} s/{unit.removesuffix('s')}"
    return f"{per_s:,.0f} {unit}/s" if per_s >= 100 else f"{per_s:.2g} {unit}/s"


def say(message: str) -> None:
    """Print one line to stderr, escaped and with credentials masked, above any progress line on the terminal."""
    global _drawn
    if _drawn is not None:
        _drawn._stream.write("\r\x1b[K")
        _drawn = None
    print(one_line(masked(message)), file=sys.stderr, flush=True)
