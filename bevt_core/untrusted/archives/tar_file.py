"""The members of a tar file: ustar, GNU and pax headers (POSIX.1-2017, pax).

Python's `tarfile` ends silently at a damaged header; here it is an error, since the rest of the data would be lost.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from bevt_core.untrusted.archives.members import Member, checked, damaged, member_name, refuse_link
from schemas.errors import UserError
from schemas.text.plain import shown

BLOCK = 512
MAX_HEADER_BYTES = 1 << 20  # of a long name or a pax header
PADDING_BYTES = 1 << 20  # zeros after the end, at most; GNU tar's largest record
_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL_PAX, _LABEL, _FOLDER = b"L", b"K", b"x", b"g", b"V", b"5"
_NOT_FILES = {b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"6": "pipe"}
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_RECORD = re.compile(rb"(\d{1,9}) ([^=\n]{1,255})=")


def tar_members(file: BinaryIO, start: int, stop: int, where: object) -> Iterator[Member]:
    """Yield the regular files of the tar in the bytes [start, stop) of `file`.

    Raises UserError, naming `where`, for a tar that is cut, damaged or hostile.
    """
    return checked(_members(file, start, stop, where), stop, where)


def _members(file: BinaryIO, start: int, stop: int, where: object) -> Iterator[Member]:
    at, name, size = start, None, None
    while True:
        header = _read(file, at, BLOCK, stop, where, "inside a header, or before the blocks of zeros that end a tar")
        if header == _ZEROS:
            _check_end(file, at, stop, where)
            return
        _check_sum(header, at, where)
        kind, data = header[156:157], at + BLOCK
        stored = _number(header[124:136], at, where)
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL_PAX):
            if stored > MAX_HEADER_BYTES:
                raise damaged(where, f"a header of {stored} bytes at byte {at}")
            content = _read(file, data, stored, stop, where, "inside a header")
            if kind == _LONG_NAME:
                name = _text(content.rstrip(b"\0"), where)
            elif kind == _PAX:
                name, size = _pax(content, name, size, at, where)
            elif kind == _GLOBAL_PAX and _pax(content, None, None, at, where) != (None, None):
                raise damaged(where, f"a pax header at byte {at} that gives all members one name or size")
            at = data + _padded(stored)
            continue
        name = _header_name(header, where) if name is None else name
        if kind in _NOT_FILES:
            raise refuse_link(name, _NOT_FILES[kind], where)
        if kind == _FOLDER or (name.endswith("/") and kind in _REGULAR):
            if name.strip("./"):
                member_name(name, where)
            stored = 0
        elif kind in _REGULAR:
            stored = stored if size is None else size
            yield Member(member_name(name, where), data, stored, stored, "plain", None)
        elif kind != _LABEL:
            raise UserError(
                f"{where}: the member {shown(name)} has type {shown(kind.decode('latin-1'))}, as sparse files and "
                "volumes have; make the archive again with `tar --format=pax` and without --sparse"
            )
        at, name, size = data + _padded(stored), None, None


def _read(file: BinaryIO, at: int, count: int, stop: int, where: object, place: str) -> bytes:
    file.seek(at)
    data = file.read(min(count, max(0, stop - at)))
    if len(data) < count:
        raise damaged(where, f"it ends before byte {at + count}, {place}")
    return data


def _check_end(file: BinaryIO, at: int, stop: int, where: object) -> None:
    """Raise UserError if more than zeros follow the end, as in two tars that were concatenated."""
    file.seek(at)
    rest = file.read(min(stop - at, PADDING_BYTES + 1))
    if rest.count(0) != len(rest) or len(rest) > PADDING_BYTES:
        raise damaged(where, f"more data after its end at byte {at}, as after `cat a.tar b.tar`")


def _check_sum(header: bytes, at: int, where: object) -> None:
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _number(header[148:156], at, where):
        raise damaged(where, f"no tar header at byte {at}")


def _number(field: bytes, at: int, where: object) -> int:
    """A number in octal, or, with the first bit set, in binary."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    found = _OCTAL.fullmatch(field)
    if found is None:
        raise damaged(where, f"no tar header at byte {at}")
    return int(found[1] or b"0", 8)


def _padded(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def _header_name(header: bytes, where: object) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name, where)


def _text(name: bytes, where: object) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise UserError(f"{where}: the member's name {name[:100]!r} is not UTF-8; make the archive again") from None


def _pax(content: bytes, name: str | None, size: int | None, at: int, where: object) -> tuple[str | None, int | None]:
    """The name and size in a pax header; the given ones if it has none."""
    start = 0
    while start < len(content):
        found = _RECORD.match(content, start)
        end = start + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise damaged(where, f"a malformed pax header at byte {at}")
        key, value = found[2], content[found.end() : end - 1]
        if key == b"path":
            name = _text(value, where)
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise damaged(where, f"a malformed pax header at byte {at}")
            size = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise UserError(f"{where}: a sparse member at byte {at}; make the archive again without --sparse")
        start = end
    return name, size
