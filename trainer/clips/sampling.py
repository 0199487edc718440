"""Choose the frames of a clip: the original's SampleFrames, index for index.

Source: mmaction/datasets/pipelines/loading.py in github.com/xyzforever/BEVT; out-of-bound indices wrap around.
Legend: K clips, T frames of a clip. Positions count from 0 in the video, or in a frame store's pool.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.errors import UserError
from schemas.recipes import ClipSampling

Positions = NDArray[np.int64]


def dense_train(num_frames: int, frames: int, interval: int, rng: np.random.Generator) -> Positions:
    """Draw a start, then take every `interval`-th position: (T,). Short videos start at 0 and loop."""
    starts = num_frames - frames * interval + 1
    start = int(rng.integers(starts)) if starts > 0 else 0
    positions_T: Positions = _loop(np.array([start]), num_frames, frames, interval)[0]
    return positions_T


def dense_test(num_frames: int, frames: int, interval: int, clips: int) -> Positions:
    """Spread `clips` clips evenly, each in the middle of an equal range of the possible starts: (K, T)."""
    starts = num_frames - frames * interval + 1
    spacing = starts / clips
    first = (np.arange(clips) * spacing + spacing / 2).astype(np.int64) if starts > 0 else np.zeros(clips, np.int64)
    return _loop(first, num_frames, frames, interval)


def uniform_train(num_frames: int, frames: int, interval: int, rng: np.random.Generator) -> Positions:
    """Draw one position in each of T equal segments, ends included (`frame_uniform`): (T,). `interval` is ignored."""
    first, last = _segments(num_frames, frames)
    return rng.integers(first, last, endpoint=True)


def uniform_test(num_frames: int, frames: int, interval: int, clips: int) -> Positions:
    """Take the middle of each of T equal segments: (1, T). Raises UserError unless `clips` is 1."""
    if clips != 1:
        raise UserError(
            f"{clips} clips per video: uniform sampling spans the whole video with one clip; ask for 1 clip, "
            "or fine-tune with --set sampling.kind=dense"
        )
    first, last = _segments(num_frames, frames)
    return ((first + last) // 2)[None]


def repeats(positions_T: Positions) -> NDArray[np.bool_]:
    """Mark the frames of a clip, sampled in order, that repeat the video: bool (T,).

    Repeats are all frames after the clip wraps to the video's start, and frames equal to the one before them.
    """
    steps = np.diff(positions_T, prepend=-1)
    repeated_T: NDArray[np.bool_] = (np.cumsum(steps < 0) > 0) | (steps == 0)
    return repeated_T


# the end of error messages: how to sample clips in another way
OTHER_SAMPLING = (
    "choose another sampling: for fine-tuning `sampling.kind=uniform` or another `recipe`, for a pretrained encoder a "
    "fine-tuning `recipe`; a fine-tuned model keeps the sampling that it was trained with"
)


class Sampler(NamedTuple):
    """The functions of one kind of sampling."""

    train: Callable[[int, int, int, np.random.Generator], Positions]  # (num_frames, frames, interval, rng) -> (T,)
    test: Callable[[int, int, int, int], Positions]  # (num_frames, frames, interval, clips) -> (K, T)


SAMPLERS = {"dense": Sampler(dense_train, dense_test), "uniform": Sampler(uniform_train, uniform_test)}


def interval_in_pool(sampling: ClipSampling, stride: int) -> int:
    """Convert the interval from source frames to pool positions. Raises UserError if `stride` does not divide it."""
    if sampling.kind == "dense" and sampling.interval % stride:
        raise UserError(
            f"sampling.interval {sampling.interval} is not a multiple of the frame store's stride {stride}; "
            f"choose `sampling.interval={stride}` or a multiple, make the store with `bevt tokenize --set "
            f"pool.stride=1`, or {OTHER_SAMPLING}"
        )
    return max(1, sampling.interval // stride)


def _loop(first: Positions, num_frames: int, frames: int, interval: int) -> Positions:
    return (first[:, None] + np.arange(frames) * interval) % num_frames


def _segments(num_frames: int, frames: int) -> tuple[Positions, Positions]:
    """First and last position of each segment; neighbours share their border, as in the original."""
    bounds = np.round((num_frames - 1) / frames * np.arange(frames + 1)).astype(np.int64)
    return bounds[:-1], bounds[1:]
