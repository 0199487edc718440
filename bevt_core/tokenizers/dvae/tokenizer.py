"""The dVAE of DALL-E's networks as a tokenizer: the official weights (`dalle`) and small ones trained here (`dvae`)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.dvae.family import STRIDE, DvaeSizes
from bevt_core.tokenizers.dvae.networks import build_decoder, build_encoder, load_package_state
from bevt_core.tokenizers.dvae.pixels import map_pixels, unmap_pixels
from bevt_core.tokenizers.loading import Weights, without_memory
from schemas.errors import UserError


class DvaeTokenizer(Tokenizer):
    """ids = argmax over the encoder's logits; frame = the mean of the decoder's logit-Laplace distribution.

    As in the original, the last convolution of the encoder and the first of the decoder compute in float32, whatever
    `dtype` is. Weights are cast once, in the constructor.
    """

    def __init__(
        self,
        encoder: nn.Sequential,
        decoder: nn.Sequential | None,
        *,
        name: str,
        input_px: int,
        weights_sha256: str,
        device: torch.device,
        dtype: str,
        pass_frames: int,
    ) -> None:
        head = encoder.get_submodule("output.conv")
        assert isinstance(head, nn.Conv2d)
        super().__init__(
            name=name,
            vocab_size=head.out_channels,
            input_px=input_px,
            stride=STRIDE,
            weights_sha256=weights_sha256,
            device=device,
            dtype=dtype,
            pass_frames=pass_frames,
        )
        self._encoder_body = self._on_device(encoder[:-1])
        self._head = head.eval().to(device)
        self._codebook_VD: Tensor | None = None
        if decoder is not None:
            first = decoder[0]
            assert isinstance(first, nn.Conv2d) and first.bias is not None
            self._codebook_VD = (first.weight.detach().flatten(1).T + first.bias.detach()).to(device)
            self._decoder_body = self._on_device(decoder[1:])

    def _on_device(self, network: nn.Module) -> nn.Module:
        channels_last: Any = {"memory_format": torch.channels_last}  # no typed overload of `to` combines all three
        return network.eval().to(self.device, self.weights_dtype, **channels_last)

    @property
    def can_decode(self) -> bool:
        return self._codebook_VD is not None

    @property
    def _encoder_network(self) -> nn.Module:
        return self._encoder_body

    def _encode_pass(self, unit_NCHW: Tensor) -> Tensor:
        features_NDhw = self._encoder_body(map_pixels(unit_NCHW).to(self.weights_dtype))
        tokens_Nhw: Tensor = self._head(F.relu(features_NDhw).float()).argmax(dim=1)
        return tokens_Nhw

    def _decode_pass(self, ids_Nhw: Tensor) -> Tensor:
        if self._codebook_VD is None:
            raise UserError(
                f"tokenizer {self.name} was stored without its decoder; "
                "convert both files: `bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
            )
        embedded_NhwD = F.embedding(ids_Nhw, self._codebook_VD)  # equals the first 1x1 convolution of one-hot ids
        stats_NSHW = self._decoder_body(embedded_NhwD.permute(0, 3, 1, 2).to(self.weights_dtype)).float()
        return unmap_pixels(torch.sigmoid(stats_NSHW[:, :3]))


def load(stored: StoredTokenizer, weights: Weights, *, vocab_size: int, stride: int, **arguments: Any) -> DvaeTokenizer:
    """Build the tokenizer from its stored weights (see `Family.load`)."""
    assert isinstance(stored.sizes, DvaeSizes)
    encoder = without_memory(build_encoder, stored.sizes)
    load_package_state(encoder, weights.encoder)
    decoder = None
    if weights.decoder is not None:
        decoder = without_memory(build_decoder, stored.sizes)
        load_package_state(decoder, weights.decoder)
    return DvaeTokenizer(encoder, decoder, **arguments)
