"""A network that tells frames from their reconstructions, and the two losses of that game.

PatchGAN (Isola et al. 2017, https://arxiv.org/abs/1611.07004) with hinge losses, as VQGAN trains its tokenizer (Esser
et al. 2021, https://arxiv.org/abs/2012.09841). Group norms instead of batch norms: no frame changes the logits of
another, so neither the number of processes nor that of micro-batches changes a loss.

Shapes: N frames, H W pixels, C channels, h w patches; pictures are floats in [0, 1].
"""

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

SLOPE = 0.2  # of the leaky ReLU below zero; PatchGAN's


class Game(NamedTuple):
    """Both sides' losses, means over frames and patches."""

    fool: Tensor  # for the reconstruction: its gradient reaches no parameter of the adversary
    tell_apart: Tensor  # for the adversary: its gradient reaches no reconstruction


class Adversary(nn.Module):
    """Floats `[N, 3, H, W]` in [0, 1] -> logits `[N, 1, h, w]`, high where a patch looks like a frame's."""

    def __init__(self, width: int, layers: int) -> None:
        """`layers` halve the resolution; `width` channels after the first, doubled by each up to eight times."""
        super().__init__()
        widths = [3, *(width * min(2**i, 8) for i in range(layers + 1))]
        body: list[nn.Module] = []
        for i in range(layers + 1):
            body.append(nn.Conv2d(widths[i], widths[i + 1], 4, stride=2 if i < layers else 1, padding=1))
            body += [nn.GroupNorm(math.gcd(32, widths[i + 1]), widths[i + 1])] if i else []
            body.append(nn.LeakyReLU(SLOPE))
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, unit_NCHW: Tensor) -> Tensor:
        return self.body(2 * unit_NCHW - 1)

    def play(self, frames_NCHW: Tensor, decoded_NCHW: Tensor) -> Game:
        """Return both losses, so that one backward pass serves both sides."""
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        fool = -functional_call(self, frozen, (decoded_NCHW,)).mean()
        tell_apart = (F.relu(1 - self(frames_NCHW)).mean() + F.relu(1 + self(decoded_NCHW.detach())).mean()) / 2
        return Game(fool, tell_apart)


def smallest_frame_px(layers: int) -> int:
    """Return the side of the smallest frame that has a patch: the two convolutions at the end take one pixel each."""
    return 3 * 2**layers
