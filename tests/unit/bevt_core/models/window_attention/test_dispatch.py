"""All implementations of windowed attention give the same result; device and size decide which one is chosen."""

import pytest
import torch
from torch import Tensor

from bevt_core.models.window_attention import IMPLEMENTATIONS
from bevt_core.models.window_attention.dispatch import fastest_implementation
from bevt_core.models.windows import Windows

HEADS, HEAD_DIM = 2, 4
WINDOWS = {
    "one kind": Windows((2, 4, 6), (2, 2, 3), (0, 0, 0)),
    "four kinds": Windows((2, 4, 6), (2, 2, 3), (0, 1, 1)),
    "eight kinds": Windows((4, 4, 9), (2, 2, 3), (1, 1, 1)),
    "every window at the border": Windows((1, 2, 3), (1, 2, 3), (0, 1, 1)),
}


def run(implementation: str, windows: Windows, dtype: torch.dtype) -> list[Tensor]:
    """Output, and the gradients of queries, keys and values and of the bias."""
    generator = torch.Generator().manual_seed(0)
    positions = windows.window[0] * windows.window[1] * windows.window[2]
    num_windows = windows.grid[0] * windows.grid[1] * windows.grid[2] // positions
    qkv_BKNC = torch.randn(3, num_windows, positions, 3 * HEADS * HEAD_DIM, generator=generator).to(dtype)
    bias_ANN = torch.randn(HEADS, positions, positions, generator=generator).to(dtype)
    inputs = [qkv_BKNC.requires_grad_(), bias_ANN.requires_grad_()]
    y_BKNC = IMPLEMENTATIONS[implementation](qkv_BKNC, bias_ANN, windows)
    weight_BKNC = torch.randn(y_BKNC.shape, generator=generator).to(dtype)
    return [y_BKNC, *torch.autograd.grad(y_BKNC, inputs, weight_BKNC)]


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("implementation", ["sdpa", "cpu"])
def test_implementations_agree_with_the_plain_form(implementation: str, windows: Windows) -> None:
    for ours, plain in zip(
        run(implementation, windows, torch.float32), run("math", windows, torch.float64), strict=True
    ):
        torch.testing.assert_close(ours.double(), plain, atol=2e-6, rtol=2e-5)


def test_the_device_and_the_size_of_a_window_choose() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert fastest_implementation(cpu, torch.float32, 392, 32) == "cpu"
    assert fastest_implementation(cpu, torch.float32, 49, 32) == "math"
    assert fastest_implementation(gpu, torch.float32, 392, 32) == "sdpa"
    assert set(IMPLEMENTATIONS) == {"triton", "sdpa", "cpu", "math"}
