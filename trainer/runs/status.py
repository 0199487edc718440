"""Determine from a run's directory whether it is alive, finished, stopped or dead, and its progress."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bevt_core.storage.descriptions import RECORD
from bevt_core.storage.one_writer import is_written
from schemas.runs import RunRecord
from trainer.distributed.watchdog import FIRST_STEP_S
from trainer.engine.checkpoint import CHECKPOINTS, Checkpoints
from trainer.metrics.log import METRICS_FILE
from trainer.runs.directory import RESUMES, WEIGHTS

Status = Literal["alive", "finished", "stopped", "dead"]

RESULTS = (WEIGHTS, "tokenizer")  # written at the end of a run: weights, or a tokenizer's folder
RECENT = 50  # latest log lines from which the time of a step is taken
# a process without a new step for this many times its longest recent step counts as dead, but not before
# LEAST_SILENCE_S
SILENCE_STEPS = 10
LEAST_SILENCE_S = 120.0


class Progress(NamedTuple):
    """The status of a run and the steps it has done."""

    status: Status
    step: int  # steps done, according to the log
    total: int | None  # steps to do; None: not recorded by an older version
    left_s: float | None  # time left at the recent rate; None: not alive, or unknown
    silent_s: float | None  # time since the log was last written; None: no step logged


def progress_of(
    run: Path, record: RunRecord, max_steps: int | None, lines: Sequence[Mapping[str, Any]], now: float | None = None
) -> Progress:
    """Return a run's progress, from its log `lines` and its recipe's `max_steps`; `now` is in seconds since 1970."""
    now = time.time() if now is None else now
    step = lines[-1]["step"] + 1 if lines else 0
    total = record.total_steps
    if max_steps is not None:
        total = max_steps if total is None else min(total, max_steps)
    status = _status(run, record, max_steps, lines, now)
    if status == "stopped":
        total = record.total_steps or total  # the whole schedule, not only the steps up to max_steps
    left_s = None
    if status == "alive" and total is not None and lines:
        left_s = max(0, total - step) * _mean([_taken_s(line) for line in lines[-RECENT:]])
    return Progress(status, step, total, left_s, _silent_s(run, lines, now))


def is_alive(run: Path, record: RunRecord, lines: Sequence[Mapping[str, Any]], now: float) -> bool:
    """Return whether a process is writing the run, judged by its lock, or else by the time since its last step."""
    written = is_written(run, run / RECORD)
    if written is not None:
        return written
    opened_s = now - _opened(run, record)
    silent_s = _silent_s(run, lines, now)
    if silent_s is None or opened_s < silent_s:  # no step since it was started or resumed
        return opened_s < FIRST_STEP_S
    return silent_s < max(LEAST_SILENCE_S, SILENCE_STEPS * max(_taken_s(line) for line in lines[-RECENT:]))


def _status(
    run: Path, record: RunRecord, max_steps: int | None, lines: Sequence[Mapping[str, Any]], now: float
) -> Status:
    """Return the status: a process that ends normally leaves weights or a checkpoint of its last step."""
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
    """Return the time when the run was last started or resumed, in seconds since 1970."""
    started = datetime.fromisoformat(record.started).replace(tzinfo=UTC).timestamp()
    resumes = run / RESUMES
    return max(started, resumes.stat().st_mtime) if resumes.is_file() else started


def _taken_s(line: Mapping[str, Any]) -> float:
    return float(line.get("step_s") or 0.0) + float(line.get("hook_s") or 0.0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
