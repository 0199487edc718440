"""Marks that only a served page has: links with parameters, pictures by address, forms, parts that are renewed.

Texts may be untrusted and are escaped. Addresses are relative, so they stay below the site's own.
"""

from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import urlencode

from bevt_core.console.inert import html_text
from bevt_core.reporting.marks import Html


def address(page: str, /, **parameters: object) -> str:
    """Return the address of a page with parameters."""
    return f"{page or '.'}?{urlencode(parameters)}" if parameters else page or "."


def link(text: str, to: str) -> Html:
    return Html(f'<a href="{escape(to)}">{html_text(text)}</a>')


def links(targets: Mapping[str, str]) -> Html:
    """A line of links, text -> address."""
    return Html(f'<nav class="menu">{" ".join(link(text, to) for text, to in targets.items())}</nav>')


def neighbours(page: str, number: int, size: int, count: int, /, **parameters: object) -> Html:
    """Links to the pages before and after page `number` of `count` entries, `size` to a page."""
    others = {"Previous": number - 1, "Next": number + 1}
    return links(
        {text: address(page, **parameters, page=other) for text, other in others.items() if 0 <= other * size < count}
    )


def tile(picture: str, to: str, caption: str) -> Html:
    """A small picture that is a link, with its caption; the browser loads it when it comes into sight."""
    image = f'<img src="{escape(picture)}" alt="{html_text(caption)}" loading="lazy" width="160" height="160">'
    return Html(f'<figure><a href="{escape(to)}">{image}</a><figcaption>{html_text(caption)}</figcaption></figure>')


def film(moving: str, still: str, alt: str, caption: str) -> Html:
    """An animation; `still` is shown instead where the reader prefers reduced motion."""
    source = f'<source media="(prefers-reduced-motion: reduce)" srcset="{escape(still)}">'
    image = f'<img src="{escape(moving)}" alt="{html_text(alt)}" loading="lazy">'
    return Html(f"<figure><picture>{source}{image}</picture><figcaption>{html_text(caption)}</figcaption></figure>")


def renewed(page: str, every_s: float, html: Html) -> Html:
    """A part of a page that is loaded again while it is open, until it contains `final`."""
    return Html(f'<div data-renew="{escape(page)}" data-every="{round(1000 * every_s)}">{html}</div>')


def final(html: Html) -> Html:
    """Content of a `renewed` part that does not change any more."""
    return Html(f"<div data-final>{html}</div>")


def live_form(page: str, fields: Sequence[Html], html: Html) -> Html:
    """A form above the part that `page` draws: `html` at first, then again at every change of a field."""
    return Html(f'<form class="fields" data-live="{escape(page)}">{"".join(fields)}</form><div>{html}</div>')


def search_form(page: str, fields: Sequence[Html], button: str) -> Html:
    """A form that opens `page` with its fields as parameters."""
    submit = f"<button>{html_text(button)}</button>"
    return Html(f'<form class="fields" action="{escape(page)}">{"".join(fields)}{submit}</form>')


def hidden(name: str, value: object) -> Html:
    return Html(f'<input type="hidden" name="{escape(name)}" value="{html_text(str(value))}">')


def choose(label: str, name: str, options: Mapping[str, str], chosen: str) -> Html:
    """A list to choose from, value -> text."""
    items = "".join(
        f'<option value="{html_text(value)}"{" selected" * (value == chosen)}>{html_text(text)}</option>'
        for value, text in options.items()
    )
    return Html(f'<label>{html_text(label)}<select name="{escape(name)}">{items}</select></label>')


def slider(label: str, name: str, low: int, high: int, value: int, *, step: int = 1, unit: str = "") -> Html:
    """A slider for whole numbers, with its value beside its name."""
    limits = f'min="{low}" max="{high}" step="{step}" value="{value}"'
    shown = f"<output>{value}</output>{html_text(unit)}"
    return Html(f'<label>{html_text(label)} {shown}<input type="range" name="{escape(name)}" {limits}></label>')


def search_box(label: str, name: str, value: str) -> Html:
    box = f'<input type="search" name="{escape(name)}" maxlength="200" value="{html_text(value)}">'
    return Html(f"<label>{html_text(label)}{box}</label>")
