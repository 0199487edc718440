"""The choice of micro-batches that fit a GPU, its reason, and that it does not change a run's identity."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe, LoopConfig, MixConfig, PretrainRecipe
from schemas.recipes.loading import load_recipe
from trainer.commands.options import memory_of
from trainer.finetune.plan import Videos, finetune_workload
from trainer.finetune.task import TERM
from trainer.runs.directory import identity_of
from trainer.setup.cost import SampleCost, TrainingCost
from trainer.setup.memory import (
    OUTSIDE_GB,
    USABLE_SHARE,
    fit_loop,
    fit_memory,
    memory_gb_of,
    possible_micro_batches,
    shards_of,
)
from trainer.setup.plan import make_plan

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"
BATCH = {"video": 256, "image": 2048}


def swin_b(checkpointing: bool) -> TrainingCost:
    """Return the cost of the joint step of Swin-B under bf16, to two digits; test_pretrain_recipes.py counts it."""
    clip_gb, image_gb = (0.28, 0.031) if checkpointing else (1.3, 0.13)
    samples = {
        "video": SampleCost(0.95e12, 1.2e12, clip_gb * 1e9),
        "image": SampleCost(0.1e12, 0.13e12, image_gb * 1e9),
    }
    return TrainingCost(samples, state_bytes=1_750_000_000)


def chosen(memory_gb: float, processes: int, **loop: object) -> tuple[int, bool]:
    config = load("joint_swin_base_k400_in1k").loop.model_copy(update=loop)
    possible = possible_micro_batches(BATCH.values(), processes)
    fitted, _ = fit_loop(config, swin_b, BATCH, possible, memory_gb, processes)
    assert fitted.processes == processes
    return fitted.micro_batches, fitted.activation_checkpointing


def load(name: str, *overrides: str) -> PretrainRecipe:
    recipe = load_recipe(name, RECIPES, overrides)
    assert isinstance(recipe, PretrainRecipe)
    return recipe


@pytest.mark.parametrize(
    "memory_gb, processes, expected",
    [
        (80, 8, (2, False)),  # 16 clips + 128 images
        (141, 8, (1, False)),
        (80, 32, (1, False)),
        (32, 8, (4, False)),  # 8 + 64
        (24, 8, (8, False)),  # 4 + 32
        (8, 32, (8, False)),  # 1 + 8
        (6, 32, (4, True)),
    ],
)
def test_the_fewest_micro_batches_without_checkpointing_come_first(
    memory_gb: float, processes: int, expected: tuple[int, bool]
) -> None:
    assert chosen(memory_gb, processes) == expected


def test_the_choice_fits_and_the_reason_names_what_does_not() -> None:
    def peak_gb(number: int, checkpointing: bool) -> float:
        return 2 + (8 if checkpointing else 40) / number

    memory_gb = OUTSIDE_GB + 10 / USABLE_SHARE
    assert fit_memory(peak_gb, [1, 2, 4, 5], memory_gb, 8)[:2] == (5, False)
    fitting = fit_memory(peak_gb, [1, 2, 4], memory_gb, 8)
    assert fitting[:2] == (1, True)
    assert fitting.reason == (
        "1 micro-batch with activation checkpointing: about 10 of 10 usable GB on a GPU of 13.76 GB; "
        "4 without activation checkpointing would take 12 GB"
    )
    with pytest.raises(
        UserError, match=r"takes about 4 GB on each of 8 .* even in 4 micro-batch.* 1.7 of 4 GB .* at least 7 GB"
    ):
        fit_memory(peak_gb, [1, 2, 4], 4.0, 8)
    with pytest.raises(UserError, match=r"but 0 of 1 GB are usable"):
        fit_memory(peak_gb, [1, 2, 4], 1.0, 8)
    fit_memory(peak_gb, [1, 2, 4], 7.0, 8)


def test_batches_are_split_into_equal_micro_batches_if_possible() -> None:
    assert possible_micro_batches(BATCH.values(), 8) == [1, 2, 4, 8, 16, 32]
    assert possible_micro_batches([8, 64], 1) == [1, 2, 4, 8]
    assert possible_micro_batches([7, 64], 1) == [1, 2, 3, 4, 5, 6, 7]  # only 1 divides both equally
    assert possible_micro_batches([256], 3) == list(range(1, 86))
    assert possible_micro_batches([4], 8) == [1]


def test_pairs_of_mixup_stay_together() -> None:
    recipe = load_recipe("finetune_k400_swin_base", RECIPES)
    assert isinstance(recipe, FinetuneRecipe)
    mixed = recipe.model_copy(update={"mix": MixConfig(mixup_alpha=0.8, cutmix_alpha=1.0)})
    cost = TrainingCost({TERM: SampleCost(1e12, 1e12, 5e9)}, state_bytes=1_400_000_000)
    memory_gb = OUTSIDE_GB + 12 / USABLE_SHARE

    def fitted(recipe: FinetuneRecipe, memory_gb: float) -> int:
        workload = replace(finetune_workload(recipe, Videos(1000, 0, 400)), cost=lambda checkpointing: cost)
        return make_plan(workload, 8, memory_gb).micro_batches

    assert fitted(mixed, memory_gb) == 4 and fitted(recipe, memory_gb - 4) == 8
    with pytest.raises(UserError, match="even in 4 micro-batch"):
        fitted(mixed, memory_gb - 4)


def test_shards_spread_the_state() -> None:
    loop = LoopConfig(epochs=1, seed=0, precision="bf16", num_workers=0, checkpoint_every=1, parallel="fsdp")
    assert shards_of(loop, 8) == 8 and shards_of(loop.model_copy(update={"parallel": "ddp"}), 8) == 1
    whole, sharded = (swin_b(False).step(BATCH, {"video": 8, "image": 64}, shards) for shards in (1, 8))
    assert whole.state_bytes == 8 * sharded.state_bytes and whole.activation_bytes == sharded.activation_bytes


def test_the_identity_of_a_run_does_not_depend_on_its_gpu() -> None:
    recipe = load("joint_swin_base_k400_in1k")
    fitted = [
        recipe.model_copy(update={"loop": fit_loop(recipe.loop, swin_b, BATCH, [1, 2, 4, 8], memory_gb, n)[0]})
        for memory_gb, n in ((80.0, 8), (12.0, 32))
    ]
    assert fitted[0].loop != fitted[1].loop
    assert identity_of(fitted[0], {}) == identity_of(fitted[1], {}) == identity_of(recipe, {})


def test_the_memory_of_the_gpu_is_used_unless_the_recipe_is_overridden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert memory_of(None, ["optim.lr=1e-3"]) == "gpu" and memory_of(80.0, None) == 80.0
    assert memory_of(None, ["loop.micro_batches=4"]) == "recipe"
    assert memory_of(80.0, ["loop.activation_checkpointing=true"]) == "recipe"
    assert "--memory-gb 80 is ignored because of --set loop.activation_checkpointing=true" in capsys.readouterr().err
    assert memory_gb_of("recipe") is None and memory_gb_of("gpu") is None and memory_gb_of(32.0) == 32.0

    class Properties:
        total_memory = 85_000_000_000

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert memory_gb_of("gpu") == 85.0
