"""Mixup and CutMix for clips: blend the clips of a pair, or swap a box between them, and mix their targets alike.

Mixup: https://arxiv.org/abs/1710.09412; CutMix: https://arxiv.org/abs/1905.04899. Both follow the batch mode of
timm.data.Mixup, with the same blend or box in every frame. Pairs are neighbours in the global batch, which is
reshuffled every epoch; `check_pairs` refuses numbers of processes and micro-batches that would split a pair.
Legend: B clips, C channels, T frames, H height, W width, V classes.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bevt_core.console.readable import count
from schemas.errors import UserError
from schemas.recipes import MixConfig
from trainer.clips.augmentation.crops import Box


class Mix(NamedTuple):
    """The mix of one step: each clip keeps `own_share` of itself and gets the rest from its partner.

    The rest is the content of `box`, or without a box a blend of all pixels.
    """

    own_share: float
    box: Box | None


def draw_mix(config: MixConfig, height: int, width: int, rng: np.random.Generator) -> Mix:
    """Draw as timm does: whether to mix, Mixup or CutMix, `own_share`, and CutMix's box, clipped at the border."""
    if rng.random() >= config.share:
        return Mix(1.0, None)
    both = config.mixup_alpha > 0 and config.cutmix_alpha > 0
    cut = rng.random() < config.cutmix_share if both else config.cutmix_alpha > 0
    alpha = config.cutmix_alpha if cut else config.mixup_alpha
    own_share = float(rng.beta(alpha, alpha))
    if not cut:
        return Mix(own_share, None)
    side = math.sqrt(1 - own_share)
    box_h, box_w = int(height * side), int(width * side)
    middle_y, middle_x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(middle_y - box_h // 2, 0), min(middle_y + (box_h + 1) // 2, height)
    left, right = max(middle_x - box_w // 2, 0), min(middle_x + (box_w + 1) // 2, width)
    box = Box(top, left, bottom - top, right - left)
    return Mix(1 - box.height * box.width / (height * width), box)


def mix_pairs(clip_BCTHW: Tensor, target_BV: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """Mix clips 0 and 1, 2 and 3, ... and their targets. A pair with a missing target stays unchanged.

    `target_BV` has a row of zeros for a clip that could not be read. B must be even.
    """
    if mix.own_share == 1.0:
        return clip_BCTHW, target_BV
    whole_B = target_BV.sum(dim=1).view(-1, 2).amin(dim=1).repeat_interleave(2) > 0
    other_clip_BCTHW, other_target_BV = partners(clip_BCTHW), partners(target_BV)
    if mix.box is None:
        mixed_BCTHW = torch.lerp(other_clip_BCTHW, clip_BCTHW, mix.own_share)
    else:
        top, left, height, width = mix.box
        mixed_BCTHW = clip_BCTHW.clone()
        here = (..., slice(top, top + height), slice(left, left + width))
        mixed_BCTHW[here] = other_clip_BCTHW[here]
    mixed_target_BV = torch.lerp(other_target_BV, target_BV, mix.own_share)
    return (
        torch.where(whole_B.view(-1, 1, 1, 1, 1), mixed_BCTHW, clip_BCTHW),
        torch.where(whole_B[:, None], mixed_target_BV, target_BV),
    )


def partners(batch_B: Tensor) -> Tensor:
    """Exchange neighbours along the first axis: 1, 0, 3, 2, ..."""
    partners_B: Tensor = batch_B.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return partners_B


def splits_pairs(global_batch: int, micro_batches: int, world_size: int) -> bool:
    """Return whether a pair would be split between processes or micro-batches."""
    return global_batch % (2 * micro_batches * world_size) != 0


def check_pairs(global_batch: int, micro_batches: int, world_size: int) -> None:
    """Raise UserError if a pair would be split between processes or micro-batches."""
    if splits_pairs(global_batch, micro_batches, world_size):
        raise UserError(
            f"mix: a global batch of {global_batch} on {count(world_size, 'process')} in "
            f"{count(micro_batches, 'micro-batch')} splits pairs of clips; make it a multiple of "
            f"{2 * micro_batches * world_size}, or use fewer processes or micro-batches"
        )
