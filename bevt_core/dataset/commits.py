"""Helpers for the commits and manifests (`dataset.json`) of frame stores and token sets.

A commit is written after its part and a manifest after all parts, so the presence of either means completeness.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import read_record, sha256_of
from bevt_core.storage.objects import AnyPath
from schemas.errors import UserError
from schemas.frames import FileDigest, FrameStoreManifest
from schemas.tokens import TokenSetManifest

COMMIT = "commit.json"
M = TypeVar("M", FrameStoreManifest, TokenSetManifest)


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
