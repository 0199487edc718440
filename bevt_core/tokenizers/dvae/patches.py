"""The dVAE's form `patches`: the encoder compares 8x8 px patches with codes, the decoder sees neighbouring codes.

With the weights of `warm_start_patches` the encoder chooses the nearest k-means code, and the decoder draws the code's
pixels; training adds what neighbouring codes predict. (Specific to this project.)

Shapes: N frames, H W pixels, h w = H/8 W/8 tokens, V codes, P = 3 * 8 * 8 colour values of a patch.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.codes import fit_codes, nearest_code
from bevt_core.tokenizers.dvae.family import STRIDE, PatchSizes
from bevt_core.tokenizers.dvae.pixels import MIDDLE, VALUES_PER_TOKEN, map_pixels, to_patches

VECTORS_PER_CODE = 100  # used by k-means; with 20 the codes alone reach 20.9 dB on unseen pictures, instead of 21.2


class PatchEncoder(nn.Module):
    """Float `[N, 3, H, W]` in [0.1, 0.9] -> logits `[N, V, h, w]`, by one convolution."""

    def __init__(self, sizes: PatchSizes) -> None:
        super().__init__()
        self.output = nn.Conv2d(3, sizes.vocab_size, STRIDE, stride=STRIDE)

    def forward(self, mapped_NCHW: Tensor) -> Tensor:
        logits_NVhw: Tensor = self.output(mapped_NCHW - MIDDLE)
        return logits_NVhw


class PatchBlock(nn.Module):
    """x + (ReLU, 3x3 convolution, ReLU, 1x1 convolution), at first x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = _zero(nn.Conv2d(width, width, 1))

    def forward(self, x_NChw: Tensor) -> Tensor:
        y_NChw: Tensor = x_NChw + self.conv2(F.relu(self.conv1(F.relu(x_NChw))))
        return y_NChw


class PatchDecoder(nn.Module):
    """One-hot `[N, V, h, w]` -> logit-Laplace mean and ln b `[N, 6, H, W]`: the codes' own, plus a correction."""

    def __init__(self, sizes: PatchSizes) -> None:
        super().__init__()
        self.codes = nn.Conv2d(sizes.vocab_size, VALUES_PER_TOKEN, 1, bias=False)
        self.widen = nn.Conv2d(VALUES_PER_TOKEN, sizes.width, 1)
        self.blocks = nn.Sequential(*[PatchBlock(sizes.width) for _ in range(sizes.blocks)])
        self.output = _zero(nn.Conv2d(sizes.width, 2 * VALUES_PER_TOKEN, 1))

    def forward(self, one_hot_NVhw: Tensor) -> Tensor:
        return self.draw(self.codes(one_hot_NVhw))

    def draw(self, codes_NPhw: Tensor) -> Tensor:
        """The second half of `forward`, from the means of each position's code."""
        correction_NQhw = self.output(F.relu(self.blocks(self.widen(codes_NPhw))))
        means_NPhw, ln_b_NPhw = correction_NQhw.chunk(2, dim=1)
        return F.pixel_shuffle(torch.cat([codes_NPhw + means_NPhw, ln_b_NPhw], dim=1), STRIDE)


@torch.no_grad()
def warm_start_patches(
    encoder: PatchEncoder, decoder: PatchDecoder, unit_NCHW: Tensor, generator: torch.Generator
) -> Tensor:
    """Set the encoder and the decoder's codes by k-means on the frames' patches; returns the codes `[V, P]`.

    The logits are those of equal Gaussians around the codes, with the variance that fits the patches. `unit_NCHW` is in
    [0, 1], its sides multiples of 8; `generator` is a CPU generator.
    """
    patches_MP = to_patches(unit_NCHW).flatten(0, 2)
    codes_VP = fit_codes(patches_MP, encoder.output.out_channels, generator, VECTORS_PER_CODE)
    nearest_MP = codes_VP[nearest_code(patches_MP, codes_VP)]
    variance = F.mse_loss(map_pixels(nearest_MP), map_pixels(patches_MP)).clamp(min=1e-6)
    centred_VP = map_pixels(codes_VP) - MIDDLE
    encoder.output.weight.copy_((centred_VP / variance).reshape(encoder.output.weight.shape))
    assert encoder.output.bias is not None and decoder.output.bias is not None
    encoder.output.bias.copy_(-(centred_VP * centred_VP).sum(dim=1) / (2 * variance))

    means_VP, target_MP = torch.logit(map_pixels(codes_VP)), torch.logit(map_pixels(patches_MP))
    decoder.codes.weight.copy_(means_VP.T.reshape(decoder.codes.weight.shape))
    left_P = (torch.logit(map_pixels(nearest_MP)) - target_MP).abs().mean(dim=0)
    decoder.output.bias[VALUES_PER_TOKEN:] = left_P.clamp(min=math.exp(-5)).log()
    return codes_VP


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Set a convolution to zero, so that the path that it ends adds nothing at first."""
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv
