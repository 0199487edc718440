"""Compressed tars. Gzip cannot be read from the middle, so an index of restart points is made by the first pass.

A restart point is 32 kB, every SPACING_BYTES of the tar; reading a member then decompresses half of that on average.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from bevt_core.untrusted.archives.members import MAX_BYTES, MAX_EXPANSION, Member, damaged
from bevt_core.untrusted.archives.tar_file import tar_members
from schemas.errors import UserError

SPACING_BYTES = 16 << 20
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)


def first_member(file: BinaryIO, size: int, where: object, is_wanted: Callable[[str], bool]) -> str | None:
    """The name of the first wanted file in a compressed tar of `size` bytes, without an index; None if it has none."""
    with _errors_name(where), gzip.GzipFile(fileobj=file) as stream:
        members = _members(cast(BinaryIO, stream), size, where)
        return next((member.name for member in members if is_wanted(member.name)), None)


def index_gzip(file: BinaryIO, size: int, where: object, index: Path) -> list[Member]:
    """List a compressed tar of `size` bytes, and write its restart points to the file `index`.

    A member's `offset` is that in the tar. Raises UserError for a tar that is cut, damaged or hostile, and OSError.
    """
    with _errors_name(where), _indexed(file, where, spacing=SPACING_BYTES) as stream:
        members = list(_members(stream, size, where))
        stream.build_full_index()
        stream.export_index(str(index))
        return members


@contextmanager
def open_indexed(file: BinaryIO, where: object, index: Path) -> Iterator[BinaryIO]:
    """The tar in a gzip file with the restart points in `index`. Raises UserError if these do not belong to it."""
    with _errors_name(where), _indexed(file, where, index_file=str(index)) as stream:
        yield stream


def _indexed(file: BinaryIO, where: object, **options: Any) -> Any:
    try:
        import indexed_gzip
    except ImportError:
        raise UserError(
            f"{where}: a .tar.gz is read with the package indexed_gzip: `pip install 'bevt[gzip]'`; or unpack it to a "
            ".tar with `gunzip`, which takes little more space, since pictures and videos hardly compress"
        ) from None
    return indexed_gzip.IndexedGzipFile(fileobj=file, **options)


def _members(stream: BinaryIO, size: int, where: object) -> Iterator[Member]:
    limit = max(MAX_BYTES, MAX_EXPANSION * size)
    for member in tar_members(stream, 0, limit, where):
        yield member._replace(method="gzip")


@contextmanager
def _errors_name(where: object) -> Iterator[None]:
    """Turn errors about the compressed data into a UserError; those of the disk have a number."""
    try:
        yield
    except _BROKEN as error:
        raise damaged(where, f"not gzip, or damaged ({error})") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise damaged(where, f"not gzip, or damaged ({error})") from None
