"""What a pretraining run will do, before it does it: batches, steps, samples seen, and what that costs."""

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bevt_core.console.inert import one_line
from bevt_core.console.readable import count
from schemas.recipes import PretrainRecipe
from trainer.data.order import StreamOrder
from trainer.distributed.world import micro_batches_of
from trainer.engine.schedule import CosineSchedule
from trainer.pretrain.streams import Source, Streams
from trainer.setup.cost import StepCost, pretrain_cost
from trainer.setup.memory import fit_loop, largest_micro_batch, possible_micro_batches, shards_of
from trainer.setup.plan import CountedCost, check_batches, cost_lines

UNITS = {"image": "images", "video": "clips"}


@dataclass(frozen=True)
class PretrainPlan:
    """The arithmetic of a run."""

    orders: Mapping[str, StreamOrder]
    schedule: CosineSchedule
    steps: int  # that will be taken; fewer than the schedule's with loop.max_steps
    world_size: int
    micro_batches: int  # per process
    activation_checkpointing: bool
    why: str | None  # micro-batches are as they are, where the recipe does not say it

    def samples_seen(self, stream: str) -> int:
        return self.steps * self.orders[stream].global_batch

    def micro_batch(self, stream: str) -> int:
        """Return the samples of the largest micro-batch of any process."""
        return largest_micro_batch(self.orders[stream].global_batch, self.world_size, self.micro_batches)


def counted_cost(recipe: PretrainRecipe, sources: Mapping[str, Source]) -> CountedCost:
    """Return what counts the samples of `recipe`, each time once."""
    return counted_at(recipe, {name: source.crop_px for name, source in sources.items()})


def counted_at(recipe: PretrainRecipe, crop_px: Mapping[str, int]) -> CountedCost:
    """Return the same for crops of `crop_px`, by stream."""
    return functools.cache(functools.partial(pretrain_cost, recipe, crop_px))


def fit_recipe(
    recipe: PretrainRecipe, cost: CountedCost, orders: Mapping[str, StreamOrder], memory_gb: float, world_size: int
) -> tuple[PretrainRecipe, str]:
    """Return `recipe` with the micro-batches that fit `memory_gb`, and why. Raises UserError where nothing fits."""
    batches = {name: order.global_batch for name, order in orders.items()}
    possible = possible_micro_batches(batches.values(), world_size)
    loop, why = fit_loop(recipe.loop, cost, batches, possible, memory_gb, world_size)
    return recipe.model_copy(update={"loop": loop}), why


def make_plan(
    recipe: PretrainRecipe, orders: Mapping[str, StreamOrder], world_size: int, why: str | None = None
) -> PretrainPlan:
    """Count the steps. An epoch is one of the video stream, where there is one. `why` is that of `fit_recipe`.

    Raises UserError where the recipe's batches do not fit so many processes.
    """
    leading = orders["video" if "video" in orders else "image"]
    total = max(1, round(recipe.loop.epochs * leading.steps_per_epoch))
    schedule = CosineSchedule(
        total_steps=total,
        warmup_steps=round(recipe.optim.warmup_epochs * leading.steps_per_epoch),
        warmup_start=recipe.optim.warmup_start,
        final_share=recipe.optim.final_lr_share,
    )
    steps = min(total, recipe.loop.max_steps or total)
    micro_batches = micro_batches_of(recipe.loop, world_size)
    check_batches(orders, micro_batches, world_size)
    checkpointing = recipe.loop.activation_checkpointing
    return PretrainPlan(orders, schedule, steps, world_size, micro_batches, checkpointing, why)


def cost_of(plan: PretrainPlan, recipe: PretrainRecipe, cost: CountedCost) -> StepCost:
    """Return what a step of `plan` costs."""
    return cost(plan.activation_checkpointing).step(
        {name: order.global_batch for name, order in plan.orders.items()},
        {name: plan.micro_batch(name) for name in plan.orders},
        shards_of(recipe.loop, plan.world_size),
    )


def describe(plan: PretrainPlan, recipe: PretrainRecipe, cost: StepCost, tflops: float, device: str) -> str:
    """Return what a person should check before the GPUs start."""
    loop, optim, schedule = recipe.loop, recipe.optim, plan.schedule
    lines = [
        one_line(recipe.title),
        f"  {count(plan.world_size, 'process')} on {device}, {loop.precision}",
        f"  {plan.steps} steps of {schedule.total_steps} ({loop.epochs:g} epochs)",
        f"  learning rate: {optim.lr * optim.warmup_start:g} to {optim.lr:g} in {schedule.warmup_steps} steps, on a "
        f"cosine to {optim.lr * optim.final_lr_share:g}; it belongs to the batches below, on any number of processes",
    ]
    for name, order in plan.orders.items():
        low, high = order.global_batch // plan.world_size, math.ceil(order.global_batch / plan.world_size)
        share = f"{low}" if low == high else f"{low} or {high}"
        lines.append(
            f"  {name}: {order.num_samples} samples, {order.dropped_per_epoch} left out per epoch; batch "
            f"{order.global_batch} = {plan.world_size} x {share} in {count(plan.micro_batches, 'micro-batch')}; "
            f"{plan.samples_seen(name)} {UNITS[name]} in {plan.steps / order.steps_per_epoch:.4g} epochs"
        )
    if plan.micro_batches != loop.micro_batches:
        lines.append(
            f"  accumulation: {plan.micro_batches} micro-batches, since the recipe's {loop.micro_batches} are for "
            f"{loop.processes} processes; the batch and its learning rate stay"
        )
    return "\n".join([*lines, *cost_lines(cost, plan.steps, plan.world_size, tflops, plan.why)])


def facts(plan: PretrainPlan, cost: StepCost, tflops: float) -> dict[str, Any]:
    """Return the plan's numbers for a program."""
    return {
        "steps": plan.steps,
        "processes": plan.world_size,
        "micro_batches": plan.micro_batches,
        "activation_checkpointing": plan.activation_checkpointing,
        "global_batch": {name: order.global_batch for name, order in plan.orders.items()},
        "samples_seen": {name: plan.samples_seen(name) for name in plan.orders},
        "flops_total": plan.steps * cost.flops,
        "hours": cost.hours(plan.steps, plan.world_size, tflops),
        "tflops": tflops,
        **asdict(cost),
    }


def orders_of(streams: Streams) -> dict[str, StreamOrder]:
    return {name: order for name, (_, order) in streams.items()}
