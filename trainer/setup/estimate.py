"""The numbers of a plan made before the data exist: memory, disk and price, for public data sets of known sizes.

The plans themselves are made by `plan_pretraining` and `plan_finetuning` (trainer/pretrain/plan.py, finetune/plan.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bevt_core.known_sets import FRAME_BYTES, TOKEN_MAP_BYTES, KnownSet
from trainer.setup.cost import STATE_COPIES
from trainer.setup.memory import Memory
from trainer.setup.plan import Plan, facts


@dataclass(frozen=True)
class Machine:
    """The processes that a plan is made for."""

    processes: int
    tflops: float  # effective, per process
    memory: Memory


def plan_numbers(plan: Plan[Any], tflops: float) -> dict[str, Any]:
    """Return the plan's numbers, with the memory that a process needs and the disk space of the checkpoints."""
    recipe, cost = plan.recipe, plan.cost()
    assert cost is not None and plan.workload.cost is not None
    state_bytes = plan.workload.cost(recipe.loop.activation_checkpointing).state_bytes
    return facts(plan, tflops) | {
        "memory_gb": cost.peak_gb,
        "checkpoints_gb": checkpoints_gb(state_bytes, recipe.ema_decay, recipe.loop.keep_checkpoints),
    }


def checkpoints_gb(state_bytes: int, ema_decay: float | None, kept: int) -> float:
    """Return the GB of `kept` checkpoints, which contain the whole state except gradients, and of the final weights."""
    averaged = ema_decay is not None
    copy_bytes = state_bytes / (STATE_COPIES + averaged)
    return (kept * (STATE_COPIES - 1 + averaged) + 1) * copy_bytes / 1e9


def with_price(numbers: dict[str, Any], price_per_gpu_hour: float | None) -> dict[str, Any]:
    """Return `numbers` with GPU hours, and, if a price is given, with their `price`."""
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
