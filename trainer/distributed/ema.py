"""An exponential moving average of the weights, carried inside the trained module, so that checkpoints have it."""

import copy
from typing import Any

import torch
from torch import nn


class WithAverage(nn.Module):
    """`model` is trained; `average` follows it and is what is tested and stored.

    After each step, average = decay * average + (1 - decay) * model, as mmcv's EMAHook.
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
        """Move the average; a hook of the loop."""
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - self.decay)
        return {}
