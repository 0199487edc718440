"""A journal of the commits of a folder of parts, so that a job that resumes does not parse each of them again.

    <folder>/.commits   a line with the digest of the plan, then a line per part, each with its CRC-32
    <folder>/.commits-N   the same for the plan of an extension, whose first part is N

The commits decide. A line counts only if its commit file is unchanged since the line was written (same time of change,
inode and size) and all files of the part have the committed sizes. Otherwise, or if the line is damaged, the commit is
read. So the journal may be stale, torn, of another dataset or missing at any time. Local disks only.
"""

import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bevt_core.console.disk_errors import explaining
from bevt_core.storage.files import read_bounded, write_atomic
from bevt_core.storage.objects import AnyPath
from schemas.errors import UserError
from schemas.frames import Plan

JOURNAL = ".commits"
MAX_BYTES = 2 << 30  # about 500 bytes a line


class Entry(NamedTuple):
    """A commit in the journal. `path` is its file, relative to the folder; the paths in `sizes` are relative to it."""

    part: int
    stamp: str  # of the commit file, see `stamp_of`
    facts: tuple[str, ...]  # what the job needs of the commit: words without commas and white space
    sizes: Mapping[str, int]  # size in bytes of each file of the part, by path relative to the folder of its commit

    def is_current(self, commit: str) -> bool:
        """Whether the commit file `commit` is that of this entry, and the files of the part have their sizes."""
        base = commit[: commit.rfind("/") + 1]
        try:
            return stamp_of(commit) == self.stamp and all(
                os.stat(base + name).st_size == size  # noqa: PTH116
                for name, size in self.sizes.items()
            )
        except OSError:
            return False


def stamp_of(path: str) -> str:
    """What changes if a file is written or replaced: times of modification and of change, inode, size."""
    found = os.stat(path)  # noqa: PTH116 - called for every part
    return f"{found.st_mtime_ns},{found.st_ctime_ns},{found.st_ino},{found.st_size}"


def journal_of(plan: Plan) -> str:
    """The name of the journal of the frame parts of `plan`."""
    return f"{JOURNAL}-{plan.first_part}" if plan.first_part else JOURNAL


def read_journal(folder: AnyPath, plan_digest: str, name: str = JOURNAL) -> dict[int, Entry]:
    """The entries by part, for the plan with this digest. Empty without a journal, or if it cannot be read."""
    if not isinstance(folder, Path):
        return {}
    try:
        lines = read_bounded(folder / name, MAX_BYTES).decode().split("\n")
    except (OSError, UserError, UnicodeDecodeError):
        return {}
    if lines[0] != _line(plan_digest):
        return {}
    entries = (_parsed(line) for line in lines[1:])
    return {entry.part: entry for entry in entries if entry is not None}


def append_journal(folder: AnyPath, plan_digest: str, entries: Iterable[Entry], name: str = JOURNAL) -> None:
    """Add entries; a journal of another plan is replaced. Does nothing on an object store. Raises StorageError."""
    if not isinstance(folder, Path):
        return
    lines = "".join(f"{_line(_text_of(entry))}\n" for entry in entries)
    if not lines:
        return
    path, first = folder / name, f"{_line(plan_digest)}\n".encode()
    try:
        with path.open("rb") as file:
            is_same = file.read(len(first)) == first
    except OSError:
        is_same = False
    if not is_same:
        write_atomic(path, first + lines.encode())
        return
    with explaining(path), path.open("ab") as file:
        file.write(b"\n" + lines.encode())  # the last line may be torn


def _line(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}\t{text}"


def _text_of(entry: Entry) -> str:
    sizes = ",".join(f"{name}={size}" for name, size in entry.sizes.items())
    return f"{entry.part}\t{entry.stamp}\t{','.join(entry.facts)}\t{sizes}"


def _parsed(line: str) -> Entry | None:
    """The entry of a line, or None if the line is empty, torn or damaged."""
    crc, _, text = line.partition("\t")
    if crc != f"{zlib.crc32(text.encode()):08x}":
        return None
    try:
        part, stamp, facts, sizes = text.split("\t")
        by_name = dict(item.split("=") for item in sizes.split(","))
        return Entry(int(part), stamp, tuple(facts.split(",")), {name: int(size) for name, size in by_name.items()})
    except ValueError:
        return None
