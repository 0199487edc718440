"""Downloads and listings that continue where a lost connection stopped them."""

from typing import IO, Any


class TooLong(Exception):
    """An object is larger than expected."""


def copy_rest(store: Any, key: str, file: IO[bytes], max_bytes: int | None) -> bool:
    """Append what `file` lacks of an object; returns whether it is complete now, False after a lost connection.

    Raises the error of a connection without a single byte, and TooLong for more than `max_bytes`.
    """
    from obstore.exceptions import BaseError

    start = file.tell()
    found = store.get(key, options={"range": {"offset": start}} if start else None)
    size = int(found.meta["size"])
    if max_bytes is not None and size > max_bytes:
        raise TooLong
    try:
        for piece in found.stream(min_chunk_size=1 << 20):
            file.write(piece)
    except BaseError:
        if file.tell() == start:
            raise
    return file.tell() >= size


def list_rest(store: Any, key: str, found: dict[str, int]) -> bool:
    """Add what `found` (key -> bytes) lacks of the objects below `key`, all of the bucket for "".

    Returns whether it is complete now, False after a lost connection; raises the error of one without a single entry.
    """
    from obstore.exceptions import BaseError, InvalidPathError

    before = len(found)
    try:
        for page in store.list(key or None, offset=max(found, key=str.encode) if found else None):
            found.update((entry["path"], int(entry["size"])) for entry in page)
    except BaseError as error:
        if len(found) == before or isinstance(error, InvalidPathError):
            raise
        return False
    return True


def sizes_of_files(store: Any, found: dict[str, int]) -> dict[str, int]:
    """Return `found` without the empty objects `folder/` by which some tools mark a folder.

    obstore lists them without the slash; only a listing of the folder above tells them from files.
    """
    files = dict(found)
    above = {key.rpartition("/")[0] for key, size in found.items() if size == 0}
    for folder in sorted(above):
        listed = store.list_with_delimiter(folder or None)
        names = {entry["path"] for entry in listed["objects"]}
        for key in set(listed["common_prefixes"]) - names:
            files.pop(key, None)
    return files
