"""Plan a run before its data exist: hours, memory, disk and price, from a recipe and the sizes of public data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bevt_core.known_sets import FRAME_BYTES, TOKEN_MAP_BYTES, KnownSet
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe, OnlineTokens, PretrainRecipe
from trainer.data.order import StreamOrder
from trainer.finetune.plan import Videos, finetune_workload
from trainer.pretrain.plan import pretrain_workload
from trainer.setup.cost import STATE_COPIES
from trainer.setup.memory import Memory
from trainer.setup.plan import Plan, describe, facts, make_plan

PART_SAMPLES = 64  # samples per part of the assumed token sets; has no effect on a plan's numbers


@dataclass(frozen=True)
class Machine:
    """The machine of a plan."""

    processes: int
    tflops: float  # effective, per process
    memory: Memory


def plan_pretraining(recipe: PretrainRecipe, sets: Sequence[KnownSet], machine: Machine) -> tuple[str, dict[str, Any]]:
    """Return the plan of `recipe` on `sets`, as text and as numbers.

    Raises UserError unless every stream has one set of its kind, and every set a stream.
    """
    by_stream = sets_of_streams(recipe, sets)
    orders: dict[str, StreamOrder] = {}
    crop_px: dict[str, int] = {}
    for name, stream in recipe.streams.items():
        known = by_stream[name]
        crop_px[name] = stream.tokens.views.crop_px if isinstance(stream.tokens, OnlineTokens) else known.crop_px
        sizes = np.full(-(-known.samples // PART_SAMPLES), PART_SAMPLES)
        sizes[-1] -= sizes.sum() - known.samples
        orders[name] = StreamOrder(sizes, stream.global_batch, stream.window_parts, (recipe.loop.seed, name))
    plan = make_plan(pretrain_workload(recipe, orders, crop_px), machine.processes, machine.memory)
    return describe(plan, machine.tflops, "any device"), _numbers(plan, machine.tflops)


def plan_finetuning(recipe: FinetuneRecipe, known: KnownSet, machine: Machine) -> dict[str, Any]:
    """Return the numbers of `recipe` on the set `known`. Raises UserError for pictures."""
    if known.kind != "video":
        raise UserError(f"{known.name} has pictures; fine-tuning needs a set of videos, such as k400")
    workload = finetune_workload(recipe, Videos(known.samples, 0, known.classes))
    return _numbers(make_plan(workload, machine.processes, machine.memory), machine.tflops)


def _numbers(plan: Plan[Any], tflops: float) -> dict[str, Any]:
    """The plan's numbers, with the memory that a process needs and the disk that checkpoints take."""
    recipe, cost = plan.recipe, plan.cost()
    assert cost is not None and plan.workload.cost is not None
    state_bytes = plan.workload.cost(recipe.loop.activation_checkpointing).state_bytes
    return facts(plan, tflops) | {
        "memory_gb": cost.peak_gb,
        "checkpoints_gb": checkpoints_gb(state_bytes, recipe.ema_decay, recipe.loop.keep_checkpoints),
    }


def sets_of_streams(recipe: PretrainRecipe, sets: Sequence[KnownSet]) -> dict[str, KnownSet]:
    """Return the set of every stream, matched by kind. Raises UserError unless they match one to one."""
    by_kind = {known.kind: known for known in sets}
    wanted, given = sorted(recipe.streams), sorted(known.kind for known in sets)
    if wanted != given:
        names = ", ".join(f"{known.name} ({known.kind}s)" for known in sets)
        raise UserError(f"--assume {names}: the recipe has the streams {', '.join(wanted)}; name one set for each")
    return {name: by_kind[name] for name in recipe.streams}


def checkpoints_gb(state_bytes: int, ema_decay: float | None, kept: int) -> float:
    """Return the GB of `kept` checkpoints, which contain the whole state except gradients, and of the final weights."""
    averaged = ema_decay is not None
    copy_bytes = state_bytes / (STATE_COPIES + averaged)
    return (kept * (STATE_COPIES - 1 + averaged) + 1) * copy_bytes / 1e9


def with_price(numbers: dict[str, Any], price_per_gpu_hour: float | None) -> dict[str, Any]:
    """Return `numbers` with GPU hours, and, if a price is given, with their cost."""
    gpu_hours = numbers["hours"] * numbers["processes"]
    price = {} if price_per_gpu_hour is None else {"price": gpu_hours * price_per_gpu_hour}
    return numbers | {"gpu_hours": gpu_hours, **price}


def dataset_facts(sets: Sequence[KnownSet]) -> dict[str, Any]:
    """Return the assumptions about `sets`, and the GB of their stores."""
    return {
        "assumed": {
            known.name: {
                "samples": known.samples,
                "frames_per_sample": known.frames,
                "stored_frames": known.stored_frames,
                "views": known.views,
                "frames_gb": known.frames_gb,
                "tokens_gb": known.tokens_gb,
            }
            for known in sets
        },
        "frame_bytes": FRAME_BYTES,
        "token_map_bytes": TOKEN_MAP_BYTES,
        "datasets_gb": sum(known.frames_gb + known.tokens_gb for known in sets),
    }
