"""Logged values of a step, summed over micro-batches and ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.distributed.world import World, from_host
from trainer.engine.task import Term


class Tally:
    """Sums of logged values, accumulated over micro-batches here and over ranks in one collective."""

    def __init__(self, totals: Mapping[str, Tensor]) -> None:
        """`totals` are the numbers of targets of the whole step, by term."""
        self.totals = dict(totals)
        self.weights: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def count(self, name: str, value: float) -> None:
        """Log a number that is known on the host."""
        self.counts[name] = value

    def add_terms(self, terms: Mapping[str, Term]) -> None:
        for name, term in terms.items():
            self.weights[name] = term.weight
            self.add(f"{name}_loss", term.loss_sum / self.totals[name])
            for key, value in term.sums.items():
                self.add(f"{name}_{key}", value / self.totals[name])
            for key, value in term.histograms.items():
                self.add(f"{name}_{key}_perplexity", value)

    def reduce(self, world: World) -> Tensor:
        """Return the sums over all ranks, float64 on the device, as input of `values` and `loss`."""
        counts = from_host(list(self.counts.values()), world.device)
        return world.sum(torch.cat([*(value.flatten() for value in self.sums.values()), counts]))

    def loss(self, reduced: Tensor) -> Tensor:
        """Return the weighted sum of the terms, on the device."""
        return torch.stack([w * value.squeeze() for w, value in self._weighted(reduced)]).sum()

    def values(self, reduced: Tensor) -> dict[str, float]:
        """Return the numbers of `reduced`, on the host, by name; a histogram becomes its perplexity."""
        values = {
            name: float(value) if self._is_number(name) else perplexity(value)
            for name, value in self._by_name(reduced).items()
        }
        return {"loss": sum(weight * float(value) for weight, value in self._weighted(reduced)), **values}

    def _by_name(self, reduced: Tensor) -> dict[str, Tensor]:
        sizes = [value.numel() for value in self.sums.values()] + [1] * len(self.counts)
        return dict(zip([*self.sums, *self.counts], reduced.split(sizes), strict=True))

    def _weighted(self, reduced: Tensor) -> list[tuple[float, Tensor]]:
        """The weight and the reduced loss of every term."""
        by_name = self._by_name(reduced)
        return [(weight, by_name[f"{name}_loss"]) for name, weight in self.weights.items()]

    def _is_number(self, name: str) -> bool:
        return name in self.counts or self.sums[name].ndim == 0


def perplexity(histogram: Tensor) -> float:
    """Return exp of the entropy of a histogram: the effective number of classes in use."""
    shares = histogram / histogram.sum().clamp(min=1)
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))
