"""PeCo, a VQ-VAE trained with a perceptual loss: the tokenizer, and the module to train.

(Dong et al. 2021, https://arxiv.org/abs/2111.12710; the BEVT paper's better tokenizer, tables 3 to 5 and 8.)
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.base import signed, to_uint8, to_unit, unsigned
from bevt_core.tokenizers.codebooks import SIGNED, CodebookTokenizer, NearestCodes
from bevt_core.tokenizers.codes import VECTORS_PER_CODE, fit_codes
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.loading import Weights, filled, without_memory
from bevt_core.tokenizers.peco.codebook import Codebook
from bevt_core.tokenizers.peco.family import PecoSizes
from bevt_core.tokenizers.peco.networks import build_decoder, build_encoder
from bevt_core.tokenizers.weights_files import save_tokenizer

PECO_PRESETS = {
    # 8 px a token, for the grid of the nano recipes; minutes on a laptop
    "nano": PecoSizes(width=16, multipliers=(1, 2, 2, 4), blocks=1, code_dim=32, vocab_size=256),
    "small": PecoSizes(width=32, blocks=1, code_dim=64, vocab_size=1024),
    "paper": PecoSizes(),  # 16 px a token: a 224 px frame becomes 14 x 14 of 8192 codes
}

CODES = "codes"  # the codebook's name among the encoder's weights


def load(stored: StoredTokenizer, weights: Weights, **arguments: Any) -> CodebookTokenizer:
    """Build the tokenizer from its stored weights (see `Family.load`)."""
    sizes = stored.sizes
    assert isinstance(sizes, PecoSizes)
    state = dict(weights.encoder)
    codes_VD = state.pop(CODES).reshape(sizes.vocab_size, sizes.code_dim)
    encoder = filled(without_memory(build_encoder, sizes), state)
    decoder = None if weights.decoder is None else filled(without_memory(build_decoder, sizes), weights.decoder)
    return CodebookTokenizer(encoder, NearestCodes(codes_VD), decoder, SIGNED, **arguments)


class PecoOutput(NamedTuple):
    """The result of `PecoTrainingModule.forward`; M = N * h * w positions, frame by frame."""

    unit_NCHW: Tensor  # the frames in [0, 1]
    decoded_NCHW: Tensor  # their reconstructions, not clamped
    commitment: Tensor  # mean squared distance of the vectors to their codes
    ids_M: Tensor
    vectors_MD: Tensor  # the encoder's, without gradient, for the codebook's update


class PecoTrainingModule(nn.Module):
    """Encoder -> nearest codes -> decoder. The codebook has no gradient: the task updates it after each step."""

    vectors_per_code = VECTORS_PER_CODE  # that the warm start uses

    def __init__(self, sizes: PecoSizes) -> None:
        """Build the networks; weights are initialised from torch's global generator."""
        super().__init__()
        self.sizes = sizes
        self.encoder = build_encoder(sizes)
        self.decoder = build_decoder(sizes)
        self.codebook = Codebook(sizes.vocab_size, sizes.code_dim)

    @torch.no_grad()
    def warm_start(self, frames_NHWC: Tensor, generator: torch.Generator) -> None:
        """Initialise the codebook by k-means of the untrained encoder's vectors; call it once, before the first step.

        Takes uint8 frames; VECTORS_PER_CODE positions per code are enough. `generator` is a CPU generator.
        """
        vectors = [self.encoder(signed(to_unit(chunk))).permute(0, 2, 3, 1) for chunk in frames_NHWC.split(16)]
        self.codebook.start(fit_codes(torch.cat(vectors).flatten(0, 2), self.sizes.vocab_size, generator))

    def forward(self, frames_NHWC: Tensor) -> PecoOutput:
        """uint8 frames `[N, H, W, 3]`, H and W multiples of the stride."""
        unit_NCHW = to_unit(frames_NHWC)
        vectors_NhwD = self.encoder(signed(unit_NCHW)).float().permute(0, 2, 3, 1)
        vectors_MD = vectors_NhwD.flatten(0, 2)
        ids_M, quantised_MD = self.codebook.quantise(vectors_MD)
        quantised_NDhw = quantised_MD.reshape(vectors_NhwD.shape).permute(0, 3, 1, 2).contiguous()
        decoded_NCHW = unsigned(self.decoder(quantised_NDhw).float())
        commitment = F.mse_loss(vectors_MD, quantised_MD.detach())
        return PecoOutput(unit_NCHW, decoded_NCHW, commitment, ids_M, vectors_MD.detach())

    @torch.no_grad()
    def reconstruct(self, frames_NHWC: Tensor) -> Tensor:
        """uint8 frames -> their reconstructions, uint8."""
        return to_uint8(self(frames_NHWC).decoded_NCHW)

    def save(
        self, folder: Path, *, input_px: int, origin: dict[str, str | int | float], storage: str = "float32"
    ) -> StoredTokenizer:
        """Store as a tokenizer of kind `peco` (see `save_tokenizer`)."""
        return save_tokenizer(
            folder,
            {**self.encoder.state_dict(), CODES: self.codebook.codes_VD},
            self.decoder.state_dict(),
            kind="peco",
            sizes=self.sizes,
            input_px=input_px,
            origin=origin,
            storage=storage,
        )
