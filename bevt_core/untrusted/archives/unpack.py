"""Copy one member of an archive into a file, checked against its size and checksum."""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from bevt_core.untrusted.archives.members import Member
from bevt_core.untrusted.archives.zip_file import LOCAL, LOCAL_MAGIC

READ_BYTES = 1 << 20  # per read


class DamagedMember(Exception):
    """The bytes of a member do not match the archive's directory."""


def unpack(archive: BinaryIO, member: Member, target: BinaryIO) -> None:
    """Write the bytes of `member` to `target`. Raises DamagedMember, OSError."""
    crc, count = 0, 0
    for chunk in _unpacked(archive, member):
        count += len(chunk)
        if count > member.num_bytes:
            raise DamagedMember(f"it unpacks to more than its {member.num_bytes} bytes")
        crc = crc if member.crc32 is None else zlib.crc32(chunk, crc)
        target.write(chunk)
    if count != member.num_bytes:
        raise DamagedMember(f"it unpacks to {count} of its {member.num_bytes} bytes")
    if member.crc32 not in (None, crc):
        raise DamagedMember(f"its checksum is {crc:08x}, expected {member.crc32:08x}")


def _unpacked(archive: BinaryIO, member: Member) -> Iterator[bytes]:
    start = member.offset
    if member.method in ("zip", "zip-deflated"):
        archive.seek(start)
        header = archive.read(LOCAL.size)
        if len(header) < LOCAL.size or header[:4] != LOCAL_MAGIC:
            raise DamagedMember(f"no zip header at byte {start}")
        *_, name, extra = LOCAL.unpack(header)
        start += LOCAL.size + name + extra
    chunks = _chunks(archive, start, member.stored_bytes)
    return _inflated(chunks) if member.method == "zip-deflated" else chunks


def _chunks(archive: BinaryIO, start: int, count: int) -> Iterator[bytes]:
    archive.seek(start)
    while count > 0 and (chunk := archive.read(min(count, READ_BYTES))):
        count -= len(chunk)
        yield chunk


def _inflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in chunks:
            data = chunk
            while data and not stream.eof:
                yield stream.decompress(data, READ_BYTES)
                data = stream.unconsumed_tail
        while not stream.eof and (rest := stream.decompress(b"", READ_BYTES)):
            yield rest
    except zlib.error as error:
        raise DamagedMember(str(error)) from None
    if not stream.eof:
        raise DamagedMember("its compressed data is incomplete")
