"""A measurement as Markdown: `python benchmarks/gpu/table.py [GPU_JSON]` writes it into docs/explanation/gpu.md.

Without a file it writes that nothing has been measured. `render` needs nothing but Python.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "gpu.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NOT_MEASURED = "Not yet measured."
FUSED = ("sdpa", "triton")
NAMING = ("implementation", "case", "precision", "attention", "tokenizer_dtype", "dtype", "clips")  # of rows
Steps = Mapping[str, Mapping[str, Any]]


class Goal(NamedTuple):
    """What was aimed for on an H100."""

    aim: str
    form: str  # of what was measured
    meets: Callable[[Any], bool]


GOALS = (
    Goal("fused attention, forward and backward: at least 5 x math", "{:.1f} x", lambda ratio: ratio >= 5),
    Goal("joint step, 8 clips + 64 images: at most 95 ms", "{:.1f} ms", lambda ms: ms <= 95),
    Goal("the same: at least 2.5 x math with checkpointing", "{:.2f} x", lambda ratio: ratio >= 2.5),
    Goal("joint step, 16 + 128: MFU of 40 % or more", "{:.1%}", lambda share: share >= 0.4),
    Goal("its peak memory: below 40 GB", "{:.1f} GB", lambda gigabytes: gigabytes < 40),
    Goal("killed and resumed with `loop.deterministic`: the same bits", "losses {0[0]}, weights {0[1]}", all),
)


def render(measurement: Mapping[str, Any] | None) -> str:
    """Return the Markdown of a merged measurement."""
    if measurement is None:
        return NOT_MEASURED
    steps = measurement["steps"]
    parts = [_headline(measurement), _goals(measurement), _statuses(steps)]
    parts += [_parity(steps), _attention(steps), _joint_steps(steps), _tokenizer(steps), _loader(steps), _runs(steps)]
    parts.append(_faults(steps))
    return "\n\n".join(part for part in parts if part)


def measured_goals(measurement: Mapping[str, Any]) -> list[Any]:
    """Return what was measured of each of GOALS, None where it was not; on a CPU nothing counts."""
    if measurement["machine"].get("device") in (None, "cpu"):
        return [None] * len(GOALS)
    steps = measurement["steps"]
    totals = steps.get("attention", {}).get("totals_ms", {})
    fused = min((totals[name] for name in FUSED if name in totals), default=None)
    small, large = _fastest(steps, 8), _fastest(steps, 16)
    shipped = next((r for r in _rows(steps, 8) if r["attention"] == "math" and r["activation_checkpointing"]), None)
    resume = steps.get("resume", {})
    return [
        totals["math"] / fused if fused and "math" in totals else None,
        small["step_ms"] if small else None,
        shipped["step_ms"] / small["step_ms"] if small and shipped else None,
        large["mfu"] if large else None,
        large["peak_gb"] if large else None,
        (resume["same_losses"], resume["same_weights"]) if "same_weights" in resume else None,
    ]


def _rows(steps: Steps, clips: int) -> list[Mapping[str, Any]]:
    return [
        row for row in steps.get("joint_step", {}).get("rows", ()) if row.get("clips") == clips and "step_ms" in row
    ]


def _fastest(steps: Steps, clips: int) -> Mapping[str, Any] | None:
    return min(_rows(steps, clips), key=lambda row: row["step_ms"], default=None)


def _headline(measurement: Mapping[str, Any]) -> str:
    facts, ceilings = measurement["machine"], measurement["steps"].get("ceilings", {})
    text = f"{facts['device']}, {facts['date']}, revision {facts['revision']}, torch {facts['torch']}"
    text += f", triton {facts['triton']}, Python {facts['python']}, {facts['cpu_cores']} CPU cores."
    if "copy_gb_per_s" in ceilings and "matmul_tflops" in ceilings:
        text += f" Copying memory: {ceilings['copy_gb_per_s']:,.0f} GB/s; a bf16 product of side"
        text += f" {ceilings['matmul_side']}: {ceilings['matmul_tflops']:.1f} TFLOP/s."
    return text


def _goals(measurement: Mapping[str, Any]) -> str:
    rows = [
        (goal.aim, "", "not measured")
        if value is None
        else (goal.aim, goal.form.format(value), "met" if goal.meets(value) else "not met")
        for goal, value in zip(GOALS, measured_goals(measurement), strict=True)
    ]
    return markdown(("goal", "measured", ""), rows)


def _statuses(steps: Steps) -> str:
    rows = [
        (name, content["status"], content.get("seconds"), content.get("reason", "").strip().split("\n")[-1][:150])
        for name, content in steps.items()
    ]
    return markdown(("step", "status", "s", "reason"), rows)


def _parity(steps: Steps) -> str:
    keys = ("precision", "attention", "features", "loss", "each_grad_norm", "all_grad_norms", "within_limits")
    return _of_rows(steps, "parity", keys, "Largest differences from the original implementation:")


def _attention(steps: Steps) -> str:
    content = steps.get("attention", {})
    totals = content.get("totals_ms")
    if not totals:
        return ""
    rows = []
    for name in dict.fromkeys(row["implementation"] for row in content["rows"]):
        mine = [row for row in content["rows"] if row["implementation"] == name]
        done = [row for row in mine if "forward_ms" in row]
        worst = [
            max((row[key] for row in done), default=None)
            for key in ("output_error", "qkv_grad_error", "bias_grad_error")
        ]
        peak = max((row["peak_mb"] for row in done if row["peak_mb"] is not None), default=None)
        bits = f"{sum(row['same_bits'] for row in done)} of {len(done)}"
        rows.append((name, f"{len(done)} of {len(mine)}", totals.get(name), peak, *worst, bits))
    head = ("attention", "shapes", "ms a step", "peak MB", "output", "dqkv", "dbias", "same bits")
    batch = content["batch"]
    title = (
        f"Window attention, Swin {content['size']}, {content['dtype']}, {batch['video']} + {batch['image']} samples:"
    )
    return (
        f"{title} all blocks' forward and backward, the largest memory and relative errors.\n\n{markdown(head, rows)}"
    )


def _joint_steps(steps: Steps) -> str:
    keys = ("attention", "activation_checkpointing", "compile", "tokens", "clips", "images", "step_ms", "forward_ms")
    keys += ("backward_ms", "optimizer_ms", "host_ms", "mfu", "peak_gb", "syncs", "first_step_s")
    rows = [
        tuple(row.get(key) for key in keys)
        for name in ("joint_step", "online_step", "compiled_step")
        for row in steps.get(name, {}).get("rows", ())
        if "step_ms" in row
    ]
    return f"Joint steps:\n\n{markdown(keys, rows)}" if rows else ""


def _tokenizer(steps: Steps) -> str:
    return _of_rows(steps, "tokenizer", ("dtype", "frames_per_s", "ids_equal_share"), "DALL-E encoder, random weights:")


def _loader(steps: Steps) -> str:
    table = _of_rows(steps, "loader", ("workers", "batches_per_s", "samples_per_s"), "Batches from shards:")
    content = steps.get("loader", {})
    if table and "data_wait_share" in content:
        table += f"\n\nA real run with {content['wait_workers']} loader processes waited for data in "
        table += f"{content['data_wait_share']:.1%} of its time ({content['wait_steps']} steps)."
    return table


def _runs(steps: Steps) -> str:
    content = steps.get("nano", {})
    if "last_loss" not in content:
        return ""
    return (
        f"{content['steps']} nano joint steps: loss {content['first_loss']:.3f} to {content['last_loss']:.3f}, "
        f"{content['step_ms']:.1f} ms a step."
    )


def _faults(steps: Steps) -> str:
    """Rows that have an error or a reason in place of figures, each text once."""
    texts: dict[tuple[str, str], list[str]] = {}
    for name, content in steps.items():
        for row in content.get("rows", ()):
            text = row.get("error") or row.get("skipped")
            if text is not None:
                what = " ".join(_cell(value) for key, value in row.items() if key in NAMING)
                texts.setdefault((name, text.strip().split("\n")[0][:200]), []).append(what)
    lines = [f"- {_cell(name)}, {'; '.join(rows)}: {text}" for (name, text), rows in texts.items()]
    return "Not measured:\n\n" + "\n".join(lines) if lines else ""


def _of_rows(steps: Steps, name: str, keys: Sequence[str], title: str) -> str:
    rows = [tuple(row.get(key) for key in keys) for row in steps.get(name, {}).get("rows", ()) if keys[-1] in row]
    return f"{title}\n\n{markdown(keys, rows)}" if rows else ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("_", " ").replace("|", "/")


def insert(document: str, table: str) -> str:
    """Put a table between the markers of a document."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def main() -> None:
    measurement = json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else None
    DOCS.write_text(insert(DOCS.read_text(), render(measurement)))


if __name__ == "__main__":
    main()
