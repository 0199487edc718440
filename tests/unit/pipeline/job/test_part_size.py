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
from schemas.errors import UserError
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
    ],
)
def test_a_small_set_has_many_parts(num_sources: int, most: int, size: int, parts: int) -> None:
    assert sources_per_part(num_sources, most, min_parts=8) == size
    assert -(-num_sources // size) == parts


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
    (root / "x" / "0.png").unlink()  # another list: nothing is kept
    assert make_plan(recipe, None, False)[0].sources_per_part == 2


def test_a_size_given_by_hand_is_taken(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[Any] = []
    monkeypatch.setattr("pipeline.look.scan.scan", lambda recipe, **options: recipes.append(recipe) or {})
    command = ["scan", "--dataset", "folder", "--root", str(root), "--set", f"out={tmp_path / 'out'}"]
    for more in ([], ["--set", "sources_per_part=10"]):
        assert CliRunner().invoke(cli.app, [*command, *more], catch_exceptions=False).exit_code == 0
    assert [make_plan(recipe, None, False)[0].sources_per_part for recipe in recipes] == [2, 10]


def test_a_grid_that_no_patches_match_is_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(root, tmp_path / "out", Path("dvae-small"))
    with pytest.raises(UserError, match=r"14 x 14 tokens, and views.crop_px is 64: .* `views.crop_px=112`") as error:
        tokenize(recipe, progress="off")
    assert not (tmp_path / "out").exists()
    fixes = re.findall(r"`(\S+=\S+)`", str(error.value))
    check_grid(tiny_recipe(root, tmp_path / "out", Path("dvae-small"), *fixes))
