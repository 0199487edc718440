"""The interfaces between the loop and a stage: a model with its losses (`Task`), and batches (`BatchSource`)."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

Batch = dict[str, Any]  # tensors and lists with one entry per sample, in nested dicts of any shape


@dataclass(frozen=True)
class Term:
    """One term of the loss over one micro-batch, as sums over its targets.

    The loop divides by the number of targets of the whole step over all ranks, so a loss does not depend on the number
    of processes or micro-batches. `sums` are logged as means over the same targets; `histograms` (one count per class)
    as their perplexity, exp of the entropy.
    """

    loss_sum: Tensor
    weight: float = 1.0
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    histograms: Mapping[str, Tensor] = field(default_factory=dict)


class Task(Protocol):
    """A model and its losses. Every rank calls both methods with each of its micro-batches of a step."""

    @property
    def model(self) -> nn.Module: ...

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Return the number of targets per loss term in a micro-batch, which is on the CPU."""

    def losses(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Term]:
        """Return the terms of one micro-batch, which is on the device; `model` is `self.model`, or DDP around it."""


class BatchSource(Protocol):
    """One rank's samples of every step's global batch."""

    def batches(self, first: int, stop: int) -> Iterable[Sequence[Batch]]:
        """Yield the micro-batches of each step from `first` to `stop - 1`."""

    def samples_in(self, batch: Batch) -> list[str]:
        """Return the ids of a micro-batch's samples, for messages."""


def split(items: Any, parts: int) -> list[Any]:
    """Split a sequence into `parts` consecutive slices whose sizes differ by at most one."""
    bounds = [i * len(items) // parts for i in range(parts + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]
