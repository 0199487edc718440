"""Code vectors: nearest-code search, k-means initialisation, sums per code for moving averages, and perplexity.

Legend: V codes, D values of a code, M vectors.
"""

import torch
from torch import Tensor

VECTORS_PER_CODE = 20  # used by k-means, by default
ROUNDS = 10  # k-means iterations
CHUNK = 8192  # vectors whose distances to all codes are in memory at a time


def nearest_code(vectors: Tensor, codes_VD: Tensor) -> Tensor:
    """Index of the nearest code by Euclidean distance: `[..., D]` -> `[...]`."""
    flat_MD = vectors.reshape(-1, vectors.shape[-1])
    norms_V = (codes_VD * codes_VD).sum(dim=1)
    chunks = [(norms_V - 2 * chunk @ codes_VD.T).argmin(dim=1) for chunk in flat_MD.split(CHUNK)]
    return torch.cat(chunks).reshape(vectors.shape[:-1])


def most_aligned_code(vectors: Tensor, codes_VD: Tensor) -> Tensor:
    """Index of the code with the largest dot product: `[..., D]` -> `[...]`."""
    flat_MD = vectors.reshape(-1, vectors.shape[-1])
    return torch.cat([(chunk @ codes_VD.T).argmax(dim=1) for chunk in flat_MD.split(CHUNK)]).reshape(vectors.shape[:-1])


def fit_codes(
    vectors_MD: Tensor, vocab_size: int, generator: torch.Generator, vectors_per_code: int = VECTORS_PER_CODE
) -> Tensor:
    """Codes `[V, D]` by Lloyd's k-means, started at random vectors; an empty code restarts at another vector.

    Uses at most `vectors_per_code` * V vectors. `generator` is a CPU generator.
    """
    order = torch.randperm(len(vectors_MD), generator=generator).to(vectors_MD.device)
    vectors_MD = vectors_MD[order[: vectors_per_code * vocab_size]]
    codes_VD = vectors_MD[torch.arange(vocab_size, device=vectors_MD.device) % len(vectors_MD)]
    for _ in range(ROUNDS):
        counts_V, sums_VD = count_and_sum(nearest_code(vectors_MD, codes_VD), vectors_MD, vocab_size)
        fresh = torch.randint(len(vectors_MD), (vocab_size,), generator=generator).to(vectors_MD.device)
        means_VD = sums_VD / counts_V.clamp(min=1).unsqueeze(1)
        codes_VD = torch.where((counts_V > 0).unsqueeze(1), means_VD, vectors_MD[fresh])
    return codes_VD


def count_and_sum(ids_M: Tensor, vectors_MD: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """The number of vectors assigned to each code, and their sum: `[V]`, `[V, D]`."""
    counts_V = torch.bincount(ids_M, minlength=vocab_size).to(vectors_MD.dtype)
    sums_VD = vectors_MD.new_zeros(vocab_size, vectors_MD.shape[1]).index_add_(0, ids_M, vectors_MD)
    return counts_V, sums_VD


def perplexity(counts_V: Tensor) -> Tensor:
    """exp of the entropy of the empirical token distribution: the equivalent number of equally frequent ids."""
    share_V = counts_V.double() / counts_V.sum().clamp(min=1)
    return torch.exp(-(share_V * share_V.clamp(min=1e-30).log()).sum())
