"""Repair decodes as the job did, although the decoder is not part of a store's plan."""

import shutil
from pathlib import Path

import pytest

from pipeline.check.repair import repair
from pipeline.job.run import tokenize
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, usable_decoders, write_video
from tests.support.tiny_jobs import digests, tiny_recipe


def test_a_part_is_made_again_by_the_decoder_that_the_others_name(tmp_path: Path) -> None:
    """As stores from before PyAV was the default: decord read VP9, and noted why it did not read other files."""
    if "decord" not in usable_decoders():
        pytest.skip("decord is not installed")
    for number in range(2):
        write_video(tmp_path / "raw" / f"{number}.webm", moving_frames(9, seed=number), codec="libvpx-vp9")
    recipe = tiny_recipe(tmp_path / "raw", tmp_path / "data", tmp_path, "decoder=decord", "sources_per_part=1")
    with without_ray():
        tokenize(recipe, frames_only=True)
        before = digests(tmp_path / "data")
        assert before != digests_with_pyav(tmp_path, recipe)
        shutil.rmtree(tmp_path / "data" / "frames" / "part-00001")
        repair(tmp_path / "data", tmp_path / "raw")
    assert digests(tmp_path / "data") == before


def digests_with_pyav(folder: Path, recipe) -> dict[str, str]:
    tokenize(recipe.model_copy(update={"decoder": "pyav", "out": str(folder / "other")}), frames_only=True)
    return digests(folder / "other")
