"""Put all results into one gpu.json: `python benchmarks/gpu/merge.py OUT STEP...`; `--print` prints the table."""

import json
import sys
from pathlib import Path
from typing import Any

from table import render

from schemas.text.json_text import json_text

LOG_TAIL = 2000  # characters, of a step that did not end well


def merged(out: Path, names: list[str]) -> dict[str, Any]:
    """Return the results of all steps, in order. A step that did not end well keeps the end of its log."""
    steps: dict[str, Any] = {}
    for name in names:
        path, log = out / "steps" / f"{name}.json", out / "steps" / f"{name}.log"
        content = json.loads(path.read_text()) if path.is_file() else {"status": "not run"}
        if content["status"] == "running":
            content |= {"status": "stopped", "reason": "reached its time limit, or its process was killed"}
        elif not path.is_file() and log.is_file():
            content = {"status": "failed", "reason": "ended before it wrote a result"}
        if content["status"] in ("stopped", "failed") and log.is_file():
            content["log_tail"] = log.read_text(errors="replace")[-LOG_TAIL:]
        steps[name] = content
    machines = [content.pop("machine") for content in steps.values() if "machine" in content]
    return {"machine": machines[0] if machines else {}, "steps": steps}


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--print"]
    out = Path(arguments[0])
    measurement = merged(out, arguments[1:])
    beside = out / "gpu.json.part"
    beside.write_text(json_text(measurement, indent=1) + "\n")
    beside.replace(out / "gpu.json")
    if "--print" in sys.argv and measurement["machine"]:
        print(render(measurement))


if __name__ == "__main__":
    main()
