"""The samples of each optimizer step: a pure function of (seed, epoch) over the committed samples.

There is no iterator state. A global batch is a slice of the epoch's order, and a rank's batch is a slice of the global
batch. So a run resumes at any step, on any number of ranks, with the same global batches.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bevt_core.console.readable import count
from bevt_core.rng import rng_for
from schemas.errors import UserError


def epoch_order(part_sizes: NDArray[np.int64], window_parts: int, *key: object) -> NDArray[np.int64]:
    """Return the positions 0..n-1 of all samples in the order of the epoch identified by `key`.

    Parts are shuffled; samples are shuffled inside windows of `window_parts` consecutive parts of that order, so that
    reads stay local. `part_sizes` counts the samples of each part; a part's samples are consecutive positions.
    """
    rng = rng_for("order", *key)
    part_order = rng.permutation(len(part_sizes))  # the same draw as in `part_order_of`
    sizes = part_sizes[part_order]
    first = (np.cumsum(part_sizes) - part_sizes)[part_order]  # position of each part's first sample
    before = np.cumsum(sizes) - sizes
    samples = np.repeat(first - before, sizes) + np.arange(sizes.sum())
    window = np.repeat(np.arange(len(sizes), dtype=np.uint64) // np.uint64(window_parts), sizes)
    return samples[_shuffled_within(window, rng)]


def repeats_of(
    part_sizes: NDArray[np.int64], weights: NDArray[np.float64], *key: object, epoch: int
) -> NDArray[np.int64]:
    """Return how often the epoch reads each sample, int64 (N,), given the weight of each part.

    A weight of 2.5 reads every sample twice and half of them once more, 0.5 half of them. Which half rotates from epoch
    to epoch through a fixed order, so that all samples are read equally often, and every epoch has equally many.
    """
    weight_N = np.repeat(weights, part_sizes)
    repeats_N = np.floor(weight_N).astype(np.int64)
    for weight in np.unique(weights):
        alike = np.flatnonzero(weight_N == weight)
        more = round((weight - np.floor(weight)) * len(alike))
        if more:
            order = rng_for("weight", *key, float(weight)).permutation(len(alike))
            repeats_N[alike[order[(epoch * more + np.arange(more)) % len(alike)]]] += 1
    return repeats_N


def part_order_of(num_parts: int, *key: object) -> NDArray[np.int64]:
    """Return the parts in the order in which `epoch_order` takes them."""
    return rng_for("order", *key).permutation(num_parts)


def _shuffled_within(window: NDArray[np.uint64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Permute the positions of equal values in the ascending `window` at random.

    (window, random, position) is packed into one integer per sample, which is unique: sorting the integers is faster
    than an argsort, and any sorting algorithm gives the same order.
    """
    position_bits = len(window).bit_length()
    window_bits = int(window[-1]).bit_length() if len(window) else 0
    random_bits = 64 - position_bits - window_bits
    assert random_bits >= 16, "more than 2**24 samples in as many windows"
    keys = rng.integers(0, 1 << random_bits, len(window), dtype=np.uint64) << np.uint64(position_bits)
    keys |= window << np.uint64(position_bits + random_bits)
    keys |= np.arange(len(window), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << position_bits) - 1)).astype(np.int64)


def rank_slice(batch: NDArray[np.int64], rank: int, world_size: int) -> NDArray[np.int64]:
    """Return the consecutive slice of a global batch that belongs to `rank`; sizes differ by at most one sample."""
    return batch[rank * len(batch) // world_size : (rank + 1) * len(batch) // world_size]


class _Stretch(NamedTuple):
    """Consecutive epochs over the same samples."""

    first_epoch: int
    first_step: int
    part_sizes: NDArray[np.int64]
    steps_per_epoch: int


@dataclass
class StreamOrder:
    """The global batches of one stream, by step.

    An epoch drops the last `num_samples % global_batch` samples of its order. If the dataset was extended during the
    run, `growth` has a pair (first epoch, parts) for each time: epochs before the first one read only so many parts.
    Other properties are those of the whole dataset. With `weights`, one per part, an epoch reads samples as in
    `repeats_of`; the n-th repetition of position p is n * num_samples + p.
    `key` separates runs and streams: (seed, stream). `setting` is the recipe's key of `global_batch`, for errors.
    Raises UserError if an epoch is shorter than one batch.
    """

    part_sizes: NDArray[np.int64]
    global_batch: int
    window_parts: int
    key: tuple[object, ...]
    setting: str = "global_batch"
    growth: tuple[tuple[int, int], ...] = ()
    weights: NDArray[np.float64] | None = None
    _stretches: list[_Stretch] = field(default_factory=list, init=False, repr=False)
    _read_per_epoch: int = field(default=0, init=False, repr=False)
    _epoch: int = field(default=-1, init=False, repr=False)
    _order: NDArray[np.int64] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self._per_epoch(self.part_sizes) < self.global_batch:
            fitting = 1 << max(0, self.num_samples.bit_length() - 1)  # a power of two splits into micro-batches
            raise UserError(
                f"{self.key[-1]}: {count(self.num_samples, 'sample')}, fewer than one global batch of "
                f"{self.global_batch}; lower it with `{self.setting}={fitting}`, or prepare more data"
            )
        self._read_per_epoch = self._per_epoch(self.part_sizes)
        self._stretches = [_Stretch(0, 0, self.part_sizes, self.steps_per_epoch)]
        for first_epoch, num_parts in self.growth:
            before = self._stretches.pop()._replace(part_sizes=self.part_sizes[:num_parts])
            before = before._replace(steps_per_epoch=self._per_epoch(before.part_sizes) // self.global_batch)
            first_step = before.first_step + (first_epoch - before.first_epoch) * before.steps_per_epoch
            self._stretches += [before, _Stretch(first_epoch, first_step, self.part_sizes, self.steps_per_epoch)]

    @property
    def num_samples(self) -> int:
        return int(self.part_sizes.sum())

    @property
    def steps_per_epoch(self) -> int:
        return self._read_per_epoch // self.global_batch

    @property
    def dropped_per_epoch(self) -> int:
        return self._read_per_epoch % self.global_batch

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        order = epoch_order(self._sizes_read(epoch), self.window_parts, *self.key, epoch)
        if self.weights is None:
            return order
        repeats_N = self._repeats(epoch)
        number = np.arange(len(order)) - np.repeat(np.cumsum(repeats_N) - repeats_N, repeats_N)
        return (np.repeat(np.arange(len(repeats_N)), repeats_N) + number * self.num_samples)[order]

    def _repeats(self, epoch: int) -> NDArray[np.int64]:
        sizes = self.part_sizes_of(epoch)
        assert self.weights is not None
        return repeats_of(sizes, self.weights[: len(sizes)], *self.key, epoch=epoch)

    def _sizes_read(self, epoch: int) -> NDArray[np.int64]:
        """The number of readings from each part in `epoch`."""
        sizes = self.part_sizes_of(epoch)
        if self.weights is None:
            return sizes
        ends = np.concatenate([[0], np.cumsum(self._repeats(epoch))])[np.cumsum(sizes)]
        return np.diff(ends, prepend=0)

    def _per_epoch(self, part_sizes: NDArray[np.int64]) -> int:
        """The number of readings in an epoch over these parts."""
        if self.weights is None:
            return int(part_sizes.sum())
        return int(repeats_of(part_sizes, self.weights[: len(part_sizes)], *self.key, epoch=0).sum())

    def position(self, step: int) -> tuple[int, int]:
        """Return the epoch of `step`, and the number of steps before it in that epoch."""
        stretch = next(each for each in reversed(self._stretches) if each.first_step <= step)
        epoch, at = divmod(step - stretch.first_step, stretch.steps_per_epoch)
        return stretch.first_epoch + epoch, at

    def steps_in(self, epochs: float) -> int:
        """Return the number of steps in the first `epochs` epochs, rounded."""
        stretch = self._stretch_of(epochs)
        return stretch.first_step + round((epochs - stretch.first_epoch) * stretch.steps_per_epoch)

    def epochs_in(self, steps: int) -> float:
        """Return the number of epochs in the first `steps` steps."""
        epoch, at = self.position(steps)
        return epoch + at / self._stretch_of(epoch).steps_per_epoch

    def part_sizes_of(self, epoch: int) -> NDArray[np.int64]:
        """Return the samples of each part that `epoch` reads."""
        return self._stretch_of(epoch).part_sizes

    def _stretch_of(self, epoch: float) -> _Stretch:
        return next(each for each in reversed(self._stretches) if each.first_epoch <= epoch)

    def batch(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Return the epoch and the sample positions [global_batch] of `step`, counted from 0 over the whole run."""
        epoch, at = self.position(step)
        if self._order is None or self._epoch != epoch:
            self._order = self._order_of(epoch)
            self._epoch = epoch
        return epoch, self._order[at * self.global_batch : (at + 1) * self.global_batch]

    def parts_ahead(self, step: int) -> list[int]:
        """Return the parts of the window that `step` reads from and of the next window, in reading order."""
        epoch, at = self.position(step)
        parts = part_order_of(len(self.part_sizes_of(epoch)), *self.key, epoch)
        first = int(np.searchsorted(np.cumsum(self._sizes_read(epoch)[parts]), at * self.global_batch, side="right"))
        first -= first % self.window_parts
        ahead: list[int] = parts[first : first + 2 * self.window_parts].tolist()
        if first + self.window_parts >= len(parts):
            following = part_order_of(len(self.part_sizes_of(epoch + 1)), *self.key, epoch + 1)
            ahead += following[: self.window_parts].tolist()
        return ahead

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_epoch": -1, "_order": None}  # workers compute it again


def view_of_epoch(num_views: int, part: int, epoch: int, *key: object) -> int:
    """Return the view of all samples of `part` in `epoch`. In `num_views` epochs every view is used once."""
    offset = int(rng_for("view", *key, part).integers(num_views))
    return (offset + epoch) % num_views
