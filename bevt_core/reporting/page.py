"""A self-contained HTML page of headings, paragraphs, tables and pictures; the same tables as Markdown."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from bevt_core.console.inert import html_text, markdown_text
from bevt_core.storage.files import write_atomic
from bevt_core.storage.objects import AnyPath

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left }
th { background: #f3f3f3 }
img { max-width: 100%; image-rendering: pixelated }
"""
# Browsers may show the page's pictures and use its style sheet, but run no scripts, send no requests, submit no forms.
_POLICY = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


class Page:
    """A report, built block by block and written by `save`. Texts may be untrusted and are escaped."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.blocks: list[str] = []

    def heading(self, text: str) -> None:
        self.blocks.append(f"<h2>{html_text(text)}</h2>")

    def text(self, text: str) -> None:
        self.blocks.append(f"<p>{html_text(text)}</p>")

    def links(self, about: str, targets: Mapping[str, str]) -> None:
        """Add the page's links, name -> address: at most one block per page, which `relinked` can replace."""
        self.blocks.append(_links(about, targets))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        head = "".join(f"<th>{html_text(name)}</th>" for name in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html_text(_cell(value))}</td>" for value in row) + "</tr>" for row in rows
        )
        self.blocks.append(f"<table><tr>{head}</tr>{body}</table>")

    def picture(self, png: bytes, caption: str) -> None:
        data = base64.b64encode(png).decode()
        self.blocks.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{html_text(caption)}">'
            f"<figcaption>{html_text(caption)}</figcaption></figure>"
        )

    def save(self, path: AnyPath) -> None:
        policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        head = f"<!doctype html><meta charset=utf-8>{policy}<title>{html_text(self.title)}</title>"
        head += f"<style>{_STYLE}</style>"
        write_atomic(path, f"{head}<h1>{html_text(self.title)}</h1>{''.join(self.blocks)}".encode())


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


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else str(value)
