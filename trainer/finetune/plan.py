"""The plan of a fine-tuning run: its videos, clips and cost, also for data that do not exist yet."""

import functools
from typing import Any, NamedTuple

import numpy as np

from bevt_core.console.readable import count
from bevt_core.known_sets import KnownSet
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe
from trainer.clips.augmentation.mixing import splits_pairs
from trainer.data.order import StreamOrder
from trainer.finetune.model import build_from_recipe
from trainer.finetune.task import TERM
from trainer.setup.cost import finetune_cost
from trainer.setup.estimate import Machine, plan_numbers
from trainer.setup.plan import Plan, Workload, learning_rate_line, make_plan, processes_line


class Videos(NamedTuple):
    """The number of training and validation videos, and of their classes."""

    train: int
    val: int
    classes: int


def finetune_workload(recipe: FinetuneRecipe, videos: Videos) -> Workload[FinetuneRecipe]:
    """Return the workload of `recipe` on these numbers of videos. The cost is counted once per setting.

    Raises UserError if the recipe's batch is larger than the number of training videos.
    """
    seed = (recipe.loop.seed, "train")
    order = StreamOrder(np.ones(videos.train, np.int64), recipe.global_batch, videos.train, seed)
    build = functools.partial(build_from_recipe, recipe, videos.classes)
    cost = functools.cache(functools.partial(finetune_cost, recipe, build, TERM))

    def keeps_pairs(micro_batches: int, processes: int) -> bool:
        return recipe.mix is None or not splits_pairs(recipe.global_batch, micro_batches, processes)

    describe = functools.partial(_describe, videos)
    return Workload(recipe, {TERM: order}, cost, describe, _facts, keeps_pairs)


def _describe(videos: Videos, plan: Plan[FinetuneRecipe], device: str) -> list[str]:
    recipe, order, sampling, optim = plan.recipe, plan.orders[TERM], plan.recipe.sampling, plan.recipe.optim
    factors = [
        f"; times {factor:g} {where}"
        for factor, where in (
            (optim.layer_decay, "per layer below the head"),
            (optim.backbone_lr_share, "in the backbone"),
        )
        if factor != 1
    ]
    return [
        processes_line(plan, device),
        f"  {count(videos.train, 'video')} of {count(videos.classes, 'class')} to train on, "
        f"{videos.val} to validate on",
        f"  {count(plan.steps, 'step')} of {plan.schedule.total_steps:,} ({count(recipe.loop.epochs, 'epoch')} of "
        f"{order.steps_per_epoch}), {count(order.dropped_per_epoch, 'video')} left out per epoch",
        f"  batch {recipe.global_batch} on {count(plan.world_size, 'process')} in "
        f"{count(plan.micro_batches, 'micro-batch')} of at most {plan.micro_batch(TERM)}; "
        f"{count(plan.samples_seen(TERM), 'clip')} seen",
        f"  clips of {count(sampling.frames, 'frame')} ({sampling.spacing}) at {recipe.augment.crop_px} px",
        learning_rate_line(plan) + "".join(factors),
    ]


def _facts(plan: Plan[FinetuneRecipe]) -> dict[str, Any]:
    return {"global_batch": plan.recipe.global_batch, "clips_seen": plan.samples_seen(TERM)}


def plan_finetuning(recipe: FinetuneRecipe, known: KnownSet, machine: Machine) -> dict[str, Any]:
    """Return the plan's numbers for `recipe` on a public data set that need not exist here.

    Raises UserError for a set of pictures.
    """
    if known.kind != "video":
        raise UserError(f"{known.name} has pictures; fine-tuning needs a set of videos, such as k400")
    workload = finetune_workload(recipe, Videos(known.samples, 0, known.classes))
    return plan_numbers(make_plan(workload, machine.processes, machine.memory), machine.tflops)
