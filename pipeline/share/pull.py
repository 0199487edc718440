"""`bevt pull`: frame stores and token sets from a dataset repository on the Hugging Face Hub.

Nothing is trusted: names come from validated commits, sizes are limited, and every file is compared with the digest in
its commit before the part is published. The manifest is written last. Parts from an earlier call are kept.
"""

import itertools
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from bevt_core.console.progress import ProgressLine
from bevt_core.console.terminal import note, warn
from bevt_core.hub.files import digest_like, equals
from bevt_core.hub.repository import Listing, download, list_dataset, quiet
from bevt_core.storage.files import MAX_RECORD_BYTES, read_record, remove, sha256_of, size_of, write_atomic
from bevt_core.storage.one_writer import hold
from bevt_core.storage.staging import fsync_dir, fsync_tree, working_folder
from bevt_core.system import write_through
from pipeline.share.card import sets_in
from pipeline.share.sets import (
    FRAMES,
    MANIFEST,
    OPTIONAL_FILES,
    PLAN,
    TOKENS,
    Manifest,
    PartCommit,
    check_parts_digest,
    commit_path,
    commit_type,
    files_of_part,
    kind_of,
    manifest_type,
    plan_files,
)
from schemas.errors import UserError
from schemas.frames import MAX_TABLE_BYTES, FrameStoreManifest, Plan
from schemas.text.hub_name import HubName
from schemas.text.plain import short
from schemas.tokens import TokenPlan, TokenSetManifest

COMMAND = "bevt pull"
THREADS = 8  # parts in flight: small files spend most of their time waiting
ATTEMPTS = 2  # of a file whose digest differs
MAX_OTHER_BYTES = {".parquet": MAX_TABLE_BYTES, ".arrow": 16 << 30}  # by suffix; other files: MAX_RECORD_BYTES
SHOWN = 3
R = TypeVar("R", bound=BaseModel)


class Source(NamedTuple):
    """A set in a repository, and the folder to make of it."""

    name: HubName  # pinned
    listing: Listing
    prefix: str
    out: Path  # the dataset

    @property
    def folder(self) -> Path:
        return self.out / self.prefix

    @property
    def where(self) -> str:
        return f"{self.name}: {self.prefix}"


def pull(name: HubName, out: Path) -> dict[str, Any]:
    """Download the finished sets of a repository to the dataset `out`; returns `pulled` (the name with its commit).

    Also returns `out`, the paths of the `sets`, and the numbers `parts`, `fetched` (of these) and `bytes_fetched`.
    Raises UserError if the repository has no finished set, if `out` contains other data, and if a digest differs.
    """
    listing = list_dataset(name)
    pinned = name.at(listing.commit)
    sets = sets_in(listing.files)
    _check_found(pinned, sets, listing.files)
    facts = {"parts": 0, "fetched": 0, "bytes_fetched": 0}
    with hold(out, COMMAND), quiet():
        for prefix in sets:
            for key, number in _pull_set(Source(pinned, listing, prefix, out)).items():
                facts[key] += number
    if FRAMES not in sets and not (out / FRAMES / MANIFEST).is_file():
        note(f"{out}: has tokens but no frames; training needs both: put the frame store they were made from there")
    return {"out": str(out), "pulled": str(pinned), "sets": sets, **facts}


def _check_found(name: HubName, sets: list[str], paths: Iterable[str]) -> None:
    begun = {path.removesuffix(f"/{PLAN}") for path in paths if path.endswith(f"/{PLAN}")} - {*sets}
    if not sets:
        found = ", ".join(sorted(paths)[:SHOWN]) or "no files"
        what = f"{min(begun)} is not finished; run its `bevt push` again" if begun else f"no dataset (found: {found})"
        raise UserError(f"{name}: {what}; expected what `bevt push` wrote")
    for prefix in sorted(begun):
        warn(f"{name}: {prefix} is not finished, and is left out")


def _pull_set(source: Source) -> dict[str, int]:
    with working_folder(source.out) as work:
        manifest_path = _fetch(source, MANIFEST, work)
        manifest = _record(source, manifest_path, manifest_type(source.prefix))
        others = plan_files(manifest)
        plans = {name: _fetch(source, name, work) for name in others if name.endswith(".json")}
        _check_plans(source, plans, manifest)
        _check_folder(source, {**plans, MANIFEST: manifest_path}, manifest)
        source.folder.mkdir(parents=True, exist_ok=True)
        for name, path in plans.items():
            write_atomic(source.folder / name, path.read_bytes())
        optional = OPTIONAL_FILES[kind_of(source.prefix)]
        others += [name for name in optional if f"{source.prefix}/{name}" in source.listing.files]
        for name in others:
            target = source.folder / name
            if not (target.is_file() and equals(target, source.listing.files[f"{source.prefix}/{name}"])):
                _publish(_fetch(source, name, work), target)
        commits, facts = _pull_parts(source, manifest)
        check_parts_digest(source.where, manifest, commits)
        write_atomic(source.folder / MANIFEST, manifest_path.read_bytes())
    return facts


def _check_plans(source: Source, paths: Mapping[str, Path], manifest: Manifest) -> None:
    """Raise UserError unless the plan, and those of the extensions in their order, are those of the manifest."""
    if isinstance(manifest, FrameStoreManifest):
        plans = [_record(source, path, Plan) for path in paths.values()]
        agrees = plans[-1].digest() == manifest.plan_digest
        agrees &= all(later.extends == earlier.digest() for earlier, later in itertools.pairwise(plans))
    else:
        plan = _record(source, paths[PLAN], TokenPlan)
        agrees = plan.name == manifest.name == source.prefix.removeprefix(f"{TOKENS}/")
    if not agrees:
        raise UserError(f"{source.where}: {PLAN} and {MANIFEST} are of different sets; its owner should push again")
    if manifest.num_parts > len(source.listing.files):
        raise UserError(f"{source.where}: {manifest.num_parts} parts, but {len(source.listing.files)} files")


def _check_folder(source: Source, found: Mapping[str, Path], manifest: Manifest) -> None:
    """Raise UserError if the folder contains another set, or if the tokens are of other frames."""
    for name, path in found.items():
        own = source.folder / name
        if (
            own.is_file()
            and own.read_bytes() != path.read_bytes()
            and not (name == MANIFEST and _is_grown(own, manifest))
        ):
            raise UserError(f"{source.folder}: contains another set than {source.name}; give another folder")
    frames = read_record(source.out / FRAMES / MANIFEST, FrameStoreManifest)
    if isinstance(manifest, TokenSetManifest) and frames is not None and frames.digest() != manifest.frames_digest:
        raise UserError(
            f"{source.where}: made from the frame store {short(manifest.frames_digest)}, but {source.out / FRAMES} is "
            f"{short(frames.digest())}; pull into the dataset that it was made from, or into another folder"
        )


def _is_grown(own: Path, manifest: Manifest) -> bool:
    """Return whether `manifest` is that of the set with the manifest in the file `own`, after an extension."""
    before = read_record(own, type(manifest))
    return before is not None and before.digest() in {each.manifest_digest for each in manifest.generations}


def _pull_parts(source: Source, manifest: Manifest) -> tuple[dict[int, PartCommit], dict[str, int]]:
    commits: dict[int, PartCommit] = {}
    fetched = num_bytes = 0
    with (
        ThreadPoolExecutor(THREADS, thread_name_prefix="pull") as pool,
        ProgressLine(f"pull {source.prefix}", manifest.num_parts, unit="parts") as line,
    ):
        try:
            for part, (commit, size) in enumerate(pool.map(lambda p: _pull_part(source, p), range(manifest.num_parts))):
                commits[part] = commit
                fetched, num_bytes = fetched + (size > 0), num_bytes + size
                line.update(part + 1)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return commits, {"parts": manifest.num_parts, "fetched": fetched, "bytes_fetched": num_bytes}


def _pull_part(source: Source, part: int) -> tuple[PartCommit, int]:
    """Fetch a part unless an earlier call did; returns its commit and the bytes fetched."""
    name = commit_path(source.prefix, part)
    remote = source.listing.files.get(f"{source.prefix}/{name}")
    if remote is None:
        raise UserError(f"{source.where}: {name} is missing; its owner should push again")
    own = source.folder / name
    if own.is_file() and equals(own, remote):
        stored = _record(source, own, commit_type(source.prefix))
        sizes = files_of_part(source.prefix, stored)
        if all(size_of(source.folder / file) == digest.num_bytes for file, digest in sizes.items()):
            return stored, 0
    with working_folder(source.out) as work:
        commit = _record(source, _fetch(source, name, work), commit_type(source.prefix))
        if commit.part != part:
            raise UserError(f"{source.where}: {name} is the commit of part {commit.part}; its owner should push again")
        files = files_of_part(source.prefix, commit)
        for file, digest in files.items():
            _fetch(source, file, work, digest.sha256, digest.num_bytes)
        _publish_part(source, work / source.prefix, name, files)
    return commit, sum(digest.num_bytes for digest in files.values())


def _publish_part(source: Source, work: Path, commit: str, files: Iterable[str]) -> None:
    if source.prefix == FRAMES:
        folder = Path(commit).parent
        fsync_tree(work / folder)
        remove(source.folder / folder)  # left without a valid commit
        (work / folder).rename(source.folder / folder)
        fsync_dir(source.folder)
        return
    for name in (*files, commit):
        _publish(work / name, source.folder / name)


def _publish(path: Path, target: Path) -> None:
    with path.open("rb") as file:
        write_through(file.fileno())
    path.replace(target)
    fsync_dir(target.parent)


def _fetch(source: Source, name: str, work: Path, sha256: str | None = None, num_bytes: int | None = None) -> Path:
    """Download a file of the set to `work` and check it: by `sha256` and `num_bytes`, else by the repository's digest.

    Raises UserError for a file that is missing, too large, or damaged twice.
    """
    path = f"{source.prefix}/{name}"
    remote = source.listing.files.get(path)
    if remote is None:
        raise UserError(f"{source.where}: {name} is missing; its owner should push again")
    limit = MAX_OTHER_BYTES.get(Path(name).suffix, MAX_RECORD_BYTES) if num_bytes is None else num_bytes
    if remote.size > limit or (num_bytes is not None and remote.size != num_bytes):
        expected = "at most " * (num_bytes is None) + str(limit)
        raise UserError(f"{source.where}: {name} has {remote.size} bytes, expected {expected}")
    for _ in range(ATTEMPTS):
        found = download(source.name, path, work)
        digest = sha256_of(found) if sha256 is not None else digest_like(found, remote.digest)
        if size_of(found) == remote.size and digest == (sha256 or remote.digest):
            return found
        found.unlink()
        shutil.rmtree(work / ".cache", ignore_errors=True)  # the client would take the file as downloaded
    raise UserError(
        f"{source.where}: {name} has digest {short(digest)}, expected {short(sha256 or remote.digest)}; run the same "
        "command again, and if it fails again ask its owner to push again"
    )


def _record(source: Source, path: Path, kind: type[R]) -> R:
    try:
        record = read_record(path, kind)
    except UserError as error:
        raise UserError(str(error).replace(str(path), f"{source.where}/{path.name}")) from None
    assert record is not None, path
    return record
