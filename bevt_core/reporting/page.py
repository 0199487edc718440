"""A self-contained HTML page of headings, paragraphs, tables, pictures and animations; the same tables as Markdown."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal
from urllib.parse import quote

from bevt_core.console.inert import html_text, markdown_text
from bevt_core.reporting.marks import Html
from bevt_core.reporting.style import STYLE
from bevt_core.storage.files import write_atomic
from bevt_core.storage.objects import AnyPath

# Browsers may show the page's pictures and use its style sheet, but run no scripts, send no requests, submit no forms.
_POLICY = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)

# first: the two or three parts of a first screen. strips: rows of equal cells. tiles: small pictures. charts: plots.
# wall, films: small pictures and strips of different widths, on served pages.
Arrangement = Literal["first", "strips", "tiles", "charts", "wall", "films"]


class Page:
    """A report, built block by block and written by `save`. Texts may be untrusted and are escaped, unless `Html`."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.blocks: list[str] = []

    def heading(self, text: str) -> None:
        self.blocks.append(f"<h2>{html_text(text)}</h2>")

    def text(self, text: str, style: Literal["", "lead", "quiet"] = "") -> None:
        self.blocks.append(f'<p class="{style}">{html_text(text)}</p>' if style else f"<p>{html_text(text)}</p>")

    def links(self, about: str, targets: Mapping[str, str]) -> None:
        """Add the page's links, name -> address: at most one block per page, which `relinked` can replace."""
        self.blocks.append(_links(about, targets))

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[object]], style: Literal["", "wide", "wide tight"] = ""
    ) -> None:
        """Add a table that scrolls sideways if it is wider than the screen. Columns of numbers are aligned right."""
        numbers = [any(_is_number(row[at]) for row in rows) for at in range(len(header))]
        head = "".join(_td("th", html_text(name), right) for name, right in zip(header, numbers, strict=True))
        body = "".join(
            f"<tr>{''.join(_td('td', _shown(value), right) for value, right in zip(row, numbers, strict=True))}</tr>"
            for row in rows
        )
        head = f"<tr>{head}</tr>" if any(header) else ""
        kind = f' class="{style}"' if style else ""
        self.blocks.append(f'<div class="scroll"><table{kind}>{head}{body}</table></div>')

    def picture(self, png: bytes, caption: str) -> None:
        """Add a picture with photographs in it."""
        self.mark(picture_mark(png, caption))

    def chart(self, png: bytes, caption: str) -> None:
        """Add a chart on white paper; on a dark screen its lightness is inverted."""
        figure = f"{_img(png, caption)}<figcaption>{html_text(caption)}</figcaption>"
        self.blocks.append(f'<figure class="chart">{figure}</figure>')

    def animation(self, moving: bytes, still: bytes, alt: str, caption: str = "") -> None:
        """Add an animation; `still` is shown instead where the reader prefers reduced motion."""
        source = f'<source media="(prefers-reduced-motion: reduce)" srcset="{_data(still)}">'
        below = f"<figcaption>{html_text(caption)}</figcaption>" if caption else ""
        self.blocks.append(f"<figure><picture>{source}{_img(moving, alt)}</picture>{below}</figure>")

    def mark(self, html: Html) -> None:
        """Add a block made by `bevt_core.reporting.marks`."""
        self.blocks.append(html)

    @contextmanager
    def arranged(self, how: Arrangement) -> Iterator[None]:
        """Arrange the blocks that are added inside."""
        self.blocks.append(f'<div class="{how}">')
        try:
            yield
        finally:
            self.blocks.append("</div>")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one part of the blocks that are added inside."""
        self.blocks.append("<div>")
        try:
            yield
        finally:
            self.blocks.append("</div>")

    def document(self, head: str) -> str:
        """Return the page as HTML; `head` is trusted HTML with its policy, its style sheet or links to both."""
        title = html_text(self.title)
        head = (
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"{head}<title>{title}</title>"
        )
        body = f"<main><h1>{title}</h1>{''.join(self.blocks)}</main>"
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'

    def save(self, path: AnyPath) -> None:
        """Write the page as one file that needs no other."""
        policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        write_atomic(path, self.document(f"{policy}<style>{STYLE}</style>").encode())


def picture_mark(png: bytes, caption: str) -> Html:
    """A picture, as the bytes of a PNG or WebP file, with its caption."""
    return Html(f"<figure>{_img(png, caption)}<figcaption>{html_text(caption)}</figcaption></figure>")


def cells(pictures: Sequence[bytes], caption: str) -> Html:
    """Small pictures of one size in a row, or in several on a narrow screen, with one caption."""
    images = "".join(_img(picture, "") for picture in pictures)
    return Html(f'<figure><div class="cells">{images}</div><figcaption>{html_text(caption)}</figcaption></figure>')


def relinked(html: str, about: str, targets: Mapping[str, str]) -> str:
    """Return a saved page with its links replaced."""
    return re.sub("<nav>.*?</nav>", lambda _: _links(about, targets), html, count=1, flags=re.DOTALL)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table as Markdown; cells are escaped unless they are `Markup`."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(markdown_text(_cell(value)) for value in line) + " |" for line in lines)


def _links(about: str, targets: Mapping[str, str]) -> str:
    named = ", ".join(f'<a href="{html_text(quote(to))}">{html_text(name)}</a>' for name, to in targets.items())
    return f"<nav>{html_text(about)} {named or 'none'}</nav>"


def _img(data: bytes, alt: str) -> str:
    return f'<img src="{_data(data)}" alt="{html_text(alt)}">'


def _data(picture: bytes) -> str:
    kind = "webp" if picture[8:12] == b"WEBP" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _td(tag: str, html: str, right: bool) -> str:
    return f'<{tag} class="n">{html}</{tag}>' if right else f"<{tag}>{html}</{tag}>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return value if isinstance(value, Html) else html_text(_cell(value))


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else str(value)
