"""Window attention by Triton kernels, as an operator that PyTorch can differentiate, fake and compile.

`bevt::window_attention` and its backward are opaque to `torch.compile` and cause no graph breaks. The kernels are
imported when the first one runs, so that this module loads without Triton.

Tiles, warps and stages are constants, not tuned at run time: the bits of a result must not depend on timings. They
were chosen from what ptxas reports for sm_80, sm_86, sm_89 and sm_90a.

Legend: B batch, K windows of a grid, W = B*K windows, N positions of a window, C = A * D channels, A heads, D channels
of a head, M kinds of windows, Q columns of the padded bias, S partial sums of the bias' gradient.
"""

import functools
import importlib.util
import math
import os
from typing import Any

import torch
from torch import Tensor

from bevt_core.models.windows import Windows, shift_labels, window_kinds

OWN, STEP = 64, 32  # positions in the tile that a program owns, and in each step that it takes along the other axis
BIAS_PROGRAMS = 2048  # for the gradient of the bias: about four times as many as an H100 runs at once
MAX_HEAD_DIM = 128


def supported(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Return whether the kernels run: fp16 and bf16 on NVIDIA GPUs of sm_80 or later, heads of up to 128 channels.

    With TRITON_INTERPRET=1 they also run on the CPU, slowly, in fp16 and fp32: the interpreter's bf16 is wrong.
    """
    if head_dim > MAX_HEAD_DIM or not _has_triton():
        return False
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1" and dtype in (torch.float16, torch.float32)
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and dtype in (torch.float16, torch.bfloat16)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def attend_by_triton(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows) -> Tensor:
    """Attend inside the windows of a grid, in one kernel with one bias for all: (B, K, N, 3*A*D) -> (B, K, N, A*D)."""
    labels_MN = kinds_W = None
    if any(windows.shift):
        labels_MN = shift_labels(windows.window, windows.shift, qkv_BKNC.device)
        kinds_W = window_kinds(windows, qkv_BKNC.device).int().repeat(len(qkv_BKNC))
    y_WNC = window_attention(qkv_BKNC.flatten(0, 1), bias_ANN, labels_MN, kinds_W)
    y_BKNC: Tensor = y_WNC.unflatten(0, qkv_BKNC.shape[:2])
    return y_BKNC


def window_attention(qkv_WNC: Tensor, bias_ANN: Tensor, labels_MN: Tensor | None, kinds_W: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(D) + bias) v of every window: (W, N, 3*A*D) -> (W, N, A*D).

    `bias_ANN` may have any floating type and is rounded to that of `qkv_WNC`. Its gradient is summed over the windows
    in fp32, in a fixed order, and returned in the bias' own type. In a window of kind m, position i attends to j only
    if `labels_MN[m, i] == labels_MN[m, j]`. Labels and kinds are int32; kinds must lie in 0..M-1, which is not
    checked. With None for both, every position attends to all. There is no second derivative.

    Raises ValueError for inconsistent shapes and types, and for inputs that are not `supported`.
    """
    W, N, C3 = qkv_WNC.shape
    A = bias_ANN.shape[0]
    if bias_ANN.shape != (A, N, N) or C3 % (3 * A) or not bias_ANN.is_floating_point():
        raise ValueError(
            f"qkv is {tuple(qkv_WNC.shape)} and the bias {tuple(bias_ANN.shape)} of {bias_ANN.dtype}; "
            "expected (W, N, 3*A*D) and a floating (A, N, N)"
        )
    if (labels_MN is None) != (kinds_W is None):
        raise ValueError("labels and kinds go together: pass both, or None for both")
    if labels_MN is not None and kinds_W is not None:
        if labels_MN.shape[1:] != (N,) or kinds_W.shape != (W,):
            raise ValueError(
                f"labels are {tuple(labels_MN.shape)} and kinds {tuple(kinds_W.shape)}; expected (M, {N}) and ({W},)"
            )
        if labels_MN.dtype != torch.int32 or kinds_W.dtype != torch.int32:
            raise ValueError(f"labels are {labels_MN.dtype} and kinds {kinds_W.dtype}; expected int32 for both")
    y_WNC: Tensor = _forward(qkv_WNC, bias_ANN, labels_MN, kinds_W)[0]
    return y_WNC


@torch.library.custom_op("bevt::window_attention", mutates_args=())
def _forward(
    qkv_WNC: Tensor, bias_ANN: Tensor, labels_MN: Tensor | None, kinds_W: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return y (W, N, C) and the log-sum-exp of every row, in base 2 (W, A, N)."""
    from bevt_core.models.window_attention import triton_kernels as kernels

    qkv_WNC = qkv_WNC.contiguous()
    (W, N, _), A = qkv_WNC.shape, bias_ANN.shape[0]
    constants = _constants_for(qkv_WNC, A, labels_MN)
    y_WNC, lse_WAN = _forward_fake(qkv_WNC, bias_ANN, labels_MN, kinds_W)
    mask = _mask_arguments(labels_MN, kinds_W, lse_WAN)
    with torch.cuda.device_of(qkv_WNC):
        bias_ANQ = pad_columns(bias_ANN, qkv_WNC.dtype)
        kernels.forward_kernel[(math.ceil(N / OWN) * W * A,)](qkv_WNC, bias_ANQ, *mask, y_WNC, lse_WAN, **constants)
    return y_WNC, lse_WAN


@_forward.register_fake
def _forward_fake(
    qkv_WNC: Tensor, bias_ANN: Tensor, labels_MN: Tensor | None, kinds_W: Tensor | None
) -> tuple[Tensor, Tensor]:
    W, N, C3 = qkv_WNC.shape
    return qkv_WNC.new_empty(W, N, C3 // 3), qkv_WNC.new_empty(W, bias_ANN.shape[0], N, dtype=torch.float32)


@torch.library.custom_op("bevt::window_attention_backward", mutates_args=())
def _backward(
    dy_WNC: Tensor,
    qkv_WNC: Tensor,
    bias_ANN: Tensor,
    labels_MN: Tensor | None,
    kinds_W: Tensor | None,
    y_WNC: Tensor,
    lse_WAN: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv (W, N, 3*C) and of the bias (A, N, N)."""
    from bevt_core.models.window_attention import triton_kernels as kernels

    dy_WNC, qkv_WNC, y_WNC, lse_WAN = (x.contiguous() for x in (dy_WNC, qkv_WNC, y_WNC, lse_WAN))
    (W, N, _), A = qkv_WNC.shape, bias_ANN.shape[0]
    constants = _constants_for(qkv_WNC, A, labels_MN)
    mask = _mask_arguments(labels_MN, kinds_W, lse_WAN)
    dqkv_WNC, delta_WAN = torch.empty_like(qkv_WNC), torch.empty_like(lse_WAN)
    programs, bias_tiles = math.ceil(N / OWN) * W * A, math.ceil(N / OWN) * math.ceil(N / STEP) * A
    S = min(W, max(1, BIAS_PROGRAMS // bias_tiles))
    partial_SANN = lse_WAN.new_empty(S, A, N, N)
    with torch.cuda.device_of(qkv_WNC):
        bias_ANQ, bias_by_key_ANQ = (pad_columns(bias, qkv_WNC.dtype) for bias in (bias_ANN, bias_ANN.mT))
        kernels.grad_q_kernel[(programs,)](
            qkv_WNC, bias_ANQ, *mask, y_WNC, lse_WAN, dy_WNC, delta_WAN, dqkv_WNC, **constants
        )
        kernels.grad_kv_kernel[(programs,)](
            qkv_WNC, bias_by_key_ANQ, *mask, lse_WAN, dy_WNC, delta_WAN, dqkv_WNC, **constants
        )
        kernels.grad_bias_kernel[(bias_tiles * S,)](
            qkv_WNC, bias_ANQ, *mask, lse_WAN, dy_WNC, delta_WAN, partial_SANN, W, S, **constants
        )
        return dqkv_WNC, partial_SANN.sum(0).to(bias_ANN.dtype)


@_backward.register_fake
def _backward_fake(
    dy_WNC: Tensor,
    qkv_WNC: Tensor,
    bias_ANN: Tensor,
    labels_MN: Tensor | None,
    kinds_W: Tensor | None,
    y_WNC: Tensor,
    lse_WAN: Tensor,
) -> tuple[Tensor, Tensor]:
    return qkv_WNC.new_empty(qkv_WNC.shape), bias_ANN.new_empty(bias_ANN.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)  # the log-sum-exp has no gradient


def _differentiate(ctx: Any, dy_WNC: Tensor, _: None) -> tuple[Tensor, Tensor, None, None]:
    return *_backward(dy_WNC, *ctx.saved_tensors), None, None


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "bevt::window_attention has no second derivative; use the `math` implementation for double backward"
    )


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_refuse)


def kernel_constants(N: int, A: int, D: int, *, masked: bool) -> dict[str, Any]:
    """Return the constants that the kernels are compiled for. N is one: loops of unknown length spill registers."""
    P = max(16, 2 ** (D - 1).bit_length())  # matrix products need at least 16 along each axis
    sizes = {"N": N, "A": A, "D": D, "P": P, "Q": _padded(N), "OWN": OWN, "STEP": STEP}
    return sizes | {"SCALE": D**-0.5, "MASKED": masked, "num_warps": 8 if P > 64 else 4, "num_stages": 2}


def _padded(N: int) -> int:
    return math.ceil(N / STEP) * STEP


def pad_columns(bias_ANN: Tensor, dtype: torch.dtype) -> Tensor:
    """Append -inf up to a multiple of `STEP`, which hides keys beyond N and aligns the rows: (A, N, Q)."""
    A, N, _ = bias_ANN.shape
    bias_ANQ = bias_ANN.new_full((A, N, _padded(N)), -math.inf, dtype=dtype)
    bias_ANQ[..., :N] = bias_ANN
    return bias_ANQ


def _constants_for(qkv_WNC: Tensor, A: int, labels_MN: Tensor | None) -> dict[str, Any]:
    _, N, C3 = qkv_WNC.shape
    D = C3 // (3 * A)
    if not supported(qkv_WNC.device, qkv_WNC.dtype, D):
        raise ValueError(
            f"no Triton attention for {qkv_WNC.dtype} and heads of {D} channels on {qkv_WNC.device}; it needs fp16 or "
            f"bf16, at most {MAX_HEAD_DIM} channels, Triton, and an NVIDIA GPU of sm_80 or later"
        )
    return kernel_constants(N, A, D, masked=labels_MN is not None)


def _mask_arguments(labels_MN: Tensor | None, kinds_W: Tensor | None, unread: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and kinds for the kernels, or `unread` in place of both if there is no mask."""
    if labels_MN is None or kinds_W is None:
        return unread, unread
    return labels_MN.contiguous(), kinds_W.contiguous()
