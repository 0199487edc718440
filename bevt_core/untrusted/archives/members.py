"""A member of an archive, and the limits that apply to every format.

A member is described by the bytes that it occupies in the archive file, so that it is read without reading others.
Directories are not listed. Links, devices and names that lead out of the archive are errors, also where nothing would
read them: an archive with such members was not made by a dataset's authors.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from schemas.errors import UserError
from schemas.text.names import leads_out
from schemas.text.plain import shown

# How the bytes are stored: as they are, after a zip header, deflated after a zip header, in a tar that is compressed as
# a whole, or in a row of a Parquet file.
Method = Literal["plain", "zip", "zip-deflated", "gzip", "parquet"]
DEFLATED: Method = "zip-deflated"

MAX_MEMBERS = 20_000_000  # of an archive; ImageNet-21k has 14 million
MAX_COMPONENT_BYTES, MAX_NAME_BYTES = 255, 1024  # of a file's name, and of its whole path
MAX_BYTES, MAX_EXPANSION = 256 << 20, 100  # a member may unpack to MAX_BYTES, or to MAX_EXPANSION times its size


class Member(NamedTuple):
    """A file in an archive."""

    name: str  # its path in the archive
    offset: int  # where it begins in the archive file or the compressed tar; for Parquet, its row
    stored_bytes: int  # in the archive file, without headers
    num_bytes: int  # unpacked
    method: Method
    crc32: int | None  # of the unpacked bytes; None: the format has none


def damaged(where: object, what: str) -> UserError:
    """The error for an archive that is incomplete or contradicts itself."""
    return UserError(f"{where}: {what}; the archive is cut or damaged: get it again, or move it out of the root")


def member_name(name: str, where: object) -> str:
    """A member's path without `.` and empty components. Raises UserError for a name that leads out, or is too long."""
    absolute = name[:1] in ("/", "\\")
    plain = name if absolute else "/".join(part for part in name.split("/") if part not in ("", "."))
    why = leads_out(plain)
    if why is None and max(len(part.encode()) for part in plain.split("/")) > MAX_COMPONENT_BYTES:
        why = f"a component exceeds {MAX_COMPONENT_BYTES} bytes"
    elif why is None and len(plain.encode()) > MAX_NAME_BYTES:
        why = f"it exceeds {MAX_NAME_BYTES} bytes"
    if why is not None:
        raise UserError(f"{where}: the member {shown(name)} cannot be a file: {why}; make the archive again without it")
    return plain


def refuse_link(name: str, kind: str, where: object) -> UserError:
    """The error for a link or a special file in an archive."""
    return UserError(
        f"{where}: the member {shown(name)} is a {kind}, expected regular files; make the archive again with "
        "`tar --dereference --hard-dereference`, unpack it, or move it out of the root"
    )


def checked(members: Iterable[Member], size: int, where: object) -> Iterator[Member]:
    """Yield the members of an archive file of `size` bytes.

    Raises UserError for more than MAX_MEMBERS, and for a member that lies outside the file or unpacks to too much.
    """
    for count, member in enumerate(members, start=1):
        if count > MAX_MEMBERS:
            raise UserError(f"{where}: more than {MAX_MEMBERS} members; divide it, or unpack it")
        if member.offset + member.stored_bytes > size:
            raise damaged(where, f"the member {shown(member.name)} ends after byte {size}, the end of the file")
        most = max(MAX_BYTES, MAX_EXPANSION * member.stored_bytes) if member.method == DEFLATED else member.stored_bytes
        if member.num_bytes > most:
            raise UserError(
                f"{where}: the member {shown(member.name)} unpacks from {member.stored_bytes} to {member.num_bytes} "
                f"bytes, expected at most {most}; it is no picture or video"
            )
        yield member


def check_overlap(starts: np.ndarray, stops: np.ndarray, where: object) -> None:
    """Raise UserError if the byte ranges [start, stop) of an archive's members overlap, as in a zip bomb."""
    order = np.argsort(starts, kind="stable")
    if (starts[order][1:] < stops[order][:-1]).any():
        raise damaged(where, "members that overlap")
