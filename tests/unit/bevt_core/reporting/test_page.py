"""The parts of a page: tables, charts, animations and their arrangement."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bevt_core.reporting.animations import LAST_MS, enlarged, side_by_side, webp
from bevt_core.reporting.marks import Html, bar, big_share, cost, heads, line_plot, ticks
from bevt_core.reporting.page import Page
from tests.support.hostile_names import NAMES, PageCheck


def written(page: Page, folder: Path) -> str:
    page.save(folder / "report.html")
    html = (folder / "report.html").read_text()
    assert PageCheck(html).faults == []
    return html


def test_columns_of_numbers_are_aligned_right(tmp_path: Path) -> None:
    page = Page("a")
    page.table(["name", "seconds"], [["<b>", 1.5], ["c", "earlier"]])
    page.table(["", ""], [["key", "value"]])
    html = written(page, tmp_path)
    assert '<th>name</th><th class="n">seconds</th>' in html
    assert '<td>&lt;b&gt;</td><td class="n">1.5</td>' in html and '<td class="n">earlier</td>' in html
    assert html.count("<th") == 2, "a header without names is left out"
    assert html.count('<div class="scroll"><table>') == 2


def test_a_page_fits_a_phone_and_a_dark_screen(tmp_path: Path) -> None:
    page = Page("a")
    page.chart(b"png", "charts have white paper")
    html = written(page, tmp_path)
    assert 'name="viewport"' in html and "@media (prefers-color-scheme: dark)" in html
    assert '<figure class="chart">' in html


def test_an_animation_has_a_still_for_those_who_prefer_it(tmp_path: Path) -> None:
    page = Page("a")
    page.animation(webp(FRAMES), webp(FRAMES[:1]), "a clip", NAMES[0])
    html = written(page, tmp_path)
    assert re.search(r'<source media="\(prefers-reduced-motion: reduce\)" srcset="data:image/webp;base64,', html)
    assert '<img src="data:image/webp;base64,' in html


def test_an_error_leaves_the_page_well_formed(tmp_path: Path) -> None:
    page = Page("a")
    with pytest.raises(ValueError, match="no clip"), page.arranged("strips"), page.together():
        raise ValueError("no clip")
    written(page, tmp_path)


def test_marks_show_names_as_text(tmp_path: Path) -> None:
    page = Page("a")
    for name in NAMES:
        page.mark(heads([name]))
        page.mark(line_plot(name, {name: ([0, 1], [0.5, 1.0])}, name, levels={name: 0.1}))
        page.table([name], [[cost(name, name, 0.5)], [big_share(0.5, 0.1, gain=-0.1)]])
    html = written(page, tmp_path)
    assert "<script>" not in html


FRAMES = [np.full((8, 8, 3), shade, np.uint8) for shade in (0, 120, 250)]


def test_frames_become_an_animation() -> None:
    joined = [side_by_side([enlarged(frame, 32), enlarged(frame, 32)]) for frame in FRAMES]
    assert joined[0].shape == (32, 65, 4)
    assert (joined[0][:, :32, 3] == 255).all() and (joined[0][:, 32, 3] == 0).all(), "the gap is transparent"
    film = Image.open(io.BytesIO(webp(joined)))
    assert film.n_frames == 3 and film.size == (65, 32)
    shades = []
    for at in range(3):
        film.seek(at)
        shades.append(int(np.asarray(film.convert("RGB"))[16, 16, 0]))
    assert shades == pytest.approx([0, 120, 250], abs=6)
    assert film.info["duration"] == LAST_MS
    assert not getattr(Image.open(io.BytesIO(webp(joined[:1]))), "is_animated", False)


def path_of(plot: Html, colour: str) -> list[tuple[float, float]]:
    found = re.search(rf'<path class="curve {colour}" d="M(\d[^H"]*)"/>', plot)
    assert found is not None
    return [(float(x), float(y)) for x, y in (place.split() for place in found[1].split("L"))]


def test_a_plot_spans_its_axes() -> None:
    plot = line_plot("loss", {"a": ([0, 50, 100], [3.0, float("nan"), 1.0])}, "step")
    (x0, y0), (x1, y1) = path_of(plot[plot.index('viewBox="0 0 360') :], "s1")
    assert (x0, x1) == (40, 352) and (y0, y1) == (8, 166)
    assert '<span class="key">' in plot and "a 1</span>" in plot
    grey = line_plot("top-1", {"a": ([1, 2], [0.1, 0.6])}, "step", percent=True, levels={"chance": 0.125}, colours=(0,))
    assert ">60&thinsp;%</text>" in grey and ">0&thinsp;%</text>" in grey and 'class="level"' in grey
    assert "chance 12.5 %" in grey and "s1" not in grey
    assert "no values" in line_plot("loss", {"a": ([0], [float("nan")])}, "step")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (3.1, 5.4, [3, 4, 5, 6]),
        (0, 299, [0, 100, 200, 300]),
        (2, 2, None),
        (0, 0, None),
    ],
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float, expected: list[float] | None) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-6 and found[-1] >= high - 1e-6 and 2 <= len(found) <= 7
    assert expected is None or found == pytest.approx(expected)


def test_bars_have_the_length_of_their_share() -> None:
    assert 'width="37.50"' in bar(0.375) and "M12.50 0" in bar(0.375, mark=0.125) and "mark" not in bar(0.1)
    assert '<span class="gain">+25.0 points' in big_share(0.6, 0.125, gain=0.25)
    assert '<span class="lost">-2.0 points' in big_share(0.6, 0.125, gain=-0.02)
