"""Plans before the data exist: the known sets give the same plans as the real data."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import cli
import trainer.finetune.plan
import trainer.pretrain.plan
from bevt_core.known_sets import KNOWN_SETS, KnownSet, known_sets
from pipeline.recipes import PIPELINE_RECIPES
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe, PretrainRecipe, TokenizeRecipe
from schemas.recipes.loading import load_recipe_of
from tests.support.builders import make_token_set
from tests.support.json_keys import CheckKeys
from tests.support.pretraining import for_4x4_tokens
from trainer.finetune.plan import plan_finetuning
from trainer.pretrain.plan import plan_pretraining
from trainer.pretrain.stage import dry_run
from trainer.recipes import TRAINER_RECIPES
from trainer.setup.estimate import Machine, checkpoints_gb, with_price
from trainer.setup.memory import fit_memory

TINY = KnownSet("tiny", "video", "k400", 70, 2, 10, 1, 2, crop_px=64)


def bevt(*arguments: str) -> str:
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False).stdout


@pytest.mark.parametrize("name", KNOWN_SETS)
def test_known_sets_are_stored_as_the_recipes_say(name: str) -> None:
    known = KNOWN_SETS[name]
    recipe = load_recipe_of(TokenizeRecipe, known.recipe, PIPELINE_RECIPES)
    assert (known.stride, known.views, known.crop_px) == (
        recipe.pool.stride,
        recipe.views.num_views,
        recipe.views.crop_px,
    )
    assert known.frames // known.stride <= recipe.pool.max_frames


def test_kinetics_takes_what_the_cluster_guide_says() -> None:
    (k400,) = known_sets("k400")
    assert (round(k400.frames_gb), round(k400.tokens_gb)) == (247, 23)
    assert round(k400.tokenizer_flops / 30e12 / 3600) == 34  # GPU hours at 30 TFLOP/s


def test_an_assumed_set_gives_the_plan_of_the_real_one(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path, num_samples=70, frames=2)
    overrides = [*for_4x4_tokens("video"), "model.vocab_size=64", "loop.epochs=10"]
    overrides += [f"streams.video.tokens={tokens.path}"]
    recipe = load_recipe_of(PretrainRecipe, "nano_video", TRAINER_RECIPES, overrides)
    real = dry_run(recipe, processes=2, tflops=50.0)
    words, assumed = plan_pretraining(recipe, [TINY], Machine(2, 50.0, "recipe"))
    del real["dry_run"]
    estimated = real.pop("activation_bytes")  # includes what torch caches at the first count
    assert assumed["activation_bytes"] == pytest.approx(estimated, rel=0.05)
    assert real.items() <= assumed.items()
    assert "70 samples, 6 left out per epoch" in words and assumed["steps"] == 20


def test_a_fine_tuning_plan_has_price_and_disk(json_keys: CheckKeys) -> None:
    recipe = load_recipe_of(FinetuneRecipe, "nano_finetune", TRAINER_RECIPES)
    planned = plan_finetuning(recipe, TINY, Machine(2, 50.0, "recipe"))
    assert planned["steps"] == 6 and planned["memory_gb"] > planned["checkpoints_gb"] / 3 > 0
    priced = with_price(planned, 3.0)
    assert priced["price"] == pytest.approx(3.0 * 2 * planned["hours"]) and "price" not in planned
    command = ["finetune", "folder", "--dry-run", "--assume", "diving48", "--price-per-gpu-hour", "3", "--json"]
    summary = json.loads(bevt(*command).splitlines()[-1])
    json_keys("finetune --dry-run --assume", summary)
    assert summary["steps"] == 3 * (15_027 // 32) and summary["assumed"]["diving48"]["samples"] == 15_027


def test_checkpoints_have_weights_and_moments() -> None:
    weights = torch.zeros(1000)
    state_bytes = 4 * weights.nbytes  # with gradients
    assert checkpoints_gb(state_bytes, None, kept=2) == pytest.approx((2 * 3 + 1) * weights.nbytes / 1e9)
    assert checkpoints_gb(5 * weights.nbytes, 0.99, kept=1) == pytest.approx((4 + 1) * weights.nbytes / 1e9)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "joint", "--dry-run", "--assume", "k400"], "the recipe has the streams image, video"),
        (["train", "video", "--dry-run", "--assume", "k400,in1k"], "the recipe has the streams video; name one"),
        (["train", "video", "--assume", "k400"], "--assume k400: only for a plan; add --dry-run"),
        (["finetune", "k400", "--price-per-gpu-hour", "2"], "--price-per-gpu-hour 2.0: only for a plan"),
        (["finetune", "k400", "--dry-run", "--assume", "in1k"], "in1k has pictures"),
        (["plan", "ucf101"], "unknown data set 'ucf101'; expected one of k400, in1k, ssv2, diving48"),
    ],
)
def test_what_cannot_be_planned_is_refused(command: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bevt(*command)


def test_a_plan_for_small_gpus_names_the_size_that_every_stage_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(recipe: PretrainRecipe | FinetuneRecipe, *_: object) -> Any:
        fit_memory(lambda *_: 3.0 if "joint" in recipe.title.lower() else 1.0, [1], 2.0, 8)

    monkeypatch.setattr(trainer.pretrain.plan, "plan_pretraining", too_large)
    monkeypatch.setattr(trainer.finetune.plan, "plan_finetuning", too_large)
    message = "^train joint_swin_base_k400_in1k: a step takes about 3 GB .* use GPUs with at least 6 GB$"
    with pytest.raises(UserError, match=message):
        bevt("plan", "k400", "--memory-gb", "2")


@pytest.mark.parametrize(("name", "steps"), [("in1k", 2), ("k400", 5), ("ssv2", 5)])
def test_the_plan_of_a_set(name: str, steps: int, monkeypatch: pytest.MonkeyPatch, json_keys: CheckKeys) -> None:
    numbers: dict[str, Any] = {"hours": 10.0, "processes": 4, "memory_gb": 30.0, "micro_batches": 1}
    numbers |= {"flops_total": 1.0, "checkpoints_gb": 2.0}
    monkeypatch.setattr(trainer.pretrain.plan, "plan_pretraining", lambda *arguments: ("", numbers))
    monkeypatch.setattr(trainer.finetune.plan, "plan_finetuning", lambda *arguments: numbers)
    plan = json.loads(bevt("plan", name, "--gpus", "4", "--price-per-gpu-hour", "2", "--json"))
    json_keys("plan", plan)
    assert len(plan["steps"]) == steps and plan["steps"][-1]["price"] == 80.0
    assert plan["total"]["disk_gb"] == pytest.approx(sum(step["disk_gb"] for step in plan["steps"]))
    table = bevt("plan", name, "--gpus", "4")
    assert "h on 4 GPUs" in table and "price" not in table and "30 TFLOP/s (assumed)" in table


@pytest.mark.slow
def test_the_real_plan_of_kinetics() -> None:
    plan = json.loads(bevt("plan", "k400", "--gpus", "32", "--json"))
    hours = {step["step"]: step["hours"] for step in plan["steps"]}
    assert hours["train image_swin_base_in1k"] == pytest.approx(8.9, rel=0.02)  # docs/how-to/many-nodes.md
    assert all(step["memory_gb"] is None or step["memory_gb"] < 80 for step in plan["steps"])
