"""What a decoder returns: the chosen frames of one source.

Legend: H height, W width, C channels (RGB).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Frame = np.ndarray  # HWC uint8
Kept = TypeVar("Kept")
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
