"""Colour jitter: compiled code and Pillow give the same bits for any order of operations, inside the crop."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevt_core.rng import rng_for
from bevt_core.views import jitter as module
from bevt_core.views.jitter import JITTER_OPS, LEVELS, Jitter, blend, jitter, jitter_by_pillow, jitter_compiled
from bevt_core.views.replay import apply_view
from bevt_core.views.resample import pixels_read, resize_box
from schemas.views import View

FACTOR = st.sampled_from((0.0, 1.0, 2.0)) | st.floats(0.0, 2.0)


def picture(height: int, width: int, low: int, high: int) -> np.ndarray:
    """Noise between two levels; 0 to 1 and 254 to 255 make the extremes of the range frequent."""
    return rng_for("noise", height, width, low).integers(low, high + 1, (height, width, 3), dtype=np.uint8)


@settings(max_examples=200, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    levels=st.sampled_from(((0, 255), (0, 1), (254, 255), (0, 0), (255, 255), (100, 140))),
    order=st.permutations(JITTER_OPS),
    count=st.integers(0, 3),
    factors=st.tuples(FACTOR, FACTOR, FACTOR),
)
def test_compiled_and_pillow_are_the_same_bits(
    sides: tuple[int, int], levels: tuple[int, int], order: list, count: int, factors: tuple[float, ...]
) -> None:
    frame = picture(*sides, *levels)
    operations = list(zip(order, factors, strict=True))[:count]
    whole = (0, sides[0], 0, sides[1])
    assert (jitter_compiled(frame, operations, whole) == jitter_by_pillow(frame, operations)).all()


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 2.0])
def test_every_pair_of_levels_blends_as_pillow_does(factor: float) -> None:
    """All pairs (level, luma) for saturation, and every table of brightness."""
    ramp = np.arange(256, dtype=np.uint8)
    frame = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(7)), axis=-1)
    for op in JITTER_OPS:
        expected = jitter_by_pillow(frame, [(op, factor)])
        assert (jitter_compiled(frame, [(op, factor)], (0, 256, 0, 256)) == expected).all()
    assert blend(0, LEVELS, 1.0).tolist() == list(range(256))


@settings(max_examples=100, deadline=None)
@given(
    sides=st.tuples(st.integers(4, 200), st.integers(4, 200)),
    size_px=st.integers(4, 120),
    shares=st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
)
def test_a_crop_depends_on_no_pixel_beyond_those_that_it_says(
    sides: tuple[int, int], size_px: int, shares: tuple[float, ...]
) -> None:
    height, width = sides
    box_w, box_h = shares[0] * width, shares[1] * height
    left, top = shares[2] * (width - box_w), shares[3] * (height - box_h)
    box = (left, top, min(left + box_w, width), min(top + box_h, height))
    frame = picture(height, width, 0, 255)
    first_row, last_row, first_column, last_column = pixels_read(height, width, box, size_px)
    spoilt = 255 - frame
    inside = (slice(first_row, last_row), slice(first_column, last_column))
    spoilt[inside] = frame[inside]
    assert (resize_box(frame, box, size_px) == resize_box(spoilt, box, size_px)).all()


def test_a_view_has_the_same_bits_by_either_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = picture(256, 341, 0, 255)
    operations: Jitter = (("saturation", 1.3), ("contrast", 0.7), ("brightness", 1.2))
    view = View(short_side_px=300, top_px=40, left_px=60, crop_px=224, flip=True, jitter=tuple(operations))
    calls: list[str] = []

    def noted(name: str, function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        return lambda *args: calls.append(name) or function(*args)  # type: ignore[func-returns-value]

    monkeypatch.setattr(module, "jitter_compiled", noted("compiled", jitter_compiled))
    monkeypatch.setattr(module, "jitter_by_pillow", noted("pillow", jitter_by_pillow))
    views = [apply_view(frame, view), apply_view(frame, view, "pillow"), apply_view(frame, view, "compiled")]
    assert calls == ["pillow", "pillow", "compiled"]
    assert all((other == views[0]).all() for other in views[1:])
    twice = [("saturation", 0.5), ("brightness", 0.9), ("saturation", 1.5)]
    assert (jitter(frame, twice, (0, 256, 0, 341), "compiled") == jitter_by_pillow(frame, twice)).all()
    assert calls[3:] == ["pillow"]
