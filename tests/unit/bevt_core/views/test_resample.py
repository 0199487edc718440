"""Resampling: compiled code and Pillow give the same bits for any frame and box."""

import hashlib
from collections.abc import Callable

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bevt_core.rng import rng_for
from bevt_core.views import resample
from bevt_core.views.resample import TAPS, Box, backend_for, enlarge_compiled, resize_box, resize_by_pillow


def noise(height: int, width: int) -> np.ndarray:
    return rng_for("noise", height, width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_in(height: int, width: int, size_px: int, shares: tuple[float, ...]) -> Box:
    """A box of at most `size_px` px in a frame, by four shares: its width and height, and where it lies."""
    box_w, box_h = shares[0] * min(width, size_px), shares[1] * min(height, size_px)
    left, top = shares[2] * (width - box_w), shares[3] * (height - box_h)
    return left, top, min(left + box_w, width), min(top + box_h, height)


SHARE = st.floats(0.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(TAPS, 300),
    width=st.integers(TAPS, 300),
    size_px=st.integers(8, 240),
    shares=st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0), SHARE, SHARE),
    flip=st.booleans(),
)
def test_compiled_and_pillow_are_the_same_bits(
    height: int, width: int, size_px: int, shares: tuple[float, ...], flip: bool
) -> None:
    frame, box = noise(height, width), box_in(height, width, size_px, shares)
    expected = resize_by_pillow(frame, box, size_px, flip=flip)
    assert (enlarge_compiled(frame, box, size_px, flip=flip) == expected).all()
    if width >= height:  # every version of Pillow resamples the rows of these first
        in_one = Image.fromarray(frame).resize((size_px, size_px), Image.Resampling.BICUBIC, box)
        assert (expected == np.asarray(in_one)[:, :: -1 if flip else 1]).all()


def test_a_tall_frame_has_the_bits_of_pillow_12() -> None:
    """Older versions of Pillow resample the rows first; Pillow 13 begins with the columns of a frame this tall."""
    frame = np.random.default_rng(0).integers(0, 256, (455, 256, 3), dtype=np.uint8)
    digest = hashlib.sha256(resize_by_pillow(frame, (10.3, 20.7, 210.2, 220.6), 224)).hexdigest()
    assert digest.startswith("944ea68d")


def test_a_caller_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[..., np.ndarray]:
        return lambda *args, **options: calls.append(name) or np.empty(0)  # type: ignore[func-returns-value]

    monkeypatch.setattr(resample, "enlarge_compiled", noted("compiled"))
    monkeypatch.setattr(resample, "resize_by_pillow", noted("pillow"))
    frame, box = noise(40, 40), (1.5, 2.0, 17.5, 18.0)
    resize_box(frame, box, 20)
    resize_box(frame, box, 20, "compiled")
    resize_box(frame, box, 20, "pillow")
    resize_box(frame, box, 10, "compiled")  # a reduction is always Pillow's
    resize_box(noise(3, 40), (1.0, 0.0, 4.0, 3.0), 20, "compiled")
    assert calls == ["pillow", "compiled", "pillow", "pillow", "pillow"]


def test_the_compiler_starts_only_where_it_pays() -> None:
    assert [backend_for(pictures) for pictures in (0, 999, 1000, 10**9)] == ["pillow"] * 2 + ["compiled"] * 2


def test_where_no_folder_can_be_written_it_is_compiled_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def no_locator(**options: bool) -> Callable[..., object]:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function '_enlarge': no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", no_locator)
    resample._compiled.cache_clear()
    frame, box = noise(30, 40), (1.5, 2.0, 17.5, 18.0)
    assert (enlarge_compiled(frame, box, 20) == resize_by_pillow(frame, box, 20)).all()
    resample._compiled.cache_clear()
