"""Names that a stranger may give, and what must hold for every output that shows them."""

import base64
import hashlib
import re
import unicodedata
from html.parser import HTMLParser

# Each may be the name of a file, so none has a slash.
NAMES = (
    "=HYPERLINK(1) <script>alert(1)",
    "\x1b]0;owned\x07 \x9b31m [red]$\\frac$ ![x](http:evil) `a|b`\nerror: forged \u202egpj",
    "<img src=x onerror=alert(1)> \"'&amp; **bold** _x_ www.evil.example",
    "@SUM(1)|cmd \\x1b \r\u2028\u200b\U000e0041",
    "-1+cmd",
    "'quoted",
    "\\",
    "{{7*7}} ${HOME} %s %n {0}",
)
VOID = {"meta", "img", "br", "hr", "source"}
ALLOWED = (
    {"html", "head", "meta", "title", "style", "body", "main", "nav", "a", "h1", "h2", "p", "b", "div", "span", "code"}
    | {"table", "tr", "th", "td", "figure", "figcaption", "picture", "source", "img"}
    | {"svg", "path", "rect", "circle", "text"}
)


def controls_in(text: str) -> set[str]:
    """Characters of `text` that a terminal or a reader may take for more than themselves; line ends are none."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


class PageCheck(HTMLParser):
    """Reads a page as a browser that honours its policy would; `faults` is what the policy would block, or our rule."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.policy: dict[str, list[str]] = {}
        self.faults: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        if not self.policy:
            self.faults.append("no policy")
        if self.open:
            self.faults.append(f"not closed: {self.open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            parts = [part.split() for part in given["content"].split(";")]
            self.policy = {name: values for name, *values in parts}
            for name in ("default-src", "base-uri", "form-action"):
                if self.policy.get(name) != ["'none'"]:
                    self.faults.append(f"{name}: {self.policy.get(name)}")
            return
        if tag not in (VOID | {"style"}):
            self.open.append(tag)
        if tag not in ALLOWED:
            self.faults.append(f"<{tag}>")
        if tag == "style":
            self.open.append(tag)
        if tag == "a" and not re.fullmatch(r"[\w.%/-]+", given["href"]):
            self.faults.append(f"link to {given['href']}")
        if tag == "img" and not (given["src"].startswith("data:") and self.policy.get("img-src") == ["data:"]):
            self.faults.append(f"picture {given['src'][:40]}")
        if tag == "source" and not given["srcset"].startswith("data:"):
            self.faults.append(f"picture {given['srcset'][:40]}")
        for name in given:
            if name.startswith("on") or name in ("style", "action", "srcdoc"):
                self.faults.append(f"<{tag} {name}>")

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1:] == [tag]:
            self.open.pop()
        elif tag not in VOID:
            self.faults.append(f"</{tag}> in {self.open}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            digest = base64.b64encode(hashlib.sha256(data.encode()).digest()).decode()
            if f"'sha256-{digest}'" not in self.policy.get("style-src", []):
                self.faults.append("a style sheet that the policy does not name")
        self.text.append(data)


def formulas_in(cells: list[str]) -> list[str]:
    """The cells that a spreadsheet would compute."""
    return [c for c in cells if c.lstrip()[:1] in tuple("=+-@\t\r") and not re.fullmatch(r"[+-]?[\d.e+-]+%?", c) and c]
