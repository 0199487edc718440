"""An exponential moving average of the weights, kept inside the trained module so that checkpoints contain it."""

import copy
from typing import Any

import torch
from torch import nn


class WithAverage(nn.Module):
    """A model and the moving average of its weights: `model` is trained, `average` is evaluated and saved.

    After each step, average = decay * average + (1 - decay) * model, as in mmcv's EMAHook.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    def forward(self, *args: Any) -> Any:
        return self.model(*args)

    @torch.no_grad()
    def update(self, steps_done: int) -> dict[str, float]:
        """Update the average after a step. A hook of the loop that adds nothing to the log."""
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - self.decay)
        return {}
