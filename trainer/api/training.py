"""Load recipes by name and train with them from Python; with torchrun, every process calls the same functions.

Tokenizers are trained with `bevt tokenizer train`.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bevt_core.storage.descriptions import RECIPE
from schemas.recipes import FinetuneRecipe, PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from trainer.clips.sources import ClipSource
from trainer.finetune.stage import finetune
from trainer.pretrain.follow_tokens import follow_tokens
from trainer.pretrain.stage import pretrain
from trainer.pretrain.streams import STAGES
from trainer.recipes import TRAINER_RECIPES


def load_pretrain_recipe(name: str, overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Load a recipe of `bevt train` by name (a shipped one, such as `nano_joint`) or by the path of a .yaml file.

    `overrides` are `KEY=VALUE`, as in `--set`. Vocabulary size, patch size and clip length are adapted to the token
    sets, if these exist, unless an override sets them. Raises UserError for an unknown recipe, key or value, suggesting
    the closest name.
    """
    return follow_tokens(load_recipe_of(PretrainRecipe, name, TRAINER_RECIPES, overrides), overrides)[0]


def load_finetune_recipe(name: str, overrides: Sequence[str] = ()) -> FinetuneRecipe:
    """Load a recipe of `bevt finetune` by name (a shipped one, such as `nano_finetune`) or by the path of a .yaml file.

    `overrides` are `KEY=VALUE`, as in `--set`. Raises UserError as `load_pretrain_recipe` does.
    """
    return load_recipe_of(FinetuneRecipe, name, TRAINER_RECIPES, overrides)


def run_pretraining(recipe: PretrainRecipe, out: Path | str, *, resume: bool = False) -> dict[str, Any]:
    """Pretrain on the token sets of `recipe` and write the run directory `out`, as `bevt train` does.

    `resume` continues a stopped run. Returns `run`, `steps`, `step`, `finished`, `state`, `metrics` (of the last step)
    and `weights`. Raises UserError for token sets, weights or a directory that do not fit.
    """
    stage = next(name for name, streams in STAGES.items() if streams == set(recipe.streams))
    command = shlex.join(["bevt", "train", stage, "--recipe", str(Path(out) / RECIPE), "--out", str(out)])
    return pretrain(recipe, Path(out), resume=resume, command=command)


def run_finetuning(
    recipe: FinetuneRecipe, train: ClipSource, val: ClipSource, out: Path | str, *, resume: bool = False
) -> dict[str, Any]:
    """Train a classifier for the classes of `train` and write the run directory `out`, as `bevt finetune` does.

    `train` and `val` (`FileClips` or `StoreClips`) provide the clips; the recipe's `root` is not used. `resume`
    continues a stopped run. Returns the keys of `run_pretraining` and `num_train`, `num_val` and `unreadable` (files).
    Raises UserError for clips without labels, other classes in `val`, or weights or a directory that do not fit.
    """
    return finetune(recipe, train, val, Path(out), resume=resume, command="bevt_core.run_finetuning")
