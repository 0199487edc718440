"""The members of a zip file, from its central directory (APPNOTE.TXT 6.3, sections 4.3 and 4.5).

`zipfile` keeps an object of 600 bytes per member and ignores members that overlap; this reader yields one at a time.
"""

import stat
import zlib
from array import array
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO

import numpy as np

from bevt_core.untrusted.archives.members import (
    Member,
    Method,
    check_overlap,
    checked,
    damaged,
    member_name,
    refuse_link,
)
from schemas.errors import UserError
from schemas.text.plain import shown

_END = Struct(
    "<4s4H2LH"
)  # end of central directory: PK56, disk, its disk, entries here, entries, size, offset, comment
_LOCATOR = Struct("<4sLQL")  # PK67, disk, offset of the next, disks
_END_64 = Struct("<4sQ2H2L4Q")  # PK66, size, versions, disk, its disk, entries here, entries, size, offset
_ENTRY = Struct("<4s6H3L5H2L")  # of the central directory
LOCAL = Struct("<4s5H3L2H")  # header before a member's bytes
LOCAL_MAGIC = b"PK\3\4"
_MAX_COMMENT = 0xFFFF
_METHODS: dict[int, Method] = {0: "zip", 8: "zip-deflated"}
_ENCRYPTED, _UTF8 = 1, 0x800  # flags
_ZIP64, _UNICODE_PATH = 1, 0x7075  # extra fields
_UNIX = 3


def zip_members(file: BinaryIO, size: int, where: object) -> Iterator[Member]:
    """Yield the regular files of the zip `file` of `size` bytes.

    Raises UserError, naming `where`, for a zip that is cut, damaged, encrypted or hostile.
    """
    return checked(_members(file, size, where), size, where)


def _members(file: BinaryIO, size: int, where: object) -> Iterator[Member]:
    count, begin, end = _directory(file, size, where)
    starts, stops = array("q"), array("q")
    file.seek(begin)
    at = begin
    for _ in range(count):
        fixed = file.read(_ENTRY.size)
        if len(fixed) < _ENTRY.size or fixed[:4] != b"PK\1\2":
            raise damaged(where, f"no entry of the central directory at byte {at}")
        _, version, _, flags, method, _, _, crc, packed, unpacked, n, e, c, _, _, mode, offset = _ENTRY.unpack(fixed)
        raw, extra = file.read(n), _extra_fields(file.read(e))
        file.read(c)
        at += _ENTRY.size + n + e + c
        if at > end:
            raise damaged(where, f"a central directory that does not end at byte {end}")
        unpacked, packed, offset = _long(extra.get(_ZIP64, b""), (unpacked, packed, offset), where)
        name = _name(raw, flags, extra.get(_UNICODE_PATH, b""), where)
        if max(offset, packed) > size:
            raise damaged(where, f"the member {shown(name)} ends after byte {size}, the end of the file")
        starts.append(offset)
        stops.append(offset + LOCAL.size + n + packed)
        if version >> 8 == _UNIX and stat.S_ISLNK(mode >> 16):
            raise refuse_link(name, "symbolic link", where)
        if name.endswith("/"):
            member_name(name, where)
            continue
        if flags & _ENCRYPTED:
            raise UserError(f"{where}: the member {shown(name)} is encrypted; unpack it with its password")
        if method not in _METHODS:
            raise UserError(
                f"{where}: the member {shown(name)} is compressed by method {method}, expected 0 (stored) or 8 "
                "(deflated); unpack it, or make it again with `zip -0`"
            )
        yield Member(member_name(name, where), offset, packed, unpacked, _METHODS[method], crc)
    if at != end:
        raise damaged(where, f"a central directory that does not end at byte {end}")
    check_overlap(np.array([*starts, begin]), np.array([*stops, begin]), where)


def _directory(file: BinaryIO, size: int, where: object) -> tuple[int, int, int]:
    """(number of entries, first byte, byte after the last) of the central directory."""
    tail_at = max(0, size - _END.size - _MAX_COMMENT)
    file.seek(tail_at)
    tail = file.read(size - tail_at)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise damaged(where, "no central directory at its end")
    _, disk, _, here, count, length, begin, comment = _END.unpack_from(tail, found)
    end = tail_at + found
    if found + _END.size + comment != len(tail):
        raise damaged(where, f"data after its end at byte {end}")
    if 0xFFFF in (count, disk) or 0xFFFFFFFF in (length, begin):
        file.seek(max(0, end - _LOCATOR.size))
        magic, _, at, _ = _LOCATOR.unpack(file.read(_LOCATOR.size).ljust(_LOCATOR.size, b"\0"))
        if magic == b"PK\6\7":
            file.seek(min(at, size))
            record = file.read(_END_64.size)
            if len(record) < _END_64.size or record[:4] != b"PK\6\6":
                raise damaged(where, f"no central directory at byte {at}")
            *_, disk, _, here, count, length, begin = _END_64.unpack(record)
            end = at
    if disk or here != count:
        raise UserError(f"{where}: a volume of a divided zip; join the volumes with `zip -s 0 IN.zip --out OUT.zip`")
    if begin + length != end:
        raise damaged(where, f"a central directory of {length} bytes at byte {begin}, expected to end at byte {end}")
    return count, begin, end


def _extra_fields(data: bytes) -> dict[int, bytes]:
    fields, at = {}, 0
    while at + 4 <= len(data):
        kind, length = int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 2 : at + 4], "little")
        fields[kind] = data[at + 4 : at + 4 + length]
        at += 4 + length
    return fields


def _long(extra: bytes, values: tuple[int, int, int], where: object) -> tuple[int, int, int]:
    """Replace each value that does not fit into 32 bits by the next number of the zip64 field."""
    numbers = (int.from_bytes(extra[at : at + 8], "little") for at in range(0, len(extra) - 7, 8))
    try:
        first, second, third = (next(numbers) if value == 0xFFFFFFFF else value for value in values)
    except (StopIteration, RuntimeError):
        raise damaged(where, "an entry of the central directory without its size") from None
    return first, second, third


def _name(raw: bytes, flags: int, unicode_path: bytes, where: object) -> str:
    """The name in UTF-8 if it is marked or readable as that, else in code page 437, as zip programs write it."""
    if unicode_path[:1] == b"\1" and int.from_bytes(unicode_path[1:5], "little") == zlib.crc32(raw):
        raw, flags = unicode_path[5:], _UTF8
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if flags & _UTF8:
            raise damaged(where, f"the member's name {raw[:100]!r} is not UTF-8") from None
        return raw.decode("cp437")
