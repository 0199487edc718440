"""The members of one archive file, those of tars inside a tar among them."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bevt_core.media.kinds import kind_of
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.archives.gzip_file import first_member
from bevt_core.untrusted.archives.hub_parquet import hub_rows
from bevt_core.untrusted.archives.member_table import MemberTable
from bevt_core.untrusted.archives.members import Member
from bevt_core.untrusted.archives.tar_file import tar_members
from bevt_core.untrusted.archives.volumes import open_volumes, size_of_volumes
from bevt_core.untrusted.archives.zip_file import zip_members
from bevt_core.untrusted.files import unreadable
from pipeline.sources.archives.gzip_index import members_of_gzip
from pipeline.sources.archives.kept_members import kept_members
from pipeline.sources.archives.names import folder_of_members, is_visible
from schemas.errors import UserError

GZIP = (".tar.gz", ".tgz")


class Archive(NamedTuple):
    """An archive: its name, and its file or the volumes into which it is divided."""

    name: str
    paths: tuple[AnyPath, ...]

    @property
    def local_paths(self) -> tuple[Path, ...]:
        """The same as paths on a disk, for kinds that are read only there."""
        return tuple(Path(str(path)) for path in self.paths)


@dataclass(frozen=True)
class Contents:
    """The visible files in an archive, named by their paths in it."""

    members: MemberTable
    labels: Mapping[str, str | None] = field(default_factory=dict)  # of a Parquet file: member -> text; None: no label
    classes: tuple[str, ...] = ()  # class names by label, if the archive defines them


def contents_of(archive: Archive) -> Contents:
    """The contents of an archive; read again only if the archive has changed.

    Raises UserError for a damaged or hostile archive, StorageError if the disk fails.
    """
    return _contents(archive, _versions(archive))


def first_source(archive: Archive) -> str | None:
    """The name of the first video or picture in an archive; None if it has none. The rest of a tar is not read."""
    return _first_source(archive, _versions(archive))


def _versions(archive: Archive) -> tuple[str, ...]:
    """The version of each file of an archive."""
    for path in archive.paths:
        if storage_of(path).is_irregular():
            raise UserError(f"{path}: not a regular file, expected an archive")
    return tuple(storage_of(path).version() for path in archive.paths)


@functools.cache
def _first_source(archive: Archive, versions: object) -> str | None:
    path = archive.paths[0]
    if storage_of(path).is_remote:
        members: Iterable[Member] = contents_of(archive).members
    elif archive.name.lower().endswith(GZIP):
        with _unreadable(path), open_volumes(archive.paths) as file:
            return first_member(file, size_of_volumes(archive.paths), path, _is_source)
    else:
        members = contents_of(archive).members if _is_parquet(archive) else _members(archive)
    return next((member.name for member in members if _is_source(member.name)), None)


@functools.cache
def _contents(archive: Archive, versions: object) -> Contents:
    if storage_of(archive.paths[0]).is_remote:
        return Contents(kept_members(archive.paths, versions, lambda: _members(archive)))
    if not _is_parquet(archive):
        return Contents(MemberTable(_members(archive)))
    path = archive.paths[0]
    with _unreadable(path):
        rows = hub_rows(archive.local_paths[0], _is_source)
    if rows is None:
        return Contents(MemberTable())
    return Contents(MemberTable(rows.members), rows.labels, rows.classes)


def _is_source(name: str) -> bool:
    return kind_of(name) is not None and is_visible(name)


def _is_parquet(archive: Archive) -> bool:
    return archive.name.lower().endswith(".parquet")


@contextmanager
def _unreadable(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unreadable(error, path) from None


def _members(archive: Archive) -> Iterator[Member]:
    """The visible members of a tar or zip."""
    path, name = archive.paths[0], archive.name.lower()
    with _unreadable(path):
        if name.endswith(GZIP):
            yield from (member for member in members_of_gzip(archive.local_paths) if is_visible(member.name))
            return
        with open_volumes(archive.paths) as file:
            size = size_of_volumes(archive.paths)
            found = zip_members(file, size, path) if name.endswith(".zip") else _tar(file, size, path)
            yield from (member for member in found if is_visible(member.name))


def _tar(file: BinaryIO, size: int, path: AnyPath) -> Iterator[Member]:
    """The members of a tar. A tar among them, such as those of ImageNet's classes, is replaced by its members."""
    for member in tar_members(file, 0, size, path):
        if not member.name.lower().endswith(".tar") or not is_visible(member.name):
            yield member
            continue
        stop = member.offset + member.stored_bytes
        inner = [
            found
            for found in tar_members(file, member.offset, stop, f"{path}: {member.name}")
            if is_visible(found.name)
        ]
        parent, _, name = member.name.rpartition("/")
        folder = folder_of_members(name, (found.name for found in inner))
        prefix = "".join(f"{part}/" for part in (parent, folder) if part)
        yield from (found._replace(name=prefix + found.name) for found in inner)
