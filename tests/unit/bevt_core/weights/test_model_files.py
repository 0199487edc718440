"""Weights survive a round trip to disk bit for bit; surgery uses or reports every tensor."""

from pathlib import Path

import pytest
import torch

from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.weights.model_files import import_official, load_weights, save_weights
from bevt_core.weights.other_projects import bevt_from_official
from bevt_core.weights.surgery import (
    classifier_from_pretrained,
    copy_encoder,
    inflate_bias_table,
    initialise,
    joint_from_image_stream,
    resize_bias_table,
    window_of_table,
)
from schemas.errors import UserError

NANO = SWIN_SIZES["nano"]
WINDOW = NANO["window"]


@pytest.mark.parametrize(
    "model",
    [
        build_bevt(**NANO, vocab_size=32, drop_path=0.1),
        build_bevt(**NANO, vocab_size=32, share_encoder="separate", decoder_dim=64),
        build_bevt(**NANO, vocab_size=32, streams=("image",)),
        build_classifier(**NANO, num_classes=5, dropout=0.5),
    ],
    ids=["shared", "separate", "image", "classifier"],
)
def test_weights_round_trip(model: torch.nn.Module, tmp_path: Path) -> None:
    save_weights(tmp_path / "model.safetensors", model)
    again = load_weights(tmp_path / "model.safetensors")
    assert type(again) is type(model)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    save_weights(tmp_path / "again.safetensors", again)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_other_files_are_refused_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(UserError, match="a text file; expected a checkpoint"):
        load_weights(tmp_path / "text.safetensors")
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"unknown origin.*expected official"):
        import_official(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"conv\.weight"):
        bevt_from_official({"conv.weight": torch.zeros(1)})


def test_the_joint_model_is_initialised_from_the_image_stream() -> None:
    image_model = build_bevt(**NANO, vocab_size=32, streams=("image",))
    state, dropped = joint_from_image_stream(image_model.state_dict(), tubelet=2, old_window=WINDOW, window=WINDOW)
    joint = build_bevt(**NANO, vocab_size=32).eval()
    fresh = initialise(joint, state)
    assert dropped == []
    assert all(key.startswith("decoders.video.") for key in fresh)

    image_BCTHW = torch.randn(1, 3, 1, 64, 64)
    still = joint.stems["video"](image_BCTHW.repeat(1, 1, 4, 1, 1))
    torch.testing.assert_close(still, joint.stems["image"](image_BCTHW).expand_as(still))

    apart = build_bevt(**NANO, vocab_size=32, share_encoder="separate")
    fresh = initialise(apart, copy_encoder(state, ("video", "image")))
    assert all(key.startswith("decoders.video.") for key in fresh)


def test_fine_tuning_keeps_encoder_and_video_stem() -> None:
    model = build_bevt(**NANO, vocab_size=32, share_encoder="separate")
    surgery = classifier_from_pretrained(model.state_dict(), old_window=WINDOW, window=(8, 4, 4))
    classifier = build_classifier(**{**NANO, "window": (8, 4, 4)}, num_classes=5)
    assert initialise(classifier, surgery.state) == ["fc.weight", "fc.bias"]
    assert len(surgery.state) + len(surgery.dropped) == len(model.state_dict())
    assert torch.equal(classifier.stem.proj.weight, model.stems["video"].proj.weight)
    for ours, theirs in zip(classifier.encoder.parameters(), model.encoders["video"].parameters(), strict=True):
        assert ours.shape != theirs.shape or torch.equal(ours, theirs)


def test_initialise_names_what_does_not_fit() -> None:
    model = build_classifier(**NANO, num_classes=5)
    with pytest.raises(UserError, match="no such parameter"):
        initialise(model, {"lm_head.bias": torch.zeros(3)})
    with pytest.raises(UserError, match=r"\(3,\).*\(5,\)"):
        initialise(model, {"fc.bias": torch.zeros(3)})


def test_a_resized_table_keeps_its_centre_and_symmetry() -> None:
    table_RA = torch.randn(15 * 13 * 13, 3)
    resized = resize_bias_table(table_RA, (8, 7, 7), (16, 7, 7)).view(31, 13, 13, 3)
    torch.testing.assert_close(resized[15], table_RA.view(15, 13, 13, 3)[7])
    assert resize_bias_table(table_RA, (8, 7, 7), (8, 7, 7)) is table_RA


def test_an_inflated_table_repeats_distance_zero() -> None:
    table_RA = torch.randn(7 * 7 * 7, 2)
    inflated = inflate_bias_table(table_RA, (4, 4, 4), (8, 4, 4)).view(15, 7, 7, 2)
    assert torch.equal(inflated, table_RA.view(7, 7, 7, 2)[3].expand(15, 7, 7, 2))


@pytest.mark.parametrize("window", [(8, 7, 7), (16, 7, 7), (1, 7, 7), (4, 4, 4), (1, 12, 12), (2, 3, 3)])
def test_windows_are_read_from_tables(window: tuple[int, int, int]) -> None:
    t, h, w = window
    assert window_of_table((2 * t - 1) * (2 * h - 1) * (2 * w - 1)) == window
