"""The plan of a pretraining run: its streams, their samples and their cost, also for data that do not exist yet."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bevt_core.console.readable import count
from bevt_core.known_sets import KnownSet
from schemas.errors import UserError
from schemas.recipes import OnlineTokens, PretrainRecipe
from trainer.data.order import StreamOrder
from trainer.pretrain.targets import check_heads
from trainer.setup.cost import pretrain_cost
from trainer.setup.estimate import Machine, plan_numbers
from trainer.setup.plan import Plan, Workload, describe, learning_rate_line, make_plan, processes_line

UNITS = {"image": "images", "video": "clips"}
PART_SAMPLES = 64  # samples per part of the assumed token sets; has no effect on a plan's numbers


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
        f"  {count(plan.steps, 'step')} of {plan.schedule.total_steps:,} ({count(loop.epochs, 'epoch')})",
        f"{learning_rate_line(plan)}, for the batches below on any number of processes",
    ]
    for name, order in plan.orders.items():
        low, high = order.global_batch // plan.world_size, math.ceil(order.global_batch / plan.world_size)
        epochs = count(float(f"{order.epochs_in(plan.steps):.4g}"), "epoch")
        per_process = f"{low}" if low == high else f"{low} or {high}"
        lines.append(
            f"  {name}: {count(order.num_samples, 'sample')}, {order.dropped_per_epoch} left out per epoch; batch "
            f"{order.global_batch} = {plan.world_size} x {per_process} in {count(plan.micro_batches, 'micro-batch')}; "
            f"{plan.samples_seen(name):,} {UNITS[name]} in {epochs}"
        )
        if further := plan.recipe.streams[name].more_targets:  # type: ignore[index]
            sizes = plan.recipe.model.more_heads
            also = (f"{key} ({sizes[key]} tokens, weight {target.loss_weight:g})" for key, target in further.items())
            lines.append(f"  {name}: further targets: {', '.join(also)}")
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


def plan_pretraining(recipe: PretrainRecipe, sets: Sequence[KnownSet], machine: Machine) -> tuple[str, dict[str, Any]]:
    """Return the plan of `recipe` on public data sets that need not exist here, as text and as numbers.

    Raises UserError unless every stream has one set of its kind, and every set a stream, and for a target without a
    head.
    """
    by_stream = sets_of_streams(recipe, sets)
    check_heads(recipe)
    orders: dict[str, StreamOrder] = {}
    crop_px: dict[str, int] = {}
    for name, stream in recipe.streams.items():
        known = by_stream[name]
        crop_px[name] = stream.tokens.views.crop_px if isinstance(stream.tokens, OnlineTokens) else known.crop_px
        sizes = np.full(-(-known.samples // PART_SAMPLES), PART_SAMPLES)
        sizes[-1] -= sizes.sum() - known.samples
        orders[name] = StreamOrder(
            sizes, stream.global_batch, stream.window_parts, (recipe.loop.seed, name), f"streams.{name}.global_batch"
        )
    plan = make_plan(pretrain_workload(recipe, orders, crop_px), machine.processes, machine.memory)
    return describe(plan, machine.tflops, "any device"), plan_numbers(plan, machine.tflops)


def sets_of_streams(recipe: PretrainRecipe, sets: Sequence[KnownSet]) -> dict[str, KnownSet]:
    """Return the set of every stream, matched by kind. Raises UserError unless they match one to one."""
    by_kind = {known.kind: known for known in sets}
    wanted, given = sorted(recipe.streams), sorted(known.kind for known in sets)
    if wanted != given:
        names = ", ".join(f"{known.name} ({known.kind}s)" for known in sets)
        raise UserError(f"`assume` {names}: the recipe has the streams {', '.join(wanted)}; name one set for each")
    return {name: by_kind[name] for name in recipe.streams}
