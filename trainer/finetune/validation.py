"""Validation during a fine-tuning run."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from schemas.recipes import EvalViews, FinetuneRecipe
from trainer.clips.multi_view import ViewPlan
from trainer.clips.sources import ClipSource
from trainer.distributed.cpus import loader_workers
from trainer.distributed.world import World
from trainer.engine.evaluations import StopAsked
from trainer.testing.evaluate import run_views


class Validation:
    """An evaluation: accuracy on the centre crop of one clip of every held-out video."""

    def __init__(self, model: nn.Module, val: ClipSource, recipe: FinetuneRecipe, world: World) -> None:
        self.model, self.val, self.world = model, val, world
        self.precision = recipe.loop.precision
        self.num_workers = loader_workers(recipe.loop.num_workers)
        views = EvalViews(clips=1, crops=1, short_side_px=recipe.views.short_side_px)
        self.plan = ViewPlan(recipe.sampling, recipe.augment.crop_px, views, "normal", seed=0)

    def __call__(self, steps_done: int, stop_asked: StopAsked) -> Mapping[str, float]:
        options: dict[str, Any] = {"precision": self.precision, "num_workers": self.num_workers}
        options |= {"name": "  validate", "stop_asked": stop_asked}
        tested = run_views(self.model, self.val, self.plan, self.world, **options)
        values = {f"val_{name}": tested[name] for name in ("top1", "top5", "mean_class")}
        return values | {"val_videos": tested["num_videos"]}
