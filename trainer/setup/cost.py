"""The cost of an optimizer step, counted on the meta device: no weights, arithmetic or data are needed.

Operations and state are exact. Activation memory is an estimate from the sizes of the layers (`activations`): the peak
of one sample in fp32, half of it under bf16 and fp16.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from bevt_core.masking import draw_mask
from bevt_core.models.classifier import Classifier
from bevt_core.models.counting import flops, num_parameters
from bevt_core.models.stems import Stem2d, Stem3d
from bevt_core.rng import rng_for
from bevt_core.tokenizers import load_tokenizer, resolve_default
from schemas.recipes import FinetuneRecipe, LoopConfig, OnlineTokens, PretrainRecipe
from trainer.metrics.monitor import StepFlops
from trainer.setup.activations import Layer, bevt_layers, classifier_layers, peak_elements, stem_flops, stem_grid
from trainer.setup.models import build_model, checkpoint_activations, checkpoint_encoder, tokens_per_side, tubelet_of

MASKS_DRAWN = 256  # number of masks over which the share of hidden positions is averaged
FLOAT_BYTES = 4
STATE_COPIES = 4  # per parameter, in fp32: value, gradient, AdamW's two moments
SHARE_OF_FP32 = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5}  # bytes of an activation, relative to fp32


@dataclass(frozen=True)
class StepCost:
    """The cost of one optimizer step of a run."""

    model_flops: float  # of all processes, without repeated operations
    flops: float  # of all processes, including those repeated for activation checkpointing
    state_bytes: int  # per process: parameters, gradients, optimizer, averaged weights
    activation_bytes: float  # per process, an estimate

    def hours(self, steps: int, processes: int, tflops: float) -> float:
        """Return the duration of the steps if every process sustains `tflops` * 1e12 operations per second."""
        return steps * self.flops / (processes * tflops * 1e12) / 3600

    @property
    def peak_gb(self) -> float:
        return (self.state_bytes + self.activation_bytes) / 1e9

    @property
    def step_flops(self) -> StepFlops:
        return StepFlops(self.model_flops, self.flops)


class SampleCost(NamedTuple):
    """The cost of one sample's forward and backward pass."""

    model_flops: float
    flops: float  # including those repeated for activation checkpointing
    peak_bytes: float  # activations only


@dataclass(frozen=True)
class TrainingCost:
    """The cost per sample of a recipe, by stream, and the state, which does not depend on the number of samples."""

    samples: Mapping[str, SampleCost]
    state_bytes: int  # parameters, gradients, optimizer, averaged weights

    def step(self, global_batch: Mapping[str, int], micro_batch: Mapping[str, int], shards: int) -> StepCost:
        """Return the cost of a step with these batch sizes by stream, the state sharded over `shards` processes."""
        return StepCost(
            model_flops=sum(count * self.samples[name].model_flops for name, count in global_batch.items()),
            flops=sum(count * self.samples[name].flops for name, count in global_batch.items()),
            state_bytes=math.ceil(self.state_bytes / shards),
            activation_bytes=sum(count * self.samples[name].peak_bytes for name, count in micro_batch.items()),
        )


def pretrain_cost(recipe: PretrainRecipe, crop_px: Mapping[str, int], activation_checkpointing: bool) -> TrainingCost:
    """Count the cost per sample of `recipe` for crops of `crop_px`, by stream."""
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
        layers = bevt_layers(model, name, stream.clip_frames, crop_px[name])
        encoder = sample_cost(features, model.stems[name], layers, stream.clip_frames, crop_px[name])
        heads = [model.head(target) for target in (None, *stream.more_targets)]
        more_flops = 3 * 2 * hidden * sum(head.weight.numel() for head in heads)  # one product forward, two backward
        logit_bytes = 2 * hidden * sum(head.out_features for head in heads) * FLOAT_BYTES
        if isinstance(stream.tokens, OnlineTokens):
            more_flops += stream.clip_frames * tokenizer_flops(stream.tokens.tokenizer)
        samples[name] = SampleCost(
            encoder.model_flops + more_flops, encoder.flops + more_flops, encoder.peak_bytes + logit_bytes
        )
    return _cost(model, recipe.loop, recipe.ema_decay, samples)


def finetune_cost(
    recipe: FinetuneRecipe, build: Callable[[], nn.Module], stream: str, activation_checkpointing: bool
) -> TrainingCost:
    """Count the cost per clip of fine-tuning, whose one stream is `stream`, for the classifier that `build` returns."""
    with torch.device("meta"):
        model = cast(Classifier, build())
    if activation_checkpointing:
        checkpoint_encoder(model.encoder)
    frames, size_px = recipe.sampling.frames, recipe.augment.crop_px
    clip = sample_cost(model, model.stem, classifier_layers(model, frames, size_px), frames, size_px)
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
    """Return the mean share of positions that the stream's mask hides, over MASKS_DRAWN masks."""
    config = recipe.streams[stream]  # type: ignore[index]
    grid_THW = (config.clip_frames // tubelet_of(stream, recipe.model), *grid_HW)
    still_THWC = np.zeros((*grid_THW, 3), np.uint8)
    rng = rng_for("hidden share")
    return float(np.mean([draw_mask(config.mask, rng, grid_THW, still_THWC).mean() for _ in range(MASKS_DRAWN)]))


def tokenizer_flops(name: str) -> float:
    """Count the operations of tokenizing one frame."""
    tokenizer = load_tokenizer(resolve_default(name, lambda message: None), "meta")
    side, count = tokenizer.input_px, tokenizer.pass_frames
    frames_NPPC = torch.zeros(count, side, side, 3, dtype=torch.uint8, device="meta")
    return flops(lambda: tokenizer.encode(frames_NPPC)) / count


def sample_cost(
    forward: Callable[[Tensor], Tensor], stem: nn.Module, layers: Sequence[Layer], frames: int, size_px: int
) -> SampleCost:
    """Count the forward and backward pass of one clip in fp32; the weights of `forward` are on the meta device.

    Each matrix product of the forward pass needs two in the backward pass, for the gradients of its two factors. The
    patch embedding in `stem` needs only the gradient of its weights.
    """
    clip_BCTHW = torch.zeros(1, 3, frames, size_px, size_px, device="meta")
    known = cast(Stem2d | Stem3d, stem)
    model_flops = 3 * flops(lambda: forward(clip_BCTHW)) - stem_flops(known, stem_grid(known, frames, size_px))
    repeated_flops = sum(layer.repeated_flops for layer in layers)
    return SampleCost(model_flops, model_flops + repeated_flops, FLOAT_BYTES * peak_elements(layers))
