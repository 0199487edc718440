"""Plans before the data exist: hours, memory, disk and price from a recipe and the known sizes of public data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bevt_core.dataset.known_sets import FRAME_BYTES, TOKEN_MAP_BYTES, KnownSet
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe, OnlineTokens, PretrainRecipe
from trainer.data.order import StreamOrder
from trainer.finetune.plan import counted_finetune_cost, finetune_facts, fit_finetune_recipe, make_finetune_plan
from trainer.finetune.stage import build_from_recipe
from trainer.pretrain.plan import cost_of, counted_at, describe, facts, fit_recipe, make_plan
from trainer.setup.cost import STATE_COPIES
from trainer.setup.memory import Memory, memory_gb_of

PART_SAMPLES = 64  # of the assumed token sets; changes no number of a plan


@dataclass(frozen=True)
class Machine:
    """What trains."""

    processes: int
    tflops: float  # effective, per process
    memory: Memory


def plan_pretraining(recipe: PretrainRecipe, sets: Sequence[KnownSet], machine: Machine) -> tuple[str, dict[str, Any]]:
    """Return the plan of `recipe` on `sets`, in words and as numbers.

    Raises UserError where a stream has no set of its kind, or a set no stream.
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
    counted, why = counted_at(recipe, crop_px), None
    memory_gb = memory_gb_of(machine.memory)
    if memory_gb is not None:
        recipe, why = fit_recipe(recipe, counted, orders, memory_gb, machine.processes)
    plan = make_plan(recipe, orders, machine.processes, why)
    cost = cost_of(plan, recipe, counted)
    state_bytes = counted(plan.activation_checkpointing).state_bytes
    numbers = facts(plan, cost, machine.tflops) | {"memory_gb": cost.peak_gb}
    numbers["checkpoints_gb"] = checkpoints_gb(state_bytes, recipe.ema_decay, recipe.loop.keep_checkpoints)
    return describe(plan, recipe, cost, machine.tflops, "any device"), numbers


def plan_finetuning(recipe: FinetuneRecipe, known: KnownSet, machine: Machine) -> dict[str, Any]:
    """Return the numbers of `recipe` on the set `known`. Raises UserError for pictures."""
    if known.kind != "video":
        raise UserError(f"{known.name} has pictures; fine-tuning needs a set of videos, such as k400")
    counted = counted_finetune_cost(recipe, lambda: build_from_recipe(recipe, known.classes))
    why = None
    memory_gb = memory_gb_of(machine.memory)
    if memory_gb is not None:
        recipe, why = fit_finetune_recipe(recipe, counted, memory_gb, machine.processes)
    plan = make_finetune_plan(recipe, known.samples, machine.processes, why)
    cost = plan.cost(counted)
    state_bytes = counted(recipe.loop.activation_checkpointing).state_bytes
    numbers = finetune_facts(plan, cost, machine.tflops) | {"memory_gb": cost.peak_gb}
    numbers["checkpoints_gb"] = checkpoints_gb(state_bytes, recipe.ema_decay, recipe.loop.keep_checkpoints)
    return numbers


def sets_of_streams(recipe: PretrainRecipe, sets: Sequence[KnownSet]) -> dict[str, KnownSet]:
    """Return the set of every stream, by kind. Raises UserError where they do not match one to one."""
    by_kind = {known.kind: known for known in sets}
    wanted, given = sorted(recipe.streams), sorted(known.kind for known in sets)
    if wanted != given:
        names = ", ".join(f"{known.name} ({known.kind}s)" for known in sets)
        raise UserError(f"--assume {names}: the recipe has the streams {', '.join(wanted)}; name one set for each")
    return {name: by_kind[name] for name in recipe.streams}


def checkpoints_gb(state_bytes: int, ema_decay: float | None, kept: int) -> float:
    """Return the GB of `kept` checkpoints, which hold all of the state but gradients, and of the final weights."""
    averaged = ema_decay is not None
    copy_bytes = state_bytes / (STATE_COPIES + averaged)
    return (kept * (STATE_COPIES - 1 + averaged) + 1) * copy_bytes / 1e9


def with_price(numbers: dict[str, Any], price_per_gpu_hour: float | None) -> dict[str, Any]:
    """Return `numbers` with GPU hours, and with what they cost where there is a price."""
    gpu_hours = numbers["hours"] * numbers["processes"]
    price = {} if price_per_gpu_hour is None else {"price": gpu_hours * price_per_gpu_hour}
    return numbers | {"gpu_hours": gpu_hours, **price}


def dataset_facts(sets: Sequence[KnownSet]) -> dict[str, Any]:
    """Return what was assumed of `sets`, and the GB of their stores."""
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
