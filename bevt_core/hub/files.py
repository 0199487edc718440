"""Files of a repository on the Hub: their sizes and digests, and whether a local file equals one."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bevt_core.storage.files import sha256_of, size_of

_CHUNK = 1 << 20


class RemoteFile(NamedTuple):
    """A file of a repository: its size in bytes, and a digest of its content."""

    size: int
    digest: str  # SHA-256 of a large file (64 digits), SHA-1 of a small file as git computes it (40 digits)


def remote_files(entries: Iterable[Any]) -> dict[str, RemoteFile]:
    """Return the files in a listing by path. Entries of unknown size or digest are left out."""
    files = {}
    for entry in entries:
        path = getattr(entry, "rfilename", None) or getattr(entry, "path", None)
        size, digest = getattr(entry, "size", None), getattr(entry, "blob_id", None)
        if (large := getattr(entry, "lfs", None)) is not None:
            size, digest = large.size, large.sha256
        if isinstance(path, str) and isinstance(size, int) and isinstance(digest, str):
            files[path] = RemoteFile(size, digest)
    return files


def equals(path: Path, remote: RemoteFile) -> bool:
    """Return whether a local file has the size and the digest of `remote`."""
    return size_of(path) == remote.size and digest_like(path, remote.digest) == remote.digest


def digest_like(path: Path, digest: str) -> str | None:
    """Return the digest of a local file in the form of `digest`; None if that is neither SHA-256 nor git's SHA-1."""
    if len(digest) == 64:
        return sha256_of(path)
    return git_digest(path) if len(digest) == 40 else None


def git_digest_of(data: bytes) -> str:
    """Return the SHA-1 by which git names a content."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def git_digest(path: Path) -> str:
    """Return the SHA-1 by which git names the content of a file."""
    found = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
