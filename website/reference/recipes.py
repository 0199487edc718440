"""The shipped recipes: their titles, and their files with the comments that give the origin of the numbers."""

from pathlib import Path
from textwrap import indent

from pipeline.recipes import PIPELINE_RECIPES
from schemas.recipes.loading import recipe_names
from trainer.recipes import TRAINER_RECIPES
from website.reference.tables import prose

FOLDERS = {"bevt tokenize": PIPELINE_RECIPES, "bevt train, finetune and tokenizer train": TRAINER_RECIPES}


def markdown() -> str:
    """A section per folder, with every recipe's file in a block that opens on a click."""
    return "\n".join(
        f"## {commands}\n\n" + "\n".join(recipe(folder, name) for name in recipe_names(folder))
        for commands, folder in FOLDERS.items()
    )


def recipe(folder: Path, name: str) -> str:
    """One recipe: name, title and file."""
    text = (folder / f"{name}.yaml").read_text()
    title = next(line for line in text.splitlines() if line.startswith("title:")).removeprefix("title:").strip("\"' ")
    block = indent(f"```yaml\n{text.rstrip()}\n```", "    ")
    return f'??? note "`{name}`: {prose(title)}"\n\n{block}\n'
