"""List, summarise and compare run directories: settings, progress and curves. Safe on runs in progress."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bevt_core.console.readable import count
from bevt_core.reporting.charts import curves_png
from bevt_core.storage.descriptions import RECORD, what_is
from bevt_core.storage.files import write_atomic
from bevt_core.storage.one_writer import owner
from schemas.errors import UserError
from schemas.recipes import TokenizeRecipe
from schemas.recipes.loading import Recipe, nearest
from schemas.runs import RunRecord
from schemas.text.plain import short
from trainer.engine.checkpoint import CHECKPOINTS, Checkpoints
from trainer.metrics.log import METRICS_FILE, read_metrics, recent_metrics
from trainer.runs.directory import flat, read_run
from trainer.runs.status import RECENT, RESULTS, progress_of
from trainer.runs.table import sparklines

UNFINISHED = "not finished"
POINTS = 400  # at most in a curve: neighbouring steps are averaged


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Return the summary of every run below `root`, newest first, or its `error` if it cannot be read.

    Raises UserError if there is no run.
    """
    if not root.is_dir():
        raise UserError(f"{root}: {what_is(root)}; expected a folder that contains runs")
    found = sorted(path.parent for path in root.rglob(RECORD))
    if not found:
        raise UserError(
            f"{root}: no runs below it, since no directory has a {RECORD}; give a folder that contains runs"
        )
    return sorted((_row_of(run) for run in found), key=lambda row: row.get("started", ""), reverse=True)


def _row_of(run: Path) -> dict[str, Any]:
    try:
        return summary_of(run)
    except UserError as error:
        return {"run": str(run), "error": str(error)}


def summary_of(run: Path) -> dict[str, Any]:
    """Return a run's kind, title, progress (`trainer.runs.status`), start, and the time and values of its last step.

    `left_s` is the estimated time left while the run is alive, `silent_s` the time since its last step. Raises
    UserError for a directory without a run.
    """
    recipe, record = read_run(run)
    lines = recent_metrics(run, RECENT)
    logged = datetime.fromtimestamp((run / METRICS_FILE).stat().st_mtime, UTC) if lines else None
    max_steps = None if isinstance(recipe, TokenizeRecipe) else recipe.loop.max_steps
    progress = progress_of(run, record, max_steps, lines)
    state = _state(run, recipe, record, progress.step)
    return {
        "run": str(run),
        "kind": recipe.kind,
        "title": recipe.title,
        "step": progress.step,
        "total_steps": progress.total,
        "status": progress.status,
        "left_s": progress.left_s,
        "silent_s": progress.silent_s,
        "state": state,
        "finished": state == "finished",
        "started": record.started,
        "logged": None if logged is None else logged.isoformat(timespec="seconds"),
        "metrics": {key: value for key, value in lines[-1].items() if key != "step"} if lines else {},
    }


def _state(run: Path, recipe: Recipe, record: RunRecord, step: int) -> str:
    if not any((run / result).exists() for result in RESULTS):
        return UNFINISHED
    total = record.total_steps
    if total is None and not isinstance(recipe, TokenizeRecipe) and step == recipe.loop.max_steps:
        # or finished: older versions did not record the total
        return f"stopped by loop.max_steps at {count(step, 'step')}"
    if total is not None and 0 < step < total:
        return f"stopped by loop.max_steps at {step} of {count(total, 'step')}"
    return "finished"


def show_run(run: Path) -> dict[str, Any]:
    """Return the summary of a run, its record, its checkpoints and its number of skipped steps.

    `writer` is the process that writes it (`host`, `pid`, `since`), or None if no such process is known.
    """
    _, record = read_run(run)
    writer = owner(run)
    return {
        **summary_of(run),
        "command": record.command,
        "processes": record.world_size,
        "writer": None if writer is None else writer.model_dump(include={"host", "pid", "since"}),
        "device": record.device,
        "git_revision": record.git_revision,
        "datasets": {name: ref.path for name, ref in record.datasets.items()},
        "checkpoints": [path.name for path in Checkpoints(run / CHECKPOINTS, 1).paths()],
        "skipped_steps": sum("skipped" in line for line in read_metrics(run)),
    }


def compare_runs(runs: Sequence[Path], keys: Sequence[str] | None, out: Path) -> dict[str, Any]:
    """Plot the metrics `keys` of all `runs` into the PNG `out` and return the differences between the runs.

    Without `keys`, the PNG shows the loss, and the returned text curves also accuracies. Raises UserError for a key
    that no run has logged, suggesting the closest one.
    """
    drawn = list(keys) if keys else ["loss"]
    logs = {str(run): read_metrics(run) for run in runs}
    known = {key for lines in logs.values() for line in lines for key in line}
    for key in drawn:
        if key not in known:
            raise UserError(
                f"no run has logged {key!r}; {nearest(key, sorted(known))}known: {', '.join(sorted(known))}"
            )
    curves = {
        f"{run} {key}" if len(drawn) > 1 else run: averaged(points)
        for run, lines in logs.items()
        for key in drawn
        if (points := points_of(lines, key))
    }
    write_atomic(out, curves_png(curves, "step", ", ".join(drawn)))
    compared = list(dict.fromkeys([*drawn, *([] if keys else sorted(filter(is_accuracy, known)))]))
    facts = {str(run): _facts(run) for run in runs}
    return {
        "picture": str(out),
        "different": _differing({run: sections["settings"] for run, sections in facts.items()}),
        "data": _differing({run: sections["data"] for run, sections in facts.items()}),
        "machine": _differing({run: sections["machine"] for run, sections in facts.items()}),
        "results": {run: _results(Path(run), lines, compared) for run, lines in logs.items()},
        "curves": {key: sparklines({run: points_of(lines, key) for run, lines in logs.items()}) for key in compared},
        "last": {name: y[-1] for name, (_, y) in curves.items()},
    }


def points_of(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (step, value) of every line with a number for `key`."""
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def is_accuracy(key: str) -> bool:
    return key.endswith(("_acc", "_top1")) or key == "top1"


def _facts(run: Path) -> dict[str, dict[str, Any]]:
    recipe, record = read_run(run)
    machine = {"device": record.device, "processes": record.world_size, "git_revision": short(record.git_revision)}
    return {
        "settings": flat(recipe.model_dump(mode="json")),
        "data": {name: f"{ref.path} ({ref.digest[:12]})" for name, ref in record.datasets.items()},
        "machine": machine | record.versions,
    }


def _differing(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the values of all runs for each key whose values differ."""
    keys = sorted({key for of_run in values.values() for key in of_run})
    different = [key for key in keys if len({str(of_run.get(key)) for of_run in values.values()}) > 1]
    return {key: {run: of_run.get(key) for run, of_run in values.items()} for key in different}


def _results(run: Path, lines: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Return the status and steps of a run, the last value of each of `keys`, and the median samples per second."""
    summary = summary_of(run)
    found = {key: summary[key] for key in ("status", "step", "total_steps")}
    found |= {key: points[-1][1] if (points := points_of(lines, key)) else None for key in keys}
    rates = [rate for _, rate in points_of(lines, "samples_per_s")]
    return found | {"samples_per_s": float(np.median(rates)) if rates else None}


def averaged(points: Sequence[tuple[float, float]], most: int = POINTS) -> tuple[list[float], list[float]]:
    """Average neighbouring (step, value) pairs down to at most `most`; return the steps and the values."""
    groups = np.array_split(np.array(points, dtype=float), min(most, len(points)))
    steps, values = zip(*(group.mean(axis=0).tolist() for group in groups), strict=True)
    return list(steps), list(values)
