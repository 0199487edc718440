"""The benchmark of tokenizers runs where there is no GPU, and says what a CPU cannot do."""

import json
import runpy
from pathlib import Path

import pytest

MAIN = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "dalle_throughput.py"))["main"]


def test_it_reports_speed_and_equal_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MAIN(["--device", "cpu", "--size", "nano", "--rounds", "1", "--out", str(tmp_path / "out.json")])
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["pass_frames"] == 16 and set(results["runs"]) == {"float32 host", "bfloat16 host"}
    assert results["runs"]["float32 host"]["ids_equal"] == 1.0
    assert results["runs"]["bfloat16 host"]["frames_per_s"] > 0
    assert "float32 host: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        MAIN(["--device", "cpu", "--dtype", "tf32"])
    assert "--dtype tf32 --device cpu: needs a GPU" in capsys.readouterr().err
