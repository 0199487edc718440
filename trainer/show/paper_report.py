"""Report the paper's tables beside one's own runs: the accuracies of both, and the settings that differ."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bevt_core.console.readable import count
from bevt_core.reporting.page import Page, markdown_table
from bevt_core.storage.files import write_atomic
from bevt_core.storage.one_writer import hold
from trainer.show.paper_tables import DATA, TABLES, UNSTATED, PaperRow, PaperTable
from trainer.show.run_facts import UNKNOWN, RunFacts, Setting, facts_of
from trainer.testing.tables import csv_bytes

HEADER = ("row", "paper", "ours", "run", "the same setting?", "tested on", "multiply-adds")
OTHER_DATA_AS = "k400"  # runs on data that the paper does not use are listed below the rows of this data set
LABELS = {
    "epochs": "fine-tuning epochs",
    "image_epochs": "epochs of images alone",
    "video_epochs": "epochs of pretraining on videos",
}
OTHERS, OTHERS_HEADER = "Runs whose pretraining is in no table", ("ours", "run", "setting")
NOT_IN_NOTES = "not in our notes"


def write_report(directories: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write `report.html`, `report.md` and `report.csv` to the folder `out`.

    Returns their paths and the number of runs. Raises UserError if `directories` contain no fine-tuning run, or one
    that cannot be read.
    """
    runs = facts_of(directories)
    page = Page("BEVT: the paper's tables and these runs")
    about = (
        "The paper's figures are from our notes on it. A run is listed below the row with the nearest setting, in "
        "every table that has its kind of pretraining, with its differences from that row. Top-1, in percent. "
        "Evaluations on videos that the run, or one that it started from, was fine-tuned on are left out."
    )
    page.text(about)
    text = ["# BEVT: the paper's tables and these runs", about]
    lines: list[tuple[str, ...]] = [("table", *HEADER)]
    for table in TABLES:
        rows = lines_of(table, runs)
        page.heading(table.title)
        page.table(HEADER, rows)
        text += [f"## {table.title}", markdown_table(HEADER, rows)]
        lines += [(table.title, *row) for row in rows]
    others = [run for run in runs if all(nearest_row(table, run.setting) is None for table in TABLES)]
    if others:
        described = [(_figure(run), _name(run), _described(run.setting)) for run in others]
        page.heading(OTHERS)
        page.table(OTHERS_HEADER, described)
        text += [f"## {OTHERS}", markdown_table(OTHERS_HEADER, described)]
        lines += [(OTHERS, "", "", *row, "", "") for row in described]
    with hold(out, "bevt report"):
        page.save(out / "report.html")
        write_atomic(out / "report.md", "\n\n".join([*text, ""]).encode())
        write_atomic(out / "report.csv", csv_bytes(lines))
    return {"runs": len(runs), **{kind: str(out / f"report.{kind}") for kind in ("html", "md", "csv")}}


def lines_of(table: PaperTable, runs: Sequence[RunFacts]) -> list[tuple[str, ...]]:
    """Return the table's rows, each followed by the runs that belong to it."""
    below: dict[PaperRow, list[RunFacts]] = {row: [] for row in table.rows}
    for run in runs:
        row = nearest_row(table, run.setting)
        if row is not None:
            below[row].append(run)
    lines: list[tuple[str, ...]] = []
    for row in table.rows:
        figure = NOT_IN_NOTES if row.top1 is None else f"{100 * row.top1:.1f}"
        if row.source != "paper":
            figure += f" ({row.source})"
        lines.append((row.name, figure, "", "", "", "", ""))
        lines += [_line(row, run) for run in below[row]]
    return lines


def nearest_row(table: PaperTable, setting: Setting) -> PaperRow | None:
    """Return the row with the same pretraining and the fewest differences; None if no row has this pretraining."""
    known = {row.setting.data for row in table.rows}
    if setting.data not in DATA and len(known) == 1:
        return None  # a table of one data set does not apply to other data
    data = setting.data if setting.data in DATA else OTHER_DATA_AS
    rows = [row for row in table.rows if row.setting.pretraining == setting.pretraining and row.setting.data == data]
    return min(rows, key=lambda row: len(differences(row.setting, setting)), default=None)


def differences(paper: Setting, ours: Setting) -> list[str]:
    """Name every field of the setting in which a run differs from a row, with both values."""
    named = []
    for name in (field.name for field in fields(Setting)):
        theirs, mine = getattr(paper, name), getattr(ours, name)
        if theirs in (mine, UNSTATED):
            continue
        named.append(
            f"{LABELS.get(name, name)}: {mine or 'none'}" + (f", not {theirs or 'none'}" if mine != UNKNOWN else "")
        )
    return named


def _described(setting: Setting) -> str:
    facts = {field.name: getattr(setting, field.name) or "none" for field in fields(Setting)}
    return "; ".join(f"{LABELS.get(name, name)}: {value}" for name, value in facts.items())


def _figure(run: RunFacts) -> str:
    if run.top1 is None or run.mean_class is None:
        return ""
    return f"{100 * run.top1:.1f} (mean class {100 * run.mean_class:.1f})"


def _name(run: RunFacts) -> str:
    return f"{run.title} ({run.run})"


def _line(row: PaperRow, run: RunFacts) -> tuple[str, ...]:
    named = differences(row.setting, run.setting)
    same = "no: " + "; ".join(named) if named else "yes"
    videos = (
        ""
        if run.num_videos is None
        else f"{count(run.num_videos, 'video')}, {run.setting.views} views ({run.tested}, of {run.data})"
    )
    overlaps = [f"overlap with {use}: {found}" for use, found in run.overlaps.items() if found != "none"]
    videos = "; ".join(text for text in (videos, *overlaps) if text)
    cost = f"{run.multiply_adds_per_view / 1e9:.3g} G x {run.setting.views}" if run.multiply_adds_per_view else ""
    return ("", "", _figure(run), _name(run), same, videos, cost)
