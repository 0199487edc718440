"""Chunked attention gives the plain form's outputs and gradients, however the work is cut."""

import pytest
import torch
from torch import Tensor

from bevt_core import chunked_attention
from bevt_core.chunked_attention import ChunkedAttention, chunks

NUM_WINDOWS, HEADS, POSITIONS, HEAD_DIM, KINDS = 6, 3, 10, 4, 2


def plain(qkv_WNC: Tensor, bias_MANN: Tensor, kinds_W: Tensor) -> Tensor:
    q, k, v = qkv_WNC.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    logits_WANN = q @ k.transpose(-2, -1) * HEAD_DIM**-0.5 + bias_MANN[kinds_W]
    return (logits_WANN.softmax(dim=-1) @ v).transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("matrices_per_chunk", [1, 2, 7, 100], ids=["one", "some heads", "two windows", "all"])
def test_it_equals_the_plain_form(matrices_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_attention, "CHUNK_NUMBERS", matrices_per_chunk * POSITIONS**2)
    torch.manual_seed(0)
    kinds_W = torch.tensor([0, 0, 1, 0, 1, 0])
    qkv_WNC = torch.randn(NUM_WINDOWS, POSITIONS, 3 * HEADS * HEAD_DIM, requires_grad=True)
    bias_MANN = torch.randn(KINDS, HEADS, POSITIONS, POSITIONS)
    bias_MANN[1, :, :4, 4:] = -torch.inf
    bias_MANN.requires_grad_()
    weight = torch.randn(NUM_WINDOWS, POSITIONS, HEADS * HEAD_DIM)
    results = []
    for attend in (plain, ChunkedAttention.apply):
        y_WNC = attend(qkv_WNC, bias_MANN, kinds_W)
        results.append([y_WNC, *torch.autograd.grad((y_WNC * weight).sum(), (qkv_WNC, bias_MANN))])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("numbers", [1, 250, 10_000])
def test_chunks_cover_every_window_and_head_once(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_attention, "CHUNK_NUMBERS", numbers)
    kinds_W = torch.tensor([0, 1, 0, 2, 0])
    visits_WA = torch.zeros(5, 4)
    for chunk in chunks(kinds_W, A=4, N=10):
        assert (kinds_W[chunk.windows] == chunk.kind).all()
        visits_WA[chunk.windows, chunk.heads] += 1
    assert (visits_WA == 1).all()
