"""What a fine-tuning run will do, before it does it: clips, batches, steps, and what that costs."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from schemas.recipes import FinetuneRecipe
from trainer.clips import ClipSource
from trainer.cost import StepCost, finetune_cost
from trainer.distributed import micro_batches_of
from trainer.order import StreamOrder
from trainer.plan import check_batches, cost_lines
from trainer.schedule import CosineSchedule, schedule_of

TERM = "class"


@dataclass(frozen=True)
class FinetunePlan:
    """The arithmetic of a run."""

    recipe: FinetuneRecipe
    order: StreamOrder
    schedule: CosineSchedule
    steps: int  # that will be taken; fewer than the schedule's with loop.max_steps
    world_size: int
    micro_batches: int  # per process

    @property
    def clips_seen(self) -> int:
        return self.steps * self.recipe.global_batch

    @property
    def micro_batch(self) -> int:
        """Return the clips of the largest micro-batch of any process."""
        return math.ceil(math.ceil(self.recipe.global_batch / self.world_size) / self.micro_batches)

    def cost(self, build: Callable[[], nn.Module]) -> StepCost:
        """Count a step of the classifier that `build` makes."""
        return finetune_cost(self.recipe, build, self.micro_batch)


def make_finetune_plan(recipe: FinetuneRecipe, num_train: int, world_size: int) -> FinetunePlan:
    """Count the steps. Raises UserError where the recipe's batch does not fit the videos or so many processes."""
    order = StreamOrder(np.ones(num_train, np.int64), recipe.global_batch, num_train, (recipe.loop.seed, "train"))
    schedule = schedule_of(recipe.optim, recipe.loop.epochs, order.steps_per_epoch)
    steps = min(schedule.total_steps, recipe.loop.max_steps or schedule.total_steps)
    micro_batches = micro_batches_of(recipe.loop, world_size)
    check_batches({TERM: order}, micro_batches, world_size)
    return FinetunePlan(recipe, order, schedule, steps, world_size, micro_batches)


def describe_finetune(
    plan: FinetunePlan, train: ClipSource, val: ClipSource, cost: StepCost, tflops: float, device: str
) -> str:
    """Return what a person should check before the GPUs start."""
    recipe, order, sampling, optim = plan.recipe, plan.order, plan.recipe.sampling, plan.recipe.optim
    lines = [
        recipe.title,
        f"  {plan.world_size} process(es) on {device}, {recipe.loop.precision}",
        f"  {len(train.items)} videos of {len(train.classes)} classes to train on, {len(val.items)} to validate on",
        f"  {plan.steps} steps of {plan.schedule.total_steps} ({recipe.loop.epochs:g} epochs of "
        f"{order.steps_per_epoch}), {order.dropped_per_epoch} videos left out per epoch",
        f"  batch {recipe.global_batch} on {plan.world_size} process(es) in {plan.micro_batches} micro-batch(es) of at "
        f"most {plan.micro_batch}; {plan.clips_seen} clips seen",
        f"  clips of {sampling.frames} frames ({sampling.spacing}) at {recipe.augment.crop_px} px",
        f"  learning rate: {optim.lr * optim.warmup_start:g} to {optim.lr:g} in {plan.schedule.warmup_steps} steps, on "
        f"a cosine to {optim.lr * optim.final_lr_share:g}; per layer below the "
        f"head {optim.layer_decay:g} times as much, in the backbone {optim.backbone_lr_share:g} times",
    ]
    return "\n".join([*lines, *cost_lines(cost, plan.steps, plan.world_size, tflops)])


def finetune_facts(plan: FinetunePlan, cost: StepCost, tflops: float) -> dict[str, Any]:
    """Return the plan's numbers for a program."""
    return {
        "steps": plan.steps,
        "processes": plan.world_size,
        "micro_batches": plan.micro_batches,
        "global_batch": plan.recipe.global_batch,
        "clips_seen": plan.clips_seen,
        "flops_total": plan.steps * cost.flops,
        "hours": cost.hours(plan.steps, plan.world_size, tflops),
        "tflops": tflops,
        **asdict(cost),
    }
