"""`bevt tune`: what it tries, what it makes of a full memory, and the whole command on a tiny recipe."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import cli
from schemas.errors import UserError
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from tests.support.builders import make_token_set
from tests.support.json_keys import CheckKeys
from tests.support.pretraining import RECIPES, settings
from trainer.bench import tune as module
from trainer.bench.subject import made_subject
from trainer.bench.timed import Timed, timed_micro_batch
from trainer.bench.tune import Trials, doubled, step_trials, trials_of
from trainer.distributed.world import World

CPU = World(0, 1, torch.device("cpu"))


def trials(*overrides: str, processes: int = 1) -> Trials:
    recipe = load_recipe_of(PretrainRecipe, "nano_video", RECIPES, overrides)
    return trials_of(made_subject(recipe, "nowhere", CPU.device), CPU, processes, "recipe")


def test_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch of a step stays: each number of micro-batches divides a process's part of it."""
    monkeypatch.setattr(module, "usable_cpus", lambda: 16)
    assert doubled([1, 2, 3, 4, 6, 12]) == [12, 6, 3, 1]
    tried = trials("streams.video.global_batch=24", "loop.micro_batches=4", "loop.num_workers=5", processes=2)
    assert tried.numbers == [12, 6, 4, 3, 1] and tried.workers == [0, 1, 2, 4, 5]


def test_sizes_that_do_not_fit_are_tried_with_checkpointing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with room for 8 clips, or 16 with activation checkpointing; after one too large no larger one is tried."""
    tried: list[tuple[bool, int]] = []

    def timed(stepper: Any, subject: Any, sizes: Mapping[str, int]) -> Timed | None:
        tried.append((stepper, sizes["video"]))
        fits = sizes["video"] <= (16 if stepper else 8)
        return Timed(0.01 * sizes["video"], 0.001, 1.0) if fits else None

    monkeypatch.setattr(module, "timed_micro_batch", timed)
    monkeypatch.setattr(module, "stepper_of", lambda trials, checkpointed: checkpointed)
    monkeypatch.setattr(module, "estimate_gb", lambda trials, sizes, checkpointed: 0.0)
    found = list(step_trials(trials("loop.micro_batches=2")))
    results = [(trial.micro_batches, trial.activation_checkpointing, trial.result) for trial in found]
    plain = ["measured"] * 4 + ["does not fit"] * 2
    assert results == [
        *((number, False, result) for number, result in zip((32, 16, 8, 4, 2, 1), plain, strict=True)),
        (2, True, "measured"),
        (1, True, "does not fit"),
    ]
    assert [size for checkpointed, size in tried if not checkpointed] == [1, 2, 4, 8, 16]
    assert [trial.micro_batches for trial in found if trial.default] == [2]
    assert found[0].step_ms == pytest.approx(32 * 10 + 1) and found[0].samples_per_s == pytest.approx(32 / 0.321)

    monkeypatch.setattr(module, "LONGEST_S", 0.07)
    slow = list(step_trials(trials("loop.micro_batches=2")))
    assert [trial.result for trial in slow] == ["measured"] * 3 + ["too slow to try"] * 3


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_is_a_result(error: RuntimeError) -> None:
    def step(*arguments: object) -> None:
        raise error

    emptied: list[bool] = []
    optimizer = SimpleNamespace(zero_grad=lambda set_to_none: emptied.append(set_to_none))
    stepper: Any = SimpleNamespace(step=step, optimizer=optimizer, world=CPU)
    subject: Any = SimpleNamespace(batch=lambda sizes: {})
    assert timed_micro_batch(stepper, subject, {"video": 1}) is None and emptied == [True]
    error = ValueError("another fault")  # type: ignore[assignment]
    with pytest.raises(ValueError, match="another fault"):
        timed_micro_batch(stepper, subject, {"video": 1})


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["tune", *arguments], catch_exceptions=False)


def test_the_command_on_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_keys: CheckKeys) -> None:
    """Its overrides fit the recipe, which keeps its batch."""
    monkeypatch.setattr(module, "workers_to_try", lambda *arguments: [0])
    data = {"video": make_token_set(tmp_path / "videos", num_samples=8, sources_per_part=4)}
    small = settings(data, streams=("video",))
    overrides = [word for setting in small for word in ("--set", setting)]
    ran = run("nano_video", *overrides, "--seconds", "0.1", "--json")
    found = json.loads(ran.stdout.splitlines()[-1])
    json_keys("tune", found)
    assert [trial["samples"] for trial in found["steps"]] == [1, 2, 4]
    assert all(trial["result"] == "measured" for trial in found["steps"])
    assert found["step_speedup"] >= 1 and 0 <= found["loading"][0]["waiting_share"] < 1
    assert found["set"][-1] == "loop.num_workers=0"
    tuned = load_recipe_of(PretrainRecipe, "nano_video", RECIPES, [*small, *found["set"]])
    assert tuned.streams["video"].global_batch == 4 and 4 % tuned.loop.micro_batches == 0
    frames = str(data["video"].frames.path)
    planned = run("nano_finetune", "--frames", frames, "--set", "global_batch=4", "--dry-run", "--json")
    plan = json.loads(planned.stdout.splitlines()[-1])
    assert plan["data"] == frames and plan["micro_batches"] == [4, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["nano_video", "nano_finetune"])
def test_without_its_data_only_the_model_is_measured(recipe: str) -> None:
    key = "streams.video.global_batch" if recipe == "nano_video" else "global_batch"
    planned = run(recipe, "--set", f"{key}=2", "--dry-run", "--json")
    assert json.loads(planned.stdout.splitlines()[-1])["micro_batches"] == [2, 1]
    ran = run(recipe, "--set", f"{key}=2")
    assert "does not exist" in ran.stdout and "num_workers" not in ran.stdout.splitlines()[-1]
    assert ran.stdout.splitlines()[-1].startswith("fastest: --set loop.micro_batches=")


@pytest.mark.slow
def test_the_loaders_processes_are_tried(tmp_path: Path) -> None:
    data = {"video": make_token_set(tmp_path / "videos", num_samples=8, sources_per_part=4)}
    overrides = [word for setting in settings(data, streams=("video",)) for word in ("--set", setting)]
    found = json.loads(run("nano_video", *overrides, "--seconds", "0.2", "--json").stdout.splitlines()[-1])
    assert [trial["num_workers"] for trial in found["loading"]][:2] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nano_tokenizer"], "is of kind tokenizer; give one of bevt train or bevt finetune"),
        (["nano_video", "--frames", "x"], "the recipe 'nano_video' is for `bevt train`; give --video-tokens"),
        (["nano_finetune", "--video-tokens", "x"], "the recipe 'nano_finetune' is for `bevt finetune`; give --root"),
        (["nano_video", "--video-tokens", "nowhere"], "nowhere: no such token set"),
    ],
)
def test_what_cannot_be_tuned(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)
