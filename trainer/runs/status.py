"""Whether a run is alive, finished, stopped or dead: one function decides, from what lies in its directory."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bevt_core.storage.one_writer import is_written
from schemas.runs import RunRecord
from trainer.distributed.watchdog import FIRST_STEP_S
from trainer.engine.checkpoint import CHECKPOINTS, Checkpoints
from trainer.metrics.log import METRICS_FILE
from trainer.runs.directory import RECORD, RESUMES, WEIGHTS

Status = Literal["alive", "finished", "stopped", "dead"]

RESULTS = (WEIGHTS, "tokenizer")  # what a run leaves when it is finished: weights, or a tokenizer's folder
RECENT = 50  # lines of the log that the time of a step is taken from
SILENCE_STEPS = 10  # the longest of them, so often: the process is taken to be gone
LEAST_SILENCE_S = 120.0


class Progress(NamedTuple):
    """How far a run is."""

    status: Status
    step: int  # steps done, as logged
    total: int | None  # that it is to do; None: an older version recorded none
    left_s: float | None  # at its recent rate, while it is alive
    silent_s: float | None  # since it last wrote to its log; None: it never did


def progress_of(
    run: Path, record: RunRecord, max_steps: int | None, lines: Sequence[Mapping[str, Any]], now: float | None = None
) -> Progress:
    """Return how far a run is. `max_steps` is its recipe's, `lines` is its log, and `now` a time since the epoch."""
    now = time.time() if now is None else now
    step = lines[-1]["step"] + 1 if lines else 0
    total = record.total_steps
    if max_steps is not None:
        total = max_steps if total is None else min(total, max_steps)
    status = _status(run, record, max_steps, lines, now)
    if status == "stopped":
        total = record.total_steps or total  # the whole schedule, which it did not reach
    left_s = None
    if status == "alive" and total is not None and lines:
        left_s = max(0, total - step) * _mean([_taken_s(line) for line in lines[-RECENT:]])
    return Progress(status, step, total, left_s, _silent_s(run, lines, now))


def is_alive(run: Path, record: RunRecord, lines: Sequence[Mapping[str, Any]], now: float) -> bool:
    """Return whether a process still works on a run: by its lock, else by the time since its last step or start."""
    written = is_written(run, run / RECORD)
    if written is not None:
        return written
    opened_s = now - _opened(run, record)
    silent_s = _silent_s(run, lines, now)
    if silent_s is None or opened_s < silent_s:  # no step yet since it was started or resumed
        return opened_s < FIRST_STEP_S
    return silent_s < max(LEAST_SILENCE_S, SILENCE_STEPS * max(_taken_s(line) for line in lines[-RECENT:]))


def _status(
    run: Path, record: RunRecord, max_steps: int | None, lines: Sequence[Mapping[str, Any]], now: float
) -> Status:
    """Decide. A process that ends by itself leaves weights, or a checkpoint of its last step."""
    step = lines[-1]["step"] + 1 if lines else 0
    if any((run / result).exists() for result in RESULTS):
        cut_short = step == max_steps if record.total_steps is None else 0 < step < record.total_steps
        return "stopped" if cut_short else "finished"
    if is_alive(run, record, lines, now):
        return "alive"
    saved = [int(path.name.removeprefix("step-")) for path in Checkpoints(run / CHECKPOINTS, 1).paths()]
    return "stopped" if max(saved, default=0) >= max(step, 1) else "dead"


def _silent_s(run: Path, lines: Sequence[Mapping[str, Any]], now: float) -> float | None:
    return max(0.0, now - (run / METRICS_FILE).stat().st_mtime) if lines else None


def _opened(run: Path, record: RunRecord) -> float:
    """Return when the run was last started or resumed, in seconds since the epoch."""
    started = datetime.fromisoformat(record.started).replace(tzinfo=UTC).timestamp()
    resumes = run / RESUMES
    return max(started, resumes.stat().st_mtime) if resumes.is_file() else started


def _taken_s(line: Mapping[str, Any]) -> float:
    return float(line.get("step_s") or 0.0) + float(line.get("hook_s") or 0.0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
