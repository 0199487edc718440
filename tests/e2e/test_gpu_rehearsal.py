"""The scripts of benchmarks/gpu with toy sizes on the CPU, where neither decoders nor Ray can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
STEPS = ["ceilings", "parity", "joint_step", "resume", "attention", "tokenizer", "online_step", "nano", "loader"]
STEPS += ["compiled_step"]
ABSENT = ("av", "decord", "obstore", "ray", "wandb")  # on the machine that the scripts are for
BLOCK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ImportError(f"{{name}} is not installed there")

sys.meta_path.insert(0, Absent())
"""


def rehearse(script: str, out: Path, **env: str) -> str:
    (out / "absent").mkdir()
    (out / "absent" / "sitecustomize.py").write_text(BLOCK)
    command = ["bash", f"benchmarks/gpu/{script}.sh", "--device", "cpu", "--tiny", "--out", str(out / "out")]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(out / "absent"), **env}
    call = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert call.returncode == 0, call.stderr
    return call.stdout


@pytest.mark.slow
def test_a_measurement_ends_with_a_result_of_every_step(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    shown = rehearse("run", tmp_path)
    measured = json.loads((tmp_path / "out" / "gpu.json").read_text())
    steps: dict[str, dict[str, Any]] = measured["steps"]
    assert list(steps) == STEPS
    for name, content in steps.items():
        assert content["status"] == "ok" or (content["status"] == "skipped" and content["reason"]), (name, content)
        assert not [row for row in content.get("rows", ()) if "error" in row and "tf32" not in str(row)], (
            name,
            content,
        )
        assert f"| {name.replace('_', ' ')} | {content['status']} |" in shown
    skipped = {name for name, content in steps.items() if content["status"] == "skipped"}
    assert skipped <= {"compiled_step"}, "a GPU is not always there"
    assert steps["parity"]["all_within_limits"]
    resume = steps["resume"]
    assert resume["same_losses"] and resume["same_weights"] and resume["steps"] == 16 > resume["killed_after"]
    assert steps["nano"]["loss_falls"] and 0 <= steps["loader"]["data_wait_share"] <= 1
    assert set(steps["attention"]["totals_ms"]) == {"math", "torchvision", "cpu"}
    assert measured["machine"]["device"] == "cpu"


@pytest.mark.slow
def test_the_evidence_has_every_share_start_and_seed(tmp_path: Path) -> None:
    shown = rehearse("evidence", tmp_path)
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    runs = {(run["seed"], run["share"], run["start"]) for run in evidence["runs"]}
    assert runs == {
        (s, share, start) for s in range(3) for share in (0.01, 0.1, 1.0) for start in ("pretrained", "scratch")
    }
    assert all(row["seeds"] == 3 and row["min"] <= row["mean"] <= row["max"] for row in evidence["summary"])
    assert len(evidence["summary"]) == 6 and "| 64 (100%) | scratch | 3 |" in shown
