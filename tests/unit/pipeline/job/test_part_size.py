"""How sources are divided into parts, and tokenizers whose grid does not fit the views."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from bevt_core.dataset.source_list import write_plan
from pipeline.job.part_size import check_grid, sources_per_part
from pipeline.job.plan import make_plan
from pipeline.job.run import tokenize
from pipeline.recipes import PIPELINE_RECIPES
from schemas.errors import UserError
from schemas.recipes import TokenizeRecipe
from schemas.recipes.loading import load_recipe_of
from tests.support.media import write_image
from tests.support.tiny_jobs import tiny_recipe


@pytest.mark.parametrize(
    ("num_sources", "most", "size", "parts"),
    [
        (1, 64, 1, 1),
        (7, 64, 1, 7),
        (15, 64, 1, 15),
        (16, 64, 2, 8),
        (59, 64, 7, 9),
        (512, 64, 64, 8),
        (240_000, 64, 64, 3750),
        (1_200_000, 4, 60, 20_000),
        (1_200_001, 4, 61, 19_673),
        (80_000, 4, 4, 20_000),
    ],
)
def test_a_small_set_has_many_parts_and_a_huge_one_not_too_many(
    num_sources: int, most: int, size: int, parts: int
) -> None:
    assert sources_per_part(num_sources, most, min_parts=8, max_parts=20_000) == size
    assert -(-num_sources // size) == parts


def test_howto100m_fits_into_20_000_parts() -> None:
    recipe = load_recipe_of(TokenizeRecipe, "howto100m", PIPELINE_RECIPES, [])
    size = sources_per_part(1_200_000, recipe.sources_per_part, recipe.min_parts, recipe.max_parts)
    assert (size, 1_200_000 // size) == (60, 20_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(17):
        write_image(tmp_path / "root" / "x" / f"{i}.png", np.zeros((64, 64, 3), np.uint8))
    return tmp_path / "root"


def test_a_plan_has_the_settled_size_and_an_older_job_keeps_its_own(root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(root, tmp_path / "out", tmp_path, "min_parts=8", "sources_per_part=10")
    plan, items = make_plan(recipe, None, False)
    assert (plan.sources_per_part, plan.num_parts) == (2, 9)
    assert make_plan(recipe, None, False)[0] == plan
    older = plan.model_copy(update={"sources_per_part": 10})
    write_plan(tmp_path / "out" / "frames", older, items)
    assert make_plan(recipe, None, False)[0] == older
    huge = tiny_recipe(root, tmp_path / "out", tmp_path, "max_parts=1", "sources_per_part=10")
    assert make_plan(huge, None, False)[0] == older
    (root / "x" / "0.png").unlink()  # another list: nothing is kept
    assert make_plan(recipe, None, False)[0].sources_per_part == 2
    assert make_plan(huge, None, False)[0].sources_per_part == 16


def test_a_size_given_by_hand_is_taken(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[Any] = []
    monkeypatch.setattr("pipeline.look.scan.scan", lambda recipe, **options: recipes.append(recipe) or {})
    command = ["scan", "--dataset", "folder", "--root", str(root), "--set", f"out={tmp_path / 'out'}"]
    for more in ([], ["sources_per_part=10"], ["max_parts=2"], ["sources_per_part=1", "max_parts=2"]):
        overrides = [word for override in more for word in ("--set", override)]
        assert CliRunner().invoke(cli.app, [*command, *overrides], catch_exceptions=False).exit_code == 0
    assert [make_plan(recipe, None, False)[0].sources_per_part for recipe in recipes] == [2, 10, 9, 9]
    assert recipes[1].max_parts == 1_000_000


def test_a_grid_that_no_patches_match_is_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(root, tmp_path / "out", Path("dvae-small"))
    with pytest.raises(UserError, match=r"14 x 14 tokens, and views.crop_px is 64: .* `views.crop_px=112`") as error:
        tokenize(recipe, progress="off")
    assert not (tmp_path / "out").exists()
    fixes = re.findall(r"`(\S+=\S+)`", str(error.value))
    check_grid(tiny_recipe(root, tmp_path / "out", Path("dvae-small"), *fixes))
