"""Charts as PNG files: curves, histograms, and helpers for all charts. Legends are outside the axes."""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bevt_core.console.inert import one_line
from bevt_core.reporting.plotting import colormap, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Sequence[float] | np.ndarray

DPI = 110
CURVE_COLOURS = 10  # in matplotlib's default cycle
NAME_CHARACTERS = 60  # at most, of a class or a run


def curves_png(series: Mapping[str, tuple[Values, Values]], xlabel: str, ylabel: str, log: str = "") -> bytes:
    """Draw line plots, name -> (x, y); return the bytes of a PNG file. `log` names the logarithmic axes, as in "xy"."""
    columns = legend_columns(series)
    figure = new_figure(6, 3.2 + 0.19 * -(-len(series) // columns))
    axes = figure.add_subplot()
    if len(series) > CURVE_COLOURS:
        axes.set_prop_cycle(color=colormap("viridis")(np.linspace(0, 0.95, len(series))))
    for name, (x, y) in series.items():
        label = " " * name.startswith("_") + shortened(name)  # a leading `_` would hide it from the legend
        axes.plot(x, y, label=label, linewidth=1)
    axes.set(xlabel=xlabel)
    axes.set_ylabel(one_line(ylabel), parse_math=False)
    axes.set(**{f"{axis}scale": "log" for axis in log})
    axes.grid(alpha=0.3)
    legend_below(figure, columns)
    return chart_png(figure)


def histograms_png(panels: Mapping[str, tuple[np.ndarray, str]], bins: int = 40) -> bytes:
    """Draw histograms side by side, x label -> (values, y label); return the bytes of a PNG file."""
    figure = new_figure(4.2 * len(panels), 2.8)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, (values, y_label)) in zip(all_axes, panels.items(), strict=True):
        axes.hist(values, bins=min(bins, max(1, len(values))))
        axes.set(xlabel=label, ylabel=y_label)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    return chart_png(figure)


def legend_below(figure: "Figure", columns: int) -> None:
    """Add one legend for all axes below them, so that it covers no data."""
    handles = [handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may contain dollar signs


def legend_columns(names: Collection[str], characters: int = 80) -> int:
    """Return how many names, with their line samples, fit into a line of `characters`."""
    longest = max((len(shortened(name)) for name in names), default=0)
    return max(1, min(len(names), characters // (longest + 7)))


def shortened(name: str, max_characters: int = NAME_CHARACTERS) -> str:
    """Return the name on one line; only its start and end if it has more than `max_characters`."""
    name = one_line(name)
    half = max_characters // 2
    return name if len(name) <= max_characters else f"{name[:half]}...{name[-(half - 3) :]}"


def chart_png(figure: "Figure") -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
