"""Tokenizers of one form: a network gives each position a vector, and a codebook the vector's id.

Legend: N frames, C colours, H W pixels, h x w the token grid, D values of a vector, V codes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.base import Tokenizer, signed, unsigned
from bevt_core.tokenizers.codes import most_aligned_code, nearest_code
from schemas.errors import UserError


class Codebook(nn.Module):
    """What turns vectors into ids, and ids into the vectors that a decoder reads. Computes in float32."""

    def ids(self, vectors_NhwD: Tensor) -> Tensor:
        """Vectors -> ids `[N, h, w]`."""
        raise NotImplementedError

    def vectors(self, ids_Nhw: Tensor) -> Tensor:
        """Ids -> vectors `[N, h, w, D]`."""
        raise NotImplementedError


class NearestCodes(Codebook):
    """Stored codes; a vector's id is the nearest by Euclidean distance."""

    codes_VD: Tensor

    def __init__(self, codes_VD: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes_VD", codes_VD)

    def ids(self, vectors_NhwD: Tensor) -> Tensor:
        return nearest_code(vectors_NhwD, self.codes_VD)

    def vectors(self, ids_Nhw: Tensor) -> Tensor:
        return F.embedding(ids_Nhw, self.codes_VD)


class UnitVectors(NearestCodes):
    """Stored codes of length one; a vector's id is the nearest by angle."""

    def ids(self, vectors_NhwD: Tensor) -> Tensor:
        return super().ids(F.normalize(vectors_NhwD, dim=-1))


class AlignedCodes(NearestCodes):
    """Stored codes; a vector's id has the largest dot product with it."""

    def ids(self, vectors_NhwD: Tensor) -> Tensor:
        return most_aligned_code(vectors_NhwD, self.codes_VD)


class SignBits(Codebook):
    """No stored codes: bit k of an id is 1 if value k of the vector is positive; its vector is of 1s and -1s."""

    places_D: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.register_buffer("places_D", 2 ** torch.arange(bits))

    def ids(self, vectors_NhwD: Tensor) -> Tensor:
        return ((vectors_NhwD > 0) * self.places_D).sum(dim=-1)

    def vectors(self, ids_Nhw: Tensor) -> Tensor:
        return ((ids_Nhw[..., None] & self.places_D) > 0).float() * 2 - 1


class Pixels(NamedTuple):
    """How a network's pixels are scaled: from [0, 1], and back for a decoder's pictures."""

    scale: Callable[[Tensor], Tensor]
    unscale: Callable[[Tensor], Tensor]


SIGNED = Pixels(signed, unsigned)  # [-1, 1]


class CodebookTokenizer(Tokenizer):
    """ids = the codebook's for the encoder's vectors; frame = the decoder's picture of the ids' vectors.

    The networks map `[N, C, H, W]` to `[N, D, h, w]` and back. The codebook computes in float32, whatever `dtype` the
    networks use.
    """

    def __init__(
        self, encoder: nn.Module, codebook: Codebook, decoder: nn.Module | None, pixels: Pixels, **arguments: Any
    ) -> None:
        """Move all parts to the device; `arguments` are those of `Tokenizer`."""
        super().__init__(**arguments)
        self._encoder = encoder.eval().to(self.device, self.weights_dtype)
        self._codebook = codebook.to(self.device)
        self._decoder = None if decoder is None else decoder.eval().to(self.device, self.weights_dtype)
        self._pixels = pixels

    @property
    def can_decode(self) -> bool:
        return self._decoder is not None

    @property
    def _encoder_network(self) -> nn.Module:
        return self._encoder

    def _encode_pass(self, unit_NCHW: Tensor) -> Tensor:
        return self._codebook.ids(self.vectors(unit_NCHW))

    def vectors(self, unit_NCHW: Tensor) -> Tensor:
        """Frames in [0, 1], at most a pass of them -> the encoder's vectors `[N, h, w, D]`, float32."""
        vectors_NDhw: Tensor = self._encoder(self._pixels.scale(unit_NCHW).to(self.weights_dtype))
        return vectors_NDhw.float().permute(0, 2, 3, 1)

    def _decode_pass(self, ids_Nhw: Tensor) -> Tensor:
        if self._decoder is None:
            raise UserError(f"tokenizer {self.name} was stored without a decoder, so it draws no pictures")
        vectors_NDhw = self._codebook.vectors(ids_Nhw).permute(0, 3, 1, 2).contiguous()
        return self._pixels.unscale(self._decoder(vectors_NDhw.to(self.weights_dtype)).float())
