"""Frame sampling, index for index like the original's."""

import json
from pathlib import Path

import numpy as np
import pytest

from bevt_core.rng import rng_for
from schemas.errors import UserError
from schemas.recipes import ClipSampling
from trainer.clips.sampling import (
    SAMPLERS,
    dense_test,
    dense_train,
    interval_in_pool,
    repeats,
    uniform_test,
    uniform_train,
)

# computed by the original's SampleFrames: (frames, interval, clips, length) -> first and last index of every clip
DENSE = {
    (16, 8, 1, 300): [(86, 206)],
    (32, 2, 4, 300): [(29, 91), (88, 150), (148, 210), (207, 269)],
}


def original_rows(oracle: Path) -> list[dict]:
    return json.loads((oracle / "sample_frames.json").read_text())


def test_test_clips_are_the_originals(oracle: Path) -> None:
    rows = [row for row in original_rows(oracle) if "test_indices" in row]
    assert len(rows) > 100
    for row in rows:
        sampler = SAMPLERS["uniform" if row["frame_uniform"] else "dense"]
        positions = sampler.test(row["total_frames"], row["clip_len"], row["frame_interval"], row["num_clips"])
        assert positions.flatten().tolist() == row["test_indices"], row


def test_training_clips_cover_the_originals_range(oracle: Path) -> None:
    rows = [row for row in original_rows(oracle) if "train_first_min" in row]
    assert len(rows) > 20
    for row in rows:
        sampler = SAMPLERS["uniform" if row["frame_uniform"] else "dense"]
        arguments = row["total_frames"], row["clip_len"], row["frame_interval"]
        rng = rng_for("range")
        clips = np.array([sampler.train(*arguments, rng) for _ in range(4000)])
        found = [clips[:, 0].min(), clips[:, 0].max(), clips[:, -1].min(), clips[:, -1].max()]
        wanted = [row[f"train_{end}_{side}"] for end in ("first", "last") for side in ("min", "max")]
        assert found == wanted, row


@pytest.mark.parametrize("case", DENSE)
def test_dense_clips_of_a_long_video(case: tuple[int, int, int, int]) -> None:
    frames, interval, clips, length = case
    positions = dense_test(length, frames, interval, clips)
    assert [(clip[0], clip[-1]) for clip in positions.tolist()] == DENSE[case]
    assert (np.diff(positions, axis=1) == interval).all()


@pytest.mark.parametrize("length", [1, 3, 8, 15])
def test_short_videos_loop(length: int) -> None:
    expected = [(i * 2) % length for i in range(8)]
    assert dense_train(length, 8, 2, rng_for(0)).tolist() == expected
    assert dense_test(length, 8, 2, 1)[0].tolist() == expected


@pytest.mark.parametrize("length", [1, 5, 32, 33, 300])
def test_uniform_clips_span_the_video(length: int) -> None:
    positions = uniform_test(length, 32, 1, 1)[0]
    assert positions[0] <= length // 32 and positions[-1] >= length - 1 - length // 32
    for seed in range(20):
        drawn = uniform_train(length, 32, 1, rng_for(seed))
        assert (np.diff(drawn) >= 0).all() and drawn.min() >= 0 and drawn.max() < length


def test_uniform_sampling_has_one_clip() -> None:
    with pytest.raises(UserError, match="4 clips per video"):
        uniform_test(100, 32, 1, 4)


def test_the_interval_must_fit_the_pool() -> None:
    assert interval_in_pool(ClipSampling(kind="dense", frames=8, interval=4), 2) == 2
    assert interval_in_pool(ClipSampling(kind="uniform", frames=8, interval=1), 8) == 1
    with pytest.raises(UserError, match=r"interval 2 .* stride 8"):
        interval_in_pool(ClipSampling(kind="dense", frames=8, interval=2), 8)


@pytest.mark.parametrize("num_frames", [1, 2, 8, 9, 60, 61, 64, 127, 128, 129, 300])
def test_frames_after_a_videos_end_are_repeats(num_frames: int) -> None:
    """For any length, also if the second pass shows frames that the first one skipped."""
    positions = dense_test(num_frames, 16, 8, 1)[0]
    unbroken = positions[0] + 8 * np.arange(16)
    assert repeats(positions).tolist() == (unbroken >= num_frames).tolist()


def test_a_frame_that_is_taken_twice_is_a_repeat() -> None:
    assert repeats(np.array([0, 0, 1, 2, 2, 3])).tolist() == [False, True, False, False, True, False]
    assert repeats(np.array([5])).tolist() == [False]
    assert repeats(dense_test(7, 16, 8, 1)[0]).tolist() == [False] * 7 + [True] * 9  # 0 1 2 ... 6 0 1: in order
