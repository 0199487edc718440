"""Identify a video by a small part of its content, so that it is recognised under another root or name."""

import hashlib
from pathlib import Path

EDGE_BYTES = 64 << 10  # read from each end of a file: headers, indexes, the first and last frames


def content_digest(path: Path) -> str | None:
    """Return the digest of a video, a picture or a folder of frames; None if it cannot be read.

    A file is identified by its size and its first and last 64 KiB, so that whole videos are not read. The digest does
    not depend on its name or folder, so it stays the same for a moved root or a renamed copy. A folder of frames is
    identified by its file names and its first, middle and last file. A re-encoded video has a different digest.
    """
    found = hashlib.sha256()
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
            found.update("\0".join(file.name for file in files).encode(errors="surrogateescape"))
            chosen = (files[at] for at in sorted({0, len(files) // 2, len(files) - 1})) if files else ()
            for file in chosen:
                found.update(_ends(file))
        else:
            found.update(_ends(path))
    except OSError:
        return None
    return found.hexdigest()


def _ends(path: Path) -> bytes:
    """The size, then the first and the last bytes of a file."""
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        first = file.read(EDGE_BYTES)
        if size > EDGE_BYTES:
            file.seek(max(EDGE_BYTES, size - EDGE_BYTES))
            first += file.read(EDGE_BYTES)
    return f"{size}\0".encode() + first
