"""A codebook that follows the encoder by moving averages, with codes that nobody uses started again.

(van den Oord et al. 2017, VQ-VAE, appendix A.1. Restarts: Dhariwal et al. 2020, Jukebox, section 3.)

Legend: V codes, D values of a code, M vectors.
"""

import torch
from torch import Tensor, nn

from bevt_core.tokenizers.codes import nearest_code

EPS = 1e-5  # keeps a code that was never used finite; Sonnet's VectorQuantizerEMA


class Codebook(nn.Module):
    """Buffers only: the codes, and the running use and sum that they are the quotient of."""

    def __init__(self, vocab_size: int, code_dim: int) -> None:
        super().__init__()
        self.codes_VD: Tensor
        self.uses_V: Tensor
        self.sums_VD: Tensor
        self.register_buffer("codes_VD", torch.zeros(vocab_size, code_dim))
        self.register_buffer("uses_V", torch.ones(vocab_size))  # per step, averaged
        self.register_buffer("sums_VD", torch.zeros(vocab_size, code_dim))

    def start(self, codes_VD: Tensor) -> None:
        """Begin with these codes, each used once."""
        self.codes_VD.copy_(codes_VD)
        self.sums_VD.copy_(codes_VD)
        self.uses_V.fill_(1.0)

    def quantise(self, vectors_MD: Tensor) -> tuple[Tensor, Tensor]:
        """The ids `[M]` of the nearest codes, and those codes with a straight-through gradient to the vectors."""
        with torch.no_grad(), torch.autocast(vectors_MD.device.type, enabled=False):
            ids_M = nearest_code(vectors_MD.float(), self.codes_VD)
        return ids_M, straight_through(vectors_MD, self.codes_VD[ids_M])

    @torch.no_grad()
    def follow(self, counts_V: Tensor, sums_VD: Tensor, decay: float) -> None:
        """One step of the averages, from all vectors of a global batch (`count_and_sum`, summed over processes)."""
        self.uses_V.lerp_(counts_V, 1 - decay)
        self.sums_VD.lerp_(sums_VD, 1 - decay)
        total = self.uses_V.sum()
        smoothed_V = (self.uses_V + EPS) / (total + len(self.uses_V) * EPS) * total
        self.codes_VD.copy_(self.sums_VD / smoothed_V.unsqueeze(1))

    def dead(self, share: float) -> Tensor:
        """Codes in less than `share` of the use that each would have if all were used alike: ids, ascending."""
        return (self.uses_V < share * self.uses_V.mean()).nonzero().flatten()

    @torch.no_grad()
    def restart(self, ids: Tensor, vectors: Tensor) -> None:
        """Put these codes on these vectors, one each, as if in average use."""
        use = self.uses_V.mean()
        self.codes_VD[ids] = vectors
        self.sums_VD[ids] = vectors * use
        self.uses_V[ids] = use


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """The value of `codes`; the gradient goes to `vectors` as it comes."""
    return vectors + (codes - vectors).detach()
