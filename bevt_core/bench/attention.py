"""Benchmark of window attention: each implementation at all shapes of a Swin; time, memory, error, reproducibility.

Legend: B samples, K windows per sample, N positions per window, A heads, D channels per head, W = B*K.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bevt_core.bench.timing import available_device, device_name, peak_bytes_above, timed_ms
from bevt_core.console.progress import say
from bevt_core.models.build import SWIN_SIZES, SwinBackbone, check_size
from bevt_core.models.window_attention import IMPLEMENTATIONS, triton_op
from bevt_core.models.window_attention.dispatch import Implementation
from bevt_core.models.windows import Windows, fit_window, shift_labels, shift_masks, window_kinds, windows_of

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SIDES_PX = {size: 64 if size == "nano" else 224 for size in SWIN_SIZES}
STREAM_FRAMES = {"video": 16, "image": 1}
ERROR_SAMPLES = 1  # compared with float64, which takes several times the memory
FLEX_VARIANTS = 64  # limit of compiled variants: one per shape, forward and backward


def bench_attention(
    *, size: str, clips: int, images: int, device: str, dtype: str, repeats: int = 10
) -> dict[str, Any]:
    """Return the `attention_rows` of a Swin size and their `totals_ms`; print each row when it is measured.

    Raises UserError for an unknown size or a missing device.
    """
    found = available_device(device)
    check_size(size)
    batch = {"video": clips, "image": images}
    rows = []
    for row in attention_rows(attention_cases(size, SIDES_PX[size]), batch, device=found, dtype=dtype, repeats=repeats):
        rows.append(row)
        say(row_line(row))
    return {"device": device_name(found), "dtype": dtype, "rows": rows, "totals_ms": totals_ms(rows)}


class AttentionCase(NamedTuple):
    """The shape of attention in some blocks of a Swin, and the number of these blocks."""

    stream: str
    stage: int  # from 1
    windows: Windows
    heads: int
    head_dim: int
    blocks: int

    @property
    def name(self) -> str:
        return f"{self.stream} stage {self.stage}{' shifted' if any(self.windows.shift) else ''}"


def attention_cases(size: str, size_px: int) -> list[AttentionCase]:
    """Return the attention shapes of a Swin size for clips of 16 frames and for images, `size_px` a side."""
    swin = SwinBackbone(**SWIN_SIZES[size])
    patch_t, patch_h, patch_w = swin.patch
    window = (swin.window[0], swin.window[1], swin.window[2])
    half = (window[0] // 2, window[1] // 2, window[2] // 2)
    cases = []
    for stream, frames in STREAM_FRAMES.items():
        for stage, (depth, heads) in enumerate(zip(swin.depths, swin.num_heads, strict=True)):
            fine = 2**stage
            grid = (-(-frames // patch_t), size_px // (patch_h * fine), size_px // (patch_w * fine))
            blocks: dict[Windows, int] = {}
            for block in range(depth):
                cut = windows_of(grid, *fit_window(grid, window, half if block % 2 else (0, 0, 0)))
                blocks[cut] = blocks.get(cut, 0) + 1
            head_dim = swin.embed_dim * fine // heads
            cases += [AttentionCase(stream, stage + 1, cut, heads, head_dim, n) for cut, n in blocks.items()]
    return cases


def attention_rows(
    cases: Sequence[AttentionCase],
    batch: Mapping[str, int],
    *,
    device: torch.device,
    dtype: str,
    implementations: Sequence[str] | None = None,
    warm_up: int = 3,
    repeats: int = 10,
) -> Iterator[dict[str, Any]]:
    """Measure every implementation in every case with `batch[stream]` samples; yield one row for each pair.

    A row has `forward_ms` and `backward_ms` (medians), `peak_mb` of both together (on GPUs), the relative errors of the
    output and of both gradients against float64, and whether two runs gave the same bits. If the implementation fails,
    the row has `error` instead; if it does not support the case, `skipped`.
    """
    names = implementations or default_implementations(device)
    for name in names:  # outermost: a fault that breaks the device leaves the earlier figures intact
        for case in cases:
            row: dict[str, Any] = {"implementation": name, "case": case.name, **_shape(case, batch[case.stream])}
            if name == "triton" and not triton_op.supported(device, DTYPES[dtype], case.head_dim):
                yield row | {"skipped": f"no Triton kernel for {dtype} on this {device.type} device"}
                continue
            try:
                yield row | _measured(name, case, batch[case.stream], device, DTYPES[dtype], warm_up, repeats)
            except Exception as error:  # noqa: BLE001 - reported in its row
                yield row | {"error": f"{type(error).__name__}: {error}"[:1000]}


def row_line(row: Mapping[str, Any]) -> str:
    """Format a row as one line."""
    shape = f"{row['windows']} x {row['positions']} x {row['heads']} x {row['head_dim']}"
    start = f"{row['implementation']:<12}{row['case']:<24}{shape:<22}"
    if "forward_ms" not in row:
        return f"{start}{row.get('skipped') or row['error']}"
    memory = "" if row["peak_mb"] is None else f"{row['peak_mb']:9.1f} MB"
    errors = " ".join(f"{row[key]:.1e}" for key in ("output_error", "qkv_grad_error", "bias_grad_error"))
    bits = "same bits" if row["same_bits"] else "different bits"
    return f"{start}{row['forward_ms']:9.3f} + {row['backward_ms']:.3f} ms{memory}  errors {errors}  {bits}"


def default_implementations(device: torch.device) -> tuple[str, ...]:
    """Return the implementations to compare on a device, in the order of measurement."""
    return (
        ("math", "torchvision", "sdpa", "triton", "flex") if device.type == "cuda" else ("math", "torchvision", "cpu")
    )


def totals_ms(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the sum of forward and backward over all blocks, per implementation that was measured in every case."""
    sums: dict[str, float] = {}
    for name in dict.fromkeys(row["implementation"] for row in rows):
        mine = [row for row in rows if row["implementation"] == name]
        if all("forward_ms" in row for row in mine):
            sums[name] = sum(row["blocks"] * (row["forward_ms"] + row["backward_ms"]) for row in mine)
    return sums


def _shape(case: AttentionCase, samples: int) -> dict[str, Any]:
    grid, window, _ = case.windows
    return {
        "stream": case.stream,
        "blocks": case.blocks,
        "windows": samples * math.prod(size // extent for size, extent in zip(grid, window, strict=True)),
        "positions": math.prod(window),
        "heads": case.heads,
        "head_dim": case.head_dim,
        "shifted": any(case.windows.shift),
    }


class _Problem(NamedTuple):
    """The inputs of an attention, and the gradient of its output."""

    qkv_BKNC: Tensor
    bias_ANN: Tensor
    grad_BKNC: Tensor


def _measured(
    name: str,
    case: AttentionCase,
    samples: int,
    device: torch.device,
    dtype: torch.dtype,
    warm_up: int,
    repeats: int,
) -> dict[str, Any]:
    attend = {**IMPLEMENTATIONS, "torchvision": attend_as_torchvision, "flex": attend_by_flex}[name]
    problem = _problem(case, samples, device, dtype)
    outputs: list[Tensor] = []

    def forward() -> None:
        problem.qkv_BKNC.grad = problem.bias_ANN.grad = None
        outputs[:] = [attend(problem.qkv_BKNC, problem.bias_ANN, case.windows)]

    def backward() -> None:
        outputs.pop().backward(problem.grad_BKNC)

    forward_ms, backward_ms = timed_ms([forward, backward], device, warm_up=warm_up, repeats=repeats)

    def both() -> None:
        forward()
        backward()

    peak_bytes = peak_bytes_above(both, device)
    results = [_results(attend, problem, case.windows) for _ in range(2)]
    few = _problem(case, min(samples, ERROR_SAMPLES), device, dtype)
    exact = _Problem(*(x.detach().double() for x in few))
    exact.qkv_BKNC.requires_grad_()
    exact.bias_ANN.requires_grad_()
    pairs = zip(
        _results(attend, few, case.windows), _results(IMPLEMENTATIONS["math"], exact, case.windows), strict=True
    )
    output_error, qkv_error, bias_error = (_relative_error(got, expected) for got, expected in pairs)
    return {
        "forward_ms": forward_ms,
        "backward_ms": backward_ms,
        "peak_mb": None if peak_bytes is None else peak_bytes / 1e6,
        "output_error": output_error,
        "qkv_grad_error": qkv_error,
        "bias_grad_error": bias_error,
        "same_bits": all(torch.equal(a, b) for a, b in zip(*results, strict=True)),
    }


def _problem(case: AttentionCase, samples: int, device: torch.device, dtype: torch.dtype) -> _Problem:
    grid, window, _ = case.windows
    K = math.prod(size // extent for size, extent in zip(grid, window, strict=True))
    N, C = math.prod(window), case.heads * case.head_dim
    generator = torch.Generator(device).manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator, device=device)
    return _Problem(
        qkv_BKNC=draw(samples, K, N, 3 * C).to(dtype).requires_grad_(),
        bias_ANN=draw(case.heads, N, N).requires_grad_(),
        grad_BKNC=draw(samples, K, N, C).to(dtype),
    )


def _results(attend: Implementation, problem: _Problem, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, the gradient of queries, keys and values together, and the gradient of the bias."""
    problem.qkv_BKNC.grad = problem.bias_ANN.grad = None
    y_BKNC = attend(problem.qkv_BKNC, problem.bias_ANN, windows)
    y_BKNC.backward(problem.grad_BKNC)
    assert problem.qkv_BKNC.grad is not None and problem.bias_ANN.grad is not None
    return y_BKNC.detach(), problem.qkv_BKNC.grad, problem.bias_ANN.grad


def _relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def attend_as_torchvision(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows) -> Tensor:
    """Attend like torchvision's `shifted_window_attention_3d` under autocast: every (N, N) matrix goes to memory."""
    device, dtype = qkv_BKNC.device.type, qkv_BKNC.dtype
    with torch.autocast(device, dtype, enabled=dtype in (torch.float16, torch.bfloat16)):
        q, k, v = qkv_BKNC.unflatten(-1, (3, len(bias_ANN), -1)).permute(3, 0, 1, 4, 2, 5)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias_ANN
        if any(windows.shift):
            masks_MNN = shift_masks(windows.window, windows.shift, qkv_BKNC.device)
            logits = logits + masks_MNN[window_kinds(windows, qkv_BKNC.device)][:, None]
        y_BKNC: Tensor = (logits.softmax(dim=-1) @ v).transpose(-3, -2).flatten(-2)
        return y_BKNC


def attend_by_flex(qkv_BKNC: Tensor, bias_ANN: Tensor, windows: Windows) -> Tensor:
    """Attend with PyTorch's compiled `flex_attention`, with bias and mask in its `score_mod`."""
    B = len(qkv_BKNC)
    q, k, v = qkv_BKNC.flatten(0, 1).unflatten(-1, (3, len(bias_ANN), -1)).permute(2, 0, 3, 1, 4)
    labels_MN = shift_labels(windows.window, windows.shift, qkv_BKNC.device)
    kinds_W = window_kinds(windows, qkv_BKNC.device).repeat(B)

    def with_bias(score: Tensor, w: Tensor, a: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + bias_ANN[a, i, j]

    def with_mask(score: Tensor, w: Tensor, a: Tensor, i: Tensor, j: Tensor) -> Tensor:
        same = labels_MN[kinds_W[w], i] == labels_MN[kinds_W[w], j]
        return torch.where(same, score + bias_ANN[a, i, j], -math.inf)

    with torch._dynamo.config.patch(recompile_limit=FLEX_VARIANTS):
        y_WAND = _flex()(q, k, v, score_mod=with_mask if any(windows.shift) else with_bias)
    y_BKNC: Tensor = y_WAND.transpose(1, 2).flatten(2).unflatten(0, (B, -1))
    return y_BKNC


@functools.cache
def _flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
