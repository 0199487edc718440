"""The dVAE's form `patches` as a tokenizer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.dvae.family import PatchSizes
from bevt_core.tokenizers.dvae.patches import PatchDecoder, PatchEncoder
from bevt_core.tokenizers.dvae.pixels import map_pixels, unmap_pixels
from bevt_core.tokenizers.loading import Weights, filled, without_memory
from schemas.errors import UserError


class PatchTokenizer(Tokenizer):
    """ids = argmax over the encoder's logits; frame = the mean of the decoder's logit-Laplace distribution.

    The encoder is one convolution and computes in float32 whatever `dtype` is, as the last one of DALL-E's does: only
    tf32, on a GPU, changes ids.
    """

    def __init__(self, encoder: PatchEncoder, decoder: PatchDecoder | None, **arguments: Any) -> None:
        """`arguments` are those of `Tokenizer`."""
        super().__init__(**arguments)
        self._encoder = encoder.eval().to(self.device)
        self._decoder: PatchDecoder | None = None
        if decoder is not None:
            self._codes_VP = decoder.codes.weight.detach().flatten(1).T.contiguous().to(self.device)
            self._decoder = decoder.eval().to(self.device, self.weights_dtype)

    @property
    def can_decode(self) -> bool:
        return self._decoder is not None

    @property
    def _encoder_network(self) -> nn.Module:
        return self._encoder

    def _encode_pass(self, unit_NCHW: Tensor) -> Tensor:
        ids_Nhw: Tensor = self._encoder(map_pixels(unit_NCHW)).argmax(dim=1)
        return ids_Nhw

    def _decode_pass(self, ids_Nhw: Tensor) -> Tensor:
        if self._decoder is None:
            raise UserError(f"tokenizer {self.name} was stored without its decoder; copy its whole folder again")
        codes_NPhw = F.embedding(ids_Nhw, self._codes_VP).permute(0, 3, 1, 2)  # equals `codes` of one-hot ids
        stats_NSHW = self._decoder.draw(codes_NPhw.to(self.weights_dtype)).float()
        return unmap_pixels(torch.sigmoid(stats_NSHW[:, :3]))


def load(stored: StoredTokenizer, weights: Weights, **arguments: Any) -> PatchTokenizer:
    """Build the tokenizer from its stored weights (see `Family.load`)."""
    assert isinstance(stored.sizes, PatchSizes)
    encoder = filled(without_memory(PatchEncoder, stored.sizes), weights.encoder)
    decoder = None
    if weights.decoder is not None:
        decoder = filled(without_memory(PatchDecoder, stored.sizes), weights.decoder)
    return PatchTokenizer(encoder, decoder, **arguments)
