"""The study's figures as SVG, on white so that they are readable on light and dark pages."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from plan import STARTS, VIEWS
from selecting import Results, masked_accuracy, top1

from bevt_core.reporting.plotting import new_figure
from bevt_core.storage.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#222222", "#888888", "#1f77b4", "#d62728", "#ff9896", "#2ca02c", "#9467bd")
MARKERS = "osD^v<>"


def draw_figures(results: Results, titles: Mapping[str, str], out: Path) -> None:
    """Write labels.svg, and views.svg if its runs exist."""
    save(accuracy_by_share(results, titles), out / "labels.svg")
    if any(masked_accuracy(results, f"views_{count}", "random_frame") for count in VIEWS):
        save(accuracy_by_views(results), out / "views.svg")


def accuracy_by_share(results: Results, titles: Mapping[str, str]) -> "Figure":
    """Test accuracy against the share of labels, a line per start."""
    shares = results["sizes"]["shares"]
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    for name, colour, marker in zip(STARTS, COLOURS, MARKERS, strict=True):
        values = [top1(results, name, share).values for share in shares]
        _line(axes, [100 * share for share in shares], values, label=titles[name], color=colour, marker=marker)
    axes.set(xscale="log", xlabel="labels used, %", ylabel="top-1 on other photographs, %")
    axes.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def accuracy_by_views(results: Results) -> "Figure":
    """Masked and fine-tuned accuracy against the number of stored views; fresh views last."""
    share, counts = results["sizes"]["share"], [*map(str, VIEWS), "fresh"]
    masked = [masked_accuracy(results, f"views_{count}", "random_frame") for count in counts]
    tuned = [top1(results, f"views_{count}", share).values for count in counts]
    figure = new_figure(8, 3.4)
    panels = figure.subplots(1, 2)
    for axes, values, what in zip(panels, (masked, tuned), ("masked accuracy on unseen clips", "top-1"), strict=True):
        places = list(range(len(counts)))
        _line(axes, places[:-1], values[:-1], color=COLOURS[2], marker="o")
        _line(axes, places[-1:], values[-1:], color=COLOURS[3], marker="s")
        axes.set(xlabel="stored views per clip", ylabel=f"{what}, %")
        axes.set_xticks(places, counts)
        axes.grid(alpha=0.3)
    return figure


def _line(axes: Any, places: Sequence[float], values: Sequence[Sequence[float]], **style: Any) -> None:
    """Means with sample standard deviations as bars; places without values are left out."""
    found = [(place, each) for place, each in zip(places, values, strict=True) if each]
    if found:
        spreads = [100 * stdev(each) if len(each) > 1 else 0 for _, each in found]
        means = [100 * fmean(each) for _, each in found]
        axes.errorbar([place for place, _ in found], means, spreads, capsize=3, linewidth=1.5, markersize=5, **style)


def save(figure: "Figure", path: Path) -> None:
    """Write an SVG with its texts as text, the same bytes for the same figure."""
    import matplotlib

    buffer = BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name, "font.size": 10}):
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
