"""The precision of a tokenizer's networks, and the torch settings that make ids repeatable."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch

from schemas.errors import UserError

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,  # in memory; convolutions and matrix products round to TF32
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def parse_dtype(dtype: str) -> torch.dtype:
    """The type of the weights in memory. Raises UserError for a name that is not a key of DTYPES."""
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def products(dtype: str) -> Literal["ieee", "tf32"]:
    """The rounding of float32 products on a GPU for a key of DTYPES."""
    return "tf32" if dtype == "tf32" else "ieee"


@contextlib.contextmanager
def repeatable(rounding: Literal["ieee", "tf32"]) -> Iterator[None]:
    """On a GPU, set the rounding of float32 products and choose no algorithm by timing; restores all settings on exit.

    Applies to convolutions and matrix products, whatever the process had set. The settings are process-wide: only one
    thread may be inside. Nothing inside may call the getters of torch's older setting `allow_tf32`, as
    `torch.backends.cudnn.flags` does: they raise if the two settings disagree, which can happen here.
    """
    cudnn: Any = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
        with _products(rounding):
            yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before


@contextlib.contextmanager
def _products(rounding: str) -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    settings = (cudnn, torch.backends.cuda.matmul, cudnn.conv)  # the first applies to operators without a setting
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            if setting.fp32_precision != rounding:
                setting.fp32_precision = rounding
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            if setting.fp32_precision != value:
                setting.fp32_precision = "none"  # inherit from the first, or from torch.backends
            if setting.fp32_precision != value:
                setting.fp32_precision = value
