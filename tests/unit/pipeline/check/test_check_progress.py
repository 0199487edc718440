"""`bevt verify` and `bevt repair` show on stderr how many parts they have checked."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from pipeline.job.run import tokenize
from tests.support.inline_jobs import without_ray
from tests.support.media import write_image
from tests.support.tiny_jobs import save_tiny_tokenizer, tiny_recipe

SET = "dvae-v2"
CHECKED = ["check frames 3/3 parts", f"check {SET} 3/3 parts", f"tokenize {SET} again 3/3 parts"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw images in `root` and a dataset of three parts in `out`."""
    place = tmp_path_factory.mktemp("made")
    noise = np.random.default_rng(0)
    for i in range(9):
        write_image(place / "root" / "x" / f"{i}.png", noise.integers(0, 255, (64, 64, 3), np.uint8))
    recipe = tiny_recipe(place / "root", place / "out", save_tiny_tokenizer(place / "tokenizer"), "sources_per_part=3")
    with without_ray():
        tokenize(recipe, progress="off")
    return place


def bevt(*command: object) -> str:
    """What the command writes to stderr."""
    result = CliRunner().invoke(cli.app, [str(word) for word in command], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stderr


def steps(stderr: str) -> list[str]:
    """The final state of each progress line."""
    return re.findall(r"^(.* 3/3 parts)  100\.0%", stderr, re.MULTILINE)


def test_verify_shows_the_parts_of_each_step(made: Path) -> None:
    assert steps(bevt("verify", made / "out")) == CHECKED


def test_repair_shows_them_too(made: Path, tmp_path: Path) -> None:
    """First the files are checked, then the job shows its own line, then the tokens are checked."""
    shutil.copytree(made / "out", tmp_path / "out")
    (tmp_path / "out" / "tokens" / SET / "part-00001.parquet").unlink()
    with without_ray():
        stderr = bevt("repair", tmp_path / "out", "--root", made / "root")
    assert steps(stderr) == CHECKED
    assert stderr.index(CHECKED[1]) < stderr.index("tokenize 3/3 images  100.0%") < stderr.index(CHECKED[2])


def test_the_name_of_a_set_does_not_move_the_cursor(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    (tmp_path / "out" / "tokens" / SET).rename(tmp_path / "out" / "tokens" / "a\x1b[2Jb")
    stderr = bevt("verify", tmp_path / "out", "--tokenizer", made / "tokenizer")
    assert "\x1b" not in stderr
    assert r"check a\x1b[2Jb 3/3 parts" in stderr
