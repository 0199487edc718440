"""Zips: what is listed, and what is one error."""

import io
import stat
import zipfile
import zlib
from collections.abc import Callable
from struct import pack

import pytest

from bevt_core.untrusted.archives.members import Member
from bevt_core.untrusted.archives.unpack import DamagedMember, unpack
from bevt_core.untrusted.archives.zip_file import zip_members
from schemas.errors import UserError
from tests.support.archives import zip_of

CONTENT = {"a.jpg": b"x" * 700, "b/ü 木.mp4": b"", "c/d.jpg": bytes(range(256)) * 9000}


def listed(data: bytes) -> list[Member]:
    return list(zip_members(io.BytesIO(data), len(data), "x.zip"))


def content_of(data: bytes, member: Member) -> bytes:
    target = io.BytesIO()
    unpack(io.BytesIO(data), member, target)
    return target.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_those_that_zipfile_reads(method: int) -> None:
    data = zip_of([("folder/", b""), *CONTENT.items()], method)
    assert {member.name: content_of(data, member) for member in listed(data)} == CONTENT


def test_long_sizes_and_offsets_are_read() -> None:
    """As for members of more than 4 GB: the sizes are in the zip64 field, and so is the directory's place."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as file:
        file.write(b"abc")
    plain = buffer.getvalue()
    at, end = plain.index(b"PK\1\2"), plain.index(b"PK\5\6")
    entry = bytearray(plain[at:end])
    entry[20:28], entry[42:46], entry[30:32] = b"\xff" * 8, b"\xff" * 4, pack("<H", 28)
    entry += pack("<2H3Q", 1, 24, 3, 3, 0)
    record = pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), at)
    locator = pack("<4sLQL", b"PK\6\7", 0, at + len(entry), 1)
    tail = pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    data = plain[:at] + bytes(entry) + record + locator + tail
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("a.jpg") == b"abc"
    assert [content_of(data, member) for member in listed(data)] == [b"abc"]


def test_old_names_are_in_code_page_437() -> None:
    data = zip_of([("aaa.jpg", b"")]).replace(b"aaa.jpg", b"\x81aa.jpg")
    assert listed(data)[0].name == "üaa.jpg"


def linked() -> bytes:
    info = zipfile.ZipInfo("x.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def entry_changed(data: bytes, at: int, new: bytes) -> bytes:
    """`data` with other bytes in the first entry of its central directory."""
    at += data.index(b"PK\1\2")
    return data[:at] + new + data[at + len(new) :]


def end_changed(data: bytes, at: int, new: bytes) -> bytes:
    at += data.rindex(b"PK\5\6")
    return data[:at] + new + data[at + len(new) :]


def overlapping() -> bytes:
    """Two entries for one member, as in a zip bomb."""
    data = zip_of([("a.jpg", b"x" * 50), ("b.jpg", b"x" * 50)])
    second = data.rindex(b"PK\1\2")
    return data[: second + 42] + bytes(4) + data[second + 46 :]


WHOLE = zip_of([("a.jpg", b"x" * 50)])
FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", r"x\.zip: no central directory at its end"),
    "cut in the directory": (lambda: WHOLE[:-30], "no central directory at its end"),
    "cut in a member": (lambda: WHOLE[:40], "no central directory at its end"),
    "data after the end": (lambda: WHOLE + b"more", "data after its end"),
    "data before the start": (lambda: b"more" + WHOLE, "a central directory of 51 bytes at byte 85, expected to end"),
    "wrong place": (lambda: end_changed(WHOLE, 16, b"\1"), "a central directory of 51 bytes at byte 1"),
    "wrong count": (lambda: end_changed(WHOLE, 8, b"\2\0\2\0"), "no entry of the central directory at byte 136"),
    "one entry less": (
        lambda: end_changed(zip_of([("a.jpg", b""), ("b.jpg", b"")]), 8, b"\1\0\1\0"),
        "a central directory that does not end at byte 172",
    ),
    "wrong entry": (lambda: entry_changed(WHOLE, 0, b"PK\7\7"), "no entry of the central directory at byte 85"),
    "wrong length": (lambda: entry_changed(WHOLE, 30, b"\xff"), "a central directory that does not end"),
    "far offset": (lambda: entry_changed(WHOLE, 42, b"\xff\xff\0\0"), "ends after byte 158"),
    "no long size": (lambda: entry_changed(WHOLE, 20, b"\xff" * 4), "without its size"),
    "overlap": (overlapping, "members that overlap"),
    "encrypted": (lambda: entry_changed(WHOLE, 8, b"\1"), r"'a\.jpg' is encrypted; unpack it with its password"),
    "other method": (lambda: entry_changed(WHOLE, 10, b"\x0e"), "compressed by method 14, expected 0"),
    "divided": (lambda: end_changed(WHOLE, 4, b"\1"), "a volume of a divided zip"),
    "link": (linked, r"'x\.jpg' is a symbolic link, expected regular files"),
    "parent": (lambda: zip_of([("../a.jpg", b"")]), r"'\.\./a\.jpg' cannot be a file: it contains `\.\.`"),
    "backslashes": (lambda: zip_of([("..\\a.jpg", b"")]), "it contains `..`"),
    "absolute": (lambda: zip_of([("/a.jpg", b"")]), "it is absolute"),
    "zero character": (lambda: zip_of([("aXb.jpg", b"")]).replace(b"aXb", b"a\0b"), "contains a zero character"),
    "stored with two sizes": (lambda: entry_changed(WHOLE, 24, b"\xff\xff\xff\0"), "from 50 to 16777215"),
    "bomb": (
        lambda: entry_changed(zip_of([("a.jpg", b"x")], zipfile.ZIP_DEFLATED), 24, pack("<L", 300 << 20)),
        "from 3 to 314572800 bytes, expected at most 268435456",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error(fault: str) -> None:
    make, message = FAULTS[fault]
    with pytest.raises(UserError, match=message):
        listed(make())


DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "checksum": (lambda: WHOLE.replace(b"x" * 50, b"x" * 49 + b"y"), "its checksum is"),
    "no header": (lambda: b"XX" + WHOLE[2:], "no zip header at byte 0"),
    "more than declared": (
        lambda: entry_changed(zip_of([("a.jpg", b"x" * 99)], zipfile.ZIP_DEFLATED), 24, pack("<L", 98)),
        "unpacks to more than its 98 bytes",
    ),
    "less than declared": (
        lambda: entry_changed(zip_of([("a.jpg", b"x" * 99)], zipfile.ZIP_DEFLATED), 24, pack("<L", 100)),
        "unpacks to 99 of its 100 bytes",
    ),
    "not deflated": (lambda: entry_changed(WHOLE, 10, b"\x08"), "Error -3 while decompressing"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_member_is_found_when_it_is_read(fault: str) -> None:
    make, message = DAMAGED[fault]
    data = make()
    (member,) = listed(data)
    with pytest.raises(DamagedMember, match=message):
        content_of(data, member)


def test_a_false_size_allocates_no_memory() -> None:
    """A member that unpacks to more than it says is left after the first chunk."""
    packed = zlib.compress(bytes(20 << 20), wbits=-15)
    member = Member("a.jpg", 0, len(packed), 1000, "zip-deflated", None)
    local = pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, 0, 0, 0, 0)
    target = io.BytesIO()
    with pytest.raises(DamagedMember, match="more than its 1000 bytes"):
        unpack(io.BytesIO(local + packed), member, target)
    assert len(target.getvalue()) == 0


def test_any_single_byte_may_be_wrong() -> None:
    """A damaged zip is listed and read, or is an error of these two kinds."""
    whole = zip_of([("a.jpg", b"x" * 99), ("ü.jpg", b"y" * 99)], zipfile.ZIP_DEFLATED)
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 0x55
        try:
            for member in listed(bytes(data)):
                content_of(bytes(data), member)
        except (UserError, DamagedMember):
            continue
