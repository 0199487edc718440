"""Pretraining's part of a run's plan: its streams, their samples and their cost."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from bevt_core.console.readable import count
from schemas.recipes import PretrainRecipe
from trainer.data.order import StreamOrder
from trainer.setup.cost import pretrain_cost
from trainer.setup.plan import Plan, Workload, learning_rate, processes_line

UNITS = {"image": "images", "video": "clips"}


def pretrain_workload(
    recipe: PretrainRecipe, orders: Mapping[str, StreamOrder], crop_px: Mapping[str, int]
) -> Workload[PretrainRecipe]:
    """Return the workload of `recipe`; `crop_px` is the crop size by stream. The cost is counted once per setting."""
    cost = functools.cache(functools.partial(pretrain_cost, recipe, crop_px))
    return Workload(recipe, orders, cost, _describe, _facts)


def _describe(plan: Plan[PretrainRecipe], device: str) -> list[str]:
    loop = plan.recipe.loop
    lines = [
        processes_line(plan, device),
        f"  {count(plan.steps, 'step')} of {plan.schedule.total_steps} ({count(loop.epochs, 'epoch')})",
        f"{learning_rate(plan)}, for the batches below on any number of processes",
    ]
    for name, order in plan.orders.items():
        low, high = order.global_batch // plan.world_size, math.ceil(order.global_batch / plan.world_size)
        share = f"{low}" if low == high else f"{low} or {high}"
        lines.append(
            f"  {name}: {count(order.num_samples, 'sample')}, {order.dropped_per_epoch} left out per epoch; batch "
            f"{order.global_batch} = {plan.world_size} x {share} in {count(plan.micro_batches, 'micro-batch')}; "
            f"{plan.samples_seen(name)} {UNITS[name]} in {plan.steps / order.steps_per_epoch:.4g} epochs"
        )
    if plan.micro_batches != loop.micro_batches:
        lines.append(
            f"  accumulation: {count(plan.micro_batches, 'micro-batch')}, since the recipe's {loop.micro_batches} "
            f"are for {count(loop.processes or 1, 'process')}; batch and learning rate are unchanged"
        )
    return lines


def _facts(plan: Plan[PretrainRecipe]) -> dict[str, Any]:
    return {
        "global_batch": {name: order.global_batch for name, order in plan.orders.items()},
        "samples_seen": {name: plan.samples_seen(name) for name in plan.orders},
    }
