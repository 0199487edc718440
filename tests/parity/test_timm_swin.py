"""An image is a clip of one frame: VideoSwin at T = 1 against timm's 2-D Swin with the same random weights."""

import timm
import torch

from bevt_core.models.build import build_bevt
from bevt_core.weights.other_projects import bevt_from_image_swin
from bevt_core.weights.surgery import initialise, swin_sizes

SIZES = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


@torch.no_grad()
def test_the_last_stage_agrees() -> None:
    torch.manual_seed(0)
    reference = timm.create_model("swin_tiny_patch4_window7_224", **SIZES).eval()
    state, dropped = bevt_from_image_swin(reference.state_dict(), tubelet=2, window=(8, 7, 7))
    assert {key.split(".")[-1] for key in dropped if not key.startswith("head.")} <= {
        "attn_mask",
        "relative_position_index",
    }

    model = build_bevt(**SIZES, vocab_size=32).eval()
    assert {key.split(".")[0] for key in initialise(model, state)} == {"decoders", "lm_head", "mask_token"}
    image_BCHW = torch.randn(2, 3, 224, 224)
    *_, last_BTHWC = model.encoders["shared"](model.stems["image"](image_BCHW.unsqueeze(2)))
    expected_BHWC = reference.forward_features(image_BCHW)  # ends in the norm
    torch.testing.assert_close(model.norm(last_BTHWC).squeeze(1), expected_BHWC, atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_inflated_encoder_sees_a_still_clip_as_the_image() -> None:
    """Every frame attends to equal copies of itself with equal biases, so repetition in time changes nothing."""
    torch.manual_seed(0)
    reference = timm.create_model("swin_tiny_patch4_window7_224", **SIZES).eval()
    state, _ = bevt_from_image_swin(reference.state_dict(), tubelet=2, window=(8, 7, 7))
    model = build_bevt(**SIZES, vocab_size=32).eval()
    initialise(model, state)
    image_BCTHW = torch.randn(1, 3, 1, 224, 224)
    *_, image_BTHWC = model.encoders["shared"](model.stems["image"](image_BCTHW))
    *_, clip_BTHWC = model.encoders["shared"](model.stems["video"](image_BCTHW.repeat(1, 1, 8, 1, 1)))
    torch.testing.assert_close(clip_BTHWC, image_BTHWC.expand_as(clip_BTHWC), atol=1e-5, rtol=0)


def test_sizes_are_read_from_the_tensors() -> None:
    reference = timm.create_model("swin_tiny_patch4_window7_224", **SIZES)
    state, _ = bevt_from_image_swin(reference.state_dict(), tubelet=2, window=(8, 7, 7))
    sizes = swin_sizes(state, stem="stems.video.", encoder="encoders.shared.")
    assert sizes == {**SIZES, "patch": (2, 4, 4), "window": (8, 7, 7), "mlp_ratio": 4.0}


def test_original_keys_and_other_windows() -> None:
    """The original code merges at a stage's end, timm at the next one's start; a 12 x 12 window shrinks to 7 x 7."""
    timm_state = timm.create_model("swin_tiny_patch4_window7_224", window_size=12, img_size=384, **SIZES).state_dict()
    original = {}
    for key, tensor in timm_state.items():
        parts = key.split(".")
        if "downsample" in key:
            parts[1] = str(int(parts[1]) - 1)
        original["backbone." + ".".join(parts).replace("head.fc", "head")] = tensor
    expected, _ = bevt_from_image_swin(timm_state, tubelet=2, window=(8, 7, 7))
    state, dropped = bevt_from_image_swin(original, tubelet=2, window=(8, 7, 7))
    assert "head.weight" in dropped
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    assert state["encoders.shared.stages.0.blocks.0.attn.relative_position_bias_table"].shape == (15 * 13 * 13, 1)
