"""A server in this process with the part of the Hugging Face Hub's protocol that bevt uses, and what can go wrong.

Files of more than LARGE bytes and those with a binary suffix are stored by SHA-256 and served from another host, like
the Hub's. A commit's parent is checked, a private repository needs the token, and uploads are checked by digest.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from bevt_core.hub import client, repository
from bevt_core.weights import hub_models

TOKEN = "hf_test"  # too short to be masked
LARGE, PAGE = 10_000, 15  # bytes; entries of a listing in one answer
STORED_BY_SHA256 = (".safetensors", ".parquet")
Fault = int | str  # an HTTP status, or "cut", "wrong", "slow", "silent"
API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit|branch)/([^/]+))?(?:/(.*))?")
BATCH = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
RESOLVE = re.compile(r"/(?:(dataset)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Its commits, newest last, each with the files' contents by path."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str = "a commit", branch: str = "main") -> str:
        """Add a commit with exactly these files and return its hash."""
        content = "".join(f"{path}{hashlib.sha1(data).hexdigest()}" for path, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{content}".encode()).hexdigest()
        self.commits.append((sha, dict(files)))
        self.messages.append(message)
        self.refs[branch] = sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the main branch."""
        found = self.at("main")
        return {} if found is None else found[1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        revision = self.refs.get(revision, revision)
        return next(((sha, files) for sha, files in self.commits if sha == revision), None)


class HubServer:
    """`repositories` by (type, id); `requests` lists `METHOD path?query`; `fault` may spoil an answer."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        self.requests: list[str] = []
        self.stopped = threading.Event()
        self.fault: Callable[[str], Fault | None] = lambda request: None
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """The other host, for large files."""
        return f"http://localhost:{self.port}"

    def add(self, name: str, folder: Path, kind: str = "model", private: bool = False) -> str:
        """Commit the files of a folder to a repository, which is made if needed; return the commit's hash."""
        repository = self.repositories.setdefault((kind, name), Repository())
        repository.private = private
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return repository.commit(files)

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, request) is not None for request in self.requests)


@contextmanager
def hub_server(cache: Path) -> Iterator[HubServer]:
    """A running server that this process's client uses, with an empty cache and without waits before repetitions."""
    from huggingface_hub import close_session, constants

    server = HubServer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
        patch.setattr(repository, "TIMEOUT_S", 0.5)
        patch.setattr(client, "FIRST_WAIT_S", 0.0)
        patch.setattr(client, "SILENT_S", 2.0)
        close_session()  # which has the time limit of before
        for module in ("utils._http", "file_download"):
            patch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
        patch.delenv("HF_TOKEN", raising=False)
        forget()
        try:
            yield server
        finally:
            server.stop()
            close_session()
            forget()


def forget() -> None:
    """Forget what this process resolved before, as a new process would."""
    hub_models._listing.cache_clear()
    hub_models._folder.cache_clear()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _answer(self) -> None:
        self.url = urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {self.path}"
        self.hub.requests.append(request)
        self.spoiled = self.hub.fault(request)
        if isinstance(self.spoiled, int):
            return self._error(self.spoiled, "", "a made fault")
        if self.spoiled == "slow":
            time.sleep(0.8)
        if self.spoiled == "silent":
            self.hub.stopped.wait(30)
            self.close_connection = True
            return None
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}") and self.url.path.startswith(("/api", "/org")):
            return self._error(401, "", "Invalid credentials in Authorization header")
        self.may_write = given is not None
        for pattern, method in (
            (API, self._api),
            (BATCH, self._batch),
            (RESOLVE, self._resolve),
            (re.compile("/objects/(.+)"), self._object),
            (re.compile("/api/(repos/create|validate-yaml)"), self._other),
        ):
            if found := pattern.fullmatch(self.url.path):
                return method(*found.groups())
        return self._error(404, "", "no such address")

    # ---- answers

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        if self.spoiled == "wrong" and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if self.spoiled == "cut" else data)
        if self.spoiled == "cut":
            self.close_connection = True

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _error(self, status: int, code: str, message: str) -> None:
        self.spoiled = None
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    # ---- the protocol

    def _repository(self, kind: str, name: str) -> Repository | None:
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and not self.may_write):
            self._error(404 if self.may_write else 401, "RepoNotFound", "Repository not found")
            return None
        return found

    def _api(self, kind: str, name: str, action: str | None, revision: str | None, rest: str | None) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        revision = unquote(revision or "main")
        if action in ("preupload", "commit", "branch") and not self.may_write:
            return self._error(403, "", "no write access")
        if action == "branch":
            exists = revision in repository.refs
            repository.refs.setdefault(revision, repository.refs["main"])
            return self._send(409 if exists else 200, b"")
        found = repository.at(revision)
        if found is None:
            return self._error(404, "RevisionNotFound", "Invalid rev id")
        sha, files = found
        if action == "preupload":
            return self._json({"files": [self._mode(files, file) for file in json.loads(self.body)["files"]]})
        if action == "commit":
            return self._commit(name, repository, revision)
        entries = [_entry(path, data) for path, data in sorted(files.items())]
        if action == "tree":
            return self._tree(entries)
        siblings = [
            {"rfilename": each["path"], "size": each["size"], "blobId": each["oid"]}
            | ({"lfs": each["lfs"] | {"sha256": each["lfs"]["oid"]}} if "lfs" in each else {})
            for each in entries
        ]
        return self._json({"id": name, "sha": sha, "private": repository.private, "siblings": siblings})

    def _tree(self, entries: list[dict[str, Any]]) -> None:
        start = int(parse_qs(self.url.query).get("cursor", ["0"])[0])
        more = start + PAGE < len(entries)
        following = f'<{self.hub.endpoint}{self.url.path}?recursive=True&cursor={start + PAGE}>; rel="next"'
        self._json(entries[start : start + PAGE], {"Link": following} if more else {})

    def _mode(self, files: dict[str, bytes], file: dict[str, Any]) -> dict[str, Any]:
        path = file["path"]
        mode = "lfs" if _is_large(path, file["size"]) else "regular"
        known = files.get(path)
        oid = {} if known is None else {"oid": hashlib.sha256(known).hexdigest() if mode == "lfs" else _git(known)}
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, **oid}

    def _commit(self, name: str, repository: Repository, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        found = repository.at(branch)
        assert found is not None
        files = dict(found[1])
        if header.get("parentCommit", found[0]) != found[0]:
            return self._error(412, "", "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.hub.objects[line["value"]["oid"]]
            elif line["key"] == "deletedFile":
                del files[path]
            else:
                return self._error(400, "", f"{line['key']} is not supported")
        sha = repository.commit(files, header["summary"], branch)
        return self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}"})

    def _batch(self, name: str) -> None:
        if not self.may_write:
            return self._error(403, "", "no write access")
        objects = json.loads(self.body)["objects"]
        for each in objects:
            if each["oid"] not in self.hub.objects:
                each["actions"] = {"upload": {"href": f"{self.hub.storage}/objects/{each['oid']}"}}
        return self._json({"transfer": "basic", "objects": objects})

    def _object(self, oid: str) -> None:
        assert self.headers.get("Authorization") is None, "the token was sent to another host"
        if self.command != "PUT":
            return self._send(200, self.hub.objects[oid], {"ETag": f'"{oid}"'})
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._error(400, "", "the content has another digest")
        self.hub.objects[oid] = self.body
        return self._send(200, b"")

    def _resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind or "model", name)
        if repository is None:
            return
        found = repository.at(unquote(revision))
        if found is None:
            return self._error(404, "RevisionNotFound", "Invalid rev id")
        sha, files = found
        data = files.get(unquote(path))
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": sha}
        if not _is_large(path, len(data)):
            return self._send(200, data, {**headers, "ETag": f'"{_git(data)}"'})
        oid = hashlib.sha256(data).hexdigest()
        self.hub.objects[oid] = data
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"'}
        return self._send(302, b"", {**headers, "Location": f"{self.hub.storage}/objects/{oid}"})

    def _other(self, action: str) -> None:
        given = json.loads(self.body)
        if action == "validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if not self.may_write:
            return self._error(401, "", "a token is needed")
        name, prefix = f"{given['organization']}/{given['name']}", "datasets/" * (given.get("type") == "dataset")
        key = (given.get("type") or "model", name)
        exists = key in self.hub.repositories
        if not exists:
            private = given.get("visibility") == "private" or given.get("private") is True  # the latter in version 1
            self.hub.repositories[key] = Repository(private=private)
            self.hub.repositories[key].commit({".gitattributes": b"*.parquet filter=lfs\n"}, "initial commit")
        answer = json.dumps({"url": f"{self.hub.endpoint}/{prefix}{name}"}).encode()
        return self._send(409 if exists else 200, answer, {"Content-Type": "application/json"})


def _is_large(path: str, size: int) -> bool:
    return size > LARGE or path.endswith(STORED_BY_SHA256)


def _git(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git(data)}
    if _is_large(path, len(data)):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def nth(number: int, pattern: str, fault: Fault) -> Callable[[str], Fault | None]:
    """Return a `HubServer.fault` that spoils only the `number`th request that matches `pattern`, from 0."""
    seen = itertools.count()
    return lambda request: fault if re.search(pattern, request) and next(seen) == number else None
