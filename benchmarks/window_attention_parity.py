"""Errors of the Triton window attention against fp64: `python benchmarks/window_attention_parity.py [N ...]`.

The kernels run in Triton's interpreter, on the CPU, on windows and shift masks of Video Swin. An error is the norm of
the difference over the norm of the reference. N is 49, 64, 392 or 784 positions in a window; all take some minutes.
Triton before 3.8 needs NumPy before 2.4 for this.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import itertools
import math
import sys
from typing import NamedTuple

import torch
from torch import Tensor

from bevt_core.models.window_attention.triton_op import window_attention
from bevt_core.models.windows import Size3, shift_masks

WINDOWS = {49: (1, 7, 7), 64: (1, 8, 8), 392: (8, 7, 7), 784: (16, 7, 7)}  # images and clips of 16 and 32 frames
SHIFTS = {49: (0, 3, 3), 64: (0, 4, 4), 392: (4, 3, 3), 784: (8, 3, 3)}


class Case(NamedTuple):
    num_positions: int
    shift: Size3
    head_dim: int
    dtype: torch.dtype


CASES = [
    Case(N, shift, head_dim, dtype)
    for N in WINDOWS
    for shift, head_dim, dtype in itertools.product(((0, 0, 0), SHIFTS[N]), (24, 32), (torch.float16, torch.float32))
]


def plain_attention(qkv_WNC: Tensor, bias_ANN: Tensor, labels_MN: Tensor | None, kinds_W: Tensor | None) -> Tensor:
    """Return what `window_attention` does, written out."""
    q, k, v = qkv_WNC.unflatten(-1, (3, len(bias_ANN), -1)).permute(2, 0, 3, 1, 4)
    logits_WANN = q @ k.mT * q.shape[-1] ** -0.5 + bias_ANN
    if labels_MN is not None:
        labels_WN = labels_MN[kinds_W]
        logits_WANN = logits_WANN.masked_fill((labels_WN[:, :, None] != labels_WN[:, None, :])[:, None], -math.inf)
    return (logits_WANN.softmax(dim=-1) @ v).transpose(1, 2).flatten(-2)


def errors(qkv_WNC: Tensor, bias_ANN: Tensor, labels_MN: Tensor | None, kinds_W: Tensor | None) -> dict[str, float]:
    """Return the errors of the output and of the gradients, for a random gradient of the output."""
    dy_WNC = torch.randn(*qkv_WNC.shape[:2], qkv_WNC.shape[2] // 3).to(qkv_WNC.dtype)
    results = []
    for attend, dtype in ((window_attention, None), (plain_attention, torch.float64)):
        qkv, bias = (x.detach().to(dtype or x.dtype).requires_grad_() for x in (qkv_WNC, bias_ANN))
        y = attend(qkv, bias, labels_MN, kinds_W)
        dqkv, dbias = torch.autograd.grad(y, (qkv, bias), dy_WNC.to(y.dtype))
        results.append([x.detach().double() for x in (y, *dqkv.chunk(3, dim=-1), dbias)])
    names = ("y", "dq", "dk", "dv", "dbias")
    return {
        name: ((got - exact).norm() / exact.norm()).item() for name, got, exact in zip(names, *results, strict=True)
    }


def errors_of(case: Case) -> dict[str, float]:
    """Return the errors for random inputs, of two windows: one without a shift mask, one with most of its borders."""
    torch.manual_seed(0)
    N = case.num_positions
    labels_MN = kinds_W = None
    if any(case.shift):
        masks_MNN = shift_masks(WINDOWS[N], case.shift, torch.device("cpu"))
        labels_MN = (masks_MNN == 0).int().argmax(dim=-1).int()  # the first position that it may see
        kinds_W = torch.tensor([0, len(masks_MNN) - 1], dtype=torch.int32)
    W, A = 2, 2 if N < 100 else 1
    qkv_WNC = torch.randn(W, N, 3 * A * case.head_dim).to(case.dtype)
    return errors(qkv_WNC, torch.randn(A, N, N), labels_MN, kinds_W)


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or list(WINDOWS)
    print("| N | shift | head | type | y | dq | dk | dv | dbias |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        if case.num_positions in sizes:
            N, shift, head_dim, dtype = case
            cells = (N, shift, head_dim, dtype, *(f"{error:.1e}" for error in errors_of(case).values()))
            print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
