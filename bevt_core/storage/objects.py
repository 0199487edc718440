"""A path on an object store, with the subset of `pathlib.Path` that this project needs.

Folders need not be made, and there are no renames. An object appears as a whole, by one put. Requests are retried and
fail with a StorageError (see `clouds.requests`).
"""

import contextlib
import errno
import fnmatch
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from bevt_core.storage.clouds.clients import PAGE_RETRIES, PIECE_RETRIES
from bevt_core.storage.clouds.ranges import READ_BYTES, Ranges
from bevt_core.storage.clouds.requests import request
from bevt_core.storage.clouds.schemes import CLOUDS, KNOWN, Cloud
from bevt_core.storage.clouds.transfers import copy_rest, list_rest, sizes_of_files
from schemas.errors import StorageError, UserError
from schemas.text.credentials import holds_credentials, masked
from schemas.text.names import leads_out

R = TypeVar("R")

CHUNK_BYTES = 16 << 20  # of an upload in pieces; files smaller than two chunks are uploaded by one put
BUCKET = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9._$-]*")
UPLOADS = 4  # pieces of a file that are uploaded at a time


@dataclass(frozen=True)
class ObjectPath:
    """`s3://bucket/key`, `gs://bucket/key` or `az://container/key`: an object, or the common prefix of several, which
    serves as a folder."""

    url: str

    def __post_init__(self) -> None:
        scheme, _, place = self.url.partition("://")
        bucket = place.partition("/")[0]
        if scheme not in CLOUDS or not bucket:
            raise UserError(f"{self.url}: expected {KNOWN}")
        if not BUCKET.fullmatch(bucket):  # obstore panics for some of the others
            raise UserError(f"{self.url}: {bucket!r} is no {CLOUDS[scheme].bucket}'s name; expected {KNOWN}")

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
        """The prefix that contains this one; a bucket contains itself, as `/` does."""
        return ObjectPath(self.url.rpartition("/")[0]) if self._key else self

    def absolute(self) -> "ObjectPath":
        return self

    # ---- queries --------------------------------------------------------------------------------

    def is_file(self) -> bool:
        return self.size() >= 0

    def is_dir(self) -> bool:
        """Whether objects exist below."""
        with contextlib.suppress(FileNotFoundError):
            listed: list[dict[str, Any]] = self._request(
                "access", lambda store: next(iter(store.list(self._key or None, chunk_size=2)), [])
            )
            return any(entry["path"] != self._key for entry in listed)
        return False

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def size(self) -> int:
        """Size of the object in bytes; -1 if it does not exist."""
        if not self._key:
            return -1
        with contextlib.suppress(FileNotFoundError):
            return int(self._request("access", lambda store: store.head(self._key))["size"])
        return -1

    def entries(self) -> dict[str, bool]:
        """The entries directly below: name -> whether it is a folder. Empty if the prefix does not exist."""
        try:
            found = self._request("list", lambda store: store.list_with_delimiter(self._key or None), PAGE_RETRIES)
        except FileNotFoundError:
            return {}
        names = {entry["path"]: False for entry in found["objects"]}
        names.pop(self._key, None)  # an empty object, by which some tools mark a folder
        names |= dict.fromkeys(found["common_prefixes"], True)
        by_name = {name.rpartition("/")[2]: is_folder for name, is_folder in sorted(names.items())}
        return {self._checked(name): is_folder for name, is_folder in by_name.items()}

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every object below, at any depth, by relative path.

        Raises UserError for a key that cannot be a file's path, such as `a//b` or `a/../b`.
        """
        found: dict[str, int] = {}
        try:
            while not self._request("list", lambda store: list_rest(store, self._key, found), PAGE_RETRIES):
                pass
            found = self._request("list", lambda store: sizes_of_files(store, found))
        except FileNotFoundError:
            return {}
        below = f"{self._key}/" if self._key else ""
        return {
            self._checked(key.removeprefix(below)): size
            for key, size in sorted(found.items())
            if key.startswith(below) and key != self._key
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
        return bytes(self._request("read", lambda store: store.get(self._key).bytes()))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "r", newline: str | None = None, encoding: str = "utf-8") -> IO[Any]:
        """Open for reading, with the whole object in memory: small files only."""
        assert mode in ("r", "rb"), mode
        data = io.BytesIO(self.read_bytes())
        return data if mode == "rb" else io.TextIOWrapper(data, encoding=encoding, newline=newline)

    def version(self) -> str:
        """What changes if the object is replaced: its size and tag, or time. Raises FileNotFoundError."""
        found = self._request("access", lambda store: store.head(self._key))
        return f"{found['size']},{found['e_tag'] or found['last_modified']}"

    def reader(self, range_bytes: int = READ_BYTES) -> io.BufferedReader:
        """The object as a seekable file that fetches only the ranges that are read. Raises FileNotFoundError."""
        size = self.size()
        if size < 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.url)
        return io.BufferedReader(Ranges(self.name, size, self.read_range, range_bytes))

    def chunks(self) -> Iterator[bytes]:
        """The object in chunks of CHUNK_BYTES, so that it need not fit into memory."""
        size = self.size()
        for start in range(0, size, CHUNK_BYTES):
            yield self.read_range(start, min(start + CHUNK_BYTES, size))

    def read_range(self, start: int, stop: int) -> bytes:
        return bytes(self._request("read", lambda store: store.get_range(self._key, start=start, end=stop)))

    def download(self, target: Path, max_bytes: int | None = None) -> None:
        """Copy the object to `target`, in an existing folder.

        Raises FileNotFoundError, and TooLong as soon as more than `max_bytes` arrive; `target` is then removed.
        """
        try:
            with target.open("wb") as file:
                while not self._request("read", lambda store: copy_rest(store, self._key, file, max_bytes)):
                    pass
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    # ---- writing --------------------------------------------------------------------------------

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Put the object atomically: a reader sees the old one or the new one."""
        self._put(lambda store: store.put(self._key, data, use_multipart=False))

    def create_bytes(self, data: bytes) -> bool:
        """`write_bytes` if no object exists; returns whether it was written.

        Also returns False if this call wrote the object but the response was lost, so that its retry found an object.
        Stores without conditional puts always overwrite.
        """
        try:
            self._put(lambda store: store.put(self._key, data, use_multipart=False, mode="create"))
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
        if source.stat().st_size < 2 * CHUNK_BYTES:
            self._put(lambda store: store.put(self._key, source, use_multipart=False))
            return
        pieces = {"use_multipart": True, "chunk_size": CHUNK_BYTES, "max_concurrency": UPLOADS}
        self._put(lambda store: store.put(self._key, source, **pieces), PIECE_RETRIES)

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove the object if it exists. S3 does not say whether it did, nor does a retry after a lost response."""
        with contextlib.suppress(FileNotFoundError):
            self._request("remove", lambda store: store.delete(self._key))

    # ---- requests -------------------------------------------------------------------------------

    @property
    def _cloud(self) -> Cloud:
        return CLOUDS[self.url.partition("://")[0]]

    @property
    def _bucket(self) -> str:
        return self.url.removeprefix(self._cloud.prefix).partition("/")[0]

    @property
    def _key(self) -> str:
        return self.url.removeprefix(self._cloud.prefix).partition("/")[2]

    def _put(self, call: Callable[[Any], object], retries: int = 0) -> None:
        try:
            self._request("write", call, retries)
        except FileNotFoundError as error:
            if error.filename != self.url:  # of the local disk
                raise
            kind = self._cloud.bucket
            raise StorageError(
                errno.ENOENT, f"{self.url}: no {kind} {self._bucket!r}; make it, or correct the name"
            ) from None

    def _request(self, what: str, call: Callable[[Any], R], retries: int = 0) -> R:
        return request(self.url, self._cloud, self._bucket, what, call, retries)


AnyPath = Path | ObjectPath


def as_path(text: str | AnyPath) -> AnyPath:
    """`s3://...`, `gs://...` and `az://...` are ObjectPaths, everything else a Path.

    Raises UserError for another scheme, and for credentials in a URL.
    """
    if isinstance(text, Path | ObjectPath):
        return text
    scheme, separator, place = text.partition("://")
    if not separator:
        if (found := text.partition(":/"))[0] in CLOUDS and found[1]:
            raise UserError(f"{text}: a slash is missing after {found[0]}:/; expected {KNOWN}")
        return Path(text)
    cloud = CLOUDS.get(scheme)
    if holds_credentials(text):
        fix = "; ".join([cloud.credentials] if cloud else [other.credentials for other in CLOUDS.values()])
        raise UserError(f"{masked(text)}: paths are stored with the results; leave credentials out: {fix}")
    if cloud is None:
        raise UserError(f"{text}: expected a path on this machine, or {KNOWN}")
    bucket, _, key = place.partition("/")
    return ObjectPath(cloud.prefix + bucket) / key
