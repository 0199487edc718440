"""What a pretraining step costs, counted on the meta device: no weights, no arithmetic, no data.

Operations and state are exact for the model that is counted. Activations are an estimate: the peak of torch's own
operators for one sample in fp32, half of it under bf16 and fp16, with fused attention, which keeps no matrices.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bevt_core.bevt import Bevt
from bevt_core.model_info import flops, num_parameters
from bevt_core.rng import rng_for
from schemas.recipes import PretrainRecipe
from trainer.data import draw_mask
from trainer.model import build_model, checkpoint_activations, tokens_per_side, tubelet_of

MASKS_DRAWN = 256  # for the mean share of hidden positions
FLOAT_BYTES = 4
STATE_COPIES = 4  # of every parameter, in fp32: itself, its gradient, AdamW's two moments
SHARE_OF_FP32 = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5}  # of an activation's bytes


@dataclass(frozen=True)
class StepCost:
    """One optimizer step of a whole job."""

    flops: float  # of all processes; what activation checkpointing computes again is in it
    state_bytes: int  # per process: parameters, gradients, optimizer, averaged weights
    activation_bytes: float  # per process, an estimate


def step_cost(recipe: PretrainRecipe, crop_px: Mapping[str, int], micro_batch: Mapping[str, int]) -> StepCost:
    """Count the step of `recipe` for crops of `crop_px` and micro-batches of so many samples, both by stream."""
    with torch.device("meta"):
        model = build_model(recipe.model, tuple(recipe.streams))
    if recipe.loop.activation_checkpointing:
        checkpoint_activations(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that the gradients are no activations
    total_flops = peak_bytes = 0.0
    for name, stream in recipe.streams.items():
        rows, columns = tokens_per_side(recipe.model.encoder, crop_px[name])
        positions = stream.clip_frames * int(rows) * int(columns)
        hidden = hidden_share(recipe, name, (int(rows), int(columns))) * positions
        sample_flops, sample_bytes = _sample_cost(model, name, stream.clip_frames, crop_px[name])
        head_flops = 3 * 2 * hidden * model.lm_head.weight.numel()  # forward, and two products backward
        logit_bytes = 2 * hidden * model.lm_head.out_features * FLOAT_BYTES
        total_flops += stream.global_batch * (sample_flops + head_flops)
        peak_bytes += micro_batch[name] * (sample_bytes + logit_bytes)
    copies = STATE_COPIES + (recipe.ema_decay is not None)
    state_bytes = copies * FLOAT_BYTES * num_parameters(model)
    return StepCost(total_flops, state_bytes, peak_bytes * SHARE_OF_FP32[recipe.loop.precision])


def hidden_share(recipe: PretrainRecipe, stream: str, grid_HW: tuple[int, int]) -> float:
    """Return the mean share of positions that the stream's mask hides, over a few drawn masks."""
    config = recipe.streams[stream]  # type: ignore[index]
    grid_THW = (config.clip_frames // tubelet_of(stream, recipe.model), *grid_HW)
    still_THWC = np.zeros((*grid_THW, 3), np.uint8)
    rng = rng_for("hidden share")
    return float(np.mean([draw_mask(config.mask, rng, grid_THW, still_THWC).mean() for _ in range(MASKS_DRAWN)]))


def _sample_cost(model: Bevt, stream: Any, frames: int, size_px: int) -> tuple[int, int]:
    """Operations and peak bytes of forward + backward for one sample, without the LM head."""
    clip_BCTHW = torch.zeros(1, 3, frames, size_px, size_px, device="meta")

    def step() -> None:
        model.features(clip_BCTHW, None, stream).sum().backward()

    # a torch function mode would be simpler, but is suspended in the backward pass, where blocks run again
    with patch.object(F, "scaled_dot_product_attention", _fused_attention), _PeakMemory() as memory:
        step()
    return flops(step), memory.peak_bytes


class _FusedAttention(torch.autograd.Function):
    """Attention's memory on a device that fuses it: nothing is kept but inputs and output. Computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        y = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, bias, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, _ = ctx.saved_tensors
        wanted = zip(inputs, ctx.needs_input_grad, strict=True)
        return tuple(torch.empty_like(x) if needed else None for x, needed in wanted)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    return _FusedAttention.apply(q, k, v, attn_mask)


class _PeakMemory(TorchDispatchMode):
    """Follow the storages that operators allocate, and remember the most bytes that were alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = self.peak_bytes = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in known | self._alive:
                self._follow(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def free() -> None:
            self._alive.discard(key)
            self.held_bytes -= size

        self._alive.add(key)
        self.held_bytes += size
        weakref.finalize(storage, free)
