"""Recursive listings of a data root, in a fixed order, that never lead out of it."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from bevt_core.console.inert import one_line
from bevt_core.console.progress import ProgressLine
from bevt_core.media.kinds import is_hidden
from bevt_core.storage.local import is_below
from bevt_core.storage.objects import AnyPath, ObjectPath
from bevt_core.untrusted.files import unreadable
from pipeline.sources.walk.kept_folders import KeptFolders
from schemas.errors import UserError
from schemas.text.names import ALLOW, leads_out

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")  # folders that mean splits
QUIET_S = 5.0  # before the progress of a listing is shown
FILES_BETWEEN = 1000  # files listed between two looks at the clock
NAME_BYTES = 255  # the longest file name of local file systems


class Tree:
    """The files under `root`, by relative path, without hidden and system files.

    A folder is read once, and again if it is walked before a file in it is looked up.
    Raises UserError for a folder without read permission.
    """

    root: AnyPath
    classes: tuple[str, ...] = ()  # class names by label, used if no file defines them

    def __init__(self, root: AnyPath, allow_outside: bool = False) -> None:
        """`allow_outside` permits links and list lines that lead out of the root."""
        self.root = root
        self._disk = Path(str(root))
        self.allow_outside = allow_outside
        self._real_root = os.path.realpath(self._disk)
        self._folders: dict[str, dict[str, bool]] = {}
        self._kept = KeptFolders(self._disk)

    def files(self, under: str = "") -> Iterator[str]:
        """Yield all files below `under`, depth first, by name. Raises UserError for links out of the root."""
        began, shown = time.monotonic(), None
        with contextlib.ExitStack() as stack:
            for count, path in enumerate(self._walk(under, ancestors=()), start=1):
                if count % FILES_BETWEEN == 0 and time.monotonic() - began > QUIET_S:
                    shown = shown or stack.enter_context(ProgressLine(f"list {one_line(str(self.root))}", unit="files"))
                    shown.update(count)
                yield path

    def folders(self, under: str = "") -> list[str]:
        """The names of the folders directly in `under`."""
        return [name for name, is_folder in self._read(under).items() if is_folder]

    def is_folder(self, path: str) -> bool:
        return self._entry(path) is True

    def is_file(self, path: str) -> bool:
        return self._entry(path) is False

    def path_inside(self, path: str, where: str) -> str:
        """Return a list's path, normalised and relative to the root. Raises UserError if it leads out of the root."""
        if "\0" in path or path != path.encode(errors="replace").decode():
            raise UserError(f"{where}: {path!r} is not a file name: it contains a NUL or is not valid UTF-8")
        for root in self._roots():
            if path.startswith(f"{root}/"):
                path = path.removeprefix(f"{root}/").lstrip("/")
        normal = os.path.normpath(path)
        if normal == ".":
            raise UserError(f"{where}: {path!r} names no file")
        if not self.allow_outside and leads_out(normal) is not None:
            raise UserError(f"{where}: {path!r} leads out of the root {self.root}; {ALLOW}")
        if not self.allow_outside and any(name.startswith(".") for name in PurePosixPath(normal).parts):
            raise UserError(f"{where}: {path!r}: files and folders whose names begin with a dot are ignored; rename it")
        return normal

    def frame_names(self, folder: str) -> list[str] | None:
        """The names of the files in a folder of frames, which are not sources themselves; None on an object store.

        Raises UserError for a link out of the root.
        """
        names = []
        try:
            with os.scandir(self._disk / folder) as scan:
                for entry in scan:
                    if entry.is_symlink() and not self.allow_outside:
                        self._check_link(entry.path)
                    if not entry.is_dir():
                        names.append(entry.name)
        except OSError as error:
            raise unreadable(error, self._disk / folder) from None
        return names

    @property
    def has_stored_labels(self) -> bool:
        """Whether an archive that was listed so far has labels in it."""
        return False

    def stored_labels(self, sources: Iterable[str]) -> dict[str, str | None]:
        """source -> the text of its label, None without one, for sources in archives whose folders are no classes."""
        return {}

    @property
    def split_parents(self) -> tuple[str, ...]:
        """The folders that may contain folders of splits."""
        return ("", "videos")

    def _roots(self) -> list[str]:
        """The forms of the root with which an absolute path inside it may begin."""
        return list(dict.fromkeys([str(self._disk.absolute()), self._real_root]))

    def _entry(self, path: str) -> bool | None:
        """True for a folder, False for a file, None if it does not exist."""
        parent, name = os.path.split(path)
        if not path or path == ".":
            return True
        if path.startswith(("../", "/")):  # allowed by `path_inside`
            try:
                return (self._disk / path).is_dir() if (self._disk / path).exists() else None
            except OSError:  # no permission, or an impossible name
                return None
        if parent and not self.is_folder(parent):
            return None
        return self._read(parent).get(name)

    def _walk(self, under: str, ancestors: tuple[str, ...]) -> Iterator[str]:
        real = os.path.realpath(self._disk / under)
        if real in ancestors:
            raise UserError(f"{self.root / under}: a link that leads back to a folder above it; remove it")
        # not kept: the names of a million files are 0.2 GB
        for name, is_folder in (self._folders.get(under) or self._scan(under)).items():
            path = f"{under}/{name}" if under else name
            if is_folder:
                yield from self._walk(path, (*ancestors, real))
            else:
                yield path

    def _read(self, folder: str) -> dict[str, bool]:
        """name -> whether it is a folder, sorted by name."""
        if folder not in self._folders:
            self._folders[folder] = self._scan(folder)
        return self._folders[folder]

    def keep(self) -> None:
        """Keep the names in the folders that were read, for the next listing of the root."""
        self._kept.write()

    def _scan(self, folder: str) -> dict[str, bool]:
        stamp = self._kept.stamp(folder)
        kept = self._kept.entries(folder, stamp)
        if kept is not None:
            return kept
        path = self._disk / folder
        found: dict[str, bool] = {}
        has_links = False
        try:
            with os.scandir(path) as scan:
                for entry in scan:
                    if is_hidden(entry.name):
                        continue
                    if entry.is_symlink():
                        self._check_link(entry.path)
                        has_links = True  # its target may change without a change of this folder
                    found[_utf8_name(entry.name, path)] = entry.is_dir()
        except OSError as error:
            raise unreadable(error, path) from None
        entries = {name: found[name] for name in sorted(found)}
        if not has_links:
            self._kept.add(folder, stamp, entries)
        return entries

    def _check_link(self, path: str) -> None:
        target = os.path.realpath(path)
        if not self.allow_outside and not is_below(target, self._real_root):
            raise UserError(f"{path}: a link to {target}, out of the root {self.root}; {ALLOW}")


class ObjectTree(Tree):
    """A tree under a prefix of an object store, which has no links."""

    def __init__(self, root: AnyPath, allow_outside: bool = False) -> None:
        self.root = root
        self.allow_outside = False
        self._folders = {}

    def _walk(self, under: str, ancestors: tuple[str, ...]) -> Iterator[str]:
        for name, is_folder in self._read(under).items():
            path = f"{under}/{name}" if under else name
            if is_folder:
                yield from self._walk(path, ())
            else:
                yield path

    def keep(self) -> None:
        """Do nothing: prefixes have no time of change by which a kept list could be checked."""

    def frame_names(self, folder: str) -> list[str] | None:
        """Always None: requests for a hundred thousand folders would take hours."""
        return None

    def _roots(self) -> list[str]:
        return [str(self.root)]

    def _scan(self, folder: str) -> dict[str, bool]:
        place = self.root / folder
        assert isinstance(place, ObjectPath)
        entries = {name: is_dir for name, is_dir in place.entries().items() if not is_hidden(name)}
        for name in entries:
            if len(name.encode()) > NAME_BYTES:
                raise UserError(f"{place / name}: the name exceeds {NAME_BYTES} bytes; rename it")
        return entries


def _utf8_name(name: str, folder: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: the file name {os.fsencode(name)!r} is not UTF-8; rename it") from None
    return name
