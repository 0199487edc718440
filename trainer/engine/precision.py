"""The precision of a forward pass: PyTorch's automatic mixed precision, by name. Weights stay in fp32."""

import torch

from schemas.errors import UserError
from schemas.recipes import Precision
from schemas.recipes.loading import nearest

AUTOCAST: dict[Precision, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO = "auto"


def resolve(precision: str, device: torch.device) -> Precision:
    """Return `precision`, or what `auto` chooses on `device`: bf16 on a GPU with bf16 arithmetic, else fp32.

    NVIDIA GPUs support bf16 from compute capability 8.0 on; older ones emulate it slowly. `auto` never chooses fp16,
    whose range activations may exceed. Raises UserError for an unknown name.
    """
    if precision == AUTO:
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    for known in AUTOCAST:
        if precision == known:
            return known
    choices = [AUTO, *AUTOCAST]
    raise UserError(f"precision {precision!r}: {nearest(precision, choices)}expected one of {', '.join(choices)}")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context in which matrix products on `device` run in `precision`; fp32 disables an outer autocast."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
