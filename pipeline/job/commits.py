"""Find the committed parts of a job, remove broken ones, and report lost ones."""

import errno
from collections.abc import Collection, Iterable

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_store import read_frame_commit, rejected_reasons
from bevt_core.dataset.token_set import read_token_commit
from bevt_core.storage.files import map_in_threads, remove
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from schemas.errors import StorageError
from schemas.frames import FramePartCommit, Plan
from schemas.tokens import TokenPartCommit, TokenPlan


def frame_commits(frames_dir: AnyPath, plan: Plan, parts: Iterable[int] | None = None) -> dict[int, FramePartCommit]:
    """The commits of those of `parts` (default: all) that are done, by part, in order."""
    digest = plan.digest()
    wanted = range(plan.num_parts) if parts is None else parts
    found = map_in_threads(lambda part: read_frame_commit(frames_dir, part, digest), wanted, frames_dir)
    return {commit.part: commit for commit in found if commit is not None}


def token_commits(
    tokens_dir: AnyPath, frames: Iterable[FramePartCommit], plan: TokenPlan
) -> dict[int, TokenPartCommit]:
    """The commits of the token parts that are done for these frame parts, by part, in order."""
    digest = plan.digest()
    found = map_in_threads(lambda commit: read_token_commit(tokens_dir, commit, digest), frames, tokens_dir)
    return {commit.part: commit for commit in found if commit is not None}


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


def count_missing(frames_dir: AnyPath, commit: FramePartCommit) -> int:
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
    for part in range(plan.num_parts):
        folder = frames_dir / part_name(part)
        if part not in done and folder.is_dir() and read_frame_commit(frames_dir, part, plan.digest()) is None:
            remove(folder)
