"""Windowed attention on CPUs: a few attention matrices at a time, so that they stay in the cache.

The plain form writes and reads every (N, N) matrix of a layer some ten times; at Swin-T's first stage that is 240 MB
a pass for two clips, and most of the layer's time. Here a chunk's matrices live in one small buffer, and the backward
pass computes them again instead of keeping them.

Legend: B batch, K windows of a sample, A heads, N positions of a window, D channels of a head, M kinds of windows,
P = the (sample, head) pairs of a chunk.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_NUMBERS = 2**19  # of attention matrices in flight: 2 MB in fp32, a core's share of the cache

Part = tuple[slice, int, slice]  # samples, window, heads: the chunk's place in a tensor (B, K, A, ...)


class ChunkedAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(D) + bias) v in every window, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, qkv_BKNC: Tensor, bias_MANN: Tensor, kinds_K: Tensor) -> Tensor:
        """(B, K, N, 3*A*D) -> (B, K, N, A*D), with `bias_MANN[kinds_K[k]]` on the logits of window k."""
        B, K, N, C3 = qkv_BKNC.shape
        A = bias_MANN.shape[1]
        y_BKNC = qkv_BKNC.new_empty(B, K, N, C3 // 3)
        q, k, v = _heads(qkv_BKNC, 3, A)
        (y,) = _heads(y_BKNC, 1, A)
        kinds, buffer = kinds_K.tolist(), _buffer(qkv_BKNC)
        for part in _chunks(B, K, A, N):
            weights_PNN = _weights(part, q, k, bias_MANN, kinds, buffer)
            _put(y, part, torch.bmm(weights_PNN, _get(v, part)))
        ctx.save_for_backward(qkv_BKNC, bias_MANN, kinds_K, y_BKNC)
        return y_BKNC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BKNC: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv_BKNC, bias_MANN, kinds_K, y_BKNC = ctx.saved_tensors
        B, K, N, _ = qkv_BKNC.shape
        A = bias_MANN.shape[1]
        grad_qkv_BKNC, grad_bias_MANN = torch.empty_like(qkv_BKNC), torch.zeros_like(bias_MANN)
        q, k, v = _heads(qkv_BKNC, 3, A)
        grad_q, grad_k, grad_v = _heads(grad_qkv_BKNC, 3, A)
        (grad,) = _heads(grad_BKNC, 1, A)
        # the mean of dL/dweights under the weights, which softmax' gradient takes off, is the row sum of grad * y
        mean = _heads(grad_BKNC * y_BKNC, 1, A)[0].sum(-1, keepdim=True)
        scale = q.shape[-1] ** -0.5

        kinds, buffer, grad_buffer = kinds_K.tolist(), _buffer(qkv_BKNC), _buffer(qkv_BKNC)
        for part in _chunks(B, K, A, N):
            weights_PNN = _weights(part, q, k, bias_MANN, kinds, buffer)
            grad_PND = _get(grad, part)
            _put(grad_v, part, torch.bmm(weights_PNN.transpose(1, 2), grad_PND))

            grad_weights_PNN = grad_buffer[: weights_PNN.numel()].view_as(weights_PNN)
            torch.bmm(grad_PND, _get(v, part).transpose(1, 2), out=grad_weights_PNN)
            grad_logits_PNN = weights_PNN.mul_(grad_weights_PNN.sub_(_get(mean, part)))
            _put(grad_q, part, torch.bmm(grad_logits_PNN, _get(k, part)).mul_(scale))
            _put(grad_k, part, torch.bmm(grad_logits_PNN.transpose(1, 2), _get(q, part)).mul_(scale))

            _, window, heads = part
            grad_bias_ANN = grad_bias_MANN[kinds[window], heads]
            for grad_logits_ANN in grad_logits_PNN.split(len(grad_bias_ANN)):
                grad_bias_ANN += grad_logits_ANN
        return grad_qkv_BKNC, grad_bias_MANN, None


def _chunks(B: int, K: int, A: int, N: int) -> Iterator[Part]:
    """Cut the work so that a chunk fills the buffer: one window of some samples, or some heads of a single one."""
    num_pairs = max(1, CHUNK_NUMBERS // N**2)
    num_samples, num_heads = max(1, num_pairs // A), min(A, num_pairs)
    for window in range(K):
        for sample in range(0, B, num_samples):
            for head in range(0, A, num_heads):
                yield slice(sample, sample + num_samples), window, slice(head, head + num_heads)


def _buffer(qkv_BKNC: Tensor) -> Tensor:
    """Room for the matrices of a chunk; one matrix always fits."""
    return qkv_BKNC.new_empty(max(CHUNK_NUMBERS, qkv_BKNC.shape[2] ** 2))


def _heads(x_BKNC: Tensor, parts: int, A: int) -> tuple[Tensor, ...]:
    """View (B, K, N, parts*A*D) as `parts` tensors (B, K, A, N, D)."""
    return x_BKNC.unflatten(-1, (parts, A, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)


def _get(x_BKAND: Tensor, part: Part) -> Tensor:
    """A chunk as (P, N, D)."""
    return x_BKAND[part].flatten(0, 1)


def _put(x_BKAND: Tensor, part: Part, value_PND: Tensor) -> None:
    target = x_BKAND[part]
    target.copy_(value_PND.view(target.shape))


def _weights(part: Part, q: Tensor, k: Tensor, bias_MANN: Tensor, kinds: list[int], buffer: Tensor) -> Tensor:
    """The attention matrices of a chunk, in `buffer`: (P, N, N)."""
    _, window, heads = part
    q_PND, k_PND = _get(q, part), _get(k, part)
    bias_ANN = bias_MANN[kinds[window], heads]
    N = bias_ANN.shape[-1]
    logits_PNN = buffer[: len(q_PND) * N * N].view(-1, N, N)
    logits_PNN.view(-1, *bias_ANN.shape).copy_(bias_ANN)
    logits_PNN.baddbmm_(q_PND, k_PND.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.softmax(logits_PNN, dim=-1, out=logits_PNN)
