"""Masks match the original generator's statistics, and depend only on their random generator."""

import time

import numpy as np
import pytest

from bevt_core.masking import MASKERS, blockwise, motion_energy, tube, tube_masks
from bevt_core.rng import rng_for

GRID = (8, 14, 14)
NUM_MASKED = 98


@pytest.fixture(scope="module")
def masks_BHW() -> np.ndarray:
    return np.stack([blockwise(rng_for("blockwise", i), (14, 14), NUM_MASKED) for i in range(4000)])


def test_blockwise_counts_match_the_original(masks_BHW: np.ndarray) -> None:
    counts = masks_BHW.sum(axis=(1, 2))
    assert counts.mean() == pytest.approx(97.5, abs=0.1)
    assert counts.max() == NUM_MASKED
    assert counts.min() >= 80
    assert np.quantile(counts, [0.01, 0.05, 0.25, 0.5]) == pytest.approx([94, 96, 97, 98], abs=1)


def test_blockwise_places_match_the_original(masks_BHW: np.ndarray) -> None:
    share_HW = masks_BHW.mean(axis=0)
    assert share_HW[[0, 0, -1, -1], [0, -1, 0, -1]].mean() == pytest.approx(0.060, abs=0.01)
    assert share_HW[[0, -1, 7, 7], [7, 7, 0, -1]].mean() == pytest.approx(0.276, abs=0.02)
    assert share_HW[6:8, 6:8].mean() == pytest.approx(0.859, abs=0.02)


def test_blockwise_borders_match_the_original(masks_BHW: np.ndarray) -> None:
    across = (masks_BHW[:, 1:] != masks_BHW[:, :-1]).sum(axis=(1, 2))
    along = (masks_BHW[:, :, 1:] != masks_BHW[:, :, :-1]).sum(axis=(1, 2))
    assert (across + along).mean() == pytest.approx(42.9, abs=0.5)


def test_tube_is_one_mask_over_a_stretch_of_time() -> None:
    masks_BTHW = tube_masks([rng_for("tube", i) for i in range(2000)], GRID, NUM_MASKED)
    lengths = masks_BTHW.any(axis=(2, 3)).sum(axis=1)
    assert np.bincount(lengths, minlength=9)[4:] / 2000 == pytest.approx([0.2] * 5, abs=0.03)
    assert masks_BTHW.mean() == pytest.approx(0.374, abs=0.01)
    for mask_THW in masks_BTHW[:50]:
        hidden_frames = mask_THW[mask_THW.any(axis=(1, 2))]
        assert (hidden_frames == hidden_frames[0]).all()


def test_a_tube_wraps_around_the_end_only_with_wrap() -> None:
    def num_pieces(mask_THW: np.ndarray) -> int:
        hidden_T = mask_THW.any(axis=(1, 2)).astype(int)
        return int((np.diff(hidden_T, prepend=0) == 1).sum())

    kept_inside = [num_pieces(tube(rng_for(i), GRID, NUM_MASKED, wrap=False)) for i in range(200)]
    wrapped = [num_pieces(tube(rng_for(i), GRID, NUM_MASKED)) for i in range(200)]
    assert set(kept_inside) == {1}
    assert set(wrapped) == {1, 2}


def test_a_mask_depends_on_its_own_generator_alone() -> None:
    batch = tube_masks([rng_for(0, i) for i in range(16)], GRID, NUM_MASKED)
    alone = [tube(rng_for(0, i), GRID, NUM_MASKED) for i in range(16)]
    np.testing.assert_array_equal(batch, alone)
    assert len({mask.tobytes() for mask in batch}) == 16


def test_an_image_is_a_clip_of_one_frame() -> None:
    mask_THW = tube(rng_for(0), (1, 14, 14), NUM_MASKED)
    assert mask_THW.shape == (1, 14, 14)
    assert mask_THW.sum() > 80


@pytest.mark.parametrize("name", MASKERS)
def test_every_masker_hides_what_it_is_asked_to(name: str) -> None:
    frames_THWC = rng_for("frames").integers(0, 256, (16, 28, 28, 3), dtype=np.uint8)
    options = {"frames_THWC": frames_THWC} if name == "frame_diff" else {}
    masks = [MASKERS[name](rng_for(i), GRID, 78, **options) for i in range(20)]
    assert all(mask.shape == GRID and mask.dtype == bool for mask in masks)
    share = np.mean(masks)
    assert share == pytest.approx(0.3 if name == "tube" else 78 / 196, abs=0.06)


def test_frame_diff_follows_the_motion() -> None:
    frames_THWC = np.zeros((16, 28, 28, 3), np.uint8)
    frames_THWC[::2, :14] = 255  # the upper half flickers
    mask_THW = MASKERS["frame_diff"](rng_for(0), GRID, 98, frames_THWC=frames_THWC)
    assert mask_THW[:, :7].all()
    assert not mask_THW[:, 7:].any()
    assert motion_energy(frames_THWC, GRID).max() == 255


def test_random_frame_hides_whole_frames() -> None:
    mask_THW = MASKERS["random_frame"](rng_for(0), GRID, 98)
    assert mask_THW.all(axis=(1, 2)).sum() == 4
    assert mask_THW.any(axis=(1, 2)).sum() == 4


def test_256_tubes_take_less_than_20_ms() -> None:
    generators = [rng_for(i) for i in range(256)]
    seconds = []
    for _ in range(7):
        start = time.process_time()
        tube_masks(generators, GRID, NUM_MASKED)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.020
