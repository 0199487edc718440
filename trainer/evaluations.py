"""Evaluations between the steps: validation, probes, pictures. They change nothing that a checkpoint has.

A checkpoint is written before them, and a signal ends them between two batches: they run again when the run is resumed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from bevt_core.progress import ProgressLine
from trainer.clips import ClipSource
from trainer.distributed import World
from trainer.parallel import is_sharded
from trainer.views import Seen, ViewPlan

StopAsked = Callable[[], bool]  # whether this process got a signal


def never() -> bool:
    return False


class EvaluationStopped(Exception):
    """A signal ended an evaluation; raised on all ranks."""


def stop_if(asked: bool) -> None:
    """Raise EvaluationStopped if a process was asked to stop."""
    if asked:
        raise EvaluationStopped


class Evaluation(NamedTuple):
    """`run` is called on every rank after the steps that are `due`, which all ranks must agree on.

    It returns values for the log and raises EvaluationStopped when a rank was asked to stop.
    """

    due: Callable[[int], bool]  # steps done -> whether
    run: Callable[[int, StopAsked], Mapping[str, float]]  # steps done


def every(steps: int, last: int | None = None) -> Callable[[int], bool]:
    """Return `due` of every `steps` steps, and after the step `last`."""
    return lambda steps_done: steps_done % steps == 0 or steps_done == last


def on_main(run: Callable[[int], Mapping[str, float]] | None) -> Callable[[int, StopAsked], Mapping[str, float]]:
    """Return `run` of a short evaluation that rank 0 does alone; it is None on the other ranks."""
    return lambda steps_done, _: {} if run is None else run(steps_done)


def asked_together(stop_asked: StopAsked, model: nn.Module, world: World) -> StopAsked:
    """Return `stop_asked`; where ranks share each forward pass of `model`, whether any of them was asked.

    The latter is a collective: every rank calls it between the same batches.
    """
    if not is_sharded(model):
        return stop_asked
    return lambda: bool(world.sum(torch.tensor([float(stop_asked())], device=world.device)).item())


@contextmanager
def videos_seen(
    name: str, data: ClipSource, plan: ViewPlan, mine: Sequence[int], num_parts: int, stop_asked: StopAsked = never
) -> Iterator[Seen]:
    """Yield `seen` for `map_parts` over the parts `mine`: it shows progress and raises EvaluationStopped when asked.

    With `mine` a share of `num_parts` parts, the other ranks are taken to be as far.
    """
    parts = plan.parts(data)
    here = sum(len(parts[part]) for part in mine)
    total = here if len(mine) == num_parts else round(here * num_parts / max(1, len(mine)))
    done = 0
    with ProgressLine(name, total, unit="videos") as progress:

        def seen(num_videos: int) -> None:
            nonlocal done
            done += num_videos
            progress.update(round(total * done / here))
            stop_if(stop_asked())

        yield seen


class StopTogether:
    """A context that holds EvaluationStopped back until `gather`, after it, raises it on all ranks."""

    def __init__(self, world: World) -> None:
        self.world, self.stopped = world, False

    def __enter__(self) -> "StopTogether":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.stopped = isinstance(error, EvaluationStopped)
        return self.stopped

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's `value`. Raises EvaluationStopped where the block of some rank did."""
        shares = self.world.gather((value, self.stopped))
        if any(stopped for _, stopped in shares):
            raise EvaluationStopped
        return [share for share, _ in shares]


def run_all(
    evaluations: Sequence[Evaluation], steps_done: int, stop_asked: StopAsked, model: nn.Module
) -> dict[str, float] | None:
    """Return what the evaluations found, or None if one was stopped. `model` is in training mode afterwards."""
    values: dict[str, float] = {}
    try:
        for evaluation in evaluations:
            values |= evaluation.run(steps_done, stop_asked)
    except EvaluationStopped:
        return None
    finally:
        model.train()
    return values
