"""Recipes by name, and the training that they describe, from Python. Every process of a job (torchrun) calls the same.

The other stage, the training of tokenizers, is `bevt tokenizer train`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.recipes import FinetuneRecipe, PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from trainer.clips.sources import ClipSource
from trainer.finetune.stage import finetune
from trainer.pretrain.follow_tokens import follow_tokens
from trainer.pretrain.stage import pretrain
from trainer.pretrain.streams import STAGES

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def load_pretrain_recipe(name: str, overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Load a recipe of `bevt train`: the name of a shipped one, such as `nano_joint`, or the path of a .yaml file.

    `overrides` are `KEY=VALUE` as for `--set`. Vocabulary, patch size and clip length follow from the token sets, where
    these exist and no override sets them. Raises UserError for an unknown recipe, key or value, with the nearest valid
    name.
    """
    return follow_tokens(load_recipe_of(PretrainRecipe, name, RECIPES, overrides), overrides)[0]


def load_finetune_recipe(name: str, overrides: Sequence[str] = ()) -> FinetuneRecipe:
    """Load a recipe of `bevt finetune`: the name of a shipped one, such as `nano_finetune`, or a .yaml file's path.

    `overrides` are `KEY=VALUE` as for `--set`. Raises UserError as `load_pretrain_recipe`.
    """
    return load_recipe_of(FinetuneRecipe, name, RECIPES, overrides)


def run_pretraining(recipe: PretrainRecipe, out: Path | str, *, resume: bool = False) -> dict[str, Any]:
    """Pretrain on the token sets of `recipe` into the run directory `out`, as `bevt train` does.

    `resume` continues a stopped run. Returns `run`, `steps`, `step`, `finished`, `state`, `metrics` (of the last step)
    and `weights`. Raises UserError for token sets, weights or a directory that do not fit.
    """
    stage = next(name for name, streams in STAGES.items() if streams == set(recipe.streams))
    command = f"bevt train {stage} --recipe {Path(out) / 'recipe.yaml'} --out {out}"
    return pretrain(recipe, Path(out), resume=resume, command=command)


def run_finetuning(
    recipe: FinetuneRecipe, train: ClipSource, val: ClipSource, out: Path | str, *, resume: bool = False
) -> dict[str, Any]:
    """Train a classifier of the classes of `train` into the run directory `out`, as `bevt finetune` does.

    The clips are read from `train` and `val` (`FileClips`, `StoreClips`); the recipe's `root` is not used. `resume`
    continues a stopped run. Returns what `run_pretraining` does, `num_train`, `num_val` and `unreadable` (files).
    Raises UserError for clips without labels, other classes in `val`, or weights or a directory that do not fit.
    """
    return finetune(recipe, train, val, Path(out), resume=resume, command="trainer.run_finetuning")
