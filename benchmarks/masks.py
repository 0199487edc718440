"""CPU time of a batch of 256 tube masks, with the generators made before and within: `python benchmarks/masks.py`."""

import statistics
import time
from collections.abc import Callable

import numpy as np

from bevt_core.masking import tube_masks
from bevt_core.rng import rng_for

GRID_THW, NUM_MASKED, BATCH, ROUNDS = (8, 14, 14), 98, 256, 30  # the original's


def generators(round_: int) -> list[np.random.Generator]:
    return [rng_for("masks", round_, sample) for sample in range(BATCH)]


def milliseconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return (time.process_time() - begun) * 1e3


def main() -> None:
    ready_ms, whole_ms = [], []
    for round_ in range(ROUNDS):
        rngs = generators(round_)
        ready_ms.append(milliseconds(lambda: tube_masks(rngs, GRID_THW, NUM_MASKED)))  # noqa: B023
        whole_ms.append(milliseconds(lambda: tube_masks(generators(-round_ - 1), GRID_THW, NUM_MASKED)))  # noqa: B023
    print(f"generators ready: {statistics.median(ready_ms):.1f} ms; made within: {statistics.median(whole_ms):.1f} ms")


if __name__ == "__main__":
    main()
