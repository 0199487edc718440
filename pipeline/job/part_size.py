"""Checks and decisions about sizes before a job starts: sources per part, and the tokenizer's grid in the views."""

import math
from collections.abc import Sequence
from typing import TypeVar

from bevt_core.dataset.extensions import Planned
from bevt_core.dataset.source_list import read_plan
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers import find_tokenizer
from bevt_core.tokenizers.description import read_description
from schemas.errors import UserError
from schemas.frames import Plan, SourceItem
from schemas.recipes import TokenizeRecipe

COARSEST_PATCH = 4  # px, Swin-B's patch; every shipped encoder can predict tokens that cover a multiple of it

T = TypeVar("T")


def sources_per_part(num_sources: int, most: int, min_parts: int, max_parts: int) -> int:
    """The number of sources per part: `most`, fewer for less than `min_parts` parts, more for more than `max_parts`."""
    return max(1, min(most, num_sources // min_parts), -(-num_sources // max_parts))


def entries_of_part(listed: Sequence[T], plan: Plan, part: int) -> Sequence[T]:
    """The entries of `listed` that belong to a part; `listed` has one per source, in the order of the plan."""
    start = (part - plan.first_part) * plan.sources_per_part
    return listed[start : start + plan.sources_per_part]


def items_of_part(planned: Sequence[Planned], part: int) -> Sequence[SourceItem]:
    """The sources of a part of a store; `planned` are its plan and those of its extensions."""
    plan, items = next(each for each in planned if part in each.plan.parts)
    return entries_of_part(items, plan, part)


def raw_sources(planned: Sequence[Planned], part: int) -> dict[str, str]:
    """The paths below the root of the sources of a part, by source."""
    plan = next(each.plan for each in planned if part in each.plan.parts)
    return {item.source: plan.raw_source(item.source) for item in items_of_part(planned, part)}


def with_stored_part_size(frames_dir: AnyPath, plan: Plan, most: int) -> Plan:
    """Return `plan`, with `most` sources per part if that equals the plan stored in `frames_dir`.

    So a job started by an older version, or with its own `sources_per_part`, keeps its parts.
    """
    stored = read_plan(frames_dir)
    kept = plan.model_copy(update={"sources_per_part": most})
    return kept if stored is not None and stored.digest() == kept.digest() else plan


def check_grid(recipe: TokenizeRecipe) -> None:
    """Raise UserError if a token covers a fractional number of a view's pixels: no encoder can predict it."""
    grid, crop_px = read_description(find_tokenizer(recipe.tokenizer)).grid, recipe.views.crop_px
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
    fix = " ".join(f"`{key}={round(size * better_px / crop_px)}`" for key, size in sizes.items())
    raise UserError(
        f"tokenizer {recipe.tokenizer} has {grid[0]} x {grid[1]} tokens, and views.crop_px is {crop_px}: a token would "
        f"cover {crop_px / grid[1]:.4g} pixels, which no encoder's patches match. Use another tokenizer, or {fix}"
    )
