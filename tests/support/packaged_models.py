"""A stand-in for a model of the package: nano_joint's model with random weights, exported from a run."""

from pathlib import Path

import torch

from bevt_core.weights.model_files import save_weights
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from schemas.runs import DatasetRef
from tests.support.builders import make_token_set
from tests.support.pretraining import RECIPES
from trainer.runs.directory import open_run
from trainer.setup.models import build_model
from trainer.show.model_card import export_hub

NAME = "bevt-test"


def packaged_model(work: Path) -> Path:
    """Export a joint run on `work/videos` and `work/images` to `work/packaged/bevt-test`; returns `work/packaged`."""
    sets = {
        "video": make_token_set(work / "videos", num_samples=8, frames=10, stride=2, grid=8),
        "image": make_token_set(work / "images", num_samples=6, frames=1, kind="image", tag="i", grid=8),
    }
    overrides = [f"streams.{name}.tokens={tokens.path}" for name, tokens in sets.items()]
    recipe = load_recipe_of(PretrainRecipe, "nano_joint", RECIPES, overrides)
    torch.manual_seed(0)
    data = {name: DatasetRef(path=str(tokens.path), digest=tokens.digest) for name, tokens in sets.items()}
    open_run(work / "run", recipe, data, resume=False, command="bevt train joint", world_size=1)
    save_weights(work / "run" / "weights.safetensors", build_model(recipe.model, ("video", "image")))
    export_hub(work / "run", work / "packaged" / NAME)
    return work / "packaged"
