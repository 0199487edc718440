"""A codebook updated by moving averages of the encoder's vectors; unused codes can be restarted.

(van den Oord et al. 2017, VQ-VAE, appendix A.1. Restarts: Dhariwal et al. 2020, Jukebox, section 3.)

Legend: V codes, D values of a code, M vectors.
"""

import torch
from torch import Tensor, nn

from bevt_core.tokenizers.codes import nearest_code

EPS = 1e-5  # keeps codes that were never used finite; value of Sonnet's VectorQuantizerEMA


class Codebook(nn.Module):
    """The codes, and the running sums and counts whose quotients are the codes; all are buffers, not parameters."""

    def __init__(self, vocab_size: int, code_dim: int) -> None:
        super().__init__()
        self.codes_VD: Tensor
        self.uses_V: Tensor
        self.sums_VD: Tensor
        self.register_buffer("codes_VD", torch.zeros(vocab_size, code_dim))
        self.register_buffer("uses_V", torch.ones(vocab_size))  # per step, averaged
        self.register_buffer("sums_VD", torch.zeros(vocab_size, code_dim))

    def start(self, codes_VD: Tensor) -> None:
        """Set the codes, each with a count of one."""
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
        """Update the averages from all vectors of a global batch (`count_and_sum`, summed over processes)."""
        self.uses_V.lerp_(counts_V, 1 - decay)
        self.sums_VD.lerp_(sums_VD, 1 - decay)
        total = self.uses_V.sum()
        smoothed_V = (self.uses_V + EPS) / (total + len(self.uses_V) * EPS) * total
        self.codes_VD.copy_(self.sums_VD / smoothed_V.unsqueeze(1))

    def dead(self, share: float) -> Tensor:
        """Ids, ascending, of the codes used less than `share` times as often as the average code."""
        return (self.uses_V < share * self.uses_V.mean()).nonzero().flatten()

    @torch.no_grad()
    def restart(self, ids: Tensor, vectors: Tensor) -> None:
        """Move the codes `ids` to `vectors`, one each, with the average count."""
        use = self.uses_V.mean()
        self.codes_VD[ids] = vectors
        self.sums_VD[ids] = vectors * use
        self.uses_V[ids] = use


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """The value of `codes`; its gradient is passed to `vectors` unchanged."""
    return vectors + (codes - vectors).detach()
