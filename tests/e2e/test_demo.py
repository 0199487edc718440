"""The demo: pretraining wins with every seed, and the motion shows only in frames that are in order."""

from pathlib import Path

import pytest

from trainer.demo.run import NUM_CLASSES, demo

MARGIN = 0.10  # that the README promises


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pretraining_wins(seed: int, tmp_path: Path) -> None:
    result = demo(tmp_path / "demo", seed=seed)
    scratch, pretrained = (result["top1"][name] for name in ("scratch", "pretrained"))
    assert pretrained["normal"] >= scratch["normal"] + MARGIN
    assert pretrained["single-frame"] <= 1 / NUM_CLASSES + MARGIN
    assert pretrained["shuffle"] <= 1 / NUM_CLASSES + MARGIN
    assert Path(result["report"]).stat().st_size < 3e6
