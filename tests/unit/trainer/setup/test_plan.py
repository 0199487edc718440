"""Plans of all stages: a run and a dry run of the same workload have the same plan."""

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe, PretrainRecipe, TokenizerRecipe
from schemas.recipes.loading import load_recipe_of
from trainer.data.order import StreamOrder
from trainer.distributed.world import World
from trainer.finetune.plan import Videos, finetune_workload
from trainer.pretrain.plan import pretrain_workload
from trainer.setup.cost import SampleCost, TrainingCost
from trainer.setup.memory import OUTSIDE_GB, USABLE_SHARE
from trainer.setup.plan import Workload, make_plan, show_plan
from trainer.setup.session import Session
from trainer.tokenizer.stage import sizes_of, tokenizer_workload

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"
STAGES = ("pretrain", "finetune", "tokenizer")
COST_KEYS = {"flops_total", "hours", "tflops", "model_flops", "flops", "state_bytes", "activation_bytes"}


def workload_of(stage: str) -> Workload[Any]:
    """Return the workload of a stage's nano recipe, batch 4 of 24 samples; nothing is counted."""
    settings = ["global_batch=4", "loop.max_steps=3", "loop.epochs=2"]
    if stage == "tokenizer":
        recipe = load_recipe_of(TokenizerRecipe, "tokenizer_dvae", RECIPES, [*settings, "samples_per_epoch=24"])
        return tokenizer_workload(recipe, 1_000_000, sizes_of(recipe), 24)
    name = "video" if stage == "pretrain" else "class"
    cost = TrainingCost({name: SampleCost(1e9, 1e9, 1e9)}, state_bytes=10**9)
    if stage == "finetune":
        tuned = load_recipe_of(FinetuneRecipe, "nano_finetune", RECIPES, settings)
        return replace(finetune_workload(tuned, Videos(24, 6, 2)), cost=lambda checkpointing: cost)
    settings[0] = "streams.video.global_batch=4"
    video = load_recipe_of(PretrainRecipe, "nano_video", RECIPES, settings)
    order = StreamOrder(np.full(3, 8), 4, 2, (0, "video"))
    return replace(pretrain_workload(video, {"video": order}, {"video": 64}), cost=lambda checkpointing: cost)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_has_the_plan_that_its_dry_run_prints(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workload = workload_of(stage)
    numbers = show_plan(workload, processes=1, tflops=50.0)
    shown = capsys.readouterr().out
    assert numbers["dry_run"] and numbers["steps"] == 3 and numbers["processes"] == numbers["micro_batches"] == 1
    assert COST_KEYS & numbers.keys() == (COST_KEYS if workload.cost is not None else set())
    session = Session(tmp_path / "run", World(0, 1, torch.device("cpu")), False, "bevt", ExitStack())
    plan = session.plan(workload)
    session.begin(plan, {}, tflops=50.0)
    assert plan == make_plan(workload, 1) and plan.schedule.total_steps == 12
    printed = capsys.readouterr().out
    assert printed == re.sub(r"; \S+ \w+ at 50 TFLOP/s per process", "", shown.replace("any device", "cpu"))
    assert ("at 50 TFLOP/s" in shown) == (workload.cost is not None) and "at 50 TFLOP/s" not in printed
    assert "times 1 " not in printed  # a factor without effect


@pytest.mark.parametrize("stage", STAGES)
def test_batches_that_leave_processes_without_samples_are_refused(stage: str) -> None:
    with pytest.raises(UserError, match=r"a global batch of 4 on 5 process\S* in 1 micro-batch\S* leaves some"):
        make_plan(workload_of(stage), 5)


@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_fit_the_memory_where_samples_are_counted(stage: str) -> None:
    memory_gb = OUTSIDE_GB + 3.1 / USABLE_SHARE  # 1 GB of state and two samples
    plan = make_plan(workload_of(stage), 1, memory_gb)
    assert plan.micro_batches == (1 if stage == "tokenizer" else 2)
    assert (plan.reason is None) == (stage == "tokenizer")
    assert plan.recipe.loop.micro_batches == plan.micro_batches
