"""Casts that autocast would make later."""

import torch
from torch import Tensor


def under_autocast(x: Tensor) -> Tensor:
    """Cast as autocast would cast the input of the next Linear, so that fewer bytes are moved in between."""
    kind = x.device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if enabled else x
