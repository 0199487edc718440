"""The dVAE as a module to train, and its presets."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.base import to_uint8, to_unit
from bevt_core.tokenizers.codes import nearest_code, perplexity
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.dvae.family import DvaeSizes, PatchSizes
from bevt_core.tokenizers.dvae.forms import FORMS
from bevt_core.tokenizers.dvae.losses import RECONSTRUCTION, gumbel_softmax, kl_to_uniform
from bevt_core.tokenizers.dvae.pixels import VALUES_PER_TOKEN, map_pixels, to_patches, unmap_pixels
from bevt_core.tokenizers.weights_files import save_tokenizer
from schemas.errors import UserError

DVAE_PRESETS: dict[str, DvaeSizes | PatchSizes] = {
    "nano": DvaeSizes(n_hid=16, n_blk_per_group=1, n_init=64, vocab_size=512),  # minutes on a laptop
    "small": PatchSizes(),  # included in the package
    "paper": DvaeSizes(),  # DALL-E's: 53.8 M parameters in the encoder
}

# The warm-started encoder predicts the right code from the first step, and the full learning rate makes it forget: at
# 3e-3 the cross-entropy rose from 2 to 4.5 nats in 30 steps, with a tenth for the encoder it did not (docs/log.md).
ENCODER_LR_SHARE = 0.1


class DvaeTrainingModule(nn.Module):
    """Encoder -> relaxed one-hot -> decoder, with the evidence bound as its loss."""

    def __init__(self, sizes: DvaeSizes | PatchSizes, recon: str) -> None:
        """`recon` is a key of RECONSTRUCTION, else UserError. Weights are initialised from torch's global generator."""
        super().__init__()
        if recon not in RECONSTRUCTION:
            raise UserError(f"reconstruction loss {recon!r} is not one of {', '.join(RECONSTRUCTION)}")
        self.sizes = sizes
        self.recon = recon
        self._form = FORMS[type(sizes)]
        self.vectors_per_code = self._form.vectors_per_code
        channels_last: Any = {"memory_format": torch.channels_last}  # no overload of `to` for any module
        self.encoder = self._form.build_encoder(sizes).to(**channels_last)
        self.decoder = self._form.build_decoder(sizes).to(**channels_last)
        self.guide_VP: Tensor
        self.register_buffer("guide_VP", torch.zeros(sizes.vocab_size, VALUES_PER_TOKEN))

    def warm_start(self, frames: Tensor, generator: torch.Generator) -> None:
        """Initialise from these frames' statistics (see `Form.warm_start`); call it once, before the first step.

        Frames as in `forward`; `vectors_per_code` blocks per code are enough. With DDP, call it before wrapping: DDP
        then broadcasts rank 0's weights and buffers.
        """
        self.guide_VP.copy_(self._form.warm_start(self.encoder, self.decoder, _unit(frames), generator))

    def forward(
        self,
        frames: Tensor,
        temperature: float,
        kl_weight: float,
        guide_weight: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """uint8 frames `[N, H, W, 3]`, or floats `[N, 3, H, W]` in [0, 1]; H and W multiples of 8.

        Returns scalars: `loss` = recon + (kl_weight * kl + guide_weight * guide) / VALUES_PER_TOKEN, and without
        gradient `recon` (per colour value), `kl` and `guide` (nats per token), `perplexity` of the batch's hard ids and
        `codebook_used` (distinct ids). `guide` is the cross-entropy of the ids against the block's k-means code: with
        it a small dVAE uses every code from the start, which the relaxation alone does not reach in a short run.
        The Gumbel noise comes from `generator`, or from torch's global generator, which the loop seeds per step.
        """
        unit_NCHW = _unit(frames)
        logits_NVhw = self.encoder(map_pixels(unit_NCHW)).float()
        stats_NSHW = self.decoder(gumbel_softmax(logits_NVhw, temperature, generator)).float()
        recon = RECONSTRUCTION[self.recon](stats_NSHW, unit_NCHW)
        kl = kl_to_uniform(logits_NVhw)
        guide = torch.zeros_like(kl)
        if guide_weight > 0:
            codes_Nhw = nearest_code(to_patches(unit_NCHW), self.guide_VP)
            guide = F.cross_entropy(logits_NVhw, codes_Nhw)
        with torch.no_grad():
            counts_V = torch.bincount(logits_NVhw.argmax(dim=1).flatten(), minlength=self.sizes.vocab_size)
        return {
            "loss": recon + (kl_weight * kl + guide_weight * guide) / VALUES_PER_TOKEN,
            "recon": recon.detach(),
            "kl": kl.detach(),
            "guide": guide.detach(),
            "perplexity": perplexity(counts_V),
            "codebook_used": (counts_V > 0).sum(),
        }

    @torch.no_grad()
    def reconstruct(self, frames_NHWC: Tensor) -> Tensor:
        """uint8 frames -> their reconstructions from the most probable tokens, uint8."""
        ids_Nhw = self.encoder(map_pixels(to_unit(frames_NHWC))).argmax(dim=1)
        one_hot_NVhw = F.one_hot(ids_Nhw, self.sizes.vocab_size).permute(0, 3, 1, 2).float()
        stats_NSHW = self.decoder(one_hot_NVhw)
        return to_uint8(unmap_pixels(torch.sigmoid(stats_NSHW[:, :3])))

    def save(
        self, folder: Path, *, input_px: int, origin: dict[str, str | int | float], storage: str = "float32"
    ) -> StoredTokenizer:
        """Store as a tokenizer of kind `dvae` (see `save_tokenizer`)."""
        return save_tokenizer(
            folder,
            self._form.state_of(self.encoder),
            self._form.state_of(self.decoder),
            kind="dvae",
            sizes=self.sizes,
            input_px=input_px,
            origin=origin,
            storage=storage,
        )


def dvae_lr_share(name: str) -> float:
    """The factor on the learning rate for a parameter of a warm-started `DvaeTrainingModule`."""
    return ENCODER_LR_SHARE if name.startswith("encoder.") else 1.0


def _unit(frames: Tensor) -> Tensor:
    return to_unit(frames) if frames.dtype == torch.uint8 else frames
