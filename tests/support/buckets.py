"""Objects in memory, and what the servers of Google's and Azure's protocols have in common."""

import hashlib
import itertools
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

Answer = tuple[str, dict[str, str], bytes]  # status, headers, body


@dataclass
class Stored:
    data: bytes
    generation: int
    changed: str = field(default_factory=lambda: formatdate(usegmt=True))

    def headers(self) -> dict[str, str]:
        tag = hashlib.sha256(self.data).hexdigest()[:16]
        return {"ETag": f'"{tag}"', "Last-Modified": self.changed, "x-goog-generation": str(self.generation)}


class Buckets:
    """`objects["bucket"]["key"]`, and the pieces of unfinished uploads."""

    def __init__(self, *names: str) -> None:
        self.objects: dict[str, dict[str, Stored]] = {name: {} for name in names}
        self.pieces: dict[tuple[str, str, str], bytes] = {}  # by bucket, upload or key, and the piece's name
        self.lock = threading.Lock()
        self.counter = itertools.count(1)

    def put(self, bucket: str, key: str, data: bytes) -> Stored:
        stored = self.objects[bucket][key] = Stored(data, next(self.counter))
        return stored

    def below(self, bucket: str, prefix: str, delimiter: str, after: str) -> tuple[list[str], list[str]]:
        """Keys after `after` that begin with `prefix`, and common prefixes in place of those with a later delimiter."""
        keys: list[str] = []
        folders: dict[str, None] = {}
        for key in sorted(self.objects[bucket], key=str.encode):
            if not key.startswith(prefix) or key.encode() <= after.encode():
                continue
            name, slash, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
            if slash:
                folders[f"{prefix}{name}{delimiter}"] = None
            else:
                keys.append(key)
        return keys, list(folders)


@dataclass
class Asked:
    """A request, read from WSGI's environ."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]  # lower case
    body: bytes

    @staticmethod
    def of(environ: dict[str, Any], account: str = "") -> "Asked":
        path = environ["PATH_INFO"].encode("latin-1").decode().removeprefix(account)
        bucket, _, key = path.removeprefix("/").partition("/")
        names = {name: name.removeprefix("HTTP_").replace("_", "-").lower() for name in environ if name[:5] == "HTTP_"}
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        query = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
        headers = {
            **{short: environ[name] for name, short in names.items()},
            "content-type": environ.get("CONTENT_TYPE", ""),
        }
        return Asked(environ["REQUEST_METHOD"], bucket, key, query, headers, body)


def got(asked: Asked, stored: Stored) -> Answer:
    """The answer to GET and HEAD, with a range."""
    data, headers = stored.data, stored.headers()
    wanted = asked.headers.get("x-ms-range") or asked.headers.get("range")
    if not wanted:
        return "200 OK", {**headers, "Content-Length": str(len(data))}, data
    start, _, last = wanted.removeprefix("bytes=").partition("-")
    if int(start) >= len(data):
        return failed("416 Range Not Satisfiable", "InvalidRange", "the range is not satisfiable")
    piece = data[int(start) : int(last) + 1 if last else None]
    span = f"bytes {start}-{int(start) + len(piece) - 1}/{len(data)}"
    return "206 Partial Content", {**headers, "Content-Range": span, "Content-Length": str(len(piece))}, piece


def failed(status: str, code: str, message: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
    return status, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body


def xml(text: str) -> Answer:
    body = f"<?xml version='1.0' encoding='UTF-8'?>{text}".encode()
    return "200 OK", {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body
