"""The losses and schedules of the discrete VAE (Ramesh et al. 2021, section 2.1 and appendix A.2-A.3)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bevt_core.tokenizers.dvae.pixels import map_pixels, unmap_pixels

# Shares of a run after which a schedule stays at its last value.
ANNEAL_SHARE = 0.75  # temperature
KL_WARM_UP_SHARE = 0.1  # KL weight
GUIDE_SHARE = 0.6  # weight of the k-means guide, which ends at 0


def gumbel_softmax(logits_NVhw: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """A relaxed one-hot sample per position: softmax((logits + Gumbel noise) / temperature) over V."""
    noise = torch.empty_like(logits_NVhw).exponential_(generator=generator).log().neg()
    return F.softmax((logits_NVhw + noise) / temperature, dim=1)


def kl_to_uniform(logits_NVhw: Tensor) -> Tensor:
    """KL(q(token | frame) || uniform), in nats per token, mean over all positions."""
    log_q = F.log_softmax(logits_NVhw, dim=1)
    return (log_q.exp() * log_q).sum(dim=1).mean() + math.log(logits_NVhw.shape[1])


def logit_laplace_loss(stats_NSHW: Tensor, unit_NCHW: Tensor) -> Tensor:
    """Negative log-likelihood of the pixels under the decoder's logit-Laplace (eq. 2 of the appendix), nats per value.

    `stats_NSHW` contains the means, then ln b, of C = S / 2 colours; `unit_NCHW` is in [0, 1].
    """
    mean, ln_b = stats_NSHW.chunk(2, dim=1)
    x = map_pixels(unit_NCHW)
    return ((torch.logit(x) - mean).abs() * torch.exp(-ln_b) + ln_b + math.log(2) + (x * (1 - x)).log()).mean()


def mse_loss(stats_NSHW: Tensor, unit_NCHW: Tensor) -> Tensor:
    """Mean squared error of the decoded pixels in [0, 1]; the ln b channels are ignored."""
    mean, _ = stats_NSHW.chunk(2, dim=1)
    return F.mse_loss(unmap_pixels(torch.sigmoid(mean)), unit_NCHW)


RECONSTRUCTION = {"logit-laplace": logit_laplace_loss, "mse": mse_loss}


def guide_weight_at(progress: float, first: float) -> float:
    """Cosine from `first` to 0 over the first GUIDE_SHARE of the run; `progress` is in [0, 1]."""
    return _cosine(progress / GUIDE_SHARE, first, 0.0)


def temperature_at(progress: float, first: float, last: float) -> float:
    """Cosine from `first` to `last` over the first ANNEAL_SHARE of the run; `progress` is in [0, 1]."""
    return _cosine(progress / ANNEAL_SHARE, first, last)


def kl_weight_at(progress: float, first: float, last: float) -> float:
    """Cosine from `first` to `last` over the first KL_WARM_UP_SHARE of the run; `progress` is in [0, 1]."""
    return _cosine(progress / KL_WARM_UP_SHARE, first, last)


def _cosine(share: float, first: float, last: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
