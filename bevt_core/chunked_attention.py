"""Windowed attention on CPUs, with a learned bias: PyTorch's fused kernel forward, a few matrices at a time backward.

The plain form writes and reads every (N, N) matrix of a layer some ten times; at Swin-T's first stage that is 240 MB
a pass for two clips, and most of the layer's time. The fused kernel keeps them in the cache but has no gradient for a
bias. So the backward pass is written out here: a chunk's matrices live in one buffer, computed again instead of kept.

Legend: W windows of a batch, A heads, N positions of a window, D channels of a head, M kinds of windows, P = the
(window, head) pairs of a chunk.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_NUMBERS = 2**22  # of attention matrices in flight: 16 MB in fp32; with less, threads wait for each other


class Chunk(NamedTuple):
    """Some windows of one kind, and some heads: the part of a tensor (W, A, ...) that is worked on at a time."""

    kind: int
    windows: Tensor
    heads: slice

    def take(self, x_WAND: Tensor) -> Tensor:
        """Copy the chunk's part: (P, N, D)."""
        return x_WAND[:, self.heads].index_select(0, self.windows).flatten(0, 1)

    def put(self, x_WAND: Tensor, value_PND: Tensor) -> None:
        """Write the chunk's part."""
        target = x_WAND[:, self.heads]
        target.index_copy_(0, self.windows, value_PND.view(-1, *target.shape[1:]))


class ChunkedAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(D) + bias) v in every window."""

    @staticmethod
    def forward(ctx: Any, qkv_WNC: Tensor, bias_MANN: Tensor, kinds_W: Tensor) -> Tensor:
        """(W, N, 3*A*D) -> (W, N, A*D), with `bias_MANN[kinds_W[w]]` on the logits of window w."""
        A = bias_MANN.shape[1]
        y_WNC = qkv_WNC.new_empty(*qkv_WNC.shape[:2], qkv_WNC.shape[2] // 3)
        q, k, v = heads_of(qkv_WNC, 3, A)
        (y,) = heads_of(y_WNC, 1, A)
        for kind in kinds_W.unique().tolist():
            windows = (kinds_W == kind).nonzero().flatten()
            # the bias detached: the fused kernel is not chosen for one that asks for a gradient
            y[windows] = F.scaled_dot_product_attention(
                q[windows], k[windows], v[windows], attn_mask=bias_MANN.detach()[kind : kind + 1]
            )
        ctx.save_for_backward(qkv_WNC, bias_MANN, kinds_W, y_WNC)
        return y_WNC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_WNC: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv_WNC, bias_MANN, kinds_W, y_WNC = ctx.saved_tensors
        N, A = qkv_WNC.shape[1], bias_MANN.shape[1]
        grad_qkv_WNC, grad_bias_MANN = torch.empty_like(qkv_WNC), torch.zeros_like(bias_MANN)
        q, k, v = heads_of(qkv_WNC, 3, A)
        grad_q, grad_k, grad_v = heads_of(grad_qkv_WNC, 3, A)
        (grad,) = heads_of(grad_WNC, 1, A)
        # the mean of dL/dweights under the weights, which softmax' gradient takes off, is the row sum of grad * y
        mean = heads_of(grad_WNC * y_WNC, 1, A)[0].sum(-1, keepdim=True)
        scale = q.shape[-1] ** -0.5

        buffer, grad_buffer = matrix_buffer(qkv_WNC), matrix_buffer(qkv_WNC)
        for chunk in chunks(kinds_W, A, N):
            q_PND, k_PND, v_PND, grad_PND = map(chunk.take, (q, k, v, grad))
            weights_PNN = attention_weights(q_PND, k_PND, bias_MANN[chunk.kind, chunk.heads], buffer)
            chunk.put(grad_v, torch.bmm(weights_PNN.transpose(1, 2), grad_PND))

            grad_weights_PNN = grad_buffer[: weights_PNN.numel()].view_as(weights_PNN)
            torch.bmm(grad_PND, v_PND.transpose(1, 2), out=grad_weights_PNN)
            grad_logits_PNN = weights_PNN.mul_(grad_weights_PNN.sub_(chunk.take(mean)))
            chunk.put(grad_q, torch.bmm(grad_logits_PNN, k_PND).mul_(scale))
            chunk.put(grad_k, torch.bmm(grad_logits_PNN.transpose(1, 2), q_PND).mul_(scale))

            grad_bias_ANN = grad_bias_MANN[chunk.kind, chunk.heads]
            for grad_logits_ANN in grad_logits_PNN.split(len(grad_bias_ANN)):
                grad_bias_ANN += grad_logits_ANN
        return grad_qkv_WNC, grad_bias_MANN, None


def chunks(kinds_W: Tensor, A: int, N: int) -> Iterator[Chunk]:
    """Cut the work so that a chunk's matrices fill the buffer: windows of one kind, or some heads of a single one."""
    num_pairs = max(1, CHUNK_NUMBERS // N**2)
    num_windows, num_heads = max(1, num_pairs // A), min(A, num_pairs)
    for kind in kinds_W.unique().tolist():
        for windows in (kinds_W == kind).nonzero().flatten().split(num_windows):
            for head in range(0, A, num_heads):
                yield Chunk(kind, windows, slice(head, head + num_heads))


def matrix_buffer(qkv_WNC: Tensor) -> Tensor:
    """Room for the matrices of a chunk; one matrix always fits."""
    return qkv_WNC.new_empty(max(CHUNK_NUMBERS, qkv_WNC.shape[1] ** 2))


def heads_of(x_WNC: Tensor, parts: int, A: int) -> tuple[Tensor, ...]:
    """View (W, N, parts*A*D) as `parts` tensors (W, A, N, D)."""
    return x_WNC.unflatten(-1, (parts, A, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def attention_weights(q_PND: Tensor, k_PND: Tensor, bias_ANN: Tensor, buffer: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias), written into `buffer`: (P, N, N)."""
    P, N, D = q_PND.shape
    logits_PNN = buffer[: P * N * N].view(P, N, N)
    logits_PNN.view(-1, *bias_ANN.shape).copy_(bias_ANN)
    logits_PNN.baddbmm_(q_PND, k_PND.transpose(1, 2), alpha=D**-0.5)
    return torch.softmax(logits_PNN, dim=-1, out=logits_PNN)
