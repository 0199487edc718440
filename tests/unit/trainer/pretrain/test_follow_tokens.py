"""`bevt train` takes vocabulary, patch size and clip length from the token sets, unless --set says otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from schemas.errors import UserError
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from tests.support.builders import make_token_set
from tests.support.json_keys import CheckKeys
from trainer.pretrain.follow_tokens import follow_tokens

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"
SHIPPED: dict[str, Any] = {"vocab_size": 1024, "grid": 14}  # of dvae-small


def followed(recipe: str, sets: dict[str, Path], *overrides: str) -> tuple[PretrainRecipe, list[str]]:
    paths = [f"streams.{stream}.tokens={path}" for stream, path in sets.items()]
    loaded = load_recipe_of(PretrainRecipe, recipe, RECIPES, [*paths, *overrides])
    return follow_tokens(loaded, [*paths, *overrides])


@pytest.mark.parametrize(
    ("recipe", "crop_px", "patch"),
    [
        ("nano_video", 224, (2, 16, 16)),  # no halving: 14 x 14 tokens of 16 px
        ("nano_video", 56, (2, 4, 4)),
        ("video_swin_base_k400", 112, (2, 2, 2)),  # two halvings
        ("video_swin_base_k400", 98, (2, 4, 4)),  # 98 / (14 * 4) is not a whole number: unchanged
    ],
)
def test_sizes_are_those_of_the_tokens(recipe: str, crop_px: int, patch: tuple[int, int, int], tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path, num_samples=2, frames=2, crop_px=crop_px, max_frames=5, vocab_size=512, grid=14)
    settled, lines = followed(recipe, {"video": tokens.path})
    assert (settled.model.vocab_size, settled.model.encoder.patch) == (512, patch)
    assert settled.streams["video"].clip_frames == 4  # of 5 in the pool, in tubelets of 2
    assert any(line.startswith("model.vocab_size is 512, as the tokens require") for line in lines)


def test_overrides_are_kept(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path, num_samples=2, frames=2, crop_px=56, max_frames=5, **SHIPPED)
    by_hand = ["model.vocab_size=512", "model.encoder.patch=[2,8,8]", "streams.video.clip_frames=8"]
    settled, lines = followed("nano_video", {"video": tokens.path}, *by_hand)
    assert lines == [] and settled.model.vocab_size == 512 and settled.streams["video"].clip_frames == 8


def test_streams_that_differ_and_sets_that_do_not_exist_change_nothing(tmp_path: Path) -> None:
    videos = make_token_set(tmp_path / "a", num_samples=2, frames=2, crop_px=64, grid=8, vocab_size=128)
    images = make_token_set(tmp_path / "b", num_samples=2, frames=1, crop_px=64, grid=8, vocab_size=64, kind="image")
    assert followed("nano_joint", {"video": videos.path, "image": images.path})[1] == []
    assert followed("nano_joint", {"video": videos.path, "image": tmp_path / "none"})[1] == []


def test_nano_trains_on_the_shipped_tokenizers_tokens(tmp_path: Path, json_keys: CheckKeys) -> None:
    tokens = make_token_set(tmp_path / "set", num_samples=40, frames=2, crop_px=56, kind="image", **SHIPPED)
    command = ["train", "image", "--recipe", "nano_image", "--image-tokens", str(tokens.path), "--dry-run", "--json"]
    command += ["--set", "streams.image.global_batch=4"]
    result = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    plan = json.loads(result.stdout.splitlines()[-1])
    assert plan["steps"] == 60
    json_keys("train --dry-run", plan)
    assert "note: model.encoder.patch is 2 x 4 x 4" in result.stderr
    with pytest.raises(UserError, match=r"has 1024 tokens, but the recipe's model.vocab_size is 512"):
        CliRunner().invoke(cli.app, [*command, "--set", "model.vocab_size=512"], catch_exceptions=False)
