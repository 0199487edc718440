"""`bevt import-checkpoint` and `bevt export` on files of other projects' architectures, through the command line."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models.video.swin_transformer import SwinTransformer3d
from typer.testing import CliRunner

import cli
from bevt_core.bevt import Bevt
from bevt_core.classifier import Classifier
from bevt_core.export import load_hub_folder
from bevt_core.weights import load_weights


def run(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.splitlines()[-1])


def test_torchvision_in_and_hub_folder_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[8, 7, 7],
        num_classes=5,
    ).eval()
    torch.save(reference.state_dict(), tmp_path / "swin3d.pth")
    report = run("import-checkpoint", tmp_path / "swin3d.pth", "--kind", "torchvision", "--out", tmp_path / "w.st")
    assert report["fresh"] == []
    assert all(key.endswith("relative_position_index") for key in report["dropped"])  # type: ignore[attr-defined]
    model = load_weights(tmp_path / "w.st")
    clip_BCTHW = torch.randn(1, 3, 4, 56, 56)
    assert isinstance(model, Classifier)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clip_BCTHW), reference(clip_BCTHW), atol=1e-5, rtol=0)

    run("export", tmp_path / "w.st", "--out", tmp_path / "hub")
    again = load_hub_folder(tmp_path / "hub").state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


def test_an_image_swin_names_what_stays_fresh(tmp_path: Path) -> None:
    image_swin = timm.create_model(
        "swin_tiny_patch4_window7_224", embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)
    )
    torch.save({"model": image_swin.state_dict()}, tmp_path / "swin.pth")
    report = run(
        "import-checkpoint", tmp_path / "swin.pth", "--kind", "image-swin", "--vocab-size", 32, "--out", tmp_path / "w"
    )
    assert {"head.fc.weight", "head.fc.bias"} <= set(report["dropped"])  # type: ignore[call-overload]
    assert {key.split(".")[0] for key in report["fresh"]} == {"decoders", "lm_head", "mask_token"}  # type: ignore[attr-defined]
    assert isinstance(load_weights(tmp_path / "w"), Bevt)


def test_an_official_checkpoint(oracle: Path, tmp_path: Path) -> None:
    report = run("import-checkpoint", oracle / "official_tiny.safetensors", "--out", tmp_path / "w.st")
    assert report["fresh"] == []
    assert isinstance(load_weights(tmp_path / "w.st"), Bevt)


@pytest.mark.parametrize("kind", ["torchvision", "image-swin"])
def test_the_wrong_kind_is_refused(kind: str, oracle: Path, tmp_path: Path) -> None:
    source = oracle / "official_tiny.safetensors"
    result = CliRunner().invoke(
        cli.app, ["import-checkpoint", str(source), "--kind", kind, "--out", str(tmp_path / "w.st")]
    )
    assert result.exit_code != 0
    assert not (tmp_path / "w.st").exists()
