"""Raw data -> frame store and token set, on Ray Data."""

from pathlib import Path


def recipes_dir() -> Path:
    """Where the recipes of `bevt tokenize` are."""
    return Path(__file__).parent / "recipes"
