"""Tars: what is listed, and what is one error."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bevt_core.untrusted.archives.members import Member
from bevt_core.untrusted.archives.tar_file import tar_members
from bevt_core.untrusted.archives.unpack import unpack
from schemas.errors import UserError
from tests.support.archives import tar_of

CONTENT = {"a.jpg": b"x" * 700, "b/ü 木.mp4": b"", "c" * 120 + "/" + "d" * 130 + ".jpg": b"y" * 512}


def listed(data: bytes) -> list[Member]:
    return list(tar_members(io.BytesIO(data), 0, len(data), "x.tar"))


def content_of(data: bytes, member: Member) -> bytes:
    target = io.BytesIO()
    unpack(io.BytesIO(data), member, target)
    return target.getvalue()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_reads(format: int) -> None:
    data = tar_of([*CONTENT.items(), ("./e//f.jpg", b"z")], format)
    found = listed(data)
    assert {member.name: content_of(data, member) for member in found} == CONTENT | {"e/f.jpg": b"z"}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [member.offset for member in found] == [info.offset_data for info in archive]


def test_ustar_names_have_a_prefix() -> None:
    name = "d" * 90 + "/" + "e" * 90 + ".jpg"
    assert [member.name for member in listed(tar_of([(name, b"")], tarfile.USTAR_FORMAT))] == [name]


def special(kind: bytes, name: str = "x.jpg", link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(info)
    return buffer.getvalue()


def changed(data: bytes, at: int, new: bytes) -> bytes:
    """`data` with other bytes in its first header, and that header's checksum."""
    header = bytearray(data[:512])
    header[at : at + len(new)] = new
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


WHOLE = tar_of([("a.jpg", b"x" * 700), ("b.jpg", b"y" * 10)])
FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", r"x\.tar: it ends before byte 512, inside a header"),
    "cut in a header": (lambda: WHOLE[: 3 * 512 + 100], "it ends before byte 2048, inside a header"),
    "cut in a member": (lambda: WHOLE[:1000], r"the member 'a\.jpg' ends after byte 1000, the end of the file"),
    "cut between members": (lambda: WHOLE[: 3 * 512], "it ends before byte 2048, .* before the blocks of zeros"),
    "damaged header": (lambda: WHOLE[:1536] + b"?" + WHOLE[1537:], "no tar header at byte 1536"),
    "not a tar": (lambda: b"PK\3\4" * 300, "no tar header at byte 0"),
    "concatenated": (lambda: WHOLE + WHOLE, "more data after its end at byte 2560"),
    "parent": (lambda: tar_of([("../a.jpg", b"")]), r"'\.\./a\.jpg' cannot be a file: it contains `\.\.`"),
    "inner parent": (lambda: tar_of([("a/../../b.jpg", b"")]), "it contains `..`"),
    "absolute": (lambda: tar_of([("/etc/a.jpg", b"")]), "it is absolute"),
    "drive": (lambda: tar_of([("C:/a.jpg", b"")]), "it is absolute"),
    "folder that leads out": (lambda: special(tarfile.DIRTYPE, "../x"), "it contains `..`"),
    "link": (lambda: special(tarfile.SYMTYPE, link="/etc/passwd"), r"'x\.jpg' is a symbolic link, expected regular"),
    "hard link": (lambda: special(tarfile.LNKTYPE, link="../secret"), "is a hard link"),
    "device": (lambda: special(tarfile.CHRTYPE), "is a device"),
    "sparse": (lambda: special(tarfile.GNUTYPE_SPARSE), "has type 'S'"),
    "long component": (lambda: tar_of([("a" * 300 + ".jpg", b"")]), "a component exceeds 255 bytes"),
    "long path": (lambda: tar_of([("a/" * 600 + "b.jpg", b"")]), "it exceeds 1024 bytes"),
    "not UTF-8": (lambda: changed(WHOLE, 0, b"\xff"), r"name b'\\xff.jpg' is not UTF-8"),
    "huge": (lambda: changed(WHOLE, 124, b"\x80" + b"\xff" * 11), "ends after byte 10240, the end of the file"),
    "negative": (lambda: changed(WHOLE, 124, b"\xff" * 12), "no tar header at byte 0"),
    "huge header": (lambda: changed(changed(WHOLE, 156, b"x"), 124, b"77777777777\0"), "a header of 8589934591 bytes"),
    "malformed pax": (lambda: changed(WHOLE, 156, b"x"), "a malformed pax header at byte 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error(fault: str) -> None:
    make, message = FAULTS[fault]
    with pytest.raises(UserError, match=message):
        listed(make())


class CountingFile(io.BytesIO):
    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)


def test_listing_reads_one_block_per_member() -> None:
    """Two reads at the end: the first block of zeros, and the rest of the file."""
    data = tar_of([(f"{i}.jpg", b"") for i in range(1000)], tarfile.USTAR_FORMAT)
    file = CountingFile(data)
    assert len(list(tar_members(file, 0, len(data), "x.tar"))) == 1000
    assert file.reads == 1002


def test_any_single_byte_may_be_wrong() -> None:
    """A damaged tar is listed, or is a UserError: no other exception."""
    for at in range(0, 600):
        data = bytearray(WHOLE)
        data[at] ^= 0x55
        try:
            listed(bytes(data))
        except UserError:
            continue


def test_a_file_may_be_cut_anywhere(tmp_path: Path) -> None:
    data = tar_of([(name, b"x" * 300) for name in CONTENT])
    end = len(data.rstrip(b"\0"))
    for stop in range(0, end, 37):
        with pytest.raises(UserError, match="cut or damaged"):
            listed(data[:stop])
