"""Exported models are the model: bit for bit as weights, to rounding as a program."""

from pathlib import Path

import torch

from bevt_core.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.export import load_hub_folder, save_hub_folder, save_program


def test_a_hub_folder_round_trips(tmp_path: Path) -> None:
    for name, model in {
        "bevt": build_bevt(**SWIN_SIZES["nano"], vocab_size=32),
        "classifier": build_classifier(**SWIN_SIZES["nano"], num_classes=5),
    }.items():
        save_hub_folder(tmp_path / name, model)
        assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / name).iterdir()}
        again = load_hub_folder(tmp_path / name)
        assert type(again) is type(model)
        assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_a_program_takes_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**SWIN_SIZES["nano"], "depths": (1, 1), "num_heads": (2, 4)}
    classifier = build_classifier(**sizes, num_classes=5).eval()
    save_program(tmp_path / "classifier.pt2", classifier, frames=8, size_px=64)
    program = torch.export.load(tmp_path / "classifier.pt2").module()
    for batch_size in (1, 3):
        clip_BCTHW = torch.randn(batch_size, 3, 8, 64, 64)
        torch.testing.assert_close(program(clip_BCTHW), classifier(clip_BCTHW), atol=1e-5, rtol=0)
