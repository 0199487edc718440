"""Tokenizers from the command line: train a PeCo, resume it, tokenize with it, prove it; the bundled default."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cli
from bevt_core.dataset.token_set import TokenSet
from bevt_core.storage.files import sha256_of
from bevt_core.tokenizers import load_tokenizer
from bevt_core.views.replay import apply_view
from schemas.errors import UserError
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_image
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer.distributed.launch import launch
from trainer.metrics.log import read_metrics
from trainer.recipes import TRAINER_RECIPES
from trainer.tokenizer import stage as train
from trainer.tokenizer.stage import METRICS, train_tokenizer

SMALL = ["global_batch=4", "samples_per_epoch=16", "loop.epochs=1.5", "loop.num_workers=0", "loop.checkpoint_every=2"]
SMALL += ["loop.picture_every=2", "optim.warmup_epochs=0"]


@pytest.fixture(autouse=True)
def few_held_out_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "HELD_OUT_CROPS", 32)


def bevt(*arguments: object) -> dict[str, Any]:
    """Run a command in this process; its JSON."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_token_set(tmp_path_factory.mktemp("store"), num_samples=12, frames=2).frames.path


@pytest.mark.usefixtures("ray_here")
@pytest.mark.slow
def test_a_peco_is_trained_resumed_used_and_verified(tmp_path: Path) -> None:
    raw, data = tmp_path / "raw", tmp_path / "data"
    for i in range(6):
        write_image(raw / "things" / f"{i}.png", moving_frames(1, 80, 100, seed=i)[0])
    tokenize = ["tokenize", "--dataset", "folder", "--recipe", "nano_image", "--root", raw, "--out", data]
    bevt(*tokenize, "--frames-only")
    command = ["tokenizer", "train", "peco", "--recipe", "nano_peco", "--frames", data / "frames", *sets(*SMALL)]

    straight = bevt(*command, "--out", tmp_path / "straight")
    cut = bevt(*command, "--out", tmp_path / "cut", "--set", "loop.max_steps=3")
    assert (cut["step"], straight["step"]) == (3, 6)
    again = bevt(*command, "--out", tmp_path / "cut", "--resume")
    assert {name: again[name] for name in METRICS} == {name: straight[name] for name in METRICS}
    digests = {sha256_of(tmp_path / run / "tokenizer" / "encoder.safetensors") for run in ("straight", "cut")}
    assert len(digests) == 1  # the codebook among the weights
    lines = read_metrics(tmp_path / "straight")
    assert all("peco_token_perplexity" in line and "peco_dead_codes" in line for line in lines)
    assert [line["step"] for line in lines if "held_out_psnr_db" in line] == [1, 3, 5]
    assert (tmp_path / "straight" / "reconstructions.png").is_file()
    assert list((tmp_path / "straight" / "tensorboard").glob("*.pictures"))

    folder = tmp_path / "straight" / "tokenizer"
    summary = bevt(*tokenize, "--tokenizer", folder)
    report = bevt("verify", data, "--deep", "--tokenizer", folder)
    assert (report["ok"], report["token_agreement"]) == (True, 1.0)

    token_set, tokenizer = TokenSet(summary["tokens_dir"]), load_tokenizer(folder)
    assert (tokenizer.stride, tokenizer.input_px, token_set.manifest.tokenizer.grid) == (8, 64, (8, 8))
    stored, start = token_set.read_view(0, 1), token_set.frames.index["frame_start"].to_pylist()
    views = [apply_view(token_set.frames.read_frames(0, start[i], 1)[0], view) for i, view in enumerate(stored.views)]
    ids = tokenizer.encode(torch.from_numpy(np.stack(views)))  # as they are: a 64 px view is not halved
    assert (ids.numpy() == np.concatenate(stored.tokens)).all()

    use = ["train", "image", "--recipe", "nano_image", "--image-tokens", token_set.path, "--dry-run"]
    assert bevt(*use, *sets("model.vocab_size=256", "streams.image.global_batch=4"))["dry_run"]


@pytest.mark.slow
def test_a_dvae_of_patches_is_trained_resumed_and_described(frames: Path, tmp_path: Path) -> None:
    command = ["tokenizer", "train", "dvae", "--recipe", "small_tokenizer", "--frames", frames]
    command += sets(*SMALL, "input_px=32", "architecture.vocab_size=32")
    straight = bevt(*command, "--out", tmp_path / "straight")
    bevt(*command, "--out", tmp_path / "cut", "--set", "loop.max_steps=3")
    again = bevt(*command, "--out", tmp_path / "cut", "--resume")
    assert {name: again[name] for name in METRICS} == {name: straight[name] for name in METRICS}
    info = bevt("tokenizer", "info", tmp_path / "straight" / "tokenizer", "--frames", frames)
    assert (info["kind"], info["sizes"]["form"], info["vocab_size"], info["grid"]) == ("dvae", "patches", 32, [4, 4])
    assert info["psnr_db"] > 10


@pytest.mark.slow
def test_two_processes_train_the_peco_that_one_trains(frames: Path, tmp_path: Path) -> None:
    settings = [*SMALL, f"frames=[{frames}]", "architecture.ema_decay=0.5", "architecture.dead_share=0.5"]
    recipe = load_recipe("nano_peco", TRAINER_RECIPES, settings)
    train_tokenizer(recipe, tmp_path / "one")
    launch(train_tokenizer, 2, recipe, tmp_path / "two")
    one, two = (read_metrics(tmp_path / run) for run in ("one", "two"))
    assert any(line["peco_dead_codes"] > 0 for line in one)
    for alone, shared in zip(one, two, strict=True):
        for key in ("loss", "peco_dead_codes", "peco_token_perplexity"):
            assert shared[key] == pytest.approx(alone[key], rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["input_px=68"], r"input_px: expected a multiple of 8 from 16 to 16384 \(given 68\)"),
        (["architecture.preset=nanno"], "did you mean 'nano'"),
        (
            ["architecture.preset=small", "input_px=72"],
            "72 is not a multiple of the 16 px of a token of preset 'small'; set input_px=64",
        ),
        (["architecture.perceptual={name: resnet19, layers: [1], weight: 1, weights: null}"], "no such model in timm"),
        (["architecture.ema_decays=0.5"], "did you mean 'ema_decay'"),
        (["architecture.adversarial={weight: 1, start: 0, width: 8, layers: 5}"], "architecture.adversarial"),
        (["loop.micro_batches=8"], "leaves some of them empty"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(frames: Path, tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe = load_recipe("nano_peco", TRAINER_RECIPES, [*SMALL, f"frames=[{frames}]", *settings])
        train_tokenizer(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_architecture_of_command_and_recipe_must_agree(frames: Path, tmp_path: Path) -> None:
    command = ["tokenizer", "train", "dvae", "--recipe", "nano_peco", "--frames", str(frames)]
    with pytest.raises(UserError, match="trains a peco, not a dvae"):
        CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path / "run")], catch_exceptions=False)


@pytest.mark.usefixtures("ray_here")
@pytest.mark.slow
def test_the_default_works_offline_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BEVT_TOKENIZERS", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        write_image(tmp_path / "data" / "imagenet" / "n00000001" / f"{i}.JPEG", moving_frames(1, 80, 100, seed=i)[0])
    summary = bevt("tokenize", "--dataset", "imagenet", *sets("views.num_views=2"))
    manifest = TokenSet(summary["tokens_dir"]).manifest
    assert manifest.tokenizer.weights_sha256 == load_tokenizer("dvae-small").weights_sha256
    report = bevt("verify", Path(summary["tokens_dir"]).parents[1], "--deep")  # found by its weights
    assert (report["ok"], report["token_agreement"]) == (True, 1.0)
    with pytest.raises(UserError, match=r"tokenizer 'dalle' not found"):
        bevt("tokenize", "--dataset", "imagenet", "--tokenizer", "dalle")


@pytest.mark.parametrize(
    "command",
    [
        ("tokenizer", "info", "dvae-nano"),
        ("tokenizer", "compare", "dvae-nano", "dvae-nano"),
        ("viz", "attention", "bevt-nano", "--sample", "x"),
    ],
)
def test_stored_frames_may_be_objects(command: tuple[str, ...]) -> None:
    """An address that is none is refused as one, not looked for on the disk."""
    with pytest.raises(UserError, match=r"gs://d d: 'd d' is no bucket's name"):
        CliRunner().invoke(cli.app, [*command, "--frames", "gs://d d/x"], catch_exceptions=False)


def test_info_and_compare(frames: Path, tmp_path: Path, json_keys: CheckKeys) -> None:
    one, other = (save_tiny_tokenizer(tmp_path / str(seed), seed) for seed in (0, 1))
    info = bevt("tokenizer", "info", one, "--frames", frames)
    json_keys("tokenizer info", info)
    assert (info["frames"], info["grid"], info["input_px"], info["stride"]) == (24, [4, 4], 32, 8)
    assert 0 < info["codebook_used_share"] <= 1 and info["perplexity"] >= 1 and 3 < info["psnr_db"] < 30
    assert bevt("tokenizer", "info", "dvae-small")["card"].endswith("CARD.md")

    same = bevt("tokenizer", "compare", one, one, other, "--frames", frames, "--max-frames", 20)
    assert [pair["share"] for pair in same["ids_agree_by_pair"][:2]] == [1.0, same["ids_agree_by_pair"][2]["share"]]
    command = ["tokenizer", "compare", one, one, other, "--frames", frames, "--max-frames", 2]
    table = CliRunner().invoke(cli.app, [*map(str, command)], catch_exceptions=False).stdout
    assert len(re.findall(r"^ *\S+ +32 +4x4 .*%", table, re.MULTILINE)) == 3 and "after JPEG 75" in table, table
    json_keys("tokenizer compare", same)
    assert (same["frames"], same["ids_agree"], same["a"]["psnr_db"]) == (20, 1.0, same["b"]["psnr_db"])
    assert same["a"]["ids_kept_in_dtype"]["float32"] == 1.0
    assert set(same["a"]["frames_per_s"]) == {"float32", "bfloat16"}
    assert same["dtypes_left_out"] == {"tf32": "needs a GPU", "float16": "tried on GPUs only"}
    assert 0 < same["a"]["ids_kept_after_jpeg"]["50"] <= same["a"]["ids_kept_after_jpeg"]["95"] <= 1
    assert 0 < same["a"]["ids_kept_with_filter"]["box"] < 1
    assert bevt("tokenizer", "compare", one, other, "--frames", frames)["ids_agree"] < 1.0
    assert bevt("tokenizer", "compare", one, "dvae-small", "--frames", frames, "--max-frames", 4)["ids_agree"] is None
