"""What a decoder returns: the chosen frames of one source.

Legend: H height, W width, C channels (RGB).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Frame = np.ndarray  # HWC uint8
Kept = TypeVar("Kept")
CHUNK_FRAMES = 16  # per batch from a decoder that returns several frames at once
CHUNK_PIXELS = 64_000_000  # per batch at most: 192 MB of RGB
Choose = Callable[[int], Sequence[int] | np.ndarray]  # number of frames -> increasing frame indices


@dataclass(frozen=True)
class Decoded(Generic[Kept]):
    """The chosen frames of one source, each as returned by `keep`."""

    frames: list[Kept]
    frame_indices: list[int]  # in display order
    times_s: list[float]  # increasing
    decoder: str
    decoder_version: str
    warnings: list[str]
    sizes: frozenset[tuple[int, int]]  # (height, width) of the decoded frames, kept or not


class Disagreement(Exception):
    """A decoder contradicts the packets of a file, so a slower way of decoding must be used."""


def chunks_of(indices: Sequence[int], frame_pixels: int) -> Iterator[list[int]]:
    """Yield the indices in batches of at most CHUNK_FRAMES frames and CHUNK_PIXELS pixels, at least one frame each."""
    size = max(1, min(CHUNK_FRAMES, CHUNK_PIXELS // frame_pixels))
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])
