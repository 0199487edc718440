"""The driver's view of a running job: counts, rates, and how busy the tokenizers are."""

import math
import sys
import time
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.errors import UserError

ProgressMode = Literal["auto", "off"]


@dataclass
class Meter:
    """Sums over the parts of this run."""

    parts: int = 0
    sources: int = 0
    frames: int = 0
    rejected: int = 0
    busy_s: float = 0.0
    first_start: float = float("inf")  # seconds since the epoch
    last_end: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def add(self, row: dict[str, float]) -> None:
        """`row` is what the last stage returns for a part."""
        self.parts += 1
        self.sources += int(row["sources"])
        self.frames += int(row["frames"])
        self.rejected += int(row["rejected"])
        if row["busy_s"] > 0:
            self.busy_s += row["busy_s"]
            self.first_start = min(self.first_start, row["started"])
            self.last_end = max(self.last_end, row["ended"])

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def busy_share(self, actors: int) -> float | None:
        """Share of the tokenizers' time, from the first part's start to the last one's end, that they worked."""
        span_s = (self.last_end - self.first_start) * actors
        return min(1.0, self.busy_s / span_s) if span_s > 0 else None


class RejectionLimit:
    """Stops a job that rejects more than it may, as soon as that is certain."""

    MIN_SOURCES = 200  # before a share is believed
    STANDARD_ERRORS = 3.0

    def __init__(self, share: float | None, total: int) -> None:
        self.share = share
        self.total = total
        self.sources = 0
        self.rejected = 0

    def add(self, sources: int, rejected: int) -> None:
        """Raises UserError when the whole job must, or almost surely will, reject more than the share."""
        self.sources += sources
        self.rejected += rejected
        if self.share is None:
            return
        found = self.rejected / self.sources
        error = self.STANDARD_ERRORS * math.sqrt(self.share * (1 - self.share) / self.sources)
        too_many = self.rejected > self.share * self.total
        if too_many or (self.sources >= self.MIN_SOURCES and found > self.share + error):
            raise UserError(
                f"{self.rejected} of {self.sources} sources were rejected ({found:.1%}), --max-rejected is "
                f"{self.share:.1%}; see frames/part-*/rejected.parquet. What is done is kept: mend the files, or allow "
                "more, and run the same command again"
            )


class ProgressView:
    """A progress bar where there is a terminal; nothing elsewhere."""

    def __init__(self, mode: ProgressMode, total: int, actors: int) -> None:
        self._actors = actors
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("parts  {task.fields[rates]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=mode == "off" or not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task("tokenize", total=total, rates="")

    def __enter__(self) -> "ProgressView":
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def update(self, meter: Meter) -> None:
        busy = meter.busy_share(self._actors)
        rates = [
            f"{meter.sources / meter.seconds:.1f} sources/s",
            f"{meter.frames / meter.seconds:.0f} frames/s",
            f"{meter.rejected} rejected",
        ]
        if busy is not None:
            rates.append(f"tokenizer busy {busy:.0%}")
        self._bar.update(self._task, completed=meter.parts, rates=", ".join(rates))
