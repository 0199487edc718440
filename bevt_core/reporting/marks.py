"""Marks of a page as HTML and SVG, coloured by its style sheet: line plots, bars, headings of picture strips.

Names may be untrusted and are escaped. Inline SVG has presentation attributes only: the page's policy forbids styles.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bevt_core.console.inert import html_text
from bevt_core.reporting.charts import shortened

Values = Sequence[float] | np.ndarray

WIDTH, HEIGHT = 360, 200  # of a plot
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 34  # margins around its axes
FEW_POINTS = 24  # a curve with at most so many also has dots


class Html(str):
    """Text that is already HTML."""


def line_plot(
    title: str,
    series: Mapping[str, tuple[Values, Values]],
    x_label: str,
    *,
    percent: bool = False,
    levels: Mapping[str, float] | None = None,
    colours: Sequence[int] = (1, 2, 3, 4),
) -> Html:
    """Draw curves, name -> (x, y), with a key that has each curve's last value. Values that are not finite are skipped.

    `colours` are those of the curves in turn, by number in the style sheet; 0 is grey. `levels` are dashed lines,
    name -> y. With `percent`, y values are shares, and their axis begins at 0.
    """
    points = {name: _finite(x, y) for name, (x, y) in series.items()}
    points = {name: xy_N2 for name, xy_N2 in points.items() if len(xy_N2)}
    if not points:
        return Html(f'<figure class="plot"><figcaption><b>{html_text(title)}</b>no values</figcaption></figure>')
    levels = levels or {}
    all_N2 = np.concatenate(list(points.values()))
    last_x = max(float(all_N2[:, 0].max()), 1e-9)
    x_ticks = [tick for tick in ticks(0.0, last_x) if tick <= last_x]
    ys = [*all_N2[:, 1].tolist(), *levels.values()]
    y_ticks = ticks(0.0 if percent else min(ys), max(ys))
    scale = _Scale((0.0, last_x), (y_ticks[0], y_ticks[-1]))
    parts = [f'<path class="grid" d="M{LEFT} {scale.y(tick):.1f}H{WIDTH - RIGHT}"/>' for tick in y_ticks]
    parts += [
        f'<text x="{LEFT - 6}" y="{scale.y(tick) + 4:.1f}" text-anchor="end">{_tick(tick, percent)}</text>'
        for tick in y_ticks
    ]
    parts += [
        f'<text x="{scale.x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_tick(tick)}</text>'
        for tick in x_ticks
    ]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{html_text(x_label)}</text>')
    parts += [f'<path class="level" d="M{LEFT} {scale.y(level):.1f}H{WIDTH - RIGHT}"/>' for level in levels.values()]
    keys = []
    for number, (name, xy_N2) in enumerate(points.items()):
        colour = f"s{colours[number % len(colours)]}"
        places = [f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in xy_N2.tolist()]
        parts.append(f'<path class="curve {colour}" d="M{"L".join(places)}"/>')
        if len(places) <= FEW_POINTS:
            dots = (place.split() for place in places)
            parts += [f'<circle class="dot {colour}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in dots]
        keys.append(_key(f"curve {colour}", f"{shortened(name)} {_value(float(xy_N2[-1, 1]), percent)}"))
    keys += [_key("level", f"{shortened(name)} {_value(level, percent)}") for name, level in levels.items()]
    return Html(
        f'<figure class="plot"><figcaption><b>{html_text(title)}</b>{"".join(keys)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html_text(title)}">{"".join(parts)}</svg>'
        "</figure>"
    )


def bar(share: float, mark: float | None = None) -> Html:
    """Draw a horizontal bar of a share between 0 and 1, with a mark at another share."""
    line = "" if mark is None else f'<path class="mark" d="M{100 * mark:.2f} 0V8"/>'
    return Html(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/>'
        f'<rect class="fill" width="{100 * share:.2f}" height="8"/>{line}</svg>'
    )


def big_share(share: float, chance: float, *, gain: float | None = None, strong: bool = False) -> Html:
    """Show a share as a large figure above its bar; `gain` is a difference in shares that is highlighted below it."""
    below = "" if gain is None else f'<span class="{"gain" if gain > 0 else "lost"}">{100 * gain:+.1f} points</span>'
    kind = ' class="strong"' if strong else ""
    return Html(f'<div{kind}><div class="big">{100 * share:.1f}&thinsp;%</div>{bar(share, chance)}{below}</div>')


def cost(title: str, code: str, share: float | None) -> Html:
    """Show a title above a line of code, with a bar of its share of the highest cost between them."""
    words = " ".join(f"<span>{html_text(word)}</span>" for word in code.split(" "))  # lines end between words
    return Html(f"{html_text(title)}{'' if share is None else bar(share)}<code>{words}</code>")


def heads(names: Sequence[str]) -> Html:
    """Write names above the equal columns of a picture."""
    return Html(f'<div class="heads">{"".join(f"<span>{html_text(name)}</span>" for name in names)}</div>')


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round values, 1, 2, 2.5 or 5 times a power of ten apart, from at most `low` to at least `high`."""
    span = max(high - low, 1e-9 * max(1.0, abs(high)))
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= span / about * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


class _Scale:
    """Places values in the axes of a plot."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x_range, self.y_range = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)


def _finite(x: Values, y: Values) -> np.ndarray:
    xy_N2 = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)], axis=1)
    finite_N2: np.ndarray = xy_N2[np.isfinite(xy_N2).all(axis=1)]
    return finite_N2


def _key(kind: str, name: str) -> str:
    sample = f'<svg viewBox="0 0 18 10" aria-hidden="true"><path class="{kind}" d="M0 5H18"/></svg>'
    return f'<span class="key">{sample}{html_text(name)}</span>'


def _tick(value: float, percent: bool = False) -> str:
    return f"{round(100 * value, 9):g}&thinsp;%" if percent else f"{round(value, 9):,g}"


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.3g}"
