"""Exported models equal the original: bit for bit as weights, up to rounding as a program."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.weights.export import (
    HubModel,
    onnx_difference,
    save_hub_folder,
    save_onnx,
    save_program,
)
from bevt_core.weights.model_files import load_weights

SHIFTED = {"embed_dim": 12, "depths": (2,), "num_heads": (2,), "patch": (2, 8, 8)}


def test_a_hub_folder_round_trips(tmp_path: Path) -> None:
    for name, model in {
        "bevt": build_bevt(**SWIN_SIZES["nano"], vocab_size=32),
        "classifier": build_classifier(**SWIN_SIZES["nano"], num_classes=5),
    }.items():
        save_hub_folder(tmp_path / name, model, {"README.md": "# A card"})
        assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / name).iterdir()}
        for again in (
            HubModel.from_pretrained(tmp_path / name).model,
            load_weights(tmp_path / name / "model.safetensors"),
        ):
            assert type(again) is type(model)
            assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
        assert (tmp_path / name / "README.md").read_text() == "# A card"


@torch.no_grad()
@pytest.mark.slow
def test_a_program_takes_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**SWIN_SIZES["nano"], "depths": (1, 1), "num_heads": (2, 4)}
    classifier = build_classifier(**sizes, num_classes=5).eval()
    save_program(tmp_path / "classifier.pt2", classifier, frames=8, size_px=64)
    program = torch.export.load(tmp_path / "classifier.pt2").module()
    for batch_size in (1, 3):
        clip_BCTHW = torch.randn(batch_size, 3, 8, 64, 64)
        torch.testing.assert_close(program(clip_BCTHW), classifier(clip_BCTHW), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(
            {"encoder": "timesformer", "embed_dim": 12, "depth": 1, "num_heads": 2, "grid": (2, 2, 2)}, id="t"
        ),
        pytest.param({**SHIFTED, "window": (4, 4, 4)}, id="small-windows", marks=pytest.mark.slow),
        pytest.param({**SHIFTED, "window": (4, 7, 7)}, id="windows-with-an-autograd-function", marks=pytest.mark.slow),
    ],
)
def test_onnx_takes_any_batch(sizes: dict[str, Any], tmp_path: Path) -> None:
    """Writing compares the logits with torch's; this test compares those of the written file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    classifier = build_classifier(**sizes, num_classes=5).eval()
    frames, size_px = (2, 32) if "grid" in sizes else (8, 80)
    file = tmp_path / "classifier.onnx"
    assert save_onnx(file, classifier, frames=frames, size_px=size_px) < 1e-5
    other = build_classifier(**sizes, num_classes=5).eval()
    assert onnx_difference(file.read_bytes(), other, frames=frames, size_px=size_px) > 1e-3
    session = onnxruntime.InferenceSession(file)
    assert session.get_inputs()[0].shape == ["batch", 3, frames, size_px, size_px]
    clip_BCTHW = torch.randn(4, 3, frames, size_px, size_px)
    with torch.no_grad():
        expected = classifier(clip_BCTHW)
    assert expected.std() > 1e-3
    (logits_BV,) = session.run(["logits"], {"clip": clip_BCTHW.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits_BV), expected, atol=1e-4, rtol=0)
