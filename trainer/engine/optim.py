"""AdamW and its parameter groups."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from schemas.recipes import OptimConfig

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BIAS_TABLE = "relative_position_bias_table"
LrShare = Callable[[str], float]  # parameter name -> its share of the learning rate
# (parameter name, belongs to a norm, weight decay, learning-rate share) -> (weight decay, learning-rate share)
GroupRule = Callable[[str, bool, float, float], tuple[float, float]]


def build_optimizer(model: nn.Module, config: OptimConfig, lr_share: LrShare = lambda name: 1.0) -> torch.optim.AdamW:
    """Return AdamW over `param_groups`. The loop multiplies the schedule's rate by each group's `lr_share`."""
    groups = param_groups(model, config.weight_decay, lr_share, GROUP_RULES[config.param_groups])
    return torch.optim.AdamW(
        [{**group, "lr": config.lr * group["lr_share"]} for group in groups],
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def plain_rule(name: str, is_norm: bool, decay: float, share: float) -> tuple[float, float]:
    """Exempt norms (weights and biases) and relative position bias tables from weight decay; leave `share` unchanged.

    All other parameters decay, including biases and the mask token (mmcv's default, unlike BEiT).
    """
    return (0.0 if is_norm or name.endswith(BIAS_TABLE) else decay), share


def mmcv_rule(name: str, is_norm: bool, decay: float, share: float) -> tuple[float, float]:
    """Apply the original's configuration as mmcv does: only the longest key that a name contains counts.

    `relative_position_bias_table` is longer than any layer's key, so the tables train at the full rate. A layer's key
    is longer than `norm`, so norms with a layer's rate do decay (mmcv/runner/optimizer/default_constructor.py).
    """
    if name.endswith(BIAS_TABLE):
        return 0.0, 1.0
    return (0.0 if is_norm and share == 1.0 else decay), share


GROUP_RULES: dict[str, GroupRule] = {"plain": plain_rule, "mmcv": mmcv_rule}


def param_groups(
    model: nn.Module, weight_decay: float, lr_share: LrShare = lambda name: 1.0, rule: GroupRule = plain_rule
) -> list[dict[str, Any]]:
    """Group the trainable parameters by (weight decay, share of the learning rate), in order of first appearance."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay, share = rule(name, id(parameter) in norms, weight_decay, lr_share(name))
        group = groups.setdefault((decay, share), {"params": [], "names": [], "weight_decay": decay, "lr_share": share})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def layer_decay_share(layers: Mapping[str, int], decay: float, backbone_share: float = 1.0) -> LrShare:
    """Return the learning-rate shares of fine-tuning: `backbone_share * decay ** (layers below the head)`.

    `layers` maps prefixes of the encoder's parameter names to the number of layers below the head. All other
    parameters train at the full rate.
    """

    def share(name: str) -> float:
        for prefix, below_head in layers.items():
            if name.startswith(prefix):
                return backbone_share * decay**below_head
        return 1.0

    return share


def swin_layers(depths: Sequence[int]) -> dict[str, int]:
    """Number a Swin classifier's layers from the head down, by parameter prefix, as in the original's configuration.

    swin_base_patch244_window877_bevt_finetune_k400: the last block is 1, every block and every patch merging adds
    one, and the stem comes last: 28 for depths 2-2-18-2.
    """
    numbers: dict[str, int] = {}
    number = 0
    for stage in reversed(range(len(depths))):
        for block in reversed(range(depths[stage])):
            number += 1
            numbers[f"encoder.stages.{stage}.blocks.{block}."] = number
        if stage:
            number += 1
            numbers[f"encoder.stages.{stage}.merge."] = number
    numbers["stem."] = number + 1
    return numbers


def timesformer_layers(depth: int) -> dict[str, int]:
    """Number a TimeSformer classifier's layers from the head down, by parameter prefix, as BEiT does for a ViT.

    The last block is 1; stem, class token and position embeddings share the last number, depth + 1.
    """
    blocks = {f"encoder.blocks.{block}.": depth - block for block in range(depth)}
    return {**blocks, "stem.": depth + 1, "encoder.": depth + 1}  # encoder.: everything outside the blocks
