"""`bevt import-checkpoint` and `bevt export` on files of other projects' architectures, through the command line."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models.video.swin_transformer import SwinTransformer3d
from typer.testing import CliRunner

import cli
from bevt_core.models.bevt import Bevt
from bevt_core.models.classifier import Classifier
from bevt_core.weights.model_files import load_weights
from schemas.errors import UserError
from tests.support.builders import make_token_set
from tests.support.foreign_checkpoints import as_video_swin, small_swin3d
from tests.support.json_keys import CheckKeys


def run(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_torchvision_in_and_hub_folder_out(tmp_path: Path, json_keys: CheckKeys) -> None:
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
    json_keys("import-checkpoint", report)
    assert all(key.endswith("relative_position_index") for key in report["dropped"])  # type: ignore[attr-defined]
    model = load_weights(tmp_path / "w.st")
    clip_BCTHW = torch.randn(1, 3, 4, 56, 56)
    assert isinstance(model, Classifier)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clip_BCTHW), reference(clip_BCTHW), atol=1e-5, rtol=0)

    json_keys("export", run("export", tmp_path / "w.st", "--out", tmp_path / "hub"))
    again = load_weights(tmp_path / "hub" / "model.safetensors").state_dict()
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


def error(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.fixture
def video_swin(tmp_path: Path) -> Path:
    torch.save({"state_dict": as_video_swin(small_swin3d(num_classes=2).state_dict())}, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def test_a_video_swin_is_evaluated_and_fine_tuned(video_swin: Path, tmp_path: Path, json_keys: CheckKeys) -> None:
    (tmp_path / "labels.json").write_text('{"yes": "1", "no": "0"}')
    clips = ["--recipe", "nano_finetune", "--set", "encoder.window=[8,7,7]"]
    clips += ["--set", "augment.crop_px=56", "--set", "views.short_side_px=56"]
    weights = tmp_path / "imported" / "weights.safetensors"
    importing = ["import-checkpoint", video_swin, "--kind", "video-swin", "--out", weights]
    report = run(*importing, "--classes", tmp_path / "labels.json", *clips)
    assert report["classes"] == 2
    json_keys("import-checkpoint --classes", report)
    assert report["dropped"] == [f"backbone.layers.{i}.blocks.{j}.attn.relative_position_index" for i, j in BLOCKS]
    card = json.loads((tmp_path / "imported" / "classifier.json").read_text())
    assert (card["classes"], card["crop_px"]) == (["no", "yes"], 56)

    frames = make_token_set(tmp_path / "data", num_samples=8).frames.path
    tested = run("evaluate", weights, "--frames", frames)
    assert tested["num_videos"] == 8
    json_keys("evaluate", tested)
    tuning = ["finetune", "folder", "--frames", frames, "--init", weights, *clips, "--set", "loop.max_steps=1"]
    tuning += ["--set", "encoder.patch=[2,4,4]", "--set", "encoder.embed_dim=16", "--set", "encoder.depths=[2,2]"]
    tuning += ["--set", "encoder.num_heads=[2,4]", "--set", "global_batch=2", "--set", "loop.num_workers=0"]
    tuned = run(*tuning, "--out", tmp_path / "run")
    assert tuned["step"] == 1
    json_keys("finetune", tuned)
    json_keys("finetune --dry-run", run(*tuning, "--dry-run"))


BLOCKS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_what_does_not_belong_to_the_checkpoint_is_refused(video_swin: Path, tmp_path: Path) -> None:
    importing = ["import-checkpoint", video_swin, "--kind", "video-swin", "--out", tmp_path / "w" / "w.safetensors"]
    names = tmp_path / "names.txt"
    names.write_text("no\nyes\nperhaps\n")
    recipe = ["--recipe", "nano_finetune"]
    assert "--classes and --recipe belong together" in error(*importing, "--classes", names)
    assert "3 names, but" in error(*importing, "--classes", names, *recipe)
    names.write_text("no\nyes\n")
    assert "encoder.window is (4, 4, 4), but" in error(*importing, "--classes", names, *recipe)
    names.write_text("no\nno\n")
    assert "'no' occurs twice" in error(*importing, "--classes", names, *recipe)
    names.write_bytes("nö\nyes".encode("latin1"))
    assert f"{names}, line 1: byte 0xf6 is not UTF-8" in error(*importing, "--classes", names, *recipe)
    (tmp_path / "names.json").write_text('{"no": 0, "yes": 2}')
    assert "the labels are not 0 to 1, each once" in error(*importing, "--classes", tmp_path / "names.json", *recipe)
    assert "--kind 'vit': expected official" in error(*importing[:3], "vit", *importing[4:])
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("command", [["train", "image", "--recipe", "nano_image"], ["finetune", "folder"]])
def test_init_of_a_foreign_checkpoint_names_the_import(command: list[str], video_swin: Path, tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path / "data", kind="image").path
    data = {"train": ["--image-tokens", tokens], "finetune": ["--frames", tmp_path / "data" / "frames"]}[command[0]]
    small = {"train": ["model.vocab_size=64", "streams.image.global_batch=4"], "finetune": ["global_batch=4"]}
    options = [part for setting in [*small[command[0]], "loop.num_workers=0"] for part in ("--set", setting)]
    said = error(*command, *data, *options, "--out", tmp_path / "run", "--init", video_swin)
    assert f"{video_swin}: a Video Swin classifier; run `bevt import-checkpoint {video_swin} --kind video-swin" in said
    assert not (tmp_path / "run").exists()
