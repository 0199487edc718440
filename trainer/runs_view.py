"""Look at run directories: what was run, how far it came, how the losses went. Reads only; a run may be going on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bevt_core.charts import curves_png
from bevt_core.files import write_atomic
from schemas.errors import UserError
from schemas.recipe_io import Recipe, nearest
from schemas.recipes import TokenizeRecipe
from schemas.runs import RunRecord
from trainer.checkpoint import CHECKPOINTS, Checkpoints
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.run import RECORD, WEIGHTS, flat, read_run

RESULTS = (WEIGHTS, "tokenizer")  # what a run leaves when it is finished: weights, or a tokenizer's folder
UNFINISHED = "not finished"
POINTS = 400  # of a curve: steps are averaged down to so many


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Return the summary of every run below `root`, the newest first; one that cannot be read has `error` instead.

    Raises UserError where there is none.
    """
    found = sorted(path.parent for path in root.rglob(RECORD)) if root.is_dir() else []
    if not found:
        raise UserError(f"{root}: no runs below it, no directory has a {RECORD}; give the folder that --out is in")
    return sorted((_row_of(run) for run in found), key=lambda row: row.get("started", ""), reverse=True)


def _row_of(run: Path) -> dict[str, Any]:
    try:
        return summary_of(run)
    except UserError as error:
        return {"run": str(run), "error": str(error)}


def summary_of(run: Path) -> dict[str, Any]:
    """Return what a run is, the steps it has done, when it last logged one, and that step's values.

    Raises UserError for a directory that holds no run.
    """
    recipe, record = read_run(run)
    lines = read_metrics(run)
    logged = datetime.fromtimestamp((run / METRICS_FILE).stat().st_mtime, UTC) if lines else None
    step = lines[-1]["step"] + 1 if lines else 0
    state = _state(run, recipe, record, step)
    return {
        "run": str(run),
        "kind": recipe.kind,
        "title": recipe.title,
        "step": step,
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
        return f"stopped by loop.max_steps at {step} steps"  # or finished: older versions recorded no total
    if total is not None and 0 < step < total:
        return f"stopped by loop.max_steps at {step} of {total} steps"
    return "finished"


def show_run(run: Path) -> dict[str, Any]:
    """Return the summary of a run, its record, its checkpoints and how often it had to skip a step."""
    _, record = read_run(run)
    return {
        **summary_of(run),
        "command": record.command,
        "processes": record.world_size,
        "git_revision": record.git_revision,
        "datasets": {name: ref.path for name, ref in record.datasets.items()},
        "checkpoints": [path.name for path in Checkpoints(run / CHECKPOINTS, 1).paths()],
        "skipped_steps": sum("skipped" in line for line in read_metrics(run)),
    }


def compare_runs(runs: Sequence[Path], keys: Sequence[str], out: Path) -> dict[str, Any]:
    """Draw the curves `keys` of the metrics of all `runs` into the PNG `out`; return what differs between the runs.

    Raises UserError for a key that no run has, with the nearest that there is.
    """
    curves, known, recipes = {}, set(), {}
    for run in runs:
        recipe, _ = read_run(run)
        recipes[str(run)] = flat(recipe.model_dump(mode="json"))
        lines = read_metrics(run)
        known |= {key for line in lines for key in line}
        for key in keys:
            points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
            if points:
                curves[f"{run} {key}" if len(keys) > 1 else str(run)] = averaged(points)
    for key in keys:
        if key not in known:
            raise UserError(
                f"no run has {key!r} in its log; {nearest(key, sorted(known))}known: {', '.join(sorted(known))}"
            )
    write_atomic(out, curves_png(curves, "step", ", ".join(keys)))
    settings = sorted({key for recipe in recipes.values() for key in recipe})
    different = [key for key in settings if len({str(recipe.get(key)) for recipe in recipes.values()}) > 1]
    return {
        "picture": str(out),
        "different": {key: {run: recipe.get(key) for run, recipe in recipes.items()} for key in different},
        "last": {name: y[-1] for name, (_, y) in curves.items()},
    }


def averaged(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Average neighbouring (step, value) pairs, so that at most `POINTS` are left: the steps and the values."""
    groups = np.array_split(np.array(points, dtype=float), min(POINTS, len(points)))
    steps, values = zip(*(group.mean(axis=0).tolist() for group in groups), strict=True)
    return list(steps), list(values)
