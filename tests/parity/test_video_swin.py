"""`import-checkpoint --kind video-swin` against torchvision's swin3d models under the keys of Video Swin and mmaction2.

The three implementations are one model: order of the merged corners, rows of the bias table, place of the norms. Worst
case measured on CPU: 2e-6 of logits of 1.
"""

from pathlib import Path

import pytest
import torch
from torchvision.models.video import swin3d_b, swin3d_s, swin3d_t

from bevt_core.weights.model_files import import_video_swin
from tests.support.foreign_checkpoints import VIDEO_SWIN_CODES, as_video_swin, randomised, small_swin3d


@torch.no_grad()
@pytest.mark.parametrize("code", VIDEO_SWIN_CODES)
@pytest.mark.parametrize("window", [(8, 7, 7), (16, 7, 7)], ids=["k400", "ssv2"])
def test_logits_are_those_of_the_checkpoint(code: str, window: tuple[int, int, int], tmp_path: Path) -> None:
    reference = small_swin3d(window)
    state = as_video_swin(reference.state_dict(), code)
    torch.save({"meta": {"epoch": 30}, "state_dict": state}, tmp_path / "theirs.pth")
    model, dropped, fresh = import_video_swin(tmp_path / "theirs.pth")
    assert fresh == []
    assert dropped == [key for key in state if key.endswith("relative_position_index")]
    assert tuple(model.config["window"]) == window
    torch.manual_seed(1)
    for size in ((32, 56, 84), (4, 72, 60)):  # shifted in time; the window clipped to a short clip
        clip_BCTHW = torch.randn(1, 3, *size)
        torch.testing.assert_close(model.eval()(clip_BCTHW), reference(clip_BCTHW), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "builder",
    [swin3d_t, pytest.param(swin3d_s, marks=pytest.mark.slow), pytest.param(swin3d_b, marks=pytest.mark.slow)],
)
def test_published_sizes(builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # drawn below
    torch.manual_seed(0)
    reference = randomised(builder(weights=None), 0.05)
    torch.save({"state_dict": as_video_swin(reference.state_dict())}, tmp_path / "theirs.pth")
    model = import_video_swin(tmp_path / "theirs.pth").model
    assert model.config["num_classes"] == 400
    clip_BCTHW = torch.randn(1, 3, 4, 224, 224)
    torch.testing.assert_close(model.eval()(clip_BCTHW), reference(clip_BCTHW), atol=1e-5, rtol=0)
