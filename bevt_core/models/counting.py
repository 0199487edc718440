"""Parameters and multiply-adds of a model, counted by torch on the meta device, without weights and arithmetic."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

NORM_OPS = 5  # per normalised element, as counted by fvcore, which the paper's tables use


def num_parameters(model: nn.Module) -> int:
    """Count the parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(run: Callable[[], Any]) -> int:
    """Count the operations of matrix products and convolutions in `run`, two per multiply-add, backward included."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def paper_flops(run: Callable[[], Any]) -> int:
    """Count as in the paper's tables: multiply-adds of products and convolutions, and 5 per element of a layer norm."""
    norm_counter = {torch.ops.aten.native_layer_norm: lambda shape, *_, **__: 2 * NORM_OPS * prod(shape)}
    with FlopCounterMode(display=False, custom_mapping=norm_counter) as counter:
        run()
    return int(counter.get_total_flops() // 2)


def model_info(build: Callable[[], nn.Module], *, frames: int, size_px: int) -> dict[str, int]:
    """Return the `parameters` of the model that `build` makes, and the `paper_flops` of one clip's forward pass."""
    with torch.device("meta"):
        model = build().eval()
        clip_BCTHW = torch.zeros(1, 3, frames, size_px, size_px)
    with torch.no_grad():
        return {"parameters": num_parameters(model), "paper_flops": paper_flops(lambda: model(clip_BCTHW))}
