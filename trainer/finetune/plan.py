"""What a fine-tuning run will do, before it does it: clips, batches, steps, and what that costs."""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from bevt_core.console.inert import one_line
from bevt_core.console.readable import count
from schemas.recipes import FinetuneRecipe
from trainer.clips.mixing import splits_pairs
from trainer.clips.sources import ClipSource
from trainer.data.order import StreamOrder
from trainer.distributed.world import micro_batches_of
from trainer.engine.schedule import CosineSchedule, schedule_of
from trainer.setup.cost import StepCost, finetune_cost
from trainer.setup.memory import fit_loop, largest_micro_batch, possible_micro_batches, shards_of
from trainer.setup.plan import CountedCost, check_batches, cost_lines

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
    why: str | None  # micro-batches are as they are, where the recipe does not say it

    @property
    def clips_seen(self) -> int:
        return self.steps * self.recipe.global_batch

    @property
    def micro_batch(self) -> int:
        """Return the clips of the largest micro-batch of any process."""
        return largest_micro_batch(self.recipe.global_batch, self.world_size, self.micro_batches)

    def cost(self, cost: CountedCost) -> StepCost:
        """Return what a step costs."""
        loop = self.recipe.loop
        return cost(loop.activation_checkpointing).step(
            {TERM: self.recipe.global_batch}, {TERM: self.micro_batch}, shards_of(loop, self.world_size)
        )


def counted_finetune_cost(recipe: FinetuneRecipe, build: Callable[[], nn.Module]) -> CountedCost:
    """Return what counts the clips of `recipe`, each time once, for the classifier that `build` makes."""
    return functools.cache(functools.partial(finetune_cost, recipe, build, TERM))


def fit_finetune_recipe(
    recipe: FinetuneRecipe, cost: CountedCost, memory_gb: float, world_size: int
) -> tuple[FinetuneRecipe, str]:
    """Return `recipe` with the micro-batches that fit `memory_gb`, and why. Raises UserError where nothing fits."""
    possible = possible_micro_batches([recipe.global_batch], world_size)
    if recipe.mix is not None:
        possible = [n for n in possible if not splits_pairs(recipe.global_batch, n, world_size)] or possible[:1]
    loop, why = fit_loop(recipe.loop, cost, {TERM: recipe.global_batch}, possible, memory_gb, world_size)
    return recipe.model_copy(update={"loop": loop}), why


def make_finetune_plan(recipe: FinetuneRecipe, num_train: int, world_size: int, why: str | None = None) -> FinetunePlan:
    """Count the steps; `why` is that of `fit_finetune_recipe`.

    Raises UserError where the recipe's batch does not fit the videos or so many processes.
    """
    order = StreamOrder(np.ones(num_train, np.int64), recipe.global_batch, num_train, (recipe.loop.seed, "train"))
    schedule = schedule_of(recipe.optim, recipe.loop.epochs, order.steps_per_epoch)
    steps = min(schedule.total_steps, recipe.loop.max_steps or schedule.total_steps)
    micro_batches = micro_batches_of(recipe.loop, world_size)
    check_batches({TERM: order}, micro_batches, world_size)
    return FinetunePlan(recipe, order, schedule, steps, world_size, micro_batches, why)


def describe_finetune(
    plan: FinetunePlan, train: ClipSource, val: ClipSource, cost: StepCost, tflops: float, device: str
) -> str:
    """Return what a person should check before the GPUs start."""
    recipe, order, sampling, optim = plan.recipe, plan.order, plan.recipe.sampling, plan.recipe.optim
    lines = [
        one_line(recipe.title),
        f"  {count(plan.world_size, 'process')} on {device}, {recipe.loop.precision}",
        f"  {len(train.items)} videos of {len(train.classes)} classes to train on, {len(val.items)} to validate on",
        f"  {plan.steps} steps of {plan.schedule.total_steps} ({recipe.loop.epochs:g} epochs of "
        f"{order.steps_per_epoch}), {order.dropped_per_epoch} videos left out per epoch",
        f"  batch {recipe.global_batch} on {count(plan.world_size, 'process')} in "
        f"{count(plan.micro_batches, 'micro-batch')} of at most {plan.micro_batch}; {plan.clips_seen} clips seen",
        f"  clips of {sampling.frames} frames ({sampling.spacing}) at {recipe.augment.crop_px} px",
        f"  learning rate: {optim.lr * optim.warmup_start:g} to {optim.lr:g} in {plan.schedule.warmup_steps} steps, on "
        f"a cosine to {optim.lr * optim.final_lr_share:g}; per layer below the "
        f"head {optim.layer_decay:g} times as much, in the backbone {optim.backbone_lr_share:g} times",
    ]
    return "\n".join([*lines, *cost_lines(cost, plan.steps, plan.world_size, tflops, plan.why)])


def finetune_facts(plan: FinetunePlan, cost: StepCost, tflops: float) -> dict[str, Any]:
    """Return the plan's numbers for a program."""
    return {
        "steps": plan.steps,
        "processes": plan.world_size,
        "micro_batches": plan.micro_batches,
        "activation_checkpointing": plan.recipe.loop.activation_checkpointing,
        "global_batch": plan.recipe.global_batch,
        "clips_seen": plan.clips_seen,
        "flops_total": plan.steps * cost.flops,
        "hours": cost.hours(plan.steps, plan.world_size, tflops),
        "tflops": tflops,
        **asdict(cost),
    }
