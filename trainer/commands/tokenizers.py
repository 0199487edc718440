"""`bevt tokenizer train`. Heavy imports are inside it."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson, Nproc, Overrides, RecipeName, Resume, command_typed, yaml_string
from bevt_core.console.terminal import emit
from schemas.errors import UserError
from trainer.recipes import TRAINER_RECIPES

TOKENIZER_RECIPES = {"dvae": "tokenizer_dvae", "peco": "tokenizer_peco"}


def train_tokenizer(
    name: Annotated[str, typer.Argument(help="Architecture: dvae or peco.")] = "dvae",
    preset: Annotated[
        str | None, typer.Option(help="Size of the architecture: nano, small, ... (default: the recipe's).")
    ] = None,
    frames: Annotated[
        list[str] | None,
        typer.Option(help="Frame store, also s3://, gs:// or az:// (repeatable; default: the recipe's)."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory of the run; the tokenizer is written to its folder tokenizer/.")
    ] = Path("runs/tokenizer"),
    recipe: RecipeName = None,
    nproc: Nproc = 1,
    resume: Resume = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Train a tokenizer on stored frames: a discrete VAE or a VQ-VAE.

    dvae is a small discrete VAE; peco is a VQ-VAE with a perceptual loss.

    \b
    Examples:
      bevt tokenizer train dvae --preset nano --frames datasets/images/frames --out runs/dvae
      bevt tokenizer train peco --frames datasets/imagenet/frames --out runs/peco --nproc 8
    """
    from schemas.recipes import TokenizerRecipe
    from schemas.recipes.loading import load_recipe_of, nearest
    from trainer.distributed.launch import launch
    from trainer.tokenizer.stage import train_tokenizer as run

    overrides = [*(set_ or [])]
    if preset is not None:
        overrides.append(f"architecture.preset={yaml_string(preset)}")
    if frames:
        overrides.append(f"frames=[{', '.join(map(yaml_string, frames))}]")
    if name not in TOKENIZER_RECIPES:
        known = list(TOKENIZER_RECIPES)
        raise UserError(f"tokenizer {name!r}: {nearest(name, known)}expected one of {', '.join(known)}")
    loaded = load_recipe_of(TokenizerRecipe, recipe or TOKENIZER_RECIPES[name], TRAINER_RECIPES, overrides)
    if loaded.architecture.kind != name:
        raise UserError(
            f"recipe {recipe!r} trains a {loaded.architecture.kind}, not a {name}; name the same kind in both"
        )
    emit(launch(run, nproc, loaded, out, resume=resume, command=command_typed()), json_)
