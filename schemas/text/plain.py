"""Text that somebody else wrote: bytes to `str`, or an error that names the line and how to fix the file."""

import codecs
import reprlib
from typing import Any

from schemas.errors import UserError

_MARKS = {  # the longer ones first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
SHOWN_CHARACTERS = 60  # of a value in a message
_short = reprlib.Repr()
_short.maxstring = _short.maxother = SHOWN_CHARACTERS
_PAGE = ("<!doctype", "<html", "<?xml", "<head", "<body")
_POINTER = "version https://git-lfs.github.com/spec/"


def text_of(data: bytes, where: object) -> str:
    """Return `data`, the bytes of the file `where`, as text: UTF-8, or whatever its byte order mark says.

    Raises UserError for other encodings and binary data, and for what is saved in a file's place: a web page, the
    pointer of Git LFS.
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
        raise UserError(f"{where}, line 1: a web page (HTML or XML) in place of the file; download the file itself")
    if start.startswith(_POINTER):
        raise UserError(f"{where}, line 1: the pointer of Git LFS in place of the file; get it with `git lfs pull`")
    return text


def lines_of(text: str) -> list[str]:
    """The lines of a text, with the line ends of Unix, Windows or old Macs; no other character ends a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _fix(encoding: str) -> str:
    return f"save the file as UTF-8, e.g. with `iconv -f {encoding} -t utf-8 FILE > NEW`"


def shown(value: Any) -> str:
    """A value in a message, on one line and not too long."""
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a number of thousands of digits"
