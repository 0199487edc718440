"""Escapes untrusted text (names of files, classes and runs, messages that quote a file) for each kind of output.

One function per kind. Each takes any text and returns one that the output shows literally, without markup, formulas or
terminal control codes. Parquet and JSON need no escaping: they store names unchanged.

terminal, log   one_line, lines
HTML            html_text
Markdown        markdown_text, markdown_code
CSV             csv_text; text_of_csv is its inverse
pictures        one_line, and parse_math=False if matplotlib draws it
"""

import re
import unicodedata
from html import escape

from schemas.text.credentials import masked

# Cc: control characters, including terminal escapes. Cf: invisible characters, some of which reverse the direction of
# text. Cs: lone surrogates, from file names that are not UTF-8. Zl, Zp: line ends.
_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # inside words of Persian and Hindi, and inside emoji

_FORMULA = re.compile(r"\s*[=+\-@'\uff1d\uff0b\uff0d\uff20]")  # the last four: full-width forms
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?%?")
_ESCAPE = re.compile(r"\\(?:\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")
_LINK = re.compile(r"(?i)(?<=\w)(:)(?=//)|(?<=\bwww)(\.)")


def one_line(text: str) -> str:
    """The text on one line, with control and invisible characters as \\x1b, \\x0a or \\u202e."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def lines(text: str) -> str:
    """Apply `one_line` to each line of a text whose line ends are trusted."""
    return "\n".join(map(one_line, text.split("\n")))


def html_text(text: str) -> str:
    """The text for HTML, also inside a quoted attribute; credentials are masked."""
    return escape(one_line(masked(text)))


class Markup(str):
    """Text that is already Markdown."""


def markdown_text(text: str) -> str:
    """The text for Markdown, also in a table cell: no emphasis, link, picture, code or HTML.

    Credentials are masked. `Markup` is returned unchanged.
    """
    if isinstance(text, Markup):
        return text
    shown = _MARKDOWN.sub(r"\\\1", escape(one_line(masked(text)), quote=False))
    return _LINK.sub(lambda found: "\\" + found[0], shown)


def markdown_code(text: str) -> Markup:
    """The text as code in Markdown, also in a table cell. Credentials are masked."""
    return Markup(f"<code>{markdown_text(text)}</code>")  # inside backticks, a table's bar cannot be escaped


def csv_text(value: object) -> str:
    """A CSV cell that spreadsheets do not run as a formula and terminals show literally; inverse: `text_of_csv`.

    Control characters become e.g. \\x1b, backslashes are doubled, and a text that begins like a formula, or with an
    apostrophe, is prefixed with an apostrophe. Numbers stay numbers.
    """
    text = str(value)
    if _NUMBER.fullmatch(text):
        return text
    mark = "'" if _FORMULA.match(text) else ""
    return mark + one_line(text.replace("\\", "\\\\"))


def text_of_csv(cell: str) -> str:
    """The text from which `csv_text` made `cell`."""
    return _ESCAPE.sub(_unescaped, cell.removeprefix("'"))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _CATEGORIES or character in _JOINERS:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unescaped(found: re.Match[str]) -> str:
    return "\\" if found[0] == r"\\" else chr(int(found[0][2:], 16))
