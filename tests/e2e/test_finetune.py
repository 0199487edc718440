"""Fine-tuning and tokenizer training as a user runs them: from a pretrained run, in processes, killed and resumed."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import trainer.testing.evaluate
from bevt_core.dataset.token_set import TokenSet
from bevt_core.models.build import build_bevt
from bevt_core.models.counting import flops
from bevt_core.tokenizers import load_tokenizer
from bevt_core.weights.model_files import load_weights, save_weights
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe, TokenizerRecipe
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.finetuning import TINY, recipe_of
from tests.support.json_keys import CheckKeys
from tests.support.tiny_jobs import only
from trainer.clips.sources import StoreClips
from trainer.clips.split import split_items
from trainer.distributed.launch import launch
from trainer.finetune.model import build_from_recipe
from trainer.finetune.stage import dry_run, finetune
from trainer.metrics.log import read_metrics
from trainer.testing.evaluate import evaluate
from trainer.testing.extract import extract
from trainer.tokenizer.frame_crops import held_out_sources
from trainer.tokenizer.stage import METRICS, train_tokenizer

RECIPES = Path(__file__).parents[2] / "trainer" / "recipes"
SIZES = {"embed_dim": 16, "num_heads": (1, 2, 4), "depths": (1, 1, 1), "patch": (2, 8, 8), "vocab_size": 64}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return make_token_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def halves(tokens: TokenSet) -> tuple[StoreClips, StoreClips]:
    source = StoreClips(tokens.frames.path)
    train, val = split_items(source.items, 0.25, seed=0)
    return source.subset(train), source.subset(val)


def losses(run: Path) -> list[float]:
    return [line["class_loss"] for line in read_metrics(run)]


def test_a_run_ends_in_a_model_that_evaluates(halves: tuple[StoreClips, StoreClips], tmp_path: Path) -> None:
    train, val = halves
    summary = finetune(recipe_of("views.clips=2"), train, val, tmp_path / "run")
    assert summary["finished"] and summary["step"] == 8 and summary["num_train"] == 18 and summary["num_val"] == 6
    last = read_metrics(tmp_path / "run")[-1]
    assert last["val_videos"] == 6 and 0 <= last["val_mean_class"] <= 1 and summary["unreadable"] == []
    tested = evaluate(tmp_path / "run", val, clips=1, crops=1)
    assert tested["top1"] == pytest.approx(last["val_top1"]) and tested["num_videos"] == 6
    assert evaluate(tmp_path / "run", val)["views"] == "2x1"
    card = json.loads((tmp_path / "run" / "classifier.json").read_text())
    assert card["classes"] == ["no", "yes"]


def test_a_dry_run_prints_the_plan(halves: tuple[StoreClips, StoreClips], capsys: pytest.CaptureFixture[str]) -> None:
    train, val = halves
    recipe = recipe_of("loop.max_steps=3")
    plan = dry_run(recipe, train, val, processes=2, tflops=50.0)
    shown = capsys.readouterr().out
    assert f"{len(train.items)} videos of 2 classes to train on" in shown and "learning rate" in shown
    assert plan["steps"] == 3 and plan["clips_seen"] == 3 * recipe.global_batch and plan["processes"] == 2
    assert plan["hours"] == pytest.approx(3 * plan["flops"] / (2 * 50e12) / 3600)
    model = build_from_recipe(recipe, 2)
    clip_BCTHW = torch.zeros(1, 3, recipe.sampling.frames, recipe.augment.crop_px, recipe.augment.crop_px)
    counted = flops(lambda: model(clip_BCTHW).sum().backward())
    assert plan["flops"] == pytest.approx(recipe.global_batch * counted, rel=0.05)  # torch's CPU attention counts less
    assert plan["state_bytes"] == 16 * sum(p.numel() for p in model.parameters())


def test_sigterm_in_a_validation_ends_it_and_resume_repeats_it(
    halves: tuple[StoreClips, StoreClips], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the average of the weights, which a checkpoint written before the validation has too."""
    train, val = halves
    recipe = recipe_of("ema_decay=0.9", "validate_every_epochs=0.7", "loop.max_steps=4")
    finetune(recipe, train, val, tmp_path / "whole")
    scored, real = [], trainer.testing.evaluate.score

    def signalled(model: Any, views_BTHWC: torch.Tensor, num_videos: int) -> Any:
        scored.append(num_videos)
        if len(scored) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(model, views_BTHWC, num_videos)

    monkeypatch.setattr(trainer.testing.evaluate, "score", signalled)
    summary = finetune(recipe, train, val, tmp_path / "cut")
    assert (summary["step"], summary["finished"], summary["weights"]) == (3, False, None)
    assert scored == [1, 1], "batches of a video each: it ends after the one in which the signal came"
    finetune(recipe, train, val, tmp_path / "cut", resume=True)
    logged = ("step", "loss", "grad_norm", "val_top1", "val_mean_class", "val_videos")
    whole, cut = (
        [{key: line.get(key) for key in logged} for line in read_metrics(tmp_path / name)] for name in ("whole", "cut")
    )
    assert cut == whole and [line["step"] for line in whole if line["val_videos"]] == [2, 3]
    weights = [load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
def test_a_resumed_run_and_two_processes_give_the_same_losses(
    halves: tuple[StoreClips, StoreClips], tmp_path: Path
) -> None:
    train, val = halves
    mixed = ("mix.mixup_alpha=0.8", "mix.cutmix_alpha=1.0")
    whole = finetune(recipe_of(*mixed), train, val, tmp_path / "whole")
    finetune(recipe_of(*mixed, "loop.max_steps=5"), train, val, tmp_path / "cut")
    finetune(recipe_of(*mixed), train, val, tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    pair = launch(finetune, 2, recipe_of(*mixed), train, val, tmp_path / "pair")
    np.testing.assert_allclose(losses(tmp_path / "pair"), losses(tmp_path / "whole"), rtol=1e-4)
    assert pair["metrics"]["val_top1"] == whole["metrics"]["val_top1"]


@pytest.mark.parametrize("streams", [("video", "image"), ("video",), ("image",)])
def test_it_starts_from_any_pretraining(
    streams: tuple[str, ...], halves: tuple[StoreClips, StoreClips], tmp_path: Path
) -> None:
    pretrained = build_bevt(**SIZES, window=(2, 4, 4), streams=streams)
    save_weights(tmp_path / "weights.safetensors", pretrained)
    recipe = recipe_of("loop.max_steps=1", "optim.lr=1e-12", f"init={tmp_path}", "encoder.window=[4,4,4]")
    finetune(recipe, *halves, tmp_path / "run")
    tuned = load_weights(tmp_path / "run" / "weights.safetensors").state_dict()
    key = "stages.2.blocks.0.mlp.fc1.weight"
    torch.testing.assert_close(tuned[f"encoder.{key}"], pretrained.state_dict()[f"encoders.shared.{key}"])
    table = "encoder.stages.0.blocks.0.attn.relative_position_bias_table"
    assert len(tuned[table]) == 7**3


@pytest.mark.parametrize("streams", [("video", "image"), ("image",)])
def test_timesformer_starts_from_its_pretraining(
    streams: tuple[str, ...], halves: tuple[StoreClips, StoreClips], tmp_path: Path
) -> None:
    sizes = {"embed_dim": 12, "depth": 2, "num_heads": 2, "grid": (4, 4, 4), "patch": (1, 16, 16)}
    pretrained = build_bevt(encoder="timesformer", **sizes, vocab_size=64, streams=streams)
    save_weights(tmp_path / "weights.safetensors", pretrained)
    encoder = json.dumps({"kind": "timesformer", **sizes, "drop_path": 0.0})
    small = [key for key in TINY if not key.startswith("encoder.")]
    changes = [*small, f"encoder={encoder}", f"init={tmp_path}", "loop.max_steps=1", "optim.lr=1e-12"]
    recipe = load_recipe("nano_finetune", RECIPES, [*changes, "loop.activation_checkpointing=true"])
    assert isinstance(recipe, FinetuneRecipe)
    finetune(recipe, *halves, tmp_path / "run")
    tuned = load_weights(tmp_path / "run" / "weights.safetensors").state_dict()
    for key in ("time_embedding", "blocks.1.attn_time.qkv.weight"):
        torch.testing.assert_close(tuned[f"encoder.{key}"], pretrained.state_dict()[f"encoders.shared.{key}"])
    with pytest.raises(UserError, match="depth is 2, but the recipe's model has 3"):
        finetune(load_recipe("nano_finetune", RECIPES, [*changes, "encoder.depth=3"]), *halves, tmp_path / "other")  # type: ignore[arg-type]


@pytest.mark.slow
def test_it_starts_from_another_fine_tuning(halves: tuple[StoreClips, StoreClips], tmp_path: Path) -> None:
    finetune(recipe_of("loop.max_steps=1"), *halves, tmp_path / "first")
    finetune(recipe_of("loop.max_steps=1", f"init={tmp_path / 'first'}"), *halves, tmp_path / "second")


def test_averaged_weights_are_what_is_stored(halves: tuple[StoreClips, StoreClips], tmp_path: Path) -> None:
    options = ["loop.max_steps=4", "loop.checkpoint_every=1", "loop.keep_checkpoints=4", "optim.warmup_epochs=0"]
    finetune(recipe_of(*options, "ema_decay=0.5"), *halves, tmp_path / "averaged")
    finetune(recipe_of(*options), *halves, tmp_path / "plain")
    assert losses(tmp_path / "averaged") == losses(tmp_path / "plain")
    steps = [
        load_file(path / "weights.safetensors")["fc.weight"]
        for path in sorted((tmp_path / "plain" / "checkpoints").glob("step-*"))
    ]
    torch.manual_seed(recipe_of().loop.seed)
    average = build_from_recipe(recipe_of(), 2).fc.weight.detach()
    for weight in steps:
        average = 0.5 * average + 0.5 * weight
    stored = load_weights(tmp_path / "averaged" / "weights.safetensors").state_dict()
    torch.testing.assert_close(stored["fc.weight"], average)


def test_weights_of_another_architecture_are_refused(halves: tuple[StoreClips, StoreClips], tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.safetensors", build_bevt(**{**SIZES, "embed_dim": 32, "patch": (2, 4, 4)}))
    differs = (
        r"embed_dim is 32, but the recipe's model has 16; patch is \[2, 4, 4\], but the recipe's model has "
        r"\[2, 8, 8\]; take the checkpoint's encoder with `encoder.embed_dim=32` `encoder.patch=\[2,4,4\]`"
    )
    for init, message in ((tmp_path, differs), ("nowhere", "no such file")):
        with pytest.raises(UserError, match=message):
            finetune(recipe_of(f"init={init}"), *halves, tmp_path / "run")
        with pytest.raises(UserError, match=message):
            dry_run(recipe_of(f"init={init}"), *halves, processes=1)
    assert not (tmp_path / "run").exists()
    overrides = ("encoder.embed_dim=32", "encoder.patch=[2,4,4]")
    assert dry_run(recipe_of(f"init={tmp_path}", *overrides), *halves, processes=1)["dry_run"]


def test_features_are_those_that_evaluation_scores(halves: tuple[StoreClips, StoreClips], tmp_path: Path) -> None:
    _, val = halves
    finetune(recipe_of("loop.max_steps=1"), *halves, tmp_path / "run")
    evaluate(tmp_path / "run", val, out=tmp_path / "scores")
    summary = extract(tmp_path / "run", val, tmp_path / "pooled.parquet")
    assert summary["num_videos"] == 6 and summary["num_failed"] == 0
    features = pq.read_table(tmp_path / "pooled.parquet").to_pydict()
    model = load_weights(tmp_path / "run" / "weights.safetensors")
    with torch.no_grad():
        scores = model.fc(torch.tensor(features["features"])[:, 0]).softmax(dim=1)
    expected = pq.read_table(tmp_path / "scores" / "scores.parquet")["scores"].to_pylist()
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    again = extract(tmp_path / "run", val, tmp_path / "pooled.parquet")
    assert again.pop("stored_since") and again == summary
    extract(tmp_path / "run", val, tmp_path / "frames.parquet", level="frames")
    by_frame = pq.read_table(tmp_path / "frames.parquet")["features"].to_pylist()
    np.testing.assert_allclose(np.mean(by_frame, axis=1), np.array(features["features"])[:, 0], atol=1e-5)
    with pytest.raises(UserError, match="level: pooled stored, stages now"):
        extract(tmp_path / "run", val, tmp_path / "pooled.parquet", level="stages")


def test_features_of_a_pretrained_model_need_to_know_the_clips(
    halves: tuple[StoreClips, StoreClips], tmp_path: Path
) -> None:
    save_weights(tmp_path / "weights.safetensors", build_bevt(**SIZES, window=(2, 4, 4)))
    with pytest.raises(UserError, match="give a fine-tuning `recipe`"):
        extract(tmp_path, halves[1], tmp_path / "stages.parquet")
    extract(tmp_path, halves[1], tmp_path / "stages.parquet", level="stages", recipe=recipe_of())
    rows = pq.read_table(tmp_path / "stages.parquet")["features"].to_pylist()
    assert [len(vector) for vector in rows[0]] == [16, 32, 64]


def tokenizer_recipe(tokens: TokenSet, *overrides: str) -> TokenizerRecipe:
    small = ["global_batch=4", "samples_per_epoch=12", "loop.epochs=1", "loop.num_workers=0", "loop.checkpoint_every=2"]
    recipe = load_recipe("nano_tokenizer", RECIPES, [f"frames=[{tokens.frames.path}]", *small, *overrides])
    assert isinstance(recipe, TokenizerRecipe)
    return recipe


@pytest.mark.slow
def test_a_tokenizer_is_trained_resumed_and_stored(tokens: TokenSet, tmp_path: Path, json_keys: CheckKeys) -> None:
    summary = train_tokenizer(tokenizer_recipe(tokens), tmp_path / "whole")
    json_keys("tokenizer train", summary)
    assert summary["finished"] and 0 < summary["codebook_used_share"] <= 1 and summary["psnr_db"] > 3
    assert load_tokenizer(tmp_path / "whole" / "tokenizer").grid == (8, 8)
    train_tokenizer(tokenizer_recipe(tokens, "loop.max_steps=2"), tmp_path / "cut")
    again = train_tokenizer(tokenizer_recipe(tokens), tmp_path / "cut", resume=True)
    assert only(again, *METRICS) == only(summary, *METRICS)
    identities = {load_tokenizer(tmp_path / run / "tokenizer").weights_sha256 for run in ("whole", "cut")}
    assert len(identities) == 1


def test_no_frame_of_a_held_out_source_is_trained_on(tokens: TokenSet) -> None:
    sources = tokens.frames.index["source"].to_pylist()
    held_out = held_out_sources(sources)
    assert len(held_out) == 1 and held_out == held_out_sources(sources[::-1])


def test_an_unknown_preset_names_the_nearest(tokens: TokenSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'nano'"):
        train_tokenizer(tokenizer_recipe(tokens, "architecture.preset=nanno"), tmp_path / "run")
