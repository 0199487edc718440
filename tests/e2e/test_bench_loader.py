"""The loader's figures: three ways to the same clips, and one clear error where the videos are not there."""

from pathlib import Path

import pytest

from schemas.errors import UserError
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import tiny_recipe
from trainer.bench.loader import bench_loader

pytest.importorskip("decord")
pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.mark.slow
def test_the_ratios_are_those_of_the_rates(tiny_tokenizer: Path, tmp_path: Path, json_keys: CheckKeys) -> None:
    from pipeline.job.run import tokenize

    for i in range(2):
        write_video(tmp_path / "root" / f"{i}.mp4", moving_frames(20 + i, 120, 160, seed=i))
    summary = tokenize(tiny_recipe(tmp_path / "root", tmp_path / "out", tiny_tokenizer), progress="off")
    tokens = Path(summary["tokens_dir"])
    figures = bench_loader(tokens, tmp_path / "root", clips=2, repeats=1)
    json_keys("bench loader", figures)
    assert figures["clips"] == 2 and figures["clips_per_cpu_s"] > 0
    for name in ("decord", "bare_jpeg"):
        ratio = figures["clips_per_cpu_s"] / figures[f"{name}_clips_per_cpu_s"]
        assert figures[f"ratio_vs_{name}"] == pytest.approx(ratio)
    with pytest.raises(UserError, match="a source of the dataset; give the same `root`"):
        bench_loader(tokens, tmp_path, clips=1, repeats=1)
