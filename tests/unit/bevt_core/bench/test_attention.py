"""The benchmark of window attention: its shapes, its own formulas, and the report of a failing implementation."""

import math

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from bevt_core.bench import attention as attention_benchmark
from bevt_core.bench.attention import (
    AttentionCase,
    attend_as_torchvision,
    attend_by_flex,
    attention_cases,
    attention_rows,
    totals_ms,
)
from bevt_core.bench.timing import timed_ms
from bevt_core.models.build import SWIN_SIZES, SwinBackbone
from bevt_core.models.swin import WindowAttention
from bevt_core.models.window_attention.sdpa import attend_plainly
from bevt_core.models.windows import Windows
from schemas.errors import UserError
from tests.support.json_keys import CheckKeys

CPU = torch.device("cpu")
SHIFTED = Windows((2, 4, 6), (2, 2, 3), (0, 1, 1))


def test_the_shapes_are_those_that_the_model_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    met: dict[tuple, int] = {}
    attended = WindowAttention.attention_inputs

    def noted(self: WindowAttention, *inputs: object) -> tuple:
        qkv_BKNC, bias_ANN, windows = attended(self, *inputs)  # type: ignore[arg-type]
        key = (windows, self.num_heads, qkv_BKNC.shape[-1] // (3 * self.num_heads))
        met[key] = met.get(key, 0) + 1
        return qkv_BKNC, bias_ANN, windows

    monkeypatch.setattr(WindowAttention, "attention_inputs", noted)
    with torch.device("meta"):
        encoder = SwinBackbone(**SWIN_SIZES["tiny"]).encoder()
        for tubelets in (8, 1):
            encoder(torch.zeros(1, tubelets, 56, 56, 96))
    cases = attention_cases("tiny", 224)
    assert {(case.windows, case.heads, case.head_dim): case.blocks for case in cases} == met
    assert [case.name for case in cases][:2] == ["video stage 1", "video stage 1 shifted"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("windows", [SHIFTED, SHIFTED._replace(shift=(0, 0, 0))], ids=["shifted", "plain"])
def test_its_own_formulas_compute_the_same(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_benchmark, "_flex", lambda: flex_attention)  # not compiled
    K, N, A, D = math.prod(windows.grid) // math.prod(windows.window), math.prod(windows.window), 2, 8
    qkv_BKNC, bias_ANN = torch.randn(2, K, N, 3 * A * D), torch.randn(A, N, N)
    expected_BKNC = attend_plainly(qkv_BKNC, bias_ANN, windows)
    torch.testing.assert_close(attend_as_torchvision(qkv_BKNC, bias_ANN, windows), expected_BKNC)
    torch.testing.assert_close(attend_by_flex(qkv_BKNC, bias_ANN, windows), expected_BKNC)


def test_a_failing_implementation_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(attention_benchmark.IMPLEMENTATIONS, "sdpa", fails)
    cases = [AttentionCase("video", 1, SHIFTED, 2, 8, blocks=3)]
    names = ("math", "sdpa", "triton", "torchvision")
    options = {"device": CPU, "dtype": "fp32", "implementations": names, "warm_up": 1, "repeats": 1}
    rows = list(attention_rows(cases, {"video": 2}, **options))  # type: ignore[arg-type]
    math_row, failed, skipped, torchvision = rows
    assert failed["error"] == "RuntimeError: no such kernel" and "forward_ms" not in failed
    assert skipped["skipped"] == "no Triton kernel for fp32 on this cpu device"
    for row in (math_row, torchvision):
        assert row["same_bits"] and max(row["output_error"], row["qkv_grad_error"], row["bias_grad_error"]) < 1e-6
    assert math_row["windows"] == 8 and math_row["positions"] == 12 and math_row["shifted"]
    assert totals_ms(rows) == {
        name: 3 * (row["forward_ms"] + row["backward_ms"])
        for name, row in (("math", math_row), ("torchvision", torchvision))
    }


def test_bf16_shows_in_the_errors() -> None:
    cases = [AttentionCase("video", 1, SHIFTED, 2, 8, blocks=1)]
    options = {"device": CPU, "implementations": ("torchvision",), "warm_up": 0, "repeats": 1}
    (row,) = attention_rows(cases, {"video": 1}, dtype="bf16", **options)  # type: ignore[arg-type]
    assert 1e-4 < row["output_error"] < 2e-2


def test_a_whole_benchmark_on_a_cpu(json_keys: CheckKeys) -> None:
    found = attention_benchmark.bench_attention(size="nano", clips=1, images=1, device="cpu", dtype="fp32", repeats=1)
    json_keys("bench attention", found)


def test_a_device_that_is_not_there_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="sees no CUDA GPU"):
        attention_benchmark.bench_attention(size="nano", clips=1, images=1, device="cuda", dtype="bf16")


def test_parts_are_timed_by_themselves() -> None:
    calls: list[str] = []
    times = timed_ms([lambda: calls.append("a"), lambda: calls.append("b")], CPU, warm_up=1, repeats=2)
    assert calls == ["a", "b"] * 3 and len(times) == 2 and min(times) >= 0
