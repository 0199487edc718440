"""Evaluations between the steps: validation, probes, pictures. They change nothing that a checkpoint has.

A checkpoint is written before them, and a signal ends them between two batches: they run again when the run is resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from trainer.distributed.sharding import is_sharded
from trainer.distributed.world import World

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
