"""Initialisation of a dVAE from data: k-means codes of pixel blocks, and the two networks' last layers fitted to them.

From random weights the Gumbel relaxation needs many thousand steps before more than a few codes are in use. Here the
codes are the k-means centres of plain 8x8 blocks. A linear fit on the encoder's random features makes its logits
predict the nearest code, another on the decoder's makes it reconstruct the pixels. Training continues from there, with
the nearest code as a guide that fades out. (Specific to this project; the paper trained long enough not to need it.)
"""

import math

import torch
from dall_e.decoder import DecoderBlock
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.tokenizers.codes import fit_codes, nearest_code
from bevt_core.tokenizers.dvae.pixels import map_pixels, to_patches

RIDGE = 1e-4  # times the mean squared feature


@torch.no_grad()
def warm_start(encoder: nn.Sequential, decoder: nn.Sequential, unit_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Set the encoder's last and the decoder's first and last layer from frames; returns the codes `[V, 192]`.

    `unit_NCHW` is in [0, 1], its sides multiples of 8; `generator` is a CPU generator, used only for the codes.
    """
    head = _conv(encoder, "output.conv")
    embed = _conv(decoder, "input")
    output = _conv(decoder, "output.conv")
    for block in decoder.modules():
        if isinstance(block, DecoderBlock):  # so that its residual path starts at the scale of its skip path
            _conv(block, "res_path.conv_4").weight.div_(block.post_gain)
    patches = to_patches(unit_NCHW)
    codes_VP = fit_codes(patches.flatten(0, 2), head.out_channels, generator)
    ids_Nhw = nearest_code(patches, codes_VP)

    # logits = -|patch predicted from the features - code|^2 / 2 s^2, with the s that fits the codes best
    features = F.relu(encoder[:-1](map_pixels(unit_NCHW))).permute(0, 2, 3, 1)
    weight_PD, bias_P = _least_squares(features.flatten(0, 2), patches.flatten(0, 2))
    weight_VD, bias_V = codes_VP @ weight_PD, codes_VP @ bias_P - (codes_VP * codes_VP).sum(dim=1) / 2
    sample = slice(0, 4096)
    logits = features.flatten(0, 2)[sample] @ weight_VD.T + bias_V
    scales = [2.0**k for k in range(-2, 9)]
    best = min(scales, key=lambda s: float(F.cross_entropy(s * logits, ids_Nhw.flatten()[sample])))
    head.weight.copy_((best * weight_VD).reshape(head.weight.shape))
    _bias(head).copy_(best * bias_V)

    # a code's embedding: its principal components, the largest (the mean colour) first
    centred = codes_VP - codes_VP.mean(dim=0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[: embed.out_channels]
    embedding_VD = F.pad(centred @ directions.T, (0, embed.out_channels - len(directions)))
    embed.weight.copy_((embedding_VD / embedding_VD.std()).T.reshape(embed.weight.shape))
    _bias(embed).zero_()

    # means fitted to the decoder's features for the true codes; ln b from the residuals
    one_hot = F.one_hot(ids_Nhw, head.out_channels).permute(0, 3, 1, 2).float()
    painted = F.relu(decoder[:-1](one_hot)).permute(0, 2, 3, 1).flatten(0, 2)
    target = torch.logit(map_pixels(unit_NCHW)).permute(0, 2, 3, 1).flatten(0, 2)
    weight_CD, bias_C = _least_squares(painted, target)
    left_C = (painted @ weight_CD.T + bias_C - target).abs().mean(dim=0)
    output.weight.copy_(torch.cat([weight_CD, torch.zeros_like(weight_CD)]).reshape(output.weight.shape))
    _bias(output).copy_(torch.cat([bias_C, left_C.clamp(min=math.exp(-5)).log()]))
    return codes_VP


def _conv(network: nn.Module, name: str) -> nn.Conv2d:
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _least_squares(inputs_MD: Tensor, targets_MT: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression with an intercept, in float64: weight `[T, D]`, bias `[T]`."""
    x, y = inputs_MD.double(), targets_MT.double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x = x - x_mean
    gram = x.T @ x
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight_TD = torch.linalg.solve(gram + ridge, x.T @ (y - y_mean)).T
    return weight_TD.float(), (y_mean - weight_TD @ x_mean).float()
