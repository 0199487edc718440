"""Measure how much a classifier needs the order of the frames: the paper's Table 2 for one checkpoint, also by class.

The frames of a clip are in order, one of them repeated, or shuffled; the last two are measured with several seeds.
"""

import csv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from bevt_core.console.inert import text_of_csv
from bevt_core.reporting.charts import chart_png, legend_below, shortened
from bevt_core.reporting.plotting import new_figure
from bevt_core.storage.files import write_atomic
from bevt_core.storage.one_writer import hold
from schemas.errors import UserError
from schemas.evaluation import Temporal
from trainer.clips.multi_view import TEMPORAL
from trainer.clips.sources import ClipSource
from trainer.distributed.world import join_world
from trainer.testing.evaluate import RESULT, announce_test, evaluate
from trainer.testing.parts import note_stored
from trainer.testing.tables import PER_CLASS, csv_bytes

FIGURES = ("top1", "top5", "mean_class")
SHOWN_CLASSES = 24  # in the picture: the classes that lose most
TABLE, CLASSES, PICTURE = "temporal.csv", "temporal_per_class.csv", "temporal.png"


class Row(NamedTuple):
    """One line of the table: means over seeds, and with several seeds the sample standard deviation of top-1."""

    frames: Temporal  # their order
    seeds: int
    top1: float
    top1_deviation: float | None
    top5: float
    mean_class: float
    drop: float  # of top-1, compared with frames in order


class ClassRow(NamedTuple):
    """One class: the share of its videos that is recognised, mean over seeds, for each order of the frames."""

    name: str
    videos: int
    normal: float
    single_frame: float
    shuffle: float


def analyse_temporal(
    checkpoint: Path | str,
    data: ClipSource,
    out: Path,
    *,
    seeds: int = 3,
    clips: int | None = None,
    crops: int | None = None,
    precision: str = "auto",
    num_workers: int = 0,
) -> dict[str, Any]:
    """Evaluate `checkpoint` on `data` with and without the order of the frames; every process calls this.

    `precision` is that of `evaluate`. Each evaluation has a folder below `out` and is not repeated; rank 0 writes the
    table and the drop per class, as CSV and as a PNG. Returns the rows of the table by order of the frames, num_videos,
    views and picture. Raises UserError as `evaluate` does.
    """
    if seeds < 1:
        raise UserError(f"{seeds} seeds: expected at least 1")
    results: dict[Temporal, list[dict[str, Any]]] = {}
    with join_world() as world, ExitStack() as locks:
        world.on_main(lambda: locks.enter_context(hold(out, "bevt analyse temporal")))
        for temporal in TEMPORAL:
            for seed in range(1 if temporal == "normal" else seeds):
                options: dict[str, Any] = {"clips": clips, "crops": crops, "temporal": temporal, "seed": seed}
                options["announce"] = _not_again if results else _announce_first
                options |= {"precision": precision, "out": _folder(out, temporal, seed), "num_workers": num_workers}
                results.setdefault(temporal, []).append(evaluate(checkpoint, data, **options))
        rows = table_of(results)
        if world.is_main and all("stored_since" in result for of_seeds in results.values() for result in of_seeds):
            note_stored(out, _folder(out, "normal", 0) / RESULT, results["normal"][0]["num_failed"])
        if world.is_main:
            classes = classes_of(out, seeds)
            write_atomic(out / TABLE, csv_bytes([Row._fields, *rows]))
            write_atomic(out / CLASSES, csv_bytes(_class_lines(classes)))
            write_atomic(out / PICTURE, draw(rows, classes))
        world.barrier()
    return {
        **{row.frames: row._asdict() for row in rows},
        "num_videos": results["normal"][0]["num_videos"],
        "views": results["normal"][0]["views"],
        "picture": str(out / PICTURE),
    }


def _announce_first(data: ClipSource, facts: Mapping[str, Any], stored_in: Path | None) -> None:
    """Print what is true of all evaluations, since they test the same clips; a stored one may be the only one."""
    announce_test(data, facts, None)


def _not_again(data: ClipSource, facts: Mapping[str, Any], stored_in: Path | None) -> None:
    """Print nothing."""


def table_of(results: dict[Temporal, list[dict[str, Any]]]) -> list[Row]:
    """Return the rows of Table 2 from the evaluations of every seed."""
    rows = []
    normal = fmean(result["top1"] for result in results["normal"])
    for temporal, of_seeds in results.items():
        mean = {key: fmean(result[key] for result in of_seeds) for key in FIGURES}
        deviation = stdev(result["top1"] for result in of_seeds) if len(of_seeds) > 1 else None
        rows.append(Row(temporal, len(of_seeds), top1_deviation=deviation, drop=normal - mean["top1"], **mean))
    return rows


def classes_of(out: Path, seeds: int) -> list[ClassRow]:
    """Read the recognised share of every class that has videos; those that lose most by shuffling come first."""
    normal = _recognised(_folder(out, "normal", 0))
    without_order = {}
    for temporal in ("single-frame", "shuffle"):
        by_seed = [_recognised(_folder(out, temporal, seed)) for seed in range(seeds)]
        without_order[temporal] = {name: fmean(recognised[name][1] for recognised in by_seed) for name in normal}
    rows = [
        ClassRow(name, videos, share, without_order["single-frame"][name], without_order["shuffle"][name])
        for name, (videos, share) in normal.items()
    ]
    return sorted(rows, key=lambda row: row.shuffle - row.normal)


def draw(rows: Sequence[Row], classes: Sequence[ClassRow]) -> bytes:
    """Draw the table, and below it the classes that lose most by shuffling; return the bytes of a PNG file."""
    shown = list(classes[:SHOWN_CLASSES])[::-1]
    names = [f"{shortened(row.name)} ({row.videos})" for row in shown]
    width = 7 + 0.085 * max(map(len, names), default=0)  # inches
    figure = new_figure(width, 2.3 + 0.3 * len(shown))
    above, below = figure.subplots(2, 1, height_ratios=(1.1, 0.6 + 0.3 * len(shown)))
    above.axis("off")
    cells = [
        (
            row.frames,
            f"{row.top1:.1%}" + ("" if row.top1_deviation is None else f" ± {row.top1_deviation:.1%}"),
            f"{row.top5:.1%}",
            f"{row.mean_class:.1%}",
            f"{-row.drop:+z.1%}" if row.frames != "normal" else "",
        )
        for row in rows
    ]
    table = above.table(cells, colLabels=("frames", "top-1", "top-5", "mean class", "top-1 change"), loc="center")
    table.scale(1, 1.4)
    for at, (name, values) in enumerate(
        (
            ("normal", [row.normal for row in shown]),
            ("single-frame", [row.single_frame for row in shown]),
            ("shuffle", [row.shuffle for row in shown]),
        )
    ):
        y_positions = [line + 0.25 * (1 - at) for line in range(len(shown))]
        below.barh(y_positions, values, height=0.25, label=name)
    below.set_yticks(range(len(shown)), names, parse_math=False)
    below.set_xlabel("share of the class recognised; classes that lose most by shuffling")
    below.set_xlim(0, 1)
    legend_below(figure, columns=3)
    return chart_png(figure)


def _class_lines(classes: Sequence[ClassRow]) -> list[Sequence[object]]:
    lines: list[Sequence[object]] = [(*ClassRow._fields, "single_frame_drop", "shuffle_drop")]
    return lines + [(*row, row.normal - row.single_frame, row.normal - row.shuffle) for row in classes]


def _recognised(folder: Path) -> dict[str, tuple[int, float]]:
    """The number of videos of each class, and the share of them that was recognised."""
    with (folder / PER_CLASS).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["videos"])]
    return {
        text_of_csv(row["class"]): (int(row["videos"]), int(row["recognised"]) / int(row["videos"])) for row in rows
    }


def _folder(out: Path, temporal: Temporal, seed: int) -> Path:
    return out / (temporal if temporal == "normal" else f"{temporal}-{seed}")
