"""Functions for Python users that no other module of the pipeline provides: recipes by name."""

from collections.abc import Sequence

from pipeline.recipes import PIPELINE_RECIPES
from schemas.recipes import TokenizeRecipe
from schemas.recipes.loading import load_recipe_of


def load_recipe(name: str, overrides: Sequence[str] = ()) -> TokenizeRecipe:
    """Load a recipe of `bevt tokenize` by `name`: a shipped one, such as `folder`, or the path of a .yaml file.

    `overrides` are `KEY=VALUE` as for `--set`, such as `root=/data/videos` or `pool.stride=4`.
    Raises UserError for an unknown recipe, key or value, with the nearest valid name.
    """
    return load_recipe_of(TokenizeRecipe, name, PIPELINE_RECIPES, overrides)
