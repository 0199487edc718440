"""Attention on CPUs gives the outputs and gradients of the plain form, however the work is divided."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bevt_core.models.window_attention import cpu as cpu_attention
from bevt_core.models.window_attention.cpu import CpuWindowAttention, runs

NUM_WINDOWS, HEADS, POSITIONS, HEAD_DIM, KINDS = 6, 3, 10, 4, 2
KINDS_W = torch.tensor([0, 0, 1, 0, 1, 0])


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def plain(qkv_WNC: Tensor, bias_MANN: Tensor, kinds_W: Tensor) -> Tensor:
    q, k, v = qkv_WNC.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    logits_WANN = q @ k.transpose(-2, -1) * HEAD_DIM**-0.5 + bias_MANN[kinds_W]
    return (logits_WANN.softmax(dim=-1) @ v).transpose(1, 2).flatten(-2)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    qkv_WNC = torch.randn(NUM_WINDOWS, POSITIONS, 3 * HEADS * HEAD_DIM, requires_grad=True)
    bias_MANN = torch.randn(KINDS, HEADS, POSITIONS, POSITIONS)
    bias_MANN[1, :, :4, 4:] = -torch.inf
    return qkv_WNC, bias_MANN.requires_grad_(), torch.randn(NUM_WINDOWS, POSITIONS, HEADS * HEAD_DIM)


@pytest.mark.parametrize("heads_at_a_time", [1, 2, 100])
def test_it_equals_the_plain_form(heads_at_a_time: int, num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "BUFFER_ELEMENTS", heads_at_a_time * POSITIONS**2)
    qkv_WNC, bias_MANN, weight_WNC = inputs()
    results = []
    for attend in (plain, CpuWindowAttention.apply):
        y_WNC = attend(qkv_WNC, bias_MANN, KINDS_W)
        results.append([y_WNC, *torch.autograd.grad((y_WNC * weight_WNC).sum(), (qkv_WNC, bias_MANN))])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_gradients_are_the_same_bits_every_time_and_threads_are_given_back(num_threads: int) -> None:
    qkv_WNC, bias_MANN, weight_WNC = inputs()
    gradients = []
    for _ in range(5):
        y_WNC = CpuWindowAttention.apply(qkv_WNC, bias_MANN, KINDS_W)
        gradients.append(torch.autograd.grad((y_WNC * weight_WNC).sum(), (qkv_WNC, bias_MANN)))
        assert torch.get_num_threads() == num_threads
    for again in gradients[1:]:
        assert all(torch.equal(first, second) for first, second in zip(gradients[0], again, strict=True))


def test_runs_cover_every_window_once() -> None:
    assert list(runs(torch.tensor([0, 0, 2, 0]))) == [(0, slice(0, 2)), (2, slice(2, 3)), (0, slice(3, 4))]
