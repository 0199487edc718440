"""What an optimizer step costs, counted on the meta device: no weights, no arithmetic, no data.

Operations and state are exact for the model that is counted. Activations are an estimate: the peak of torch's own
operators for one sample in fp32, half of it under bf16 and fp16, with fused attention, which keeps no matrices.
"""

import functools
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bevt_core.masking import draw_mask
from bevt_core.models.counting import flops, num_parameters
from bevt_core.rng import rng_for
from bevt_core.tokenizers import load_tokenizer, settle_default
from schemas.recipes import FinetuneRecipe, LoopConfig, OnlineTokens, PretrainRecipe
from trainer.metrics.monitor import StepFlops
from trainer.setup.models import build_model, checkpoint_activations, checkpoint_encoder, tokens_per_side, tubelet_of

MASKS_DRAWN = 256  # for the mean share of hidden positions
FLOAT_BYTES = 4
STATE_COPIES = 4  # of every parameter, in fp32: itself, its gradient, AdamW's two moments
SHARE_OF_FP32 = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5}  # of an activation's bytes


@dataclass(frozen=True)
class StepCost:
    """One optimizer step of a whole job."""

    model_flops: float  # of all processes
    flops: float  # the same, with what activation checkpointing computes again
    state_bytes: int  # per process: parameters, gradients, optimizer, averaged weights
    activation_bytes: float  # per process, an estimate

    def hours(self, steps: int, processes: int, tflops: float) -> float:
        """Return how long the steps take where every process does `tflops` * 1e12 operations a second, all the time."""
        return steps * self.flops / (processes * tflops * 1e12) / 3600

    @property
    def peak_gb(self) -> float:
        return (self.state_bytes + self.activation_bytes) / 1e9

    @property
    def step_flops(self) -> StepFlops:
        return StepFlops(self.model_flops, self.flops)


class SampleCost(NamedTuple):
    """Forward and backward of one sample."""

    model_flops: float
    flops: float  # with what activation checkpointing computes again
    peak_bytes: float  # of activations


@dataclass(frozen=True)
class TrainingCost:
    """What every sample of a recipe costs, by stream, and what does not depend on their number."""

    samples: Mapping[str, SampleCost]
    state_bytes: int  # parameters, gradients, optimizer, averaged weights

    def step(self, global_batch: Mapping[str, int], micro_batch: Mapping[str, int], shards: int) -> StepCost:
        """Return the cost of a step with so many samples by stream, the state spread over `shards` processes."""
        return StepCost(
            model_flops=sum(count * self.samples[name].model_flops for name, count in global_batch.items()),
            flops=sum(count * self.samples[name].flops for name, count in global_batch.items()),
            state_bytes=math.ceil(self.state_bytes / shards),
            activation_bytes=sum(count * self.samples[name].peak_bytes for name, count in micro_batch.items()),
        )


def pretrain_cost(recipe: PretrainRecipe, crop_px: Mapping[str, int], activation_checkpointing: bool) -> TrainingCost:
    """Count the samples of `recipe` for crops of `crop_px`, by stream, with or without activation checkpointing."""
    with torch.device("meta"):
        model = build_model(recipe.model, tuple(recipe.streams))
    if activation_checkpointing:
        checkpoint_activations(model)
    samples: dict[str, SampleCost] = {}
    for name, stream in recipe.streams.items():
        rows, columns = tokens_per_side(recipe.model.encoder, crop_px[name])
        positions = stream.clip_frames * int(rows) * int(columns)
        hidden = hidden_share(recipe, name, (int(rows), int(columns))) * positions
        features = functools.partial(model.features, mask_BTHW=None, stream=name)
        encoder = sample_cost(model, features, stream.clip_frames, crop_px[name])
        more_flops = 3 * 2 * hidden * model.lm_head.weight.numel()  # forward, and two products backward
        logit_bytes = 2 * hidden * model.lm_head.out_features * FLOAT_BYTES
        if isinstance(stream.tokens, OnlineTokens):
            more_flops += stream.clip_frames * tokenizer_flops(stream.tokens.tokenizer)
        samples[name] = SampleCost(
            encoder.model_flops + more_flops, encoder.flops + more_flops, encoder.peak_bytes + logit_bytes
        )
    return _cost(model, recipe.loop, recipe.ema_decay, samples)


def finetune_cost(
    recipe: FinetuneRecipe, build: Callable[[], nn.Module], stream: str, activation_checkpointing: bool
) -> TrainingCost:
    """Count the clips of the one `stream` of fine-tuning, for the classifier that `build` makes."""
    with torch.device("meta"):
        model = build()
    if activation_checkpointing:
        checkpoint_encoder(cast(nn.Module, model.encoder))
    clip = sample_cost(model, model, recipe.sampling.frames, recipe.augment.crop_px)
    return _cost(model, recipe.loop, recipe.ema_decay, {stream: clip})


def _cost(
    model: nn.Module, loop: LoopConfig, ema_decay: float | None, samples: Mapping[str, SampleCost]
) -> TrainingCost:
    state_bytes = (STATE_COPIES + (ema_decay is not None)) * FLOAT_BYTES * num_parameters(model)
    share = SHARE_OF_FP32[loop.precision]
    return TrainingCost(
        {name: cost._replace(peak_bytes=share * cost.peak_bytes) for name, cost in samples.items()}, state_bytes
    )


def hidden_share(recipe: PretrainRecipe, stream: str, grid_HW: tuple[int, int]) -> float:
    """Return the mean share of positions that the stream's mask hides, over a few drawn masks."""
    config = recipe.streams[stream]  # type: ignore[index]
    grid_THW = (config.clip_frames // tubelet_of(stream, recipe.model), *grid_HW)
    still_THWC = np.zeros((*grid_THW, 3), np.uint8)
    rng = rng_for("hidden share")
    return float(np.mean([draw_mask(config.mask, rng, grid_THW, still_THWC).mean() for _ in range(MASKS_DRAWN)]))


def tokenizer_flops(name: str) -> float:
    """Count the operations of one frame's tokens."""
    tokenizer = load_tokenizer(settle_default(name, lambda message: None), "meta")
    side, count = tokenizer.input_px, tokenizer.pass_frames
    frames_NPPC = torch.zeros(count, side, side, 3, dtype=torch.uint8, device="meta")
    return flops(lambda: tokenizer.encode(frames_NPPC)) / count


def sample_cost(model: nn.Module, forward: Callable[[Tensor], Tensor], frames: int, size_px: int) -> SampleCost:
    """Count the forward and backward pass of one clip, in fp32. `model` is on the meta device."""
    clip_BCTHW = torch.zeros(1, 3, frames, size_px, size_px, device="meta")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that the gradients are no activations
    counter = _Flops()
    with _FuseAttention(counter), _Operators(counter) as operators:
        loss = forward(clip_BCTHW).sum()
        counter.backward = True
        # what `loss.backward()` calls; by itself it switches function modes off, and blocks may run again in it
        _engine_run_backward((loss,), (torch.ones_like(loss),), False, False, (), accumulate_grad=True)
    return SampleCost(counter.total - counter.repeated, counter.total, operators.peak_bytes)


class _Flops:
    """Operations so far. In the backward pass only what is computed again needs a graph, so gradients are enabled."""

    def __init__(self) -> None:
        self.total = self.repeated = 0
        self.backward = False

    def add(self, flops: int) -> None:
        self.total += flops
        if self.backward and torch.is_grad_enabled():
            self.repeated += flops


class _FuseAttention(TorchFunctionMode):
    """Attention as a device does it that fuses it, counted by its definition: two products, and four backward."""

    def __init__(self, counter: _Flops) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, v = args
            self.counter.add(2 * _product_flops(q, k))
            return _FusedAttention.apply(q, k, v, (kwargs or {}).get("attn_mask"), self.counter)
        return func(*args, **(kwargs or {}))


class _FusedAttention(torch.autograd.Function):
    """Nothing is kept but inputs and output. Computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, counter: _Flops) -> Tensor:
        y = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, bias, y)
        ctx.counter = counter
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, _ = ctx.saved_tensors
        ctx.counter.add(4 * _product_flops(*inputs[:2]))
        wanted = zip(inputs, ctx.needs_input_grad, strict=False)
        return (*(torch.empty_like(x) if needed else None for x, needed in wanted), None)


def _product_flops(q: Tensor, k: Tensor) -> int:
    return 2 * q.numel() * k.shape[-2]


class _Operators(TorchDispatchMode):
    """Count what operators compute, follow the storages that they allocate, and remember the most bytes held at a time.

    `FlopCounterMode` counts the same, but its hooks on modules keep tensors alive.
    """

    def __init__(self, counter: _Flops) -> None:
        super().__init__()
        self.counter = counter
        self.held_bytes = self.peak_bytes = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:  # type: ignore[attr-defined]
            self.counter.add(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result))  # type: ignore[attr-defined]
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
