"""What the steps of a measurement share: options, a result file that is written at every row, recipes, the machine."""

import argparse
import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bevt_core.bench.timing import device_name
from schemas.recipes.loading import load_recipe
from schemas.text.json_text import json_text

REPO = Path(__file__).resolve().parents[2]
RECIPES = REPO / "trainer" / "recipes"
ATTENTIONS = ("math", "sdpa", "triton")


@dataclass(frozen=True)
class Options:
    """`tiny` rehearses with toy sizes; `work` keeps what several steps read."""

    device: torch.device
    tiny: bool
    out: Path
    work: Path
    deadline: float = math.inf  # of time.monotonic(), when the step is ended

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


class SkipStep(Exception):
    """A step that cannot run here, and why."""


class Result:
    """`steps/NAME.json`: `status`, `rows`, and single values. Whole at any time, so that a killed step leaves rows."""

    def __init__(self, name: str, options: Options) -> None:
        self.path = options.out / "steps" / f"{name}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.begun = time.monotonic()
        self.content: dict[str, Any] = {"status": "running", "machine": machine(options.device), "rows": []}
        self._write()

    def add(self, row: dict[str, Any]) -> None:
        """Add a row to the file, and print it."""
        self.content["rows"].append(row)
        self._write()
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        print("  ".join(f"{key} {value}" for key, value in shown.items()), flush=True)

    def set(self, **values: Any) -> None:
        """Set single values."""
        self.content |= values
        self._write()
        print(values, flush=True)

    def end(self, status: str, reason: str | None = None) -> None:
        self.set(
            status=status, seconds=round(time.monotonic() - self.begun, 1), **({"reason": reason} if reason else {})
        )

    def _write(self) -> None:
        beside = self.path.with_suffix(".part")
        beside.write_text(json_text(self.content, indent=1))
        beside.replace(self.path)


@contextmanager
def step(name: str) -> Iterator[tuple[Options, Result]]:
    """Read the options and run a step; its result ends as ok, skipped with a reason, or failed with a traceback."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds until the step is ended")
    given = parser.parse_args()
    deadline = time.monotonic() + given.limit
    options = Options(torch.device(given.device), given.tiny, given.out, given.work, deadline)
    result = Result(name, options)
    try:
        yield options, result
    except SkipStep as reason:
        result.end("skipped", str(reason))
    except BaseException:
        result.end("failed", traceback.format_exc()[-3000:])
        raise
    else:
        result.end("ok")


def attempt(row: dict[str, Any], measure: Any) -> dict[str, Any]:
    """Return `row` with what `measure()` returns, or with the error that it ended in."""
    try:
        return row | measure()
    except Exception as error:  # noqa: BLE001 - reported beside the other rows
        traceback.print_exc()
        return row | {"error": f"{type(error).__name__}: {error}"[:1000]}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def machine(device: torch.device) -> dict[str, Any]:
    """The card, versions, the code's revision, and the date."""
    facts: dict[str, Any] = {
        "device": device_name(device),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "date": datetime.now(UTC).date().isoformat(),
        "revision": _revision(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        facts |= {"memory_gb": properties.total_memory / 1e9, "multiprocessors": properties.multi_processor_count}
    return facts


def joint_recipe(*overrides: str, name: str = "joint_swin_base_k400_in1k") -> Any:
    """A recipe of the trainer with overrides; nothing is initialised from another run."""
    return load_recipe(name, RECIPES, ["init=null", *overrides])


def bevt(*arguments: object) -> list[str]:
    """The command line of `bevt`, for a process of its own."""
    return [sys.executable, "-m", "cli", *map(str, arguments)]


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit, "-dirty" behind it where files differ; $BEVT_REVISION where the tree was copied without git."""
    call = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(call, cwd=REPO, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("BEVT_REVISION")
