"""A data root in which archives are folders: `PackedTree`."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from bevt_core.console.progress import ProgressLine
from bevt_core.media.kinds import kind_of
from bevt_core.storage.objects import AnyPath, ObjectPath
from bevt_core.untrusted.archives.member_table import MemberTable
from bevt_core.untrusted.archives.volumes import size_of_volumes
from pipeline.sources.archives.contents import Archive, contents_of, first_source
from pipeline.sources.archives.names import BY_RANGES, archives_among, folder_of_members, lone_volumes, possible_folders
from pipeline.sources.archives.packed_file import PackedFile
from pipeline.sources.archives.packed_table import PackedSources, PackedTable
from pipeline.sources.archives.webdataset import labels_of_shards
from pipeline.sources.walk.tree import SPLIT_NAMES, ObjectTree, Tree
from schemas.errors import UserError
from schemas.text.plain import shown

MB = 1_000_000
SHOWN_BYTES = 1000 * MB  # of archives in a folder, from which progress is shown


class PackedTree(Tree):
    """The files under a root, and the members of its archives, as if these were unpacked where they are.

    An archive that seems to be unpacked already, because its first video or picture is a file, is left out with a
    warning; so is one without videos and pictures.
    """

    def __init__(self, root: AnyPath, allow_outside: bool = False) -> None:
        super().__init__(root, allow_outside)
        self.warnings: list[str] = []
        self._inside: dict[str, _Inside] = {}  # folder -> what archives have in it
        self._used: dict[str, frozenset[str]] = {}  # folder -> names of the files of its archives
        self._labels: dict[str, str | None] = {}  # path -> text of its label, for rows of Parquet files
        self._has_sidecars = False  # whether there are members that may have labels
        self._packed = PackedTable()

    def is_file(self, path: str) -> bool:
        """Whether a file exists that can be opened by its path, or a source in an archive."""
        return super().is_file(path) and (path not in self._packed or kind_of(path) is not None)

    def frame_names(self, folder: str) -> list[str] | None:
        if folder not in self._inside:
            return super().frame_names(folder)
        return [name for name, is_folder in self._read(folder).items() if not is_folder]

    @property
    def has_archives(self) -> bool:
        """Whether archives were used so far."""
        return bool(self._packed)

    @property
    def has_stored_labels(self) -> bool:
        return bool(self._labels) or self._has_sidecars

    def stored_labels(self, sources: Iterable[str]) -> dict[str, str | None]:
        sources = list(sources)
        in_rows = {source: self._labels[source] for source in sources if source in self._labels}
        return in_rows | labels_of_shards(self.root, self._packed, (path for path in sources if path not in in_rows))

    @property
    def split_parents(self) -> tuple[str, ...]:
        """As for files, `data` if it has Parquet files of the hub, and folders in archives with only splits in them."""
        if self.is_folder("data"):
            self._read("data")
        packed = [folder for folder, inside in self._inside.items() if folder and _are_splits(inside.folders)]
        return (*super().split_parents, *sorted(packed, key=lambda folder: (folder.count("/"), folder)))

    def packed(self, sources: Iterable[str]) -> PackedSources:
        """Where the bytes of each of `sources` are that is in archives."""
        return PackedSources(self._packed, sources, self._frames)

    def _frames(self, folder: str) -> tuple[PackedFile, ...] | None:
        if folder not in self._inside or not self.is_folder(folder):
            return None
        names = self.frame_names(folder) or []
        on_disk = [name for name in names if f"{folder}/{name}" not in self._packed]
        if on_disk:
            raise UserError(
                f"{self.root / folder}: {on_disk[0]} is a file, and other frames are in an archive; unpack all of them"
            )
        return tuple(self._packed[f"{folder}/{name}"]._replace(name=name) for name in names)

    def _scan(self, folder: str) -> dict[str, bool]:
        parts = folder.split("/") if folder else []
        for depth in range(len(parts)):  # an archive in a folder above may contain this one
            above = "/".join(parts[:depth])
            if above not in self._used:
                self._use_archives(above, self._files_in(above))
        entries = self._files_in(folder)
        if folder not in self._used:
            self._use_archives(folder, entries)
        for name in self._used[folder]:
            entries.pop(name, None)
        inside = self._entries_inside(folder)
        for name, is_folder in inside.items():
            if entries.get(name, is_folder) != is_folder or (not is_folder and name in entries):
                raise UserError(
                    f"{self.root / folder / name}: exists, and {self._archive_with(folder, name)} has a member with "
                    "the same path; remove one of them"
                )
        return dict(sorted((entries | inside).items())) if inside else entries

    def _entries_inside(self, folder: str) -> dict[str, bool]:
        """name -> whether it is a folder, of what archives have in a folder."""
        if folder not in self._inside:
            return {}
        inside = self._inside[folder]
        files = (self._packed.path_at(row).rpartition("/")[2] for row in inside.rows)
        return dict.fromkeys(inside.folders, True) | dict.fromkeys(files, False)

    def _files_in(self, folder: str) -> dict[str, bool]:
        """The entries of a folder on disk; empty if it exists only in archives."""
        if folder in self._inside and not (self.root / folder).is_dir():
            return {}
        return super()._scan(folder)

    def _use_archives(self, folder: str, entries: Mapping[str, bool]) -> None:
        """Add the members of the archives in a folder with these entries."""
        self._used[folder] = frozenset()
        names = [name for name, is_folder in entries.items() if not is_folder]
        archives = self._archives(names)
        for name in lone_volumes(names):
            self.warnings.append(
                f"{self.root / folder / name}: not used, since it is one volume of a divided archive and no other is "
                "beside it; put all volumes there"
            )
        for name, files in self._with_progress(folder, archives):
            if self._add(folder, name, files):
                self._used[folder] |= frozenset(files)

    def _archives(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The archives among the files of a folder, each with its volumes."""
        return archives_among(names)

    def _with_progress(self, folder: str, archives: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield the archives in `folder`, with progress on stderr if they are large."""
        sizes = {
            name: size_of_volumes([self.root / folder / file for file in files]) for name, files in archives.items()
        }
        if sum(sizes.values()) < SHOWN_BYTES:
            yield from archives.items()
            return
        with ProgressLine("list archives", sum(sizes.values()) // MB, unit="MB") as progress:
            for name, files in archives.items():
                yield name, files
                progress.add(sizes[name] // MB)

    def _archive_with(self, folder: str, name: str) -> str:
        path = f"{folder}/{name}" if folder else name
        return next(file.archive for at, file in self._packed.items() if at == path or at.startswith(f"{path}/"))

    def _add(self, folder: str, name: str, files: Sequence[str]) -> bool:
        """Add the members of an archive in `folder`; returns False if it is left out."""
        archive = Archive(name, tuple(self.root / folder / file for file in files))
        first = first_source(archive)
        if first is None:
            return False
        unpacked = [self.root / folder / below / first for below in possible_folders(name)]
        existing = next((path for path in unpacked if path.exists()), None)
        if existing is not None:
            self.warnings.append(
                f"{archive.paths[0]}: not used, since {existing} exists: it seems to be unpacked; remove one of them"
            )
            return False
        contents = contents_of(archive)
        if contents.classes and self.classes not in ((), contents.classes):
            raise UserError(f"{archive.paths[0]}: its class names differ from those of other files below {self.root}")
        self.classes = contents.classes or self.classes
        below = folder_of_members(name, contents.members.names, PurePosixPath(folder).name)
        prefix = "".join(f"{part}/" for part in (folder, below) if part)
        self._add_members(f"{folder}/{files[0]}" if folder else files[0], archive, prefix, contents.members)
        self._has_sidecars |= any(member.endswith((".cls", ".json")) for member in contents.members.names)
        self._labels |= {prefix + member: text for member, text in contents.labels.items()}
        return True

    def _add_members(self, relative: str, archive: Archive, prefix: str, members: MemberTable) -> None:
        for row, path, other in self._packed.add(relative, size_of_volumes(archive.paths), prefix, members):
            if other is not None:
                places = f"twice in {relative}" if other == relative else f"in {other} and {relative}"
                raise UserError(f"{self.root}: {shown(path)} is {places}; remove one, or unpack them")
            if path in self._inside:
                raise self._two_kinds(path)
            self._folder(path.rpartition("/")[0]).rows.append(row)

    def _folder(self, path: str) -> "_Inside":
        """What archives have in a folder; it is made with the folders above it."""
        if path not in self._inside:
            if path in self._packed:
                raise self._two_kinds(path)
            self._inside[path] = _Inside([], array("q"))
            if path:
                parent, _, name = path.rpartition("/")
                self._folder(parent).folders.append(name)
        return self._inside[path]

    def _two_kinds(self, path: str) -> UserError:
        return UserError(
            f"{self.root}: {shown(path)} is a file and a folder in {self._packed[path].archive}; make it again"
        )


class PackedObjectTree(PackedTree, ObjectTree):
    """The same under a prefix of an object store, for tars and zips; their members are read by ranges."""

    def __init__(self, root: ObjectPath) -> None:
        super().__init__(root)

    def _archives(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        found = super()._archives(names)
        return {name: files for name, files in found.items() if name.lower().endswith(BY_RANGES)}


class _Inside(NamedTuple):
    """What archives have in a folder."""

    folders: list[str]  # names
    rows: "array[int]"  # of its files in the table


def _are_splits(folders: Iterable[str]) -> bool:
    """Whether the folders in a folder are those of splits, training among them, so that none of them is a class."""
    names = {name.lower() for name in folders}
    return names <= set(SPLIT_NAMES) and bool(names & {"train", "training"}) and len(names) > 1
