"""The shipped recipes of fine-tuning and tokenizers: complete, and with the settings that they claim."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from schemas.errors import UserError
from schemas.recipes import DvaeTraining, FinetuneRecipe, PecoTraining, TokenizerRecipe
from schemas.recipes.loading import load_recipe, recipe_names
from trainer.engine.optim import param_groups
from trainer.finetune.model import build_from_recipe, lr_share
from trainer.runs.directory import identity_of
from trainer.tokenizer.stage import sizes_of
from trainer.tokenizer.tasks import ARCHITECTURES

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"
LOADED = {name: load_recipe(name, RECIPES) for name in recipe_names(RECIPES)}
FINETUNE = {name: recipe for name, recipe in LOADED.items() if isinstance(recipe, FinetuneRecipe)}


def test_the_papers_data_sets_have_recipes() -> None:
    assert {recipe.dataset for recipe in FINETUNE.values()} >= {"k400", "ssv2", "diving48"}


def test_swin_b_has_the_papers_size() -> None:
    with torch.device("meta"):
        k400, ssv2 = (build_from_recipe(FINETUNE[f"finetune_{name}_swin_base"], 400) for name in ("k400", "ssv2"))
    assert sum(p.numel() for p in k400.parameters()) == 88_048_984  # torchvision's swin3d_b; the paper rounds to 88.1 M
    in_tables = 13 * 13 * (4 * 2 + 8 * 2 + 16 * 18 + 32 * 2)  # per temporal distance; windows of 16 have 16 more
    assert sum(p.numel() for p in ssv2.parameters()) == 88_048_984 + 16 * in_tables


def test_k400_decays_the_learning_rate_over_28_layers() -> None:
    recipe = FINETUNE["finetune_k400_swin_base"]
    with torch.device("meta"):
        model = build_from_recipe(recipe, num_classes=400)
    shares = {group["lr_share"] for group in param_groups(model, recipe.optim.weight_decay, lr_share(recipe))}
    assert len(shares) == 29 and max(shares) == 1.0 and min(shares) == pytest.approx(0.9**28)


def test_averaged_weights_keep_the_shares_of_their_names() -> None:
    share = lr_share(FINETUNE["finetune_ssv2_swin_base"])
    assert share("model.encoder.stages.0.blocks.0.mlp.fc1.weight") == share("stem.proj.weight") == 0.1
    assert share("model.fc.weight") == share("fc.weight") == 1.0


def test_a_resume_may_change_only_paths_and_execution() -> None:
    def identity(*overrides: str) -> dict:
        return identity_of(load_recipe("nano_finetune", RECIPES, overrides), {})

    free = ("root=elsewhere", "init=other", "loop.num_workers=3", "loop.hang_timeout_s=9", "loop.processes=2")
    assert identity(*free) == identity()
    for override in ("sampling.frames=16", "augment.crop_px=48", "loop.seed=1", "optim.lr=0.5"):
        assert identity(override) != identity()


def test_tokenizer_recipes_name_presets() -> None:
    recipes = [recipe for recipe in LOADED.values() if isinstance(recipe, TokenizerRecipe)]
    assert {recipe.architecture.kind for recipe in recipes} == set(ARCHITECTURES)
    assert all(recipe.input_px % sizes_of(recipe).stride == 0 for recipe in recipes)


@pytest.mark.parametrize("name", ["nano_tokenizer", "nano_peco"])
def test_a_tokenizer_has_the_vocabulary_of_its_recipe_or_of_its_preset(name: str) -> None:
    other, none = (load_recipe(name, RECIPES, [f"architecture.vocab_size={size}"]) for size in ("100", "null"))
    preset = ARCHITECTURES[none.architecture.kind].presets["nano"]
    assert sizes_of(none) == preset and preset.vocab_size != 100
    assert sizes_of(other) == preset.model_copy(update={"vocab_size": 100})
    assert sizes_of(LOADED["nano_tokenizer"]).vocab_size == LOADED["nano_joint"].model.vocab_size == 64
    with pytest.raises(UserError, match=r"architecture\.vocab_size: .* 2 to 65536 \(given 0\)"):
        load_recipe(name, RECIPES, ["architecture.vocab_size=0"])


def test_every_architecture_of_the_recipes_can_be_trained() -> None:
    assert set(ARCHITECTURES) == {
        get_args(kind.model_fields["kind"].annotation)[0] for kind in (DvaeTraining, PecoTraining)
    }
    with pytest.raises(UserError, match="did you mean 'paper'"):
        sizes_of(load_recipe("tokenizer_peco", RECIPES, ["architecture.preset=papre"]))


@pytest.mark.parametrize(
    "override, message",
    [
        ("views.clips=4", "uniform sampling spans the video"),
        ("views.short_side_px=128", "below augment.crop_px 224"),
        ("sampling.frames=31", "not a multiple of the encoder's 2"),
        ("augment.area_share=[1.0,0.2]", "must ascend"),
    ],
)
def test_invalid_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("finetune_ssv2_swin_base", RECIPES, [override])
