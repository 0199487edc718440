"""The share of a run spent waiting for data, and which option reduces it."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from bevt_core.console.progress import say
from bevt_core.console.readable import count, percent
from trainer.distributed.cpus import MAX_WORKERS

# video files; a frame store or token set on disk; either of them on an object store
ReadFrom = Literal["files", "frames", "objects"]

FIRST_STEPS = 5  # not counted: loaders start, kernels compile
WAITING = 0.2  # share of the time from which a note is printed
PERSISTS_S = 120.0  # after this much counted time the note is printed at once, not at the end of the run
LEAST_S = 5.0  # no note for shorter runs
BUSY = 0.8  # share of the machine's CPU time from which the CPUs are the bottleneck
STAT = Path("/proc/stat")


class DataWait:
    """Adds up how long steps wait for data, and prints once which option reduces it."""

    def __init__(self, workers: int, cpus: int, read_from: ReadFrom, say: Callable[[str], None] = say) -> None:
        """`workers` are the loader's processes and `cpus` the CPUs that a rank may use."""
        self.workers, self.cpus, self.read_from, self._say = workers, cpus, read_from, say
        self.steps, self.waited_s, self.total_s = 0, 0.0, 0.0
        self._before = _cpu_times()
        self._printed = False

    def add(self, wait_s: float, step_s: float) -> None:
        """Count a step; `step_s` includes `wait_s`."""
        self.steps += 1
        if self.steps == FIRST_STEPS:
            self._before = _cpu_times()
        if self.steps > FIRST_STEPS:
            self.waited_s, self.total_s = self.waited_s + min(wait_s, step_s), self.total_s + step_s
        if self.total_s > PERSISTS_S:
            self.finish()

    def finish(self) -> None:
        """Print which option helps, if the wait is long enough, at most once per run."""
        share = self.waited_s / self.total_s if self.total_s > LEAST_S else 0.0
        if share < WAITING or self._printed:
            return
        self._printed = True
        what = advice(self.workers, self.cpus, _busy_share(self._before, _cpu_times()), self.read_from)
        self._say(f"note: on average, steps waited for data for {percent(share)} of their time: {what}")


def advice(workers: int, cpus: int, busy: float | None, read_from: ReadFrom) -> str:
    """Return the option that reduces the wait; `busy` is the used share of the machine's CPU time, if known."""
    most = max(1, min(MAX_WORKERS, cpus - 1))
    cpus_are_busy = busy is not None and busy >= BUSY
    if workers < most and not cpus_are_busy:
        return f"set loop.num_workers={most} (now {workers}, {count(cpus, 'CPU')} per rank)"
    if not cpus_are_busy:
        if read_from == "objects":
            return "reading from the object store is slow; set BEVT_CACHE to a local disk with room for the data"
        return "reading is slow; copy the data to a local disk"
    if read_from == "files":
        return "decoding uses all CPUs; store frames once with `bevt tokenize --frames-only` and use --frames"
    return f"all {cpus} CPUs per rank are busy; use a machine with more CPUs per GPU"


def _cpu_times() -> tuple[float, float] | None:
    """Return the machine's busy and total CPU time since boot in ticks, or None if unknown."""
    try:
        ticks = [int(word) for word in STAT.read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)  # minus idle and iowait


def _busy_share(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
