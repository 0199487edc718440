"""Helpers for the commits and manifests (`dataset.json`) of frame stores and token sets.

A commit is written after its part and a manifest after all parts, so the presence of either means completeness.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import read_record, sha256_of
from bevt_core.storage.objects import AnyPath
from schemas.errors import UserError
from schemas.frames import FileDigest, FramePartCommit, FrameStoreManifest
from schemas.tokens import TokenPartCommit, TokenSetManifest

COMMIT, FRAMES_ZARR = "commit.json", "frames.zarr"
M = TypeVar("M", FrameStoreManifest, TokenSetManifest)


class FramePart(NamedTuple):
    """What a job needs to know of a committed frame part."""

    part: int
    num_sources: int
    num_samples: int
    num_frames: int
    num_rejected: int
    stored_bytes: int  # on disk, of its frames
    sha256: str  # digest of its commit

    @classmethod
    def of(cls, commit: FramePartCommit) -> "FramePart":
        counts = commit.num_sources, commit.num_samples, commit.num_frames, commit.num_rejected
        return cls(commit.part, *counts, stored_bytes(commit), commit.digest())

    def digest(self) -> str:
        return self.sha256


class TokenPart(NamedTuple):
    """What a job needs to know of a committed token part."""

    part: int
    num_bytes: int
    frames_commit: str  # digest of the commit of its frame part
    sha256: str  # digest of its commit

    @classmethod
    def of(cls, commit: TokenPartCommit) -> "TokenPart":
        return cls(commit.part, commit.num_bytes, commit.frames_commit, commit.digest())

    def digest(self) -> str:
        return self.sha256


def stored_bytes(commit: FramePartCommit) -> int:
    """The bytes on disk of a part's frames."""
    return sum(digest.num_bytes for name, digest in commit.files.items() if name.startswith(f"{FRAMES_ZARR}/"))


def part_name(part: int) -> str:
    """Name of part number `part`: part-00000, part-00001, ..."""
    return f"part-{part:05d}"


def read_manifest(path: AnyPath, kind: type[M], what: str) -> M:
    """Read the `dataset.json` of a frame store or token set. Raises UserError that describes any other path.

    `what` is the expected kind in words: "frame store" or "token set".
    """
    try:
        manifest = read_record(path / "dataset.json", kind)
    except (UserError, NotADirectoryError):
        if what_is(path).startswith(f"a {what}"):
            raise  # damaged, or of another version
        manifest = None
    if manifest is not None:
        return manifest
    if not path.exists():
        others = sorted(other.parent.name for other in path.parent.glob("*/dataset.json"))
        found = f" (found: {', '.join(others)})" if others else ""
        raise UserError(f"{path}: no such {what}{found}; make one with `bevt tokenize --out ...`")
    if (path / "plan.json").is_file() and not (path / "dataset.json").is_file():
        raise UserError(f"{path}: no dataset.json, so this {what} is not finished; run the same `bevt tokenize` again")
    raise UserError(f"{path}: {what_is(path)}; expected a {what}")


def digest_file(path: Path) -> FileDigest:
    """The SHA-256 and size of a file, as commits record them."""
    return FileDigest(sha256=sha256_of(path), num_bytes=path.stat().st_size)


def digest_of(digests: Sequence[str]) -> str:
    """One SHA-256, in hex, over several digests in their order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()
