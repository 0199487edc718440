"""What a step logs, summed over micro-batches and ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.distributed import World
from trainer.tasks import Term


class Tally:
    """What a step logs: sums, added up over micro-batches here and over ranks in one collective."""

    def __init__(self, totals: Mapping[str, Tensor]) -> None:
        self.totals = dict(totals)
        self.weights: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add_terms(self, terms: Mapping[str, Term]) -> None:
        for name, term in terms.items():
            self.weights[name] = term.weight
            self.add(f"{name}_loss", term.loss_sum / self.totals[name])
            for key, value in term.sums.items():
                self.add(f"{name}_{key}", value / self.totals[name])
            for key, value in term.histograms.items():
                self.add(f"{name}_{key}_perplexity", value)

    def reduced(self, world: World) -> dict[str, float]:
        """Sum over ranks; `loss` is the weighted sum of the terms, a histogram is logged as its perplexity."""
        flat = torch.cat([value.to(world.device).flatten() for value in self.sums.values()])
        sizes = [value.numel() for value in self.sums.values()]
        pieces = world.sum(flat).cpu().split(sizes)
        reduced = {
            name: float(piece) if self.sums[name].ndim == 0 else perplexity(piece)
            for name, piece in zip(self.sums, pieces, strict=True)
        }
        loss = sum(weight * reduced[f"{name}_loss"] for name, weight in self.weights.items())
        return {"loss": loss, **reduced}


def perplexity(histogram: Tensor) -> float:
    """Return exp of the entropy of a histogram: how many classes are in use, if they were used evenly."""
    share = histogram / histogram.sum().clamp(min=1)
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))
