"""The table of a GPU measurement: its rows, its goals, and that docs/explanation/gpu.md has the committed one."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_table", REPO / "benchmarks" / "gpu" / "table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step_row(attention: str, clips: int, step_ms: float, **more: Any) -> dict[str, Any]:
    row = {"attention": attention, "activation_checkpointing": False, "clips": clips, "step_ms": step_ms}
    return {**row, "mfu": 0.41, "peak_gb": 35.0, **more}


def measurement(device: str = "NVIDIA H100") -> dict[str, Any]:
    attention_row = {"blocks": 2, "forward_ms": 1.0, "backward_ms": 2.0, "peak_mb": 10.0, "same_bits": True}
    attention_row |= dict.fromkeys(("output_error", "qkv_grad_error", "bias_grad_error"), 1e-3)
    facts = {"device": device, "date": "2030-01-01", "revision": "abc", "torch": "2.11", "triton": "3.6"}
    return {
        "machine": {**facts, "python": "3.12", "cpu_cores": 16},
        "steps": {
            "attention": {
                "status": "ok",
                "size": "base",
                "dtype": "bf16",
                "batch": {"video": 8, "image": 64},
                "totals_ms": {"math": 60.0, "sdpa": 20.0, "triton": 10.0},
                "rows": [
                    {"implementation": "math", "case": "video stage 1", **attention_row},
                    {"implementation": "flex", "case": "video stage 1", "error": "RuntimeError: no such kernel\nlong"},
                ],
            },
            "joint_step": {
                "status": "ok",
                "rows": [
                    step_row("math", 8, 250.0, activation_checkpointing=True),
                    step_row("triton", 8, 96.0),
                    step_row("triton", 16, 180.0),
                ],
            },
            "resume": {"status": "stopped", "reason": "reached its time limit, or its process was killed"},
        },
    }


def test_goals_are_met_missed_or_not_measured(table: ModuleType) -> None:
    values = table.measured_goals(measurement())
    assert values == [6.0, 96.0, 250 / 96, 0.41, 35.0, None]
    lines = table.render(measurement()).splitlines()
    ends = [next(line for line in lines if goal.aim in line).split(" | ")[1:] for goal in table.GOALS]
    assert [end[-1].rstrip(" |") for end in ends] == ["met", "not met", "met", "met", "met", "not measured"]
    assert table.measured_goals(measurement(device="cpu")) == [None] * 6


def test_what_failed_is_listed_with_its_reason(table: ModuleType) -> None:
    text = table.render(measurement())
    assert "- attention, flex video stage 1: RuntimeError: no such kernel" in text and "long" not in text
    assert "| resume | stopped |  | reached its time limit, or its process was killed |" in text
    assert "| math | 1 of 1 | 60 | 10 |" in text and "| flex | 0 of 1 |" in text


def test_the_page_has_the_table_of_the_committed_measurement(table: ModuleType) -> None:
    committed = REPO / "benchmarks" / "gpu" / "gpu.json"
    expected = table.render(json.loads(committed.read_text()) if committed.is_file() else None)
    page = (REPO / "docs" / "explanation" / "gpu.md").read_text()
    assert table.insert(page, expected) == page, "run python benchmarks/gpu/table.py benchmarks/gpu/gpu.json"
