"""A path on an object store, with the subset of `pathlib.Path` that this project needs.

Folders need not be made, and there are no renames. An object appears as a whole, by one put. Requests are retried and
fail with a StorageError (see `s3.service`).
"""

import contextlib
import errno
import fnmatch
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from bevt_core.storage.s3.download_limit import at_most
from bevt_core.storage.s3.ranges import Ranges
from bevt_core.storage.s3.service import request
from schemas.errors import StorageError, UserError
from schemas.text.credentials import holds_credentials, masked
from schemas.text.names import leads_out

R = TypeVar("R")

SET_CREDENTIALS = "leave credentials out: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"

SCHEME = "s3://"
CHUNK_BYTES = 16 << 20  # of a multipart upload; files smaller than two chunks are uploaded by one put


@dataclass(frozen=True)
class ObjectPath:
    """`s3://bucket/key`: an object, or the common prefix of several, which serves as a folder."""

    url: str

    def __post_init__(self) -> None:
        if not self.url.startswith(SCHEME) or not self.url.removeprefix(SCHEME).split("/")[0]:
            raise UserError(f"{self.url}: expected {SCHEME}bucket/prefix")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, below: str) -> "ObjectPath":
        names = [name for name in below.split("/") if name not in ("", ".")]
        if ".." in names or "\0" in below:
            raise UserError(f"{self.url}/{below!r}: expected a key below the prefix, without `..` or zero characters")
        return ObjectPath("/".join([self.url, *names]))

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self.url.rpartition("/")[0])

    def absolute(self) -> "ObjectPath":
        return self

    # ---- queries --------------------------------------------------------------------------------

    def is_file(self) -> bool:
        return (self._info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        return (self._info() or {}).get("type") == "directory"

    def exists(self) -> bool:
        return self._info() is not None

    def size(self) -> int:
        """Size of the object in bytes; -1 if it does not exist."""
        found = self._info()
        return int(found["size"]) if found is not None and found["type"] == "file" else -1

    def entries(self) -> dict[str, bool]:
        """The entries directly below: name -> whether it is a folder. Empty if the prefix does not exist."""
        try:
            found = self._request("list", lambda store: store.ls(self._key, detail=True))
        except FileNotFoundError:
            return {}
        names = {entry["name"].rstrip("/"): entry["type"] == "directory" for entry in found}
        names.pop(self._key, None)  # an empty object, by which some tools mark a folder
        by_name = {name.rpartition("/")[2]: is_folder for name, is_folder in sorted(names.items())}
        return {self._checked(name): is_folder for name, is_folder in by_name.items()}

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every object below, at any depth, by relative path.

        Raises UserError for a key that cannot be a file's path, such as `a//b` or `a/../b`.
        """
        try:
            found = self._request("list", lambda store: store.find(self._key, detail=True))
        except FileNotFoundError:
            return {}
        below = f"{self._key}/"
        return {
            self._checked(name.removeprefix(below)): int(entry["size"])
            for name, entry in sorted(found.items())
            if name.startswith(below) and not name.endswith("/")
        }

    def _checked(self, name: str) -> str:
        """Return `name`, checked because a local file may get the name of a listed object. Raises UserError."""
        why = leads_out(name)
        if why is not None:
            raise UserError(f"{self.url}: the object {name!r} below it cannot be a file: {why}; rename or remove it")
        return name

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Paths that match a pattern like `*/plan.json`, sorted; components without `*` are not listed."""
        first, _, rest = pattern.partition("/")
        if "*" not in first:
            found = [self / first] if rest or (self / first).exists() else []
        else:
            found = [self / name for name in self.entries() if fnmatch.fnmatchcase(name, first)]
        for path in found:
            if rest:
                yield from path.glob(rest)
            else:
                yield path

    # ---- reading --------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError."""
        return bytes(self._request("read", lambda store: store.cat_file(self._key, max_concurrency=1)))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "r", newline: str | None = None, encoding: str = "utf-8") -> IO[Any]:
        """Open for reading, with the whole object in memory: small files only."""
        assert mode in ("r", "rb"), mode
        data = io.BytesIO(self.read_bytes())
        return data if mode == "rb" else io.TextIOWrapper(data, encoding=encoding, newline=newline)

    def reader(self) -> io.BufferedReader:
        """The object as a seekable file that fetches only the ranges that are read. Raises FileNotFoundError."""
        size = self.size()
        if size < 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.url)
        return io.BufferedReader(Ranges(self.name, size, self.read_range))

    def chunks(self) -> Iterator[bytes]:
        """The object in chunks of CHUNK_BYTES, so that it need not fit into memory."""
        size = self.size()
        for start in range(0, size, CHUNK_BYTES):
            yield self.read_range(start, min(start + CHUNK_BYTES, size))

    def read_range(self, start: int, stop: int) -> bytes:
        return bytes(self._request("read", lambda store: store.cat_file(self._key, start=start, end=stop)))

    def download(self, target: Path, max_bytes: int | None = None) -> None:
        """Copy the object to `target`, in an existing folder.

        Raises FileNotFoundError, and TooLong as soon as more than `max_bytes` arrive; `target` is then removed.
        """
        try:
            self._request("read", lambda store: store.get_file(self._key, str(target), callback=at_most(max_bytes)))
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    # ---- writing --------------------------------------------------------------------------------

    def write_bytes(self, data: bytes) -> None:
        """Put the object atomically: a reader sees the old one or the new one."""
        self._put(lambda store: store.pipe_file(self._key, data))

    def create_bytes(self, data: bytes) -> bool:
        """`write_bytes` if no object exists; returns whether it was written.

        Also returns False if this call wrote the object but the response was lost, so that its retry found an object.
        Stores without conditional puts always overwrite.
        """
        try:
            self._put(lambda store: store.pipe_file(self._key, data, mode="create"))
        except FileExistsError:
            return False
        except StorageError as error:
            if error.errno == errno.EINVAL and self.exists():  # stores that do not report which condition failed
                return False
            if error.errno != errno.ENOSYS:
                raise
            self.write_bytes(data)
        return True

    def upload(self, source: Path) -> None:
        """Put a local file, in chunks if it is large; the object appears after the last chunk."""
        self._put(lambda store: store.put_file(str(source), self._key, chunksize=CHUNK_BYTES))

    def unlink(self, missing_ok: bool = False) -> None:
        with contextlib.suppress(*([FileNotFoundError] if missing_ok else [])):
            self._request("remove", lambda store: store.rm_file(self._key))

    # ---- requests -------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return self.url.removeprefix(SCHEME)

    def _info(self) -> dict[str, Any] | None:
        """`size` and `type` ("file" or "directory"); None if nothing exists at the path."""
        try:
            return dict(self._request("access", lambda store: store.info(self._key)))
        except FileNotFoundError:
            return None

    def _put(self, call: Callable[[Any], object]) -> None:
        try:
            self._request("write", call)
        except FileNotFoundError:
            bucket = self._key.split("/")[0]
            raise StorageError(
                errno.ENOENT, f"{self.url}: no bucket {bucket!r}; make it, or correct the name"
            ) from None

    def _request(self, what: str, call: Callable[[Any], R]) -> R:
        return request(self.url, what, call)


AnyPath = Path | ObjectPath


def as_path(text: str | AnyPath) -> AnyPath:
    """`s3://...` is an ObjectPath, everything else a Path. Raises UserError for another scheme."""
    if isinstance(text, Path | ObjectPath):
        return text
    if "://" in text and holds_credentials(text):
        raise UserError(f"{masked(text)}: paths are stored with the results; {SET_CREDENTIALS}")
    if text.startswith(SCHEME):
        bucket, _, key = text.removeprefix(SCHEME).partition("/")
        return ObjectPath(SCHEME + bucket) / key
    if "://" in text:
        raise UserError(f"{text}: expected a path on this machine, or {SCHEME}bucket/prefix")
    return Path(text)
