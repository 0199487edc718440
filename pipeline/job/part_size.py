"""How sources are cut into parts, and whether a tokenizer's grid fits the views: settled before a job starts."""

import math
from collections.abc import Sequence
from typing import TypeVar

from bevt_core.dataset.frame_store import read_plan
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers import find_tokenizer
from bevt_core.tokenizers.card import read_card
from schemas.errors import UserError
from schemas.frames import Plan
from schemas.recipes import TokenizeRecipe

COARSEST_PATCH = 4  # pixels per token are a multiple of it under every shipped encoder: Swin-B has patches of 4 px

T = TypeVar("T")


def sources_per_part(num_sources: int, most: int, min_parts: int) -> int:
    """Return the sources of a part: at most `most`, fewer where there would not be `min_parts` parts."""
    return max(1, min(most, num_sources // min_parts))


def of_part(listed: Sequence[T], plan: Plan, part: int) -> Sequence[T]:
    """Those of a part, of what is listed for every source in the order of the plan."""
    start = part * plan.sources_per_part
    return listed[start : start + plan.sources_per_part]


def as_it_began(frames_dir: AnyPath, plan: Plan, most: int) -> Plan:
    """Return `plan`, or the same job's plan in `frames_dir` where that has `most` sources per part.

    A job of an older version, or with `--set sources_per_part`, keeps its parts.
    """
    there = read_plan(frames_dir)
    kept = plan.model_copy(update={"sources_per_part": most})
    return kept if there is not None and there.digest() == kept.digest() else plan


def check_grid(recipe: TokenizeRecipe) -> None:
    """Raise UserError where a token covers no whole number of pixels of the views, since no encoder can predict it."""
    grid, crop_px = read_card(find_tokenizer(recipe.tokenizer)).grid, recipe.views.crop_px
    if all(crop_px % side == 0 for side in grid):
        return
    step_px = COARSEST_PATCH * math.lcm(*grid)
    better_px = math.ceil(crop_px / step_px) * step_px
    sizes = {
        "pool.short_side_px": recipe.pool.short_side_px,
        "views.crop_px": crop_px,
        "views.short_side_min_px": recipe.views.short_side_min_px,
        "views.short_side_max_px": recipe.views.short_side_max_px,
    }
    fix = " ".join(f"--set {key}={round(size * better_px / crop_px)}" for key, size in sizes.items())
    raise UserError(
        f"tokenizer {recipe.tokenizer} has {grid[0]} x {grid[1]} tokens, and views.crop_px is {crop_px}: a token would "
        f"cover {crop_px / grid[1]:.4g} pixels, which no encoder's patches match. Use another tokenizer, or {fix}"
    )
