"""The Triton window attention: its operator here, its kernels in the interpreter and compiled for absent GPUs."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bevt_core.models.window_attention import triton_op
from bevt_core.models.window_attention.triton_op import kernel_constants, supported, window_attention

REPO = Path(__file__).resolve().parents[5]
INTERPRETED = REPO / "tests" / "support" / "interpreted_window_attention.py"


def version(module: ModuleType) -> tuple[int, ...]:
    return tuple(map(int, module.__version__.split(".")[:2]))


@pytest.mark.parametrize("speed", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernels_in_the_interpreter(speed: str) -> None:
    triton = pytest.importorskip("triton")
    if version(triton) < (3, 8) and version(np) >= (2, 4):
        pytest.skip("Triton's interpreter before 3.8 needs NumPy before 2.4")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", speed, str(INTERPRETED)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(REPO)}
    process = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


def inputs(**options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random inputs of 4 windows of 49 positions, 2 heads of 24 channels and 2 kinds, qkv in bf16."""
    qkv_WNC = torch.randn(4, 49, 3 * 2 * 24, dtype=torch.bfloat16, **options).requires_grad_()
    bias_ANN = torch.randn(2, 49, 49, **options).requires_grad_()
    labels_MN = torch.zeros(2, 49, dtype=torch.int32, **options)
    return qkv_WNC, bias_ANN, labels_MN, torch.zeros(4, dtype=torch.int32, **options)


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_shapes_and_types_on_a_fake_gpu(masked: bool) -> None:
    with FakeTensorMode():
        qkv_WNC, bias_ANN, *mask = inputs(device="cuda")
        y_WNC = window_attention(qkv_WNC, bias_ANN, *(mask if masked else (None, None)))
        assert (y_WNC.shape, y_WNC.dtype, y_WNC.device.type) == ((4, 49, 48), torch.bfloat16, "cuda")
        # the autograd engine wants a real device for CUDA tensors; the node itself does not
        dqkv_WNC, dbias_ANN, *_ = y_WNC.grad_fn.apply(torch.empty_like(y_WNC), None)
    for grad, x in ((dqkv_WNC, qkv_WNC), (dbias_ANN, bias_ANN)):
        assert (grad.shape, grad.dtype, grad.device) == (x.shape, x.dtype, x.device)


def test_inputs_that_do_not_fit_are_refused() -> None:
    qkv_WNC, bias_ANN, labels_MN, kinds_W = inputs()
    for arguments, message in (
        ((qkv_WNC, bias_ANN[:, :48], None, None), r"the bias \(2, 48, 49\)"),
        ((qkv_WNC[..., 1:], bias_ANN, None, None), r"qkv is \(4, 49, 143\)"),
        ((qkv_WNC, bias_ANN.long(), None, None), "a floating"),
        ((qkv_WNC, bias_ANN, labels_MN, None), "pass both"),
        ((qkv_WNC, bias_ANN, labels_MN[:, 1:], kinds_W), r"labels are \(2, 48\)"),
        ((qkv_WNC, bias_ANN, labels_MN, kinds_W[1:]), r"kinds \(3,\)"),
        ((qkv_WNC, bias_ANN, labels_MN, kinds_W.long()), "expected int32"),
        ((qkv_WNC, bias_ANN, labels_MN, kinds_W), r"24 channels on cpu; it needs fp16 or bf16"),
    ):
        with pytest.raises(ValueError, match=message):
            window_attention(*arguments)


def test_what_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu, half = torch.device("cpu"), torch.device("cuda", 0), torch.float16
    capability = (8, 0)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton_op, "_has_triton", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert supported(gpu, half, 32) and supported(gpu, torch.bfloat16, 24) and supported(gpu, half, 128)
    assert not (supported(gpu, torch.float32, 32) or supported(gpu, half, 129) or supported(cpu, half, 32))
    capability = (7, 5)
    assert not supported(gpu, half, 32)
    capability = (9, 0)
    assert supported(gpu, half, 32)
    for owner, name, value in (
        (torch.cuda, "is_available", lambda: False),
        (torch.version, "hip", "6.4"),
        (triton_op, "_has_triton", lambda: False),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert not supported(gpu, half, 32)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert supported(cpu, half, 32) and supported(cpu, torch.float32, 32) and not supported(cpu, torch.bfloat16, 32)


KERNELS = ("forward_kernel", "grad_q_kernel", "grad_kv_kernel", "grad_bias_kernel")
TYPES = {
    **dict.fromkeys(("QKV", "BIAS", "BIAS_BY_KEY", "Y", "DY", "DQKV"), "*bf16"),
    **dict.fromkeys(("LABELS", "KINDS"), "*i32"),
    **dict.fromkeys(("LSE", "DELTA", "PARTIAL_SUMS"), "*fp32"),
    **dict.fromkeys(("W", "S"), "i32"),
}
SHARED_LIMITS = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024}  # bytes of shared memory that a program may have


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("N", "D", "masked", "capabilities"),
    [
        pytest.param(392, 32, True, (80, 90), id="392-32"),
        *(
            pytest.param(N, D, masked, (80, 86, 90), id=f"{N}-{D}-{masked}", marks=pytest.mark.slow)
            for N, D in ((49, 32), (392, 32), (784, 32), (64, 24), (49, 12), (392, 64), (49, 128), (392, 128))
            for masked in (False, True)
        ),
    ],
)
def test_kernels_compile_without_spilling_registers(
    N: int,
    D: int,
    masked: bool,
    capabilities: tuple[int, ...],
    kernel: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton")
    from bevt_core.models.window_attention import triton_kernels
    from tests.support.triton_compile import compile_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    A = 16
    for capability in capabilities:
        constants = kernel_constants(N, A, D, masked=masked)
        compiled = compile_kernel(getattr(triton_kernels, kernel), constants, TYPES, capability, tmp_path)
        assert compiled.target == {80: "sm_80", 86: "sm_86", 90: "sm_90a"}[capability]
        assert compiled.spilled_bytes == 0, compiled
        assert compiled.shared_bytes <= SHARED_LIMITS[capability]
        window = N * 3 * A * D  # a window's share of qkv: its offset must be computed in 64 bits
        assert f" {window} : i64" in compiled.ttir and f" {window} : i32" not in compiled.ttir
