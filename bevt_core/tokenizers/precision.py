"""In which precision a tokenizer's networks run, and the settings of torch under which ids repeat."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch

from schemas.errors import UserError

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,  # in memory; the products of convolutions and matrices are TF32
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def parse_dtype(dtype: str) -> torch.dtype:
    """The type of the weights in memory. Raises UserError for a name that is not a key of DTYPES."""
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def products(dtype: str) -> Literal["ieee", "tf32"]:
    """How the products of float32 tensors on a GPU are rounded for that key of DTYPES."""
    return "tf32" if dtype == "tf32" else "ieee"


@contextlib.contextmanager
def repeatable(rounding: Literal["ieee", "tf32"]) -> Iterator[None]:
    """On a GPU: round float32 products as asked, whatever the process has set, and choose no algorithm by timing.

    Convolutions and matrix products alike; all is as it was afterwards. These are settings of the whole process: only
    one thread may be inside. torch has an older setting, `allow_tf32`. Its getters raise where the two disagree, as
    they may in here, so nothing in here may call them; `torch.backends.cudnn.flags` does.
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
    places = (cudnn, torch.backends.cuda.matmul, cudnn.conv)  # the first is that of all operators which have none
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            if place.fp32_precision != rounding:
                place.fp32_precision = rounding
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            if place.fp32_precision != value:
                place.fp32_precision = "none"  # as the first, or as torch.backends, says
            if place.fp32_precision != value:
                place.fp32_precision = value
