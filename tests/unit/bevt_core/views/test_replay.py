"""Views: drawn once by identity, replayed bit for bit, and checked against Pillow's and torchvision's operations."""

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as TF

from bevt_core.rng import rng_for
from bevt_core.views.replay import (
    apply_view,
    decode_jpeg,
    draw_view,
    encode_jpeg,
    halve,
    scaled_size,
    shrink_short_side,
)
from schemas.errors import UserError
from schemas.views import View, ViewSpec
from tests.support.builders import smooth_frame
from tests.support.hostile import claim_size

SPEC = ViewSpec(
    num_views=8, crop_px=224, short_side_min_px=256, short_side_max_px=320, flip_share=0.5, jitter=0.4, seed=3
)


def _noise(height: int, width: int) -> np.ndarray:
    return rng_for("noise", height, width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=50, deadline=None)
@given(height=st.integers(32, 600), width=st.integers(32, 600), index=st.integers(0, 7), name=st.text(max_size=8))
def test_a_view_lies_in_its_frame_and_depends_on_identity_alone(height: int, width: int, index: int, name: str) -> None:
    view = draw_view(SPEC, name, index, height, width)
    scaled_h, scaled_w = scaled_size(height, width, view.short_side_px)
    assert min(scaled_h, scaled_w) == view.short_side_px
    assert 0 <= view.top_px <= scaled_h - 224 and 0 <= view.left_px <= scaled_w - 224
    more = SPEC.model_copy(update={"num_views": 100})
    assert draw_view(more, name, index, height, width) == view


def test_view_0_is_the_plain_centre_crop() -> None:
    view = draw_view(SPEC, "a", 0, 256, 340)
    assert view == View(short_side_px=256, top_px=16, left_px=58, crop_px=224, flip=False)
    frame = _noise(256, 340)
    assert (apply_view(frame, view) == frame[16:240, 58:282]).all()


def test_crops_cover_the_whole_range() -> None:
    views = [draw_view(SPEC.model_copy(update={"num_views": 4000}), "a", i, 256, 256) for i in range(1, 4000)]
    assert {v.short_side_px for v in views} == set(range(256, 321))
    assert 0.45 < np.mean([v.flip for v in views]) < 0.55
    at_256 = [v.top_px for v in views if v.short_side_px == 256]
    assert min(at_256) == 0 and max(at_256) == 32  # the original never took the last offset


def test_one_resampling_equals_scaling_then_cropping() -> None:
    """Worst difference measured: 2 of 255, on photographs; rounding of the box in Pillow's fixed-point arithmetic."""
    frame = smooth_frame("photo", 256, 336)
    view = View(short_side_px=300, top_px=21, left_px=37, crop_px=224, flip=True)
    scaled_h, scaled_w = scaled_size(256, 336, 300)
    scaled = np.asarray(Image.fromarray(frame).resize((scaled_w, scaled_h), Image.Resampling.BICUBIC))
    truth = scaled[21:245, 37:261][:, ::-1].astype(int)
    assert np.abs(apply_view(frame, view) - truth).max() <= 3


def test_jitter_is_torchvisions_in_the_drawn_order_before_the_crop() -> None:
    frame = _noise(256, 256)
    jitter = (("contrast", 1.3), ("brightness", 0.7), ("saturation", 1.2))
    view = View(short_side_px=256, top_px=0, left_px=0, crop_px=224, flip=False, jitter=jitter)
    image = TF.adjust_saturation(TF.adjust_brightness(TF.adjust_contrast(Image.fromarray(frame), 1.3), 0.7), 1.2)
    assert (apply_view(frame, view) == np.asarray(image)[:224, :224]).all()


def test_halving_is_lanczos_on_uint8() -> None:
    frame = _noise(224, 224)
    assert (halve(frame, 112) == np.asarray(Image.fromarray(frame).resize((112, 112), Image.Resampling.LANCZOS))).all()


def test_a_view_of_the_tokenizer_s_size_stays_as_it_is() -> None:
    frame = _noise(224, 224)
    assert (halve(frame, 224) == frame).all()


def test_shrinking_never_enlarges() -> None:
    assert shrink_short_side(_noise(100, 120), 256).shape == (100, 120, 3)
    assert shrink_short_side(_noise(720, 1280), 256).shape == (256, 455, 3)


def test_jpeg_keeps_a_photo_like_frame() -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    frame = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(128)), axis=-1)
    assert np.abs(decode_jpeg(encode_jpeg(frame, 90)).astype(int) - frame).mean() < 2


@pytest.mark.parametrize(
    ("height", "width", "size", "message"),
    [
        (40_000, 40_000, None, "40000 x 40000 px, expected at most 64000000 pixels; .*bevt repair"),
        (1000, 64_001, (1000, 64_001), "1000 x 64001 px, expected at most 64000000 pixels"),
        (4000, 4000, (16, 16), "4000 x 4000 px, but its sample has 16 x 16 px; .*bevt repair"),
    ],
)
def test_a_small_file_does_not_decode_to_a_large_frame(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, size: tuple[int, int] | None, message: str
) -> None:
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    bomb = claim_size(encode_jpeg(_noise(16, 16), 90), height, width)
    with pytest.raises(UserError, match=message):
        decode_jpeg(bomb, size)


def test_a_view_beyond_the_spec_is_an_error() -> None:
    with pytest.raises(ValueError, match="view 8 of a spec with 8 views"):
        draw_view(SPEC, "a", 8, 256, 256)
