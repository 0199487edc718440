"""The trials of `bevt tune`, and the choice among them: plain numbers, without a model or a device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

TOLERANCE = 0.02  # of the fastest time: a smaller difference does not count

Result = Literal["measured", "does not fit", "too slow to try"]


@dataclass(frozen=True)
class StepTrial:
    """A split of one process's batch into micro-batches, and a step with it; None unless measured."""

    micro_batches: int  # per process
    samples: int  # of all streams in the largest micro-batch
    activation_checkpointing: bool
    result: Result
    default: bool  # what training would choose
    step_ms: float | None = None
    samples_per_s: float | None = None
    peak_gb: float | None = None  # None on a CPU


@dataclass(frozen=True)
class LoaderTrial:
    """A number of loader processes, and a step with them, including the wait for data."""

    num_workers: int
    default: bool
    step_ms: float
    waiting_share: float  # of the time


T = TypeVar("T", StepTrial, LoaderTrial)


def choose_step(trials: Sequence[StepTrial]) -> StepTrial | None:
    """Return the fastest step, or None if none was measured. Of equally fast ones, that with the least memory."""
    return _choose(trials, lambda trial: (not trial.activation_checkpointing, -trial.micro_batches))


def choose_workers(trials: Sequence[LoaderTrial]) -> LoaderTrial | None:
    """Return the fastest trial, or None without trials. Of equally fast ones, that with the fewest processes."""
    return _choose(trials, lambda trial: trial.num_workers)


def _choose(trials: Sequence[T], needs: Callable[[T], Any]) -> T | None:
    """Return the fastest trial. Of those within TOLERANCE it is the default, else the one that `needs` the least."""
    times = [trial.step_ms for trial in trials if trial.step_ms is not None]
    close = [trial for trial in trials if trial.step_ms is not None and trial.step_ms <= (1 + TOLERANCE) * min(times)]
    return next((trial for trial in close if trial.default), min(close, key=needs, default=None))


def speedup(trials: Sequence[T], chosen: T | None) -> float | None:
    """Return the default's time as a multiple of the chosen one's, or None if the default was not measured."""
    default = next((trial.step_ms for trial in trials if trial.default), None)
    return None if default is None or chosen is None or chosen.step_ms is None else default / chosen.step_ms


def settings(step: StepTrial | None, loader: LoaderTrial | None, processes: int) -> list[str]:
    """Return the choice as overrides of a recipe, for a run of `processes` processes."""
    chosen = []
    if step is not None:
        chosen += [f"loop.micro_batches={step.micro_batches}", f"loop.processes={processes}"]
        chosen += [f"loop.activation_checkpointing={str(step.activation_checkpointing).lower()}"]
    if loader is not None:
        chosen += [f"loop.num_workers={loader.num_workers}"]
    return chosen
