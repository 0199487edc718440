"""Estimate the activations that a training step keeps for its backward pass, from the sizes of the model's layers.

Sizes are in tensor elements (not bytes) for one sample, and assume attention kernels that store no matrices but the
bias. The bias and one weight gradient are counted per sample, but exist once per batch, so large batches are
overestimated.

Legend: T H W grid, C channels, N positions of a window or frame.
"""

import itertools
from collections.abc import Sequence
from math import prod
from typing import NamedTuple, cast

from torch import nn

from bevt_core.models.bevt import Bevt, FuseStages, Stream, ToFrames
from bevt_core.models.classifier import Classifier
from bevt_core.models.stems import Stem2d, Stem3d
from bevt_core.models.swin import PatchMerging, Stage, SwinBlock, VideoSwin
from bevt_core.models.timesformer import DividedBlock, TimeSformer
from bevt_core.models.windows import Size3, fit_window, kind_counts, windows_of

StageOutput = tuple[Size3, int]  # its grid (T, H, W) and channels


class Layer(NamedTuple):
    """The memory (in elements) and recomputation that one layer's backward pass needs, for one sample."""

    kept: int  # elements kept from its forward to its backward pass
    backward: int = 0  # additional elements during its backward pass
    repeated_flops: int = 0  # operations of the forward pass that checkpointing repeats


class Block(NamedTuple):
    """The sizes of a transformer block, with or without activation checkpointing."""

    input: int  # elements
    kept: int  # elements, including its input
    gradients: int  # elements at their peak: the gradients of the MLP's activations and of one of its weights
    flops: int  # operations of the forward pass, up to the last activation that the backward pass needs

    def layer(self, checkpointed: bool) -> Layer:
        """Return the block as a layer that keeps only its input, if `checkpointed`, or all its activations."""
        if checkpointed:
            return Layer(self.input, self.kept - self.input + self.gradients, self.flops)
        return Layer(self.kept, self.gradients)


def peak_elements(layers: Sequence[Layer]) -> int:
    """Return the peak number of elements in memory, for `layers` in the order of the forward pass."""
    kept = itertools.accumulate(layer.kept for layer in layers)
    return max(so_far + layer.backward for so_far, layer in zip(kept, layers, strict=True))


def bevt_layers(model: Bevt, stream: Stream, frames: int, size_px: int) -> list[Layer]:
    """Return the layers of `model.features` for one sample of `stream`."""
    stem = cast(Stem2d | Stem3d, model.stems[stream])
    encoder = cast(VideoSwin | TimeSformer, model.encoders[model.route[stream]])
    grid_THW = stem_grid(stem, frames, size_px)
    layers, stage_outputs = encoder_layers(encoder, grid_THW)
    decoder = model.decoders[stream]
    _, H, W = token_grid(stage_outputs)
    norm = Layer(frames * H * W * model.norm.normalized_shape[0])
    return [stem_layer(stem, grid_THW), *layers, decoder_layer(decoder, stage_outputs), norm]


def classifier_layers(model: Classifier, frames: int, size_px: int) -> list[Layer]:
    """Return the layers of a classifier for one clip."""
    stem = cast(Stem3d, model.stem)
    grid_THW = stem_grid(stem, frames, size_px)
    layers, stage_outputs = encoder_layers(cast(VideoSwin | TimeSformer, model.encoder), grid_THW)
    last_THW, dim = stage_outputs[-1]
    return [stem_layer(stem, grid_THW), *layers, Layer(prod(last_THW) * dim)]


def stem_grid(stem: Stem2d | Stem3d, frames: int, size_px: int) -> Size3:
    """Return the (T, H, W) of a clip's patches."""
    t, h, w = (1, *stem.patch)[-3:]
    return -(-frames // t), -(-size_px // h), -(-size_px // w)


def stem_flops(stem: Stem2d | Stem3d, grid_THW: Size3) -> int:
    """Count the operations of embedding the patches of a grid."""
    return 2 * prod(grid_THW) * stem.proj.weight.numel()


def stem_layer(stem: Stem2d | Stem3d, grid_THW: Size3) -> Layer:
    """Count the patches' pixels and, if the stem has a norm, the norm's input."""
    out, *patch = stem.proj.weight.shape
    norm = 0 if isinstance(stem.norm, nn.Identity) else out
    return Layer(prod(grid_THW) * (prod(patch) + norm))


def encoder_layers(encoder: VideoSwin | TimeSformer, grid_THW: Size3) -> tuple[list[Layer], list[StageOutput]]:
    """Return the layers of an encoder, and the output grid and channels of each of its stages."""
    if isinstance(encoder, TimeSformer):
        divided = [divided_block(block, grid_THW) for block in cast(list[DividedBlock], encoder.blocks)]
        return [block.layer(encoder.checkpointed) for block in divided], [(grid_THW, *encoder.stage_dims)]
    layers: list[Layer] = []
    stage_outputs: list[StageOutput] = []
    for stage, dim in zip(cast(list[Stage], encoder.stages), encoder.stage_dims, strict=True):
        if isinstance(stage.merge, PatchMerging):
            T, H, W = grid_THW
            grid_THW = (T, -(-H // 2), -(-W // 2))
            # inputs of the norm and of the linear layer
            layers.append(Layer(2 * prod(grid_THW) * stage.merge.reduction.in_features))
        blocks = [swin_block(block, grid_THW) for block in cast(list[SwinBlock], stage.blocks)]
        layers += [block.layer(stage.checkpointed) for block in blocks]
        stage_outputs.append((grid_THW, dim))
    return layers, stage_outputs


def swin_block(block: SwinBlock, grid_THW: Size3) -> Block:
    """Count the inputs of both norms, fc1, GELU and fc2, and the attention's input, output, qkv and bias."""
    fc1, heads = block.mlp.fc1, block.attn.num_heads
    windows = windows_of(grid_THW, *fit_window(grid_THW, block.attn.window, block.shift))
    positions, padded, N = prod(grid_THW), prod(windows.grid), prod(windows.window)
    C, hidden = fc1.in_features, positions * fc1.out_features
    bias = len(kind_counts(windows)) * heads * N**2
    return Block(
        input=positions * C,
        kept=3 * positions * C + 5 * padded * C + bias + 2 * hidden,
        gradients=positions * C + hidden + fc1.weight.numel(),
        flops=8 * padded * C**2 + 4 * padded * N * C + mlp_flops(block, positions),
    )


def divided_block(block: DividedBlock, grid_THW: Size3) -> Block:
    """Count as `swin_block` does: attention over time, attention within frames with their class token, and the MLP."""
    T, H, W = grid_THW
    fc1 = block.mlp.fc1
    positions, in_frames, tokens = T * H * W, T * (H * W + 1), T * H * W + 1
    C, hidden = fc1.in_features, tokens * fc1.out_features
    return Block(
        input=tokens * C,
        kept=(tokens + 6 * positions) * C + 6 * in_frames * C + 2 * tokens * C + 2 * hidden,
        gradients=tokens * C + hidden + fc1.weight.numel(),
        flops=(10 * positions + 8 * in_frames) * C**2
        + 4 * (positions * T + in_frames * (H * W + 1)) * C
        + mlp_flops(block, tokens),
    )


def mlp_flops(block: SwinBlock | DividedBlock, positions: int) -> int:
    """Count the MLP operations that checkpointing repeats: fc2 is repeated only if drop path needs its output."""
    products = 2 if block.drop_path else 1
    return 2 * products * positions * block.mlp.fc1.weight.numel()


def token_grid(stage_outputs: Sequence[StageOutput]) -> Size3:
    """Return the (T, H, W) of the positions that decoders predict: the second to last stage's grid, or the only one."""
    return stage_outputs[max(len(stage_outputs) - 2, 0)][0]


def decoder_layer(decoder: nn.Module, stage_outputs: Sequence[StageOutput]) -> Layer:
    """Count the inputs of a decoder's matrix products and its reordered upsampling weights.

    Its inputs are the encoder's `stage_outputs`.
    """
    last_THW, last_dim = stage_outputs[-1]
    if isinstance(decoder, ToFrames):
        inner, upsampling = decoder_layer(decoder.decoder, stage_outputs), decoder.up_time
        weights = upsampling.weight.numel()
        in_frames = prod(token_grid(stage_outputs)) * upsampling.in_channels
        return Layer(inner.kept + in_frames + weights, max(inner.backward, weights))
    if isinstance(decoder, FuseStages):
        weights = decoder.up_space.weight.numel()
        fused = prod(token_grid(stage_outputs)) * decoder.fuse.in_features
        return Layer(prod(last_THW) * last_dim + fused + weights, weights)
    return Layer(prod(last_THW) * last_dim)
