"""How busy the tokenizers of a job are in its steady state, and which stage is the bottleneck.

Times are monotonic seconds of the worker that measured them, and are compared only within that worker. So neither a
clock that is set back nor clocks that differ between nodes change a figure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

BUSY_ENOUGH = 0.9  # share of the steady state from which tokenizing itself is the bottleneck
FEW_PARTS = 4  # with fewer parts, a worker is measured until the end of its last one, and no bottleneck is named


@dataclass(frozen=True)
class TokenizeTimes:
    """When a tokenizer worked on a part, in seconds of its clock, and for how many seconds its device was busy."""

    worker: str  # "host:pid" of the process whose clock was read
    started: float
    first: float  # end of the first batch; equals `ended` if the part has no frames
    ended: float
    busy_s: float


@dataclass(frozen=True)
class BusyShare:
    """Shares of the tokenizers' steady state, from 0 to 1."""

    busy: float  # the device was working
    occupied: float  # a part was in progress: being prepared, on the device, or being written


def busy_share(times: Iterable[TokenizeTimes]) -> BusyShare | None:
    """The shares of all workers together; None if nothing was measured.

    A worker's steady state lasts from the start of its first part to the start of its last, since until then
    parts were waiting. A part's device time is assumed to be spread evenly over its duration.
    """
    by_worker: dict[str, list[TokenizeTimes]] = {}
    for part in times:
        by_worker.setdefault(part.worker, []).append(part)
    sums = [_steady_state(sorted(parts, key=lambda part: part.started)) for parts in by_worker.values()]
    busy_s, occupied_s, span_s = (sum(column) for column in zip(*sums, strict=True)) if sums else (0.0, 0.0, 0.0)
    return BusyShare(min(1.0, busy_s / span_s), min(1.0, occupied_s / span_s)) if span_s > 0 else None


def bottleneck(share: BusyShare) -> str:
    """Name the stage that limits the job's speed, and what would make it faster."""
    if share.busy >= BUSY_ENOUGH:
        return "tokenizing: add GPUs, or CPUs if the cluster has no GPU"
    if share.occupied < BUSY_ENOUGH:
        waited = f"{1 - share.occupied:.0%}"
        return f"decoding: the tokenizers waited for parts for {waited} of their time; add CPUs for decoding"
    return "preparing views: CPU threads cannot keep the tokenizer's device busy; give its node more CPUs"


def _steady_state(parts: Sequence[TokenizeTimes]) -> tuple[float, float, float]:
    """Seconds busy, seconds with a part in progress, and total seconds of one worker; `parts` in order of start."""
    begin = parts[0].started
    end = max(part.ended for part in parts) if len(parts) < FEW_PARTS else parts[-1].started
    inside = [(part.started, min(part.ended, end), part) for part in parts if part.started < end]
    busy_s = sum(part.busy_s * (b - a) / (part.ended - part.started) for a, b, part in inside if part.ended > a)
    occupied_until = [begin]
    for _, ended, _ in inside:
        occupied_until.append(max(occupied_until[-1], ended))
    occupied_s = sum(
        after - max(before, a) for (before, after), (a, _, _) in zip(pairwise(occupied_until), inside, strict=True)
    )
    return busy_s, occupied_s, end - begin
