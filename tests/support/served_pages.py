"""What a page of `bevt view` may contain, whatever the names in the data are."""

import re
from html.parser import HTMLParser

from bevt_core.viewer.site import Site

VOID = {"meta", "img", "br", "source", "link", "input"}
ALLOWED = (
    VOID
    | {"html", "head", "title", "script", "body", "main", "nav", "a", "h1", "h2", "p", "b", "div", "span", "code"}
    | {"table", "tr", "th", "td", "figure", "figcaption", "picture", "svg", "path", "rect", "circle", "text"}
    | {"form", "label", "select", "option", "button", "output"}
)
ADDRESS = re.compile(r"[\w.]*(\?[\w%=&.+*-]*)?")  # relative, without a slash


class ServedPage(HTMLParser):
    """Reads a page; `faults` is what no page may contain, `links` the addresses in it, `text` what it shows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        if self._open:
            self.faults.append(f"not closed: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self._open.append(tag)
        if tag not in ALLOWED:
            self.faults.append(f"<{tag}>")
        if tag == "script" and dict(attrs) != {"src": "view.js", "defer": None}:
            self.faults.append(f"script {attrs}")
        for name, value in attrs:
            if name.startswith("on") or name in ("style", "srcdoc", "formaction"):
                self.faults.append(f"<{tag} {name}>")
            if name in ("href", "src", "srcset", "action") and not (value or "").startswith("data:image/"):
                self.links.append(value or "")
                if not ADDRESS.fullmatch(value or ""):
                    self.faults.append(f"<{tag} {name}={value}>")

    def handle_endtag(self, tag: str) -> None:
        if self._open[-1:] == [tag]:
            self._open.pop()
        elif tag not in VOID:
            self.faults.append(f"</{tag}> in {self._open}")

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.faults.append("an inline script")
        self.text += data


def page(site: Site, name: str = "", query: str = "", status: int = 200) -> ServedPage:
    """Ask for a page and check its status and that it has no faults."""
    answer = site.answer(name, query)
    read = ServedPage(answer.body.decode())
    assert answer.status == status, read.text
    assert read.faults == []
    return read


def picture(site: Site, name: str, query: str) -> bytes:
    """Ask for a picture and check that it is one."""
    answer = site.answer(name, query)
    assert (answer.status, answer.kind) == (200, "image/webp"), answer.body[-300:]
    return answer.body
