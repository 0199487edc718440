"""Markdown tables, and Python types in words."""

import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

CODE = re.compile(r"(`[^`]*`)")
NAMES = {
    "str": "text",
    "Path": "path",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "NoneType": "null",
}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are Markdown of one line."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def prose(text: str) -> str:
    """Plain text as Markdown on one line: what looks like HTML or emphasis is escaped, except in backticks."""
    parts = CODE.split(" ".join(text.split()))
    return "".join(each if each.startswith("`") else re.sub(r"([<*_\[])", r"\\\1", each) for each in parts)


def code(text: str) -> str:
    """Inline code; `text` may have backticks and vertical bars."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<code>{escaped}</code>"


def in_words(hint: Any) -> str:
    """A type in Markdown: `text`, `integer or null`, the values of a Literal as code."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return in_words(arguments[0])
    if origin is typing.Literal:
        return ", ".join(code(str(value).lower() if isinstance(value, bool) else str(value)) for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(map(in_words, arguments)))
    if origin in (list, tuple):
        inner = dict.fromkeys(in_words(each) for each in arguments if each is not Ellipsis)
        length = "" if Ellipsis in arguments or origin is list else f"{len(arguments)} x "
        return f"list of {length}{' and '.join(inner)}"
    if origin is dict:
        return f"map of {in_words(arguments[0])} to {in_words(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "section"
    name = getattr(hint, "__name__", str(hint))
    return NAMES.get(name, name)
