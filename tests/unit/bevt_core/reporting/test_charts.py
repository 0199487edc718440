"""All charts: the legend covers no data, nothing is cut at the edges, long names leave room for the data."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bevt_core.reporting.charts import curves_png, histograms_png, shortened
from trainer.testing.tables import confusion_picture, reliability_picture
from trainer.testing.temporal import ClassRow, Row, draw

LONG = "Putting something that cannot actually stand upright on the table, so it falls on its side"
RAMP = np.linspace(0.01, 1, 50)


def curves(names: list[str]) -> bytes:
    return curves_png({name: (RAMP, RAMP + at) for at, name in enumerate(names)}, "step", "loss", log="xy")


def temporal(names: list[str]) -> bytes:
    rows = [Row(kind, 3, 1.0, 0.01, 1.0, 1.0, 0.0) for kind in ("normal", "single-frame", "shuffle")]  # type: ignore[arg-type]
    return draw(rows, [ClassRow(name, 20, 1.0, 1.0, 1.0) for name in names])


def confusion(names: list[str]) -> bytes:
    return confusion_picture(np.eye(len(names), dtype=np.int64) * 10_000, names)


def bins(right: float) -> np.ndarray:
    return np.array([np.full(15, 2.0), (np.arange(15) + 0.5) / 15 * 2, np.full(15, right)])


CHARTS: dict[str, Callable[[], bytes]] = {
    "curves": lambda: curves(["finished in this interval", "mean"]),
    "curves of 20 views": lambda: curves([f"view {view}" for view in range(20)]),
    "curves of runs": lambda: curves([f"/data/2026/november/{'x' * 60}/{at} mvm_loss" for at in range(6)]),
    "histograms": lambda: histograms_png({"kB of a stored frame, mean of a part": (RAMP, "parts"), "s": (RAMP, "n")}),
    "temporal": lambda: temporal(["a", "b", "c"]),
    "temporal, one class": lambda: temporal(["a"]),
    "temporal, long names": lambda: temporal([f"{at} {LONG}" for at in range(24)]),
    "confusion": lambda: confusion(["a", "b", "c"]),
    "confusion, long names": lambda: confusion([f"{at} {LONG}" for at in range(12)]),
    "reliability": lambda: reliability_picture(bins(2.0)),
    "reliability, none recognised": lambda: reliability_picture(bins(0.0)),
}


def drawn(chart: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure that `chart` saves, drawn once."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self))
    chart()
    FigureCanvasAgg(figures[0]).draw()
    return figures[0]


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.filterwarnings("error")  # Matplotlib warns where a layout has no room
def test_nothing_is_covered_or_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(CHARTS[name], monkeypatch)
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]
    for legend in legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert len(legends) == (0 if "confusion" in name or name == "histograms" else 1)
    for artist in (*figure.axes, *legends):
        box = artist.get_tightbbox()
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
    largest = max(axes.get_window_extent().width for axes in figure.axes)
    assert largest > (300 if "long names" in name else 200), "pixels for the data at 100 dpi; 12 classes in a confusion"


def test_counts_are_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(lambda: histograms_png({"s": (np.array([1.0, 1.0, 2.0]), "samples")}), monkeypatch)
    assert all(tick == round(tick) for tick in figure.axes[0].get_yticks())


def test_many_curves_have_different_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(CHARTS["curves of 20 views"], monkeypatch)
    assert len({str(line.get_color()) for line in figure.axes[0].lines}) == 20


def test_a_long_name_keeps_both_ends() -> None:
    short = shortened(LONG, 60)
    assert len(short) == 60 and short.startswith("Putting something") and short.endswith("on its side")
    assert shortened("a" * 60) == "a" * 60
