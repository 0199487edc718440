"""Find the committed parts of a job, remove broken ones, and report lost ones."""

import errno
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeVar

from bevt_core.dataset.commit_journal import Entry, append_journal, journal_of, read_journal, stamp_of
from bevt_core.dataset.commits import COMMIT, FramePart, TokenPart, part_name
from bevt_core.dataset.frame_store import read_frame_commit, rejected_reasons
from bevt_core.dataset.token_set import read_token_commit
from bevt_core.storage.files import map_in_threads, remove
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from schemas.errors import StorageError
from schemas.frames import FramePartCommit, Plan
from schemas.tokens import TokenPlan

JOURNAL_PARTS = 64  # parts made between two writes to the journals


def frame_commits(frames_dir: AnyPath, plan: Plan, parts: Iterable[int] | None = None) -> dict[int, FramePart]:
    """The committed parts of `plan`, or those of `parts`, by part, in order. Journalled ones are not parsed again."""
    return _frame_parts(frames_dir, plan, parts)[0]


def journal_frame_commits(frames_dir: AnyPath, plan: Plan, parts: Iterable[int] | None = None) -> dict[int, FramePart]:
    """`frame_commits` for the only writer of the store: those that had to be parsed are added to the journal."""
    found, parsed = _frame_parts(frames_dir, plan, parts)
    append_journal(frames_dir, plan.digest(), parsed, journal_of(plan))
    return found


def add_to_frame_journal(frames_dir: AnyPath, plan: Plan, parts: Iterable[int]) -> list[FramePart]:
    """Add the commits of `parts`, which were made just now, to the journal, and return them."""
    digest = plan.digest()
    found, parsed = _collected(_frame_entry(frames_dir, part, digest) for part in parts if part in plan.parts)
    append_journal(frames_dir, digest, parsed, journal_of(plan))
    return list(found.values())


def add_to_token_journal(tokens_dir: AnyPath, frames: Iterable[FramePart], plan: TokenPlan) -> None:
    """Add the commits of the token parts of `frames`, which were made just now, to the journal."""
    digest = plan.digest()
    append_journal(tokens_dir, digest, _collected(_token_entry(tokens_dir, part, digest) for part in frames)[1])


def token_commits(tokens_dir: AnyPath, frames: Iterable[FramePart], plan: TokenPlan) -> dict[int, TokenPart]:
    """The commits of the token parts that are done for these frame parts, by part, in order; as `frame_commits`."""
    return _token_parts(tokens_dir, frames, plan)[0]


def journal_token_commits(tokens_dir: AnyPath, frames: Iterable[FramePart], plan: TokenPlan) -> dict[int, TokenPart]:
    """`token_commits` for the only writer of the set, as `journal_frame_commits`."""
    found, parsed = _token_parts(tokens_dir, frames, plan)
    append_journal(tokens_dir, plan.digest(), parsed)
    return found


def _frame_parts(
    frames_dir: AnyPath, plan: Plan, parts: Iterable[int] | None
) -> tuple[dict[int, FramePart], list[Entry]]:
    """The committed parts, and the journal's entries of those that had to be parsed."""
    digest = plan.digest()
    journal = read_journal(frames_dir, digest, journal_of(plan))

    def committed(part: int) -> tuple[FramePart | None, Entry | None]:
        entry = journal.get(part)
        if entry is not None and entry.is_current(_frame_commit_path(frames_dir, part)):
            sources, samples, frames, rejected, stored, sha256 = entry.facts
            counts = int(sources), int(samples), int(frames), int(rejected), int(stored)
            return FramePart(part, *counts, sha256), None
        return _frame_entry(frames_dir, part, digest)

    wanted = plan.parts if parts is None else [part for part in parts if part in plan.parts]
    return _collected(map_in_threads(committed, wanted, frames_dir))


def _frame_entry(frames_dir: AnyPath, part: int, digest: str) -> tuple[FramePart | None, Entry | None]:
    """Parse the commit of a part; None if the part is not committed."""
    stamp = _stamp(frames_dir, _frame_commit_path(frames_dir, part))  # before the commit is read, which may be replaced
    commit = read_frame_commit(frames_dir, part, digest)
    if commit is None:
        return None, None
    found = FramePart.of(commit)
    sizes = {name: file.num_bytes for name, file in commit.files.items()}
    return found, None if stamp is None else Entry(part, stamp, tuple(map(str, found[1:])), sizes)


def _token_parts(
    tokens_dir: AnyPath, frames: Iterable[FramePart], plan: TokenPlan
) -> tuple[dict[int, TokenPart], list[Entry]]:
    digest = plan.digest()
    journal = read_journal(tokens_dir, digest)

    def committed(frame_part: FramePart) -> tuple[TokenPart | None, Entry | None]:
        part = frame_part.part
        entry = journal.get(part)
        is_of_frames = entry is not None and entry.facts[1] == frame_part.sha256
        if entry is not None and is_of_frames and entry.is_current(_token_commit_path(tokens_dir, part)):
            return TokenPart(part, int(entry.facts[0]), *entry.facts[1:]), None
        return _token_entry(tokens_dir, frame_part, digest)

    return _collected(map_in_threads(committed, frames, tokens_dir))


def _token_entry(tokens_dir: AnyPath, frames: FramePart, digest: str) -> tuple[TokenPart | None, Entry | None]:
    """Parse the commit of a token part; None if the part is not committed for these frames."""
    stamp = _stamp(tokens_dir, _token_commit_path(tokens_dir, frames.part))
    commit = read_token_commit(tokens_dir, frames, digest)
    if commit is None:
        return None, None
    found = TokenPart.of(commit)
    sizes = {f"{part_name(found.part)}.parquet": commit.num_bytes}
    return found, None if stamp is None else Entry(found.part, stamp, tuple(map(str, found[1:])), sizes)


P = TypeVar("P", FramePart, TokenPart)


def _collected(found: Iterable[tuple[P | None, Entry | None]]) -> tuple[dict[int, P], list[Entry]]:
    parts: dict[int, P] = {}
    parsed: list[Entry] = []
    for part, entry in found:
        if part is not None:
            parts[part.part] = part
        if entry is not None:
            parsed.append(entry)
    return parts, parsed


def _frame_commit_path(frames_dir: AnyPath, part: int) -> str:
    return f"{frames_dir}/{part_name(part)}/{COMMIT}"


def _token_commit_path(tokens_dir: AnyPath, part: int) -> str:
    return f"{tokens_dir}/{part_name(part)}.json"


def _stamp(folder: AnyPath, path: str) -> str | None:
    """The stamp of a commit file; None if it does not exist, or is on an object store."""
    try:
        return stamp_of(path) if isinstance(folder, Path) else None
    except OSError:
        return None


def check_complete(folder: AnyPath, done: Collection[int], num_parts: int) -> None:
    """Raise StorageError if a part is missing from `folder`, although this job has committed all of them."""
    lost = sorted(set(range(num_parts)) - set(done))
    if lost:
        raise lost_part_error(folder, lost[0], f" and {len(lost) - 1} more" if len(lost) > 1 else "")


def lost_part_error(folder: AnyPath, part: int, more: str = "") -> StorageError:
    """The error for a part that disappeared after this job committed it."""
    return StorageError(
        errno.ENOENT,
        f"{folder / part_name(part)}{more}: removed or changed after this job committed it, perhaps by another job. "
        "Run the same command again: finished parts are kept",
    )


def count_missing(frames_dir: AnyPath, commit: FramePartCommit | FramePart) -> int:
    """The number of a part's rejected sources that did not exist."""
    if not commit.num_rejected:
        return 0
    return rejected_reasons(frames_dir, commit.part).count("missing")


def drop_broken_parts(frames_dir: AnyPath, plan: Plan, done: Collection[int]) -> None:
    """Remove part folders without a valid commit, since writers never replace a folder.

    Nothing is removed from an object store: writers replace parts there, and another driver may be writing one.
    """
    if storage_of(frames_dir).replaces_folders:
        return
    for part in plan.parts:
        folder = frames_dir / part_name(part)
        if part not in done and folder.is_dir() and read_frame_commit(frames_dir, part, plan.digest()) is None:
            remove(folder)
