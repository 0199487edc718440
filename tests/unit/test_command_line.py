"""What the command line hands on to recipes."""

import pytest

from bevt_core.command_line import overrides_of
from schemas.recipe_io import load_recipe
from trainer.commands import TRAINER_RECIPES

NAMES = ["2024", 'it\'s "odd", 50% $HOME #1: [x]', "🐈 and 👩‍👩‍👧", "über\ttab\u2028line", "no-utf8-\udcff", "null"]


@pytest.mark.parametrize("name", NAMES)
def test_any_path_arrives_as_it_is(name: str) -> None:
    recipe = load_recipe("nano_image", TRAINER_RECIPES, overrides_of({"streams.image.tokens": name}))
    assert recipe.streams["image"].tokens == name
