"""Decoding of untrusted text, with errors that name the line and the fix, and short values for messages."""

import codecs
import re
import reprlib
from typing import Any

from schemas.errors import UserError

_MARKS = {  # UTF-32 before UTF-16, whose mark is a prefix of it
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_DIGEST = re.compile(r"^([0-9a-f]{12})(?:[0-9a-f]{28}|[0-9a-f]{52})(-dirty)?$")
SHOWN_CHARACTERS = 60  # maximum length of a value in a message
_short = reprlib.Repr()
_short.maxstring = _short.maxother = SHOWN_CHARACTERS
_PAGE = ("<!doctype", "<html", "<?xml", "<head", "<body")
_POINTER = "version https://git-lfs.github.com/spec/"


def text_of(data: bytes, where: object) -> str:
    """Decode `data`, the bytes of the file `where`, as UTF-8 or by its byte order mark.

    Raises UserError for other encodings and binary data, and for a web page or a Git LFS pointer that was saved instead
    of the file.
    """
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    data = data[len(mark) :]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(lines_of(data[: error.start].decode(encoding)))
        what = f"byte 0x{data[error.start]:02x} is not {encoding.upper()}"
        raise UserError(f"{where}, line {line}: {what}; {_fix(encoding if mark else 'latin1')}") from None
    if "\0" in text:
        line = len(lines_of(text[: text.index("\0")]))
        raise UserError(f"{where}, line {line}: a zero byte, expected text; {_fix('utf-16le')}")
    start = text[:1000].lstrip().lower()
    if start.startswith(_PAGE):
        raise UserError(f"{where}, line 1: a web page (HTML or XML) instead of the file; download the file itself")
    if start.startswith(_POINTER):
        raise UserError(f"{where}, line 1: a Git LFS pointer instead of the file; get it with `git lfs pull`")
    return text


def lines_of(text: str) -> list[str]:
    """The lines of a text, split at the line ends of Unix, Windows and old Macs, and at no other character."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _fix(encoding: str) -> str:
    return f"save the file as UTF-8, e.g. with `iconv -f {encoding} -t utf-8 FILE > NEW`"


def short(value: Any) -> Any:
    """A SHA-256 or a git revision for a message: its first 12 digits; any other value unchanged."""
    return _DIGEST.sub(r"\1\2", value) if isinstance(value, str) else value


def shown(value: Any) -> str:
    """The value for a message: one line, shortened."""
    try:
        return _short.repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a number with thousands of digits"
