"""Frames as tensors, for tokenizers: noise, smooth pictures that a small network can learn, and decoded grey."""

import torch
from torch import nn


def noise_frames(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def smooth_frames(count: int, size: int = 32) -> torch.Tensor:
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(5))
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class GreyTokenizer:
    """Decodes every token to a grey block."""

    can_decode = True

    def decode(self, tokens_Nhw: torch.Tensor) -> torch.Tensor:
        assert tokens_Nhw.min() >= 0 and tokens_Nhw.max() < 64
        return (
            tokens_Nhw.to(torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)[..., None].expand(-1, -1, -1, 3)
        )
