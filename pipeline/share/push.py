"""`bevt push`: frame stores and token sets to a dataset repository on the Hugging Face Hub.

Files go up in commits of many files each, in the order of `StoredSet.files`: the manifest of a set comes last, and that
of an older version is removed first, so that no revision of the repository looks finished and is not. Files that the
repository has, by their digests, are skipped, so a repeated push continues an interrupted one.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bevt_core.console.progress import ProgressLine
from bevt_core.hub import client
from bevt_core.hub.client import ATTEMPTS, HubUnreachableError
from bevt_core.hub.files import RemoteFile, equals, git_digest_of
from bevt_core.hub.repository import Listing, Visibility, commit, list_dataset, make_repository
from bevt_core.storage.files import size_of
from bevt_core.storage.one_writer import reading
from pipeline.share.card import README, card, sets_in
from pipeline.share.sets import EXTENSION_FILE, MANIFEST, OPTIONAL_FILES, StoredSet, kind_of, sets_at
from schemas.errors import UserError
from schemas.text.hub_name import HubName

COMMAND = "bevt push"
MAX_FILES = 256  # per commit: as many as the client names in a request; the Hub limits commits per hour
MAX_BYTES = 4 << 30  # per commit, so that an interruption costs minutes
MAX_ROUNDS = 3  # of pushing all that is missing; a second one is needed if another writer came first


class Upload(NamedTuple):
    """A file to push: its path in the repository, its content, and its SHA-256 if a commit of the dataset has it."""

    path: str
    source: Path | bytes
    sha256: str | None = None

    @property
    def num_bytes(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else size_of(self.source)


class Todo(NamedTuple):
    """What makes a repository equal to the local sets."""

    uploads: list[Upload]
    stale: list[str]  # paths to remove
    replaced: list[str]  # manifests of older versions
    num_files: int  # of the sets, with those that the repository has


def push(
    path: Path, to: HubName, *, visibility: Visibility = "as-is", message: str = "Add a dataset made by bevt"
) -> dict[str, Any]:
    """Push all finished sets of the dataset `path`, or the frame store or token set `path`, to the repository `to`.

    Returns `pushed` (the name with its commit), the paths of the `sets`, and the numbers `files`, `uploaded` and
    `bytes_uploaded`. Raises UserError for a set that is not finished or damaged, if the repository cannot be written,
    and if another writer changes it meanwhile; UserError or StorageError if the connection fails for long.
    """
    sets = sets_at(path)
    uploaded = num_bytes = failures = rounds = 0
    with reading([stored.folder for stored in sets], COMMAND):
        make_repository(to, "dataset", visibility)
        while True:
            listing = list_dataset(to)
            todo = todo_for(sets, listing)
            if not todo.uploads and not todo.stale:
                break
            if rounds == MAX_ROUNDS:
                lost = todo.uploads[0].path if todo.uploads else todo.stale[0]
                raise UserError(f"{to}: {lost} was pushed, but the repository does not have it; check its .gitignore")
            try:
                for upload in _push_all(to, todo, message, listing.commit):
                    uploaded, num_bytes, failures = uploaded + 1, num_bytes + upload.num_bytes, 0
                rounds += 1
            except HubUnreachableError as error:
                failures += 1  # the commit may have arrived: list again
                if failures == ATTEMPTS:
                    raise
                time.sleep(error.asked_wait_s or client.FIRST_WAIT_S * 2**failures)
    facts = {"pushed": str(to.at(listing.commit)), "sets": [stored.prefix for stored in sets]}
    return facts | {"files": todo.num_files, "uploaded": uploaded, "bytes_uploaded": num_bytes}


def todo_for(sets: Sequence[StoredSet], listing: Listing) -> Todo:
    """Return what the repository lacks. Raises UserError for a damaged set."""
    uploads: list[Upload] = []
    stale: list[str] = []
    replaced: list[str] = []
    num_files = 0
    for stored in sets:
        wanted = [Upload(f"{stored.prefix}/{name}", stored.folder / name, sha256) for name, sha256 in stored.files()]
        missing = [upload for upload in wanted if not is_pushed(upload, listing.files.get(upload.path))]
        names = {upload.path for upload in wanted}
        old = [path for path in listing.files if path not in names and _is_ours(stored.prefix, path)]
        manifest = f"{stored.prefix}/{MANIFEST}"
        if (missing or old) and manifest in listing.files:
            replaced.append(manifest)
            missing = [upload for upload in missing if upload.path != manifest] + wanted[-1:]
        uploads, stale, num_files = uploads + missing, stale + old, num_files + len(wanted)
    readme = _readme(sets, listing)
    return Todo([*readme, *uploads], stale, replaced, num_files)


def is_pushed(upload: Upload, remote: RemoteFile | None) -> bool:
    """Return whether the repository has the file. A file whose SHA-256 is known on both sides is not read."""
    if remote is None or not isinstance(upload.source, Path):
        return False
    if upload.sha256 is not None and len(remote.digest) == len(upload.sha256):
        return upload.sha256 == remote.digest and upload.num_bytes == remote.size
    return equals(upload.source, remote)


def _is_ours(prefix: str, path: str) -> bool:
    """Whether a path in the repository is one that a push of this set may have written."""
    name = path.removeprefix(f"{prefix}/")
    if name == path:
        return False
    optional = name in OPTIONAL_FILES[kind_of(prefix)] or EXTENSION_FILE.fullmatch(name) is not None
    return optional or name.startswith("part-")


def _readme(sets: Sequence[StoredSet], listing: Listing) -> list[Upload]:
    """The dataset's card, unless the repository has one that its owner has written."""
    there = sets_in(listing.files)
    data = card({*there, *(stored.prefix for stored in sets)}).encode()
    remote = listing.files.get(README)
    if remote is not None and remote.digest != git_digest_of(card(there).encode()):
        return []
    return [] if remote is not None and remote.digest == git_digest_of(data) else [Upload(README, data)]


def _push_all(to: HubName, todo: Todo, message: str, parent: str) -> Iterator[Upload]:
    """Push in batches on `parent`; yields what has arrived."""
    batches = list(_batches(todo.uploads)) or [[]]
    done, total = 0, sum(map(len, batches))
    with ProgressLine(f"push {to.repository}", total, unit="files") as line:
        for number, batch in enumerate(batches):
            removed = todo.stale if number == len(batches) - 1 else []
            if number == 0 and len(batches) > 1:  # a single commit replaces the manifest at once
                removed = [*removed, *todo.replaced]
            part = f" ({number + 1} of {len(batches)})" if len(batches) > 1 else ""
            known = {upload.path: upload.sha256 for upload in batch if upload.sha256 is not None}
            files = {upload.path: upload.source for upload in batch}
            parent = commit(to, "dataset", files, message + part, parent=parent, removed=removed, sha256=known)
            done += len(batch)
            line.update(done)
            yield from batch


def _batches(uploads: Sequence[Upload]) -> Iterator[list[Upload]]:
    batch: list[Upload] = []
    num_bytes = 0
    for upload in uploads:
        if batch and (len(batch) == MAX_FILES or num_bytes + upload.num_bytes > MAX_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(upload)
        num_bytes += upload.num_bytes
    if batch:
        yield batch
