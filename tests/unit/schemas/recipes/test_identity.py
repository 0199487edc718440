"""Recipe keys that may differ when a run is resumed: exactly those whose types declare them free."""

from pathlib import Path

import pytest

from schemas.recipes import Execution, LoopConfig
from schemas.recipes.identity import identity_fields
from schemas.recipes.loading import load_recipe
from trainer.runs.directory import flat

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"
VIEWS = "{crop_px: 64, short_side_min_px: 72, short_side_max_px: 80, flip_share: 0.5, jitter: 0.0}"
ONLINE = f"streams.image.tokens={{frames: store, tokenizer: dalle, views: {VIEWS}}}"
PROBE = "probe={frames: store, every: 5, crop_px: 64, short_side_px: 72}"
LOOP = {f"loop.{key}" for key in Execution.model_fields}
PROBE_KEYS = ("frames", "every", "kinds", "crop_px", "short_side_px", "val_share", "neighbours", "temperature")
FREE = {  # by recipe and settings; pinned, since earlier checkpoints record the other keys
    ("nano_joint",): {"title", "init", "tokenizer", "probe", "streams.video.tokens", "streams.image.tokens"},
    ("nano_image", ONLINE, PROBE): {"title", "init", "tokenizer"}
    | {f"streams.image.tokens.{key}" for key in ("frames", "tokenizer")}
    | {f"probe.{key}" for key in PROBE_KEYS},
    ("nano_finetune",): {"title", "init", "root", "decode_timeout_s"},
    ("tokenizer_dvae",): {"title", "frames"},
    ("tokenizer_peco",): {"title", "frames", "architecture.perceptual.weights"},
}


@pytest.mark.parametrize("settings", FREE)
def test_all_keys_decide_a_run_but_places_names_execution_and_probes(settings: tuple[str, ...]) -> None:
    recipe = load_recipe(settings[0], RECIPES, settings[1:])
    plain = flat(recipe.model_dump(mode="json"))
    found = identity_fields(recipe)
    assert plain.keys() - found.keys() == FREE[settings] | LOOP
    assert found == {key: plain[key] for key in plain if key in found}


def test_execution_is_all_of_the_loop_but_its_numbers() -> None:
    assert LoopConfig.model_fields.keys() - Execution.model_fields.keys() == {"epochs", "seed", "precision"}
    assert next(iter(LoopConfig.model_fields)) == "epochs", "recipe.yaml begins with what decides numbers"
    loop = LoopConfig(epochs=1, seed=0, precision="fp32", checkpoint_every=1)
    assert identity_fields(loop) == {"epochs": 1.0, "seed": 0, "precision": "fp32"}
