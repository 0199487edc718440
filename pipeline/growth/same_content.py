"""Files with the same content under several names: a dataset that has both shows a clip twice as often."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bevt_core.storage.files import sha256_of

Found = list[tuple[str, str]]  # a name, and the earlier name of the same content


def same_content(known: Iterable[tuple[str, Path]], new: Iterable[tuple[str, Path]]) -> Found:
    """The `new` files whose content an earlier one has, new or `known`, as (name, earlier name).

    Only files of equal size are read. Names without a file, such as folders of frames, are skipped.
    """
    by_size: dict[int, list[tuple[str, Path, bool]]] = {}
    for is_new, files in ((False, known), (True, new)):
        for name, path in files:
            size = _size_of(path)
            if size:
                by_size.setdefault(size, []).append((name, path, is_new))
    return [pair for alike in by_size.values() for pair in _equal(alike)]


def _equal(alike: list[tuple[str, Path, bool]]) -> Iterator[tuple[str, str]]:
    if len(alike) == 1 or not any(is_new for *_, is_new in alike):
        return
    first: dict[str, str] = {}
    for name, path, is_new in alike:
        earlier = first.setdefault(sha256_of(path), name)
        if is_new and earlier != name:
            yield name, earlier


def _size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it is none, or cannot be looked at."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def described(found: Found, most: int) -> list[Mapping[str, str]]:
    """The first `most` pairs, for a summary."""
    return [{"source": name, "same_as": earlier} for name, earlier in found[:most]]
