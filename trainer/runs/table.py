"""Format runs as tables for the terminal: one row per listed run, one column per compared run, and text curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bevt_core.console.inert import one_line
from bevt_core.console.readable import duration, percent, shown, table

BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"  # one eighth of a line high, two eighths, ...
WIDTH = 24  # of a curve, in characters
Points = Sequence[tuple[float, float]]  # (step, value)


def list_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of run summaries, followed by the errors of runs that cannot be read."""
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
    """Return the status of a run as a phrase, with details if it stopped or died."""
    if row["status"] == "stopped" and row["state"].startswith("stopped"):
        return str(row["state"])
    if row["status"] in ("alive", "finished"):
        return str(row["status"])
    silent_s = row["silent_s"]
    return (
        f"{row['status']}, no step logged"
        if silent_s is None
        else f"{row['status']}, last step {duration(silent_s)} ago"
    )


def show_facts(shown_run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of `show_run` for the terminal: one state instead of three, and no empty values."""
    total, redundant = shown_run["total_steps"], {"status", "finished", "step", "total_steps"}
    facts = {key: value for key, value in shown_run.items() if key not in redundant and value is not None}
    steps = f"{shown_run['step']} of {'an unknown number' if total is None else total}"
    first = {key: facts.pop(key) for key in ("run", "kind", "title")}
    return {**first, "steps": steps, **facts, "state": state_of(shown_run)}


def compare_table(compared: Mapping[str, Any]) -> list[str]:
    """Return the result of `compare_runs` as a table: one row per different setting or result, one column per run.

    Settings that runs of only one kind have are omitted and counted.
    """
    settings = compared["different"]
    kinds: Mapping[str, str] = settings.get("kind", {})
    shared = {key: values for key, values in settings.items() if _has_every_kind(values, kinds)}
    results: Mapping[str, Mapping[str, Any]] = compared["results"]
    runs = list(results)
    names = short_names(runs)
    rows = [
        [key, *("-" if values[run] is None else one_line(str(values[run])) for run in runs)]
        for section in (shared, compared["data"], compared["machine"])
        for key, values in section.items()
    ]
    rows += [[key, *(shown(key, results[run][key]) for run in runs)] for key in results[runs[0]]]
    rows += [[f"{key} curve", *(curves[run] for run in runs)] for key, curves in compared["curves"].items()]
    notes = [f"plot of the curves: {compared['picture']}"]
    if kinds:
        listed = " and ".join(sorted(set(kinds.values())))
        notes.append(f"the runs are of different kinds, {listed}: their losses and steps measure different things")
    if len(shared) < len(settings):
        notes.append(f"{len(settings) - len(shared)} settings that only one kind has are not shown (all with --json)")
    return [*table(rows, ["", *names]), *notes]


def _has_every_kind(values: Mapping[str, Any], kinds: Mapping[str, str]) -> bool:
    """Whether runs of every kind have a value; `kinds` is the kind of each run, or empty if all are equal."""
    return {kinds[run] for run, value in values.items() if value is not None} == set(kinds.values()) if kinds else True


def short_names(runs: Sequence[str]) -> list[str]:
    """Return the shortest trailing parts that distinguish the paths."""
    for count in range(1, max(len(Path(run).parts) for run in runs) + 1):
        names = ["/".join(Path(run).parts[-count:]) for run in runs]
        if len(set(names)) == len(set(runs)):
            break
    return [one_line(name) for name in names]


def sparklines(curves: Mapping[str, Points]) -> dict[str, str]:
    """Return each curve as WIDTH characters, with the steps and the scale of all curves aligned."""
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
    """Return the mean of a curve in each of WIDTH equal ranges of steps up to `last`; None for an empty range."""
    found: list[list[float]] = [[] for _ in range(WIDTH)]
    for step, value in curve:
        found[min(WIDTH - 1, int(step / (last + 1) * WIDTH))].append(value)
    return [float(np.mean(values)) if values else None for values in found]
