"""Recipes: complete files, overrides, bases, and errors that name the key and the nearest valid one."""

import os
from pathlib import Path

import pytest
import yaml

from pipeline.recipes import PIPELINE_RECIPES
from schemas.errors import UserError
from schemas.recipes import PretrainRecipe, TokenizeRecipe
from schemas.recipes.loading import load_recipe, recipe_names, to_yaml
from trainer.commands.pretrain import STAGE_RECIPES
from trainer.recipes import TRAINER_RECIPES

TOKENIZE = {
    "kind": "tokenize",
    "title": "test",
    "dataset": "folder",
    "split": "train",
    "root": "raw",
    "out": "out",
    "tokenizer": "dvae",
    "pool": {"stride": 1, "phase": "zero", "max_frames": 8, "short_side_px": 72, "jpeg_quality": 90},
    "views": {
        "num_views": 2,
        "crop_px": 64,
        "short_side_min_px": 64,
        "short_side_max_px": 72,
        "flip_share": 0.5,
        "jitter": 0.0,
        "seed": 0,
    },
    "seed": 0,
    "sources_per_part": 4,
    "batch_frames": 8,
    "decode_timeout_s": 10.0,
    "attempts": 2,
}


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(TOKENIZE))
    return tmp_path


def test_overrides_are_yaml_and_reach_nested_keys(recipes: Path) -> None:
    recipe = load_recipe(
        "plain", recipes, ["views.num_views=5", "pool.phase=random", "decode_timeout_s=1e2", "root=a b"]
    )
    assert isinstance(recipe, TokenizeRecipe)
    assert (recipe.views.num_views, recipe.pool.phase, recipe.decode_timeout_s, recipe.root) == (
        5,
        "random",
        100.0,
        "a b",
    )


def test_a_base_is_merged_key_by_key(recipes: Path) -> None:
    (recipes / "more.yaml").write_text("base: plain\nviews: {num_views: 9}\n")
    recipe = load_recipe("more", recipes)
    assert isinstance(recipe, TokenizeRecipe)
    assert recipe.views.num_views == 9 and recipe.views.crop_px == 64


def test_a_base_that_leads_to_itself_is_an_error(recipes: Path) -> None:
    (recipes / "loop.yaml").write_text("base: loop\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_recipe("loop", recipes)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views.num_view=3", "unknown key 'views.num_view'; did you mean 'num_views'"),
        ("pol.stride=2", "unknown key 'pol'; did you mean 'pool.stride'"),
        ("views.num_views=many", "views.num_views: .*given 'many'"),
        ("views.crop_px=100", "must not decrease"),
        ("seed", "expected KEY=VALUE"),
        ("seed.deep=1", "is a value, not a group"),
        ("pool={stride:2}", "'stride:2' is one word; YAML needs a space after a colon"),
        ("pool={stride: 2", "not YAML"),
    ],
)
def test_a_bad_override_is_named_with_the_fix(recipes: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("plain", recipes, [override])


def test_an_unknown_recipe_names_the_nearest(recipes: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'plain'"):
        load_recipe("plane", recipes)


def test_a_resolved_recipe_reads_back(recipes: Path) -> None:
    recipe = load_recipe("plain", recipes)
    (recipes / "again.yaml").write_text(to_yaml(recipe))
    assert load_recipe("again", recipes) == recipe


@pytest.mark.parametrize("directory", [PIPELINE_RECIPES, TRAINER_RECIPES])
def test_every_shipped_recipe_loads(directory: Path) -> None:
    names = recipe_names(directory)
    assert names
    for name in names:
        assert load_recipe(name, directory).title


def test_a_typo_inside_a_stream_is_found() -> None:
    name = STAGE_RECIPES["joint"]
    assert isinstance(load_recipe(name, TRAINER_RECIPES), PretrainRecipe)
    with pytest.raises(UserError, match=r"streams\.video\.mask\.ratios'; did you mean 'ratio'"):
        load_recipe(name, TRAINER_RECIPES, ["streams.video.mask.ratios=0.5"])


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("epochs=2", "'loop.epochs'"),
        ("optim.epochs=2", "'loop.epochs'"),
        ("data.global_batch=4", "'streams.video.global_batch' or 'streams.image.global_batch'"),
    ],
)
def test_a_key_of_another_group_is_named_with_its_group(override: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {meant}"):
        load_recipe(STAGE_RECIPES["joint"], TRAINER_RECIPES, [override])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: [1,\nb: 2\n", "line 3: not YAML: .*expected ',' or '\\]'"),
        (b"title: caf\xe9\n", "line 1: byte 0xe9 is not UTF-8"),
        (b"<!DOCTYPE html>", "line 1: a web page"),
        (b"a: b: c\n", "line 1: not YAML: mapping values are not allowed"),
        (b"a: \x07\n", "not YAML"),
        (b"day: 2001-99-99\n", "not YAML: month must be in"),
        (b"a: " + b"9" * 5000, "not YAML"),
        (b"[" * 5000, "nests deeper than 30 levels"),
        (b"pool: {1: 2}\n", "the key 1 is not text"),
        (b"base: [plain]\n", r"base is \['plain'\], expected a recipe's name or path"),
        (b"base: " + b"x" * 300, "no recipe 'x"),
        (b"", "expected a mapping of keys to values, found NoneType"),
    ],
)
def test_files_that_are_no_recipes_end_in_one_line(recipes: Path, data: bytes, message: str) -> None:
    (recipes / "odd.yaml").write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        load_recipe(str(recipes / "odd.yaml"), recipes)
    assert "\n" not in str(error.value)


def test_a_recipe_with_a_byte_order_mark(recipes: Path) -> None:
    (recipes / "odd.yaml").write_bytes((recipes / "plain.yaml").read_text().encode("utf-16"))
    assert load_recipe("odd", recipes) == load_recipe("plain", recipes)


@pytest.mark.parametrize("value", ["!!timestamp x", "!!bool x", '!!int ""', '!!float ""', '!!int "-"'])
def test_a_tag_that_does_not_fit_its_value_is_one_error(value: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"title: {value}\n")
    with pytest.raises(UserError, match="not YAML"):
        load_recipe(str(tmp_path / "x.yaml"), tmp_path, [])


@pytest.mark.parametrize("target", ["/proc/version", "pipe"])
@pytest.mark.parametrize("named", ["the recipe", "its base"])
def test_a_recipe_that_is_no_regular_file_ends_in_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, target: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "odd.yaml").symlink_to(target)
    (tmp_path / "over.yaml").write_text("base: odd\n")
    monkeypatch.setattr("schemas.recipes.loading._is_file", lambda path: True)  # the pipe appears after the check
    with pytest.raises(UserError, match=r": a device or pipe, expected a file$"):
        load_recipe({"the recipe": "odd", "its base": "over"}[named], tmp_path)
