"""Windowed attention on CPUs with a learned bias: forward by PyTorch's fused kernel, backward one matrix at a time.

The plain form writes and reads every (N, N) matrix of a layer about ten times; at Swin-T's first stage that is 240 MB
per pass for two clips, and most of the layer's time. The fused kernel keeps the matrices in the cache but has no
gradient for a bias. The backward pass is therefore written out here: each thread recomputes the matrices of some
of the windows, one after another, in a buffer that stays in its cache.

Legend: B batch, K windows of a grid, W = B*K windows, A heads, a heads at a time, N positions of a window, D channels
of a head, M kinds of windows.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bevt_core.models.window_attention.sdpa import bias_with_masks
from bevt_core.models.windows import Windows, window_kinds

BUFFER_ELEMENTS = 2**18  # of attention matrices per thread: 1 MB in fp32, the cache of a core
MAX_LANES = 8  # each allocates a gradient of the bias


def attend_on_cpu(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows) -> Tensor:
    """Attend inside the windows of a grid: (B, K, N, 3*A*D) -> (B, K, N, A*D)."""
    bias_MANN = bias_with_masks(bias_ANN, windows, qkv_BKNC.dtype)
    kinds_W = window_kinds(windows, qkv_BKNC.device).repeat(len(qkv_BKNC))
    y_WNC = CpuWindowAttention.apply(qkv_BKNC.flatten(0, 1), bias_MANN, kinds_W)
    y_BKNC: Tensor = y_WNC.unflatten(0, qkv_BKNC.shape[:2])
    return y_BKNC


class CpuWindowAttention(torch.autograd.Function):
    """Compute softmax(q k^T / sqrt(D) + bias) v in every window."""

    @staticmethod
    def forward(ctx: Any, qkv_WNC: Tensor, bias_MANN: Tensor, kinds_W: Tensor) -> Tensor:
        """(W, N, 3*A*D) -> (W, N, A*D), with `bias_MANN[kinds_W[w]]` on the logits of window w."""
        A = bias_MANN.shape[1]
        y_WNC = qkv_WNC.new_empty(*qkv_WNC.shape[:2], qkv_WNC.shape[2] // 3)
        q, k, v = heads_of(qkv_WNC, 3, A)
        (y,) = heads_of(y_WNC, 1, A)
        for kind, run in runs(kinds_W):
            # the bias is detached because PyTorch does not use the fused kernel for a bias with a gradient
            y[run] = F.scaled_dot_product_attention(q[run], k[run], v[run], attn_mask=bias_MANN.detach()[kind][None])
        ctx.save_for_backward(qkv_WNC, bias_MANN, kinds_W, y_WNC)
        return y_WNC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_WNC: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv_WNC, bias_MANN, kinds_W, y_WNC = ctx.saved_tensors
        (W, N, _), A = qkv_WNC.shape, bias_MANN.shape[1]
        grad_qkv_WNC = torch.empty_like(qkv_WNC)
        q, k, v = heads_of(qkv_WNC, 3, A)
        grad_q, grad_k, grad_v = heads_of(grad_qkv_WNC, 3, A)
        (grad,) = heads_of(grad_WNC, 1, A)
        # the softmax gradient subtracts the weighted mean of dL/dweights, which is the row sum of grad * y
        mean = heads_of(grad_WNC * y_WNC, 1, A)[0].sum(-1, keepdim=True)
        scale = q.shape[-1] ** -0.5
        kinds = kinds_W.tolist()

        @torch.no_grad()  # set per thread
        def backward_of(lane: int, lanes: int) -> Tensor:
            """Fill grad_qkv for one thread's windows, and return their gradient of the bias."""
            grad_bias_MANN = torch.zeros_like(bias_MANN)
            num_heads = min(A, max(1, BUFFER_ELEMENTS // N**2))
            buffers = qkv_WNC.new_empty(2, num_heads, N, N)
            for w in range(W * lane // lanes, W * (lane + 1) // lanes):
                for head in range(0, A, num_heads):
                    heads = slice(head, head + num_heads)
                    at, at_bias = (w, heads), (kinds[w], heads)
                    weights_aNN, grad_weights_aNN = buffers[:, : min(num_heads, A - head)]

                    torch.baddbmm(bias_MANN[at_bias], q[at], k[at].mT, alpha=scale, out=weights_aNN)
                    torch.softmax(weights_aNN, dim=-1, out=weights_aNN)
                    grad_v[at] = weights_aNN.mT @ grad[at]

                    torch.bmm(grad[at], v[at].mT, out=grad_weights_aNN)
                    grad_logits_aNN = weights_aNN.mul_(grad_weights_aNN.sub_(mean[at]))
                    grad_q[at] = (grad_logits_aNN @ k[at]).mul_(scale)
                    grad_k[at] = (grad_logits_aNN.mT @ q[at]).mul_(scale)
                    grad_bias_MANN[at_bias] += grad_logits_aNN
            return grad_bias_MANN

        first, *others = in_lanes(backward_of)
        for grad_bias_MANN in others:  # in the order of the lanes: the same bits in every run
            first += grad_bias_MANN
        return grad_qkv_WNC, first, None


def in_lanes(work: Callable[[int, int], Tensor]) -> list[Tensor]:
    """Run `work(lane, lanes)` for lanes 0 to lanes - 1, each in its own thread, with single-threaded operations."""
    num_threads = torch.get_num_threads()
    lanes = min(num_threads, MAX_LANES)
    if lanes == 1:
        return [work(0, 1)]
    try:
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, range(lanes), itertools.repeat(lanes)))
    finally:
        torch.set_num_threads(num_threads)  # the lanes' setting is also the default of new threads


def runs(kinds_W: Tensor) -> Iterator[tuple[int, slice]]:
    """Cut the windows into runs of one kind, which can be viewed without copies."""
    start = 0
    for kind, run in itertools.groupby(kinds_W.tolist()):
        stop = start + len(list(run))
        yield kind, slice(start, stop)
        start = stop


def heads_of(x_WNC: Tensor, parts: int, A: int) -> tuple[Tensor, ...]:
    """View (W, N, parts*A*D) as `parts` tensors (W, A, N, D)."""
    heads: tuple[Tensor, ...] = x_WNC.unflatten(-1, (parts, A, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return heads
