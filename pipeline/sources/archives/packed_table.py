"""Where the bytes of every file in the archives of a root are, by path; rows are read from the archives' columns."""

import bisect
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from bevt_core.untrusted.archives.member_table import MemberTable
from pipeline.sources.archives.packed_file import PackedFile


class _Archive(NamedTuple):
    path: str  # relative to the root
    num_bytes: int
    prefix: str  # of the paths of its members
    members: MemberTable


class PackedTable(Mapping[str, PackedFile]):
    """path -> where its bytes are, for all files in archives."""

    def __init__(self) -> None:
        self._archives: list[_Archive] = []
        self._starts: list[int] = []  # the first row of each archive
        self._rows: dict[str, int] = {}

    def add(
        self, archive: str, num_bytes: int, prefix: str, members: MemberTable
    ) -> Iterator[tuple[int, str, str | None]]:
        """Add the members of an archive; yield the row and path of each, and the archive that already has it."""
        self._starts.append(len(self._rows))
        self._archives.append(_Archive(archive, num_bytes, prefix, members))
        for name in members.names:
            path, row = prefix + name, len(self._rows)
            other = self._rows.setdefault(path, row)
            yield row, path, None if other == row else self._archives[self._archive_of(other)].path

    def __getitem__(self, path: str) -> PackedFile:
        return self.at(self._rows[path])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, path: object) -> bool:
        return path in self._rows

    def row(self, path: str) -> int | None:
        return self._rows.get(path)

    def at(self, row: int) -> PackedFile:
        number = self._archive_of(row)
        archive = self._archives[number]
        member = archive.members[row - self._starts[number]]
        return PackedFile("", archive.path, archive.num_bytes, *member[1:])

    def path_at(self, row: int) -> str:
        number = self._archive_of(row)
        return self._archives[number].prefix + self._archives[number].members.names[row - self._starts[number]]

    def _archive_of(self, row: int) -> int:
        return bisect.bisect_right(self._starts, row) - 1


class PackedSources(Mapping[str, tuple[PackedFile, ...]]):
    """source -> its files in archives: one, or those of a folder of frames; sources on disk are left out."""

    def __init__(
        self, table: PackedTable, sources: Iterable[str], frames: Callable[[str], tuple[PackedFile, ...] | None]
    ) -> None:
        """`frames(source)` are the files of a folder, None if the source is no folder in archives."""
        self._table = table
        self._files = array("q")  # rows of the sources that are files
        self._folders: dict[str, tuple[PackedFile, ...]] = {}
        for source in sources:
            row = table.row(source)
            if row is not None:
                self._files.append(row)
            elif (found := frames(source)) is not None:
                self._folders[source] = found

    def __getitem__(self, source: str) -> tuple[PackedFile, ...]:
        row = self._table.row(source)
        return self._folders[source] if row is None else (self._table.at(row),)

    def __len__(self) -> int:
        return len(self._files) + len(self._folders)

    def __iter__(self) -> Iterator[str]:
        yield from map(self._table.path_at, self._files)
        yield from self._folders
