"""The recipes of `bevt tokenize`, as YAML files in this folder."""

from pathlib import Path

PIPELINE_RECIPES = Path(__file__).resolve().parent
