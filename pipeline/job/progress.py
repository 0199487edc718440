"""The driver's view of a running job: counts, rates, the limit of rejected sources, and the progress line."""

import math
import time
from collections.abc import Set
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from bevt_core.console.progress import ProgressLine
from pipeline.job.busy import FEW_PARTS, BusyShare, TokenizeTimes, bottleneck, busy_share
from pipeline.job.rows import PartMade
from schemas.errors import UserError

ProgressMode = Literal["auto", "off"]


@dataclass
class Meter:
    """Counts and times of the parts that this run has made."""

    parts: int = 0
    sources: int = 0
    frames: int = 0
    rejected: int = 0
    timeline: list[tuple[float, int]] = field(default_factory=list)  # (seconds since the start, sources) of each part
    times: list[TokenizeTimes] = field(default_factory=list)
    first_tokens_s: float | None = None  # seconds since the start; None until a tokenized part has returned
    began: float = field(default_factory=time.perf_counter)

    def add(self, made: PartMade) -> None:
        """Count a part that the last stage has returned."""
        self.parts += 1
        self.sources += made.sources
        self.frames += made.frames
        self.rejected += made.rejected
        self.timeline.append((self.seconds, made.sources))
        if made.times is not None:
            self.times.append(made.times)
            # Clocks differ, so only a duration is taken from the worker's. By this clock, the part ended just now.
            first = self.seconds - (made.times.ended - made.times.first)
            self.first_tokens_s = first if self.first_tokens_s is None else min(self.first_tokens_s, first)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    @property
    def workers(self) -> int:
        """The number of tokenizers that made parts."""
        return len({times.worker for times in self.times})

    def busy_share(self) -> BusyShare | None:
        return busy_share(self.times)

    def bottleneck(self) -> str | None:
        """Name the stage that limits the job's speed; None if too little was measured to know it."""
        share = self.busy_share()
        if share is None or self.first_tokens_s is None or len(self.times) < FEW_PARTS * self.workers:
            return None
        if self.first_tokens_s > self.seconds / 2:
            return "the start of the job took most of the time; a longer job runs at its full speed"
        return bottleneck(share)


class RejectionLimit:
    """Stops a job as soon as it is certain, or almost certain, to reject more sources than allowed."""

    MIN_SOURCES = 200  # needed to estimate the share
    STANDARD_ERRORS = 3.0  # above the limit: almost certain

    def __init__(self, share: float | None, total: int) -> None:
        """`share` of the `total` sources may be rejected; None: no limit."""
        self.share = share
        self.total = total
        self.sources = 0
        self.rejected = 0

    def add(self, sources: int, rejected: int) -> None:
        """Count more sources. Raises UserError if the whole job will exceed the share, or almost certainly will."""
        self.sources += sources
        self.rejected += rejected
        if self.share is None:
            return
        found = self.rejected / self.sources
        error = self.STANDARD_ERRORS * math.sqrt(self.share * (1 - self.share) / self.sources)
        too_many = self.rejected > self.share * self.total
        if too_many or (self.sources >= self.MIN_SOURCES and found > self.share + error):
            raise UserError(
                f"{self.rejected} of {self.sources} sources were rejected ({found:.1%}), `max_rejected` is "
                f"{self.share:.1%}; see frames/part-*/rejected.parquet. Fix the files, or raise the limit, and run the "
                "same command again: finished parts are kept"
            )


class ProgressView:
    """A progress line on stderr: sources done, speed and time left. Nothing is shown in mode `off`."""

    def __init__(self, mode: ProgressMode, name: str, total: int, unit: str) -> None:
        """`total` is the number of sources, `unit` their name: videos, images or sources."""
        self._line = ProgressLine(name, total, unit=unit) if mode == "auto" else None

    def __enter__(self) -> "ProgressView":
        if self._line is not None:
            self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._line.__exit__(kind, error, trace)

    def update(self, meter: Meter) -> None:
        """Show the counts of `meter`."""
        if self._line is None:
            return
        share = meter.busy_share()
        more = f"{meter.rejected} rejected"
        if share is not None and len(meter.times) >= FEW_PARTS * meter.workers:
            more += f"  tokenizer busy {share.busy:.0%}"
        self._line.update(meter.sources, more=more)


def unit_of(kinds: Set[str]) -> str:
    """The name of sources of these kinds in messages: videos, images, or sources if there are both."""
    return f"{next(iter(kinds))}s" if len(kinds) == 1 else "sources"
