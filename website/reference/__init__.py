"""Reference pages made from the code when the site is built: text for the `<!-- generated: NAME -->` marks in docs/."""

from collections.abc import Callable

from website.reference import commands, json_keys, python_api, recipe_keys, recipes

GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands.markdown,
    "recipe keys": recipe_keys.markdown,
    "recipes": recipes.markdown,
    "json keys": json_keys.markdown,
    "python api": python_api.markdown,
}
