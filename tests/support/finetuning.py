"""Fine-tuning small enough for tests: its recipe."""

from pathlib import Path

from schemas.recipes import FinetuneRecipe
from schemas.recipes.loading import load_recipe

RECIPES = Path(__file__).parents[2] / "trainer" / "recipes"
TINY = ["encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]", "loop.num_workers=0"]
TINY += ["global_batch=4", "loop.checkpoint_every=2", "sampling.frames=4", "encoder.window=[2,4,4]", "loop.epochs=2"]


def recipe_of(*overrides: str) -> FinetuneRecipe:
    """`nano_finetune` with a smaller model and clip."""
    recipe = load_recipe("nano_finetune", RECIPES, [*TINY, *overrides])
    assert isinstance(recipe, FinetuneRecipe)
    return recipe
