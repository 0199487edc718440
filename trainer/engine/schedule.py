"""Learning rate by step: a cosine with linear warm-up, as mmcv computes it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from schemas.recipes import OptimConfig


@dataclass(frozen=True)
class CosineSchedule:
    """The learning rate of every step, as a share of its peak.

    This is mmcv's CosineAnnealing with `by_epoch=False, warmup="linear"`: during warm-up the cosine, which starts at
    step 0, is multiplied by a line from `warmup_start` to 1 (mmcv/runner/hooks/lr_updater.py).
    """

    total_steps: int
    warmup_steps: int
    warmup_start: float  # factor of the cosine at step 0
    final_share: float  # share of the peak at the end

    def share(self, step: int) -> float:
        """Return the share of the peak learning rate at `step`, counted from 0."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.total_steps))
        share = self.final_share + (1.0 - self.final_share) * cosine
        if step < self.warmup_steps:
            share *= 1.0 - (1.0 - step / self.warmup_steps) * (1.0 - self.warmup_start)
        return share


def schedule_of(optim: OptimConfig, epochs: float, steps_in: Callable[[float], int]) -> CosineSchedule:
    """Return a recipe's schedule, with epochs converted to steps by `steps_in`."""
    return CosineSchedule(
        total_steps=max(1, steps_in(epochs)),
        warmup_steps=steps_in(optim.warmup_epochs),
        warmup_start=optim.warmup_start,
        final_share=optim.final_lr_share,
    )
