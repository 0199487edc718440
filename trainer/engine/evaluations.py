"""Evaluations between steps: validation, probes, pictures. They change nothing that a checkpoint contains.

A checkpoint is written before them. A signal ends them between two batches, and a resumed run repeats them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from trainer.distributed.sharding import is_sharded
from trainer.distributed.world import World

StopAsked = Callable[[], bool]  # whether this process received a stop signal


def never() -> bool:
    return False


class EvaluationStopped(Exception):
    """A signal ended an evaluation; raised on all ranks."""


def stop_if(asked: bool) -> None:
    """Raise EvaluationStopped if `asked`."""
    if asked:
        raise EvaluationStopped


class Evaluation(NamedTuple):
    """An evaluation and its steps. `run` is called on every rank after each step that is `due`.

    All ranks must agree on `due`. `run` returns values for the log, or raises EvaluationStopped if a rank was asked to
    stop.
    """

    due: Callable[[int], bool]  # completed steps -> whether to run
    run: Callable[[int, StopAsked], Mapping[str, float]]  # completed steps, stop_asked -> values


def every(steps: int, last: int | None = None) -> Callable[[int], bool]:
    """Return a `due` that is true every `steps` steps and after step `last`."""
    return lambda steps_done: steps_done % steps == 0 or steps_done == last


def on_main(run: Callable[[int], Mapping[str, float]] | None) -> Callable[[int, StopAsked], Mapping[str, float]]:
    """Return the `run` of a short evaluation on rank 0 only; the argument is None on the other ranks."""
    return lambda steps_done, _: {} if run is None else run(steps_done)


def asked_together(stop_asked: StopAsked, model: nn.Module, world: World) -> StopAsked:
    """Return `stop_asked`, or for a sharded `model` a function that returns whether any rank was asked to stop.

    All ranks take part in each forward pass of a sharded model, so that function is a collective: every rank calls it
    between the same batches.
    """
    if not is_sharded(model):
        return stop_asked
    return lambda: bool(world.sum(torch.tensor([float(stop_asked())], device=world.device)).item())


class StopTogether:
    """A context that suppresses EvaluationStopped; `gather`, called after it, raises it on all ranks."""

    def __init__(self, world: World) -> None:
        self.world, self.stopped = world, False

    def __enter__(self) -> "StopTogether":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.stopped = isinstance(error, EvaluationStopped)
        return self.stopped

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's `value`. Raises EvaluationStopped if the block of any rank raised it."""
        gathered = self.world.gather((value, self.stopped))
        if any(stopped for _, stopped in gathered):
            raise EvaluationStopped
        return [each for each, _ in gathered]


def run_all(
    evaluations: Sequence[Evaluation], steps_done: int, stop_asked: StopAsked, model: nn.Module
) -> dict[str, float] | None:
    """Run the evaluations; return their values, or None if one was stopped. Leaves `model` in training mode."""
    values: dict[str, float] = {}
    try:
        for evaluation in evaluations:
            values |= evaluation.run(steps_done, stop_asked)
    except EvaluationStopped:
        return None
    finally:
        model.train()
    return values
