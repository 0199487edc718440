"""The Triton kernels in Triton's interpreter. `test_triton_op.py` runs this file in a process of its own.

The interpreter must be chosen before Triton is imported, and other tests import it.
"""

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import interpreter_builder

from bevt_core.models.window_attention import IMPLEMENTATIONS, triton_kernels, triton_op
from bevt_core.models.window_attention.triton_op import window_attention
from bevt_core.models.windows import Windows

REPO = Path(__file__).resolve().parents[2]
PARITY = runpy.run_path(str(REPO / "benchmarks" / "window_attention_parity.py"))
errors, plain_attention = PARITY["errors"], PARITY["plain_attention"]

# About twice the worst case that benchmarks/window_attention_parity.py prints; one wrong row makes 2e-2 or more.
TOLERANCE = {torch.float16: 1e-3, torch.float32: 1e-6}

LABELS_MN = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 1, 0, 2]], dtype=torch.int32)
KINDS_W = torch.tensor([1, 0, 0, 1, 1], dtype=torch.int32)


def inputs(W: int = 5, N: int = 5, A: int = 2, D: int = 12) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(W, N, 3 * A * D, requires_grad=True), torch.randn(A, N, N, requires_grad=True)


def assert_exact(errors: dict[str, float], dtype: torch.dtype = torch.float32) -> None:
    for name, error in errors.items():
        assert error < TOLERANCE[dtype], name


def by_size(case: Any) -> Any:
    name = f"{case.num_positions}-{'shifted' if any(case.shift) else 'plain'}-{case.head_dim}-{case.dtype}"
    return pytest.param(case, id=name, marks=pytest.mark.slow if case.num_positions > 100 else ())


@pytest.mark.parametrize("case", map(by_size, PARITY["CASES"]))
def test_swin_windows(case: Any) -> None:
    assert_exact(PARITY["errors_of"](case), case.dtype)


@pytest.mark.parametrize("sizes", [(2, 2, 1, 1), (2, 33, 1, 16), (1, 65, 1, 48), (2, 5, 3, 128)])
def test_other_sizes(sizes: tuple[int, int, int, int]) -> None:
    assert_exact(errors(*inputs(*sizes), None, None))


@pytest.mark.parametrize("programs", [1, 4])
def test_a_program_adds_up_several_windows_of_the_bias(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_op, "BIAS_PROGRAMS", programs)  # of 2 tiles: 1 and 2 shares of the 5 windows
    assert_exact(errors(*inputs(), LABELS_MN, KINDS_W))


def test_a_row_may_see_nothing_in_its_first_step() -> None:
    qkv_WNC, bias_ANN = inputs(1, 64, 1, 16)
    labels_MN = torch.arange(64, dtype=torch.int32)[None] // triton_op.STEP
    kinds_W = torch.zeros(1, dtype=torch.int32)
    assert_exact(errors(qkv_WNC, bias_ANN, labels_MN, kinds_W))


def gradients(qkv_WNC: Tensor, bias_ANN: Tensor, attend: Callable[..., Tensor]) -> list[Tensor]:
    y_WNC = attend(qkv_WNC, bias_ANN, LABELS_MN, KINDS_W)
    return [y_WNC, *torch.autograd.grad(y_WNC.square().sum(), (qkv_WNC, bias_ANN))]


def test_every_run_gives_the_same_bits() -> None:
    first, second = (gradients(*inputs(), window_attention) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_gradient_of_the_bias_has_its_type(dtype: torch.dtype) -> None:
    qkv_WNC, bias_ANN = inputs()
    bias_ANN = bias_ANN.detach().to(dtype).requires_grad_()
    *_, grad = gradients(qkv_WNC, bias_ANN, window_attention)
    *_, exact = gradients(qkv_WNC.double(), bias_ANN.double(), plain_attention)
    assert grad.dtype == dtype
    torch.testing.assert_close(grad.double(), exact, atol=1e-5, rtol=max(1e-5, torch.finfo(dtype).eps))


def test_inputs_and_gradients_need_not_be_contiguous() -> None:
    qkv_WNC, bias_ANN = inputs()
    expected = gradients(qkv_WNC, bias_ANN, window_attention)
    strided = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in (qkv_WNC, bias_ANN)]
    assert not any(x.is_contiguous() for x in strided)
    for x, y in zip(expected, gradients(*strided, window_attention), strict=True):
        assert torch.equal(x, y)
    y_WNC = window_attention(qkv_WNC, bias_ANN, LABELS_MN, KINDS_W)
    (grad,) = torch.autograd.grad(y_WNC.sum(), qkv_WNC)  # of an expanded scalar
    (exact,) = torch.autograd.grad(plain_attention(qkv_WNC, bias_ANN, LABELS_MN, KINDS_W).sum(), qkv_WNC)
    torch.testing.assert_close(grad, exact, atol=1e-5, rtol=0)


def test_the_operators_follow_pytorchs_rules() -> None:
    qkv_WNC, bias_ANN = inputs()
    torch.library.opcheck(torch.ops.bevt.window_attention.default, (qkv_WNC, bias_ANN, None, None))
    qkv_WNC, bias_ANN = qkv_WNC.detach(), bias_ANN.detach()
    y_WNC, lse_WAN = torch.ops.bevt.window_attention(qkv_WNC, bias_ANN, None, None)
    arguments = (torch.randn_like(y_WNC), qkv_WNC, bias_ANN, None, None, y_WNC, lse_WAN)
    torch.library.opcheck(torch.ops.bevt.window_attention_backward.default, arguments)


def test_it_compiles_as_one_graph() -> None:
    compiled = torch.compile(window_attention, fullgraph=True, backend="aot_eager")
    expected, got = (gradients(*inputs(), attend) for attend in (window_attention, compiled))
    assert all(torch.equal(x, y) for x, y in zip(expected, got, strict=True))


def test_a_second_derivative_is_refused() -> None:
    qkv_WNC, bias_ANN = inputs()
    y_WNC = window_attention(qkv_WNC, bias_ANN, None, None)
    (grad,) = torch.autograd.grad(y_WNC.square().sum(), qkv_WNC, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


class LastPrograms:
    """Launches only the last programs of a kernel's grid, which must have one axis."""

    def __init__(self, kernel: Any, count: int) -> None:
        self.kernel, self.count = kernel, count

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        (programs,) = grid
        first = programs - self.count

        def launch(*arguments: object, **constants: object) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(interpreter_builder, "set_grid_idx", lambda x, *_: place(first + x))
                self.kernel[(self.count,)](*arguments, **constants)

        def place(program: int) -> None:
            interpreter_builder.grid_idx = (program, 0, 0)

        return launch


def test_more_windows_and_heads_than_a_grids_second_axis_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid has 65,535 programs at most on every axis but the first. The interpreter would need minutes for all."""
    W, N, A, D, last = 256 * 64, 4, 4, 16, 2
    assert W * A > 65_535
    for name in ("forward_kernel", "grad_q_kernel", "grad_kv_kernel"):
        monkeypatch.setattr(triton_kernels, name, LastPrograms(getattr(triton_kernels, name), last * A))
    monkeypatch.setattr(triton_kernels, "grad_bias_kernel", LastPrograms(triton_kernels.grad_bias_kernel, 0))
    qkv_WNC, bias_ANN = inputs(W, N, A, D)
    y_WNC = window_attention(qkv_WNC, bias_ANN, None, None)
    (grad,) = torch.autograd.grad(y_WNC.sum(), qkv_WNC)
    some = qkv_WNC[-last:].detach().double().requires_grad_()
    exact = plain_attention(some, bias_ANN.double(), None, None)
    torch.testing.assert_close(y_WNC[-last:].double(), exact, atol=1e-5, rtol=0)
    torch.testing.assert_close(grad[-last:].double(), *torch.autograd.grad(exact.sum(), some), atol=1e-5, rtol=0)


def test_the_bias_hides_what_lies_beyond_the_window() -> None:
    bias_ANQ = triton_op.pad_columns(torch.ones(1, 33, 33), torch.float16)
    assert bias_ANQ.shape == (1, 33, 64) and bias_ANQ.dtype == torch.float16
    assert (bias_ANQ[..., :33] == 1).all() and (bias_ANQ[..., 33:] == -math.inf).all()


@pytest.mark.parametrize("shift", [(0, 0, 0), (0, 1, 2)], ids=["plain", "shifted"])
def test_windows_of_a_grid_attend_as_in_the_plain_form(shift: tuple[int, int, int]) -> None:
    windows = Windows((2, 4, 6), (2, 2, 3), shift)
    torch.manual_seed(0)
    qkv_BKNC, bias_ANN = (
        torch.randn(2, 4, 12, 3 * 2 * 16, requires_grad=True),
        torch.randn(2, 12, 12, requires_grad=True),
    )
    results = []
    for implementation in ("triton", "math"):
        y_BKNC = IMPLEMENTATIONS[implementation](qkv_BKNC, bias_ANN, windows)
        results.append([y_BKNC, *torch.autograd.grad(y_BKNC.square().sum(), (qkv_BKNC, bias_ANN))])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
