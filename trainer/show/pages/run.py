"""The page of a run: its state, its curves and its newest predictions, renewed while it trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bevt_core.console.readable import duration
from bevt_core.reporting.marks import Html, line_plot
from bevt_core.reporting.page import Page, picture_mark
from bevt_core.viewer.marks import final, renewed
from bevt_core.viewer.query import Query
from bevt_core.viewer.site import Site
from schemas.text.plain import short
from trainer.metrics.log import METRICS_FILE, recent_metrics
from trainer.runs.browse import averaged, is_accuracy, points_of, summary_of
from trainer.runs.directory import read_run
from trainer.runs.table import state_of
from trainer.show.pages.predictions import newest_pictures

EVERY_S = 5.0  # between two updates of the curves
MAX_STEPS = 20_000  # the last of a run, from which curves are drawn
POINTS = 200  # of a curve: neighbouring steps are averaged
TOGETHER = 4  # curves in a plot
OTHERS = {
    "grad_norm": "Norm of the gradient",
    "lr": "Learning rate",
    "samples_per_s": "Samples per second",
    "data_wait_share": "Share of the time waiting for data",
    "memory_gb": "Memory, GB",
}
SHARES = frozenset({"data_wait_share"})


class RunPages:
    """The pages of the run in a directory."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._drawn: tuple[tuple[int, int], Html] | None = None  # size and time of the log, and its curves

    def site(self) -> Site:
        return Site({"": self.overview, "progress": self.progress}, {"Run": "."})

    def overview(self, query: Query) -> Page:
        recipe, record = read_run(self.run)
        page = Page(recipe.title)
        page.text(str(self.run), "quiet")
        page.mark(renewed("progress", EVERY_S, self.progress(query)))
        page.heading("How it was started")
        facts = {
            "kind": recipe.kind,
            "command": record.command,
            "started": record.started,
            "processes": str(record.world_size),
            "device": record.device or "not recorded",
            "code": short(record.git_revision) if record.git_revision else "no checkout",
            "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        }
        facts |= {f"data: {name}": f"{ref.path}, digest {ref.digest[:12]}" for name, ref in record.datasets.items()}
        page.table(["", ""], list(facts.items()))
        return page

    def progress(self, query: Query) -> Html:
        """The state, the curves and the newest predictions; `final` once nothing writes the run any more."""
        summary = summary_of(self.run)
        part = Page("")
        part.text(_state(summary), "lead")
        part.mark(self._curves())
        pictures = newest_pictures(self.run)
        if pictures:
            part.heading("Pictures so far")
        for tag, (step, png) in pictures.items():
            part.mark(picture_mark(png, f"{tag} after {step:,} steps"))
        html = Html("".join(part.blocks))
        return html if summary["status"] == "alive" else final(html)

    def _curves(self) -> Html:
        """The curves, drawn again only if the log has changed."""
        path = self.run / METRICS_FILE
        if not path.is_file():
            return Html("<p>No step is logged yet.</p>")
        stat = path.stat()
        version = (stat.st_size, stat.st_mtime_ns)
        if self._drawn is None or self._drawn[0] != version:
            self._drawn = version, draw_curves(recent_metrics(self.run, MAX_STEPS))
        return self._drawn[1]


def draw_curves(lines: Sequence[Mapping[str, Any]]) -> Html:
    """Draw the losses together, the accuracies together, and each of OTHERS alone."""
    keys = list(dict.fromkeys(key for line in lines for key in line))
    losses = [key for key in keys if key == "loss" or key.endswith("_loss")]
    if len(losses) == 2 and points_of(lines, losses[0]) == points_of(lines, losses[1]):
        losses = losses[:1]  # a run with one term
    groups: dict[str, list[str]] = {"Loss": losses, "Accuracy": [key for key in keys if is_accuracy(key)]}
    groups |= {title: [key] for key, title in OTHERS.items()}
    part = Page("")
    with part.arranged("charts"):
        for title, group in groups.items():
            found = {key: points for key in group[:TOGETHER] if (points := points_of(lines, key))}
            if found:
                series = {key: averaged(points, POINTS) for key, points in found.items()}
                shares = title == "Accuracy" or SHARES.issuperset(found)
                part.mark(line_plot(title, series, "step", percent=shares))
    if len(lines) >= MAX_STEPS:
        part.text(f"The last {MAX_STEPS:,} steps; `bevt runs compare` draws all.", "quiet")
    return Html("".join(part.blocks))


def _state(summary: Mapping[str, Any]) -> str:
    total = summary["total_steps"]
    done = f"{summary['step']:,} of {total:,} steps" if total else f"{summary['step']:,} steps"
    left = f", {duration(summary['left_s'])} left" if summary["left_s"] is not None else ""
    return f"{state_of(summary)}: {done}{left}"
