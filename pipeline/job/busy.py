"""How busy the tokenizers of a job are in its steady state, and which stage is the bottleneck.

Times are monotonic seconds of the worker that measured them: they are compared with that worker's only, so neither a
clock that is set back nor nodes whose clocks differ change a figure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

BUSY_ENOUGH = 0.9  # of the steady state: then tokenizing itself is what takes the time
FEW_PARTS = 4  # of one worker: with fewer of them the start and the end are counted too


@dataclass(frozen=True)
class TokenizeTimes:
    """When a part was at a tokenizer, and for how long the tokenizer's device worked on it, in seconds."""

    worker: str  # "host:pid", whose clock it is
    started: float
    first: float  # its first batch had its tokens; `ended` where it has none
    ended: float
    busy_s: float


@dataclass(frozen=True)
class BusyShare:
    """Shares of the tokenizers' steady state."""

    busy: float  # the device worked
    held: float  # there was a part to work on: being prepared, on the device, or being written


def busy_share(times: Iterable[TokenizeTimes]) -> BusyShare | None:
    """Of all workers together; None where nothing was measured.

    A worker's steady state lasts from its first part's start to its last one's: until then parts were waiting. A part's
    work is taken as spread evenly over its time.
    """
    by_worker: dict[str, list[TokenizeTimes]] = {}
    for part in times:
        by_worker.setdefault(part.worker, []).append(part)
    sums = [_steady(sorted(parts, key=lambda part: part.started)) for parts in by_worker.values()]
    busy_s, held_s, span_s = (sum(column) for column in zip(*sums, strict=True)) if sums else (0.0, 0.0, 0.0)
    return BusyShare(min(1.0, busy_s / span_s), min(1.0, held_s / span_s)) if span_s > 0 else None


def bottleneck(share: BusyShare) -> str:
    """The stage that limits the job's speed, and what would make it faster."""
    if share.busy >= BUSY_ENOUGH:
        return "tokenizing: more GPUs, or more CPUs where there is none, make it faster"
    if share.held < BUSY_ENOUGH:
        return f"decoding: the tokenizer had no part for {1 - share.held:.0%} of its time; add CPUs that decode"
    return "preparing views: the tokenizer's CPU threads fall behind its device; give its node more CPUs"


def _steady(parts: Sequence[TokenizeTimes]) -> tuple[float, float, float]:
    """Seconds busy, seconds with a part in hand, and seconds in all, of one worker's parts in order of their start."""
    begin = parts[0].started
    end = max(part.ended for part in parts) if len(parts) < FEW_PARTS else parts[-1].started
    inside = [(part.started, min(part.ended, end), part) for part in parts if part.started < end]
    busy_s = sum(part.busy_s * (b - a) / (part.ended - part.started) for a, b, part in inside if part.ended > a)
    held_until = [begin]
    for _, ended, _ in inside:
        held_until.append(max(held_until[-1], ended))
    held_s = sum(
        after - max(before, a) for (before, after), (a, _, _) in zip(pairwise(held_until), inside, strict=True)
    )
    return busy_s, held_s, end - begin
