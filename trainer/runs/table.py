"""Runs in tables for the terminal: a line per run, or a column per run where they are compared; curves as text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bevt_core.console.inert import one_line
from bevt_core.console.readable import duration, percent, shown, table

BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"  # an eighth of a line high, two, ...
WIDTH = 24  # of a curve, in characters
Points = Sequence[tuple[float, float]]  # (step, value)


def list_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of run summaries, a run that cannot be read with its error."""
    header = ["run", "kind", "step", "done", "loss", "val_top1", "left", "state"]
    cells = [_cells(row) for row in rows if "error" not in row]
    errors = [f"{one_line(row['run'])}: {one_line(row['error'])}" for row in rows if "error" in row]
    return [*(table(cells, header) if cells else []), *errors]


def _cells(row: Mapping[str, Any]) -> list[str]:
    total, metrics = row["total_steps"], row["metrics"]
    return [
        one_line(row["run"]),
        row["kind"],
        f"{row['step']}/{'?' if total is None else total}",
        percent(row["step"] / total) if total else "-",
        shown("loss", metrics.get("loss")),
        shown("val_top1", metrics.get("val_top1")),
        shown("left_s", row["left_s"]),
        state_of(row),
    ]


def state_of(row: Mapping[str, Any]) -> str:
    """Return how a run is, in words."""
    if row["status"] == "stopped" and row["state"].startswith("stopped"):
        return row["state"]
    if row["status"] in ("alive", "finished"):
        return row["status"]
    silent_s = row["silent_s"]
    return (
        f"{row['status']}, no step logged"
        if silent_s is None
        else f"{row['status']}, last step {duration(silent_s)} ago"
    )


def compare_table(compared: Mapping[str, Any]) -> list[str]:
    """Return one table of what `compare_runs` found: a row per value that differs or results, a column per run."""
    results: Mapping[str, Mapping[str, Any]] = compared["results"]
    runs = list(results)
    names = short_names(runs)
    rows = [
        [key, *("-" if values[run] is None else one_line(str(values[run])) for run in runs)]
        for section in ("different", "data", "machine")
        for key, values in compared[section].items()
    ]
    rows += [[key, *(shown(key, results[run][key]) for run in runs)] for key in results[runs[0]]]
    rows += [[f"{key} curve", *(curves[run] for run in runs)] for key, curves in compared["curves"].items()]
    return [*table(rows, ["", *names]), f"picture of the curves: {compared['picture']}"]


def short_names(runs: Sequence[str]) -> list[str]:
    """Return the last parts of the paths, as many as tell them apart."""
    for count in range(1, max(len(Path(run).parts) for run in runs) + 1):
        names = ["/".join(Path(run).parts[-count:]) for run in runs]
        if len(set(names)) == len(set(runs)):
            break
    return [one_line(name) for name in names]


def sparklines(curves: Mapping[str, Points]) -> dict[str, str]:
    """Return each curve as WIDTH characters: steps are aligned, and all curves have one scale."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return dict.fromkeys(curves, "")
    last = max(step for step, _ in points)
    means = {name: _means(curve, last) for name, curve in curves.items()}
    values = [value for of_run in means.values() for value in of_run if value is not None]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return {
        name: "".join(" " if value is None else BARS[round((value - low) / span * (len(BARS) - 1))] for value in of_run)
        for name, of_run in means.items()
    }


def _means(curve: Points, last: float) -> list[float | None]:
    """The mean of a curve in each of WIDTH equal ranges of steps up to `last`; None where it has no point."""
    found: list[list[float]] = [[] for _ in range(WIDTH)]
    for step, value in curve:
        found[min(WIDTH - 1, int(step / (last + 1) * WIDTH))].append(value)
    return [float(np.mean(values)) if values else None for values in found]
