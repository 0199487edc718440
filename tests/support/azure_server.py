"""A small server of the requests that obstore makes to Azure Blob Storage, and Azurite, as `ObjectServer`s."""

import base64
import hashlib
import hmac
import http.client
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

import pytest

from tests.support.buckets import Answer, Asked, Buckets, failed, got, xml
from tests.support.object_server import ObjectServer, running

ACCOUNT = "devstoreaccount1"  # of Azure's emulators, and the key that their documentation gives
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PAGE = 3  # blobs in a listing's page: several pages also for few blobs


class Azure:
    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = Asked.of(environ, f"/{ACCOUNT}")
        with self.buckets.lock:
            status, headers, body = self.answer(asked)
        start_response(status, list(headers.items()))
        return [] if asked.method == "HEAD" else [body]

    def answer(self, asked: Asked) -> Answer:
        if not asked.headers.get("authorization", "").startswith(f"SharedKey {ACCOUNT}:"):
            return failed("403 Forbidden", "AuthenticationFailed", "Server failed to authenticate the request.")
        if asked.bucket not in self.buckets.objects:
            return failed("404 Not Found", "ContainerNotFound", "The specified container does not exist.")
        blobs, comp = self.buckets.objects[asked.bucket], asked.query.get("comp")
        if comp == "list":
            return self.list(asked)
        if comp == "batch":
            return self.batch(asked)
        if comp == "block":
            self.buckets.pieces[asked.bucket, asked.key, asked.query["blockid"]] = asked.body
            return "201 Created", {"Content-Length": "0"}, b""
        if comp == "blocklist":
            names = re.findall(r"<Uncommitted>(.*?)</Uncommitted>", asked.body.decode())
            data = b"".join(self.buckets.pieces.pop((asked.bucket, asked.key, name)) for name in names)
            return "201 Created", self.buckets.put(asked.bucket, asked.key, data).headers(), b""
        if asked.method == "PUT":
            if asked.headers.get("if-none-match") == "*" and asked.key in blobs:
                return failed("409 Conflict", "BlobAlreadyExists", "The specified blob already exists.")
            return "201 Created", self.buckets.put(asked.bucket, asked.key, asked.body).headers(), b""
        if asked.key not in blobs:
            return failed("404 Not Found", "BlobNotFound", "The specified blob does not exist.")
        return got(asked, blobs[asked.key])

    def batch(self, asked: Asked) -> Answer:
        """Remove blobs, each by a part of a multipart/mixed body."""
        parts = []
        for number, path in enumerate(re.findall(r"DELETE (\S+) HTTP/1.1", asked.body.decode())):
            key = unquote(path.partition("?")[0]).removeprefix(f"/{ACCOUNT}").removeprefix(f"/{asked.bucket}/")
            gone = self.buckets.objects[asked.bucket].pop(key, None)
            status = "202 Accepted" if gone else "404 The specified blob does not exist."
            code = "" if gone else "x-ms-error-code: BlobNotFound\r\n"
            parts.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
                f"HTTP/1.1 {status}\r\n{code}x-ms-request-id: {number}\r\nContent-Length: 0\r\n\r\n"
            )
        body = ("".join(parts) + "--batch--\r\n").encode()
        return (
            "202 Accepted",
            {"Content-Type": "multipart/mixed; boundary=batch", "Content-Length": str(len(body))},
            body,
        )

    def list(self, asked: Asked) -> Answer:
        prefix, after = asked.query.get("prefix", ""), asked.query.get("marker", "")
        keys, folders = self.buckets.below(asked.bucket, prefix, asked.query.get("delimiter", ""), after)
        more = len(keys) > PAGE and not folders
        blobs = self.buckets.objects[asked.bucket]
        entries = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{blobs[key].changed}</Last-Modified><Etag>x</Etag>"
            f"<Content-Length>{len(blobs[key].data)}</Content-Length><Content-Type>x</Content-Type></Properties></Blob>"
            for key in (keys[:PAGE] if more else keys)
        )
        entries += "".join(f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in folders)
        marker = escape(keys[PAGE - 1]) if more else ""
        return xml(
            f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
        )


class Azurite:
    """Passes requests on to Azurite, which listens on `port`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        headers = {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
        headers["Content-Type"] = environ.get("CONTENT_TYPE", "")
        headers["Content-Length"] = environ.get("CONTENT_LENGTH") or "0"
        body = environ["wsgi.input"].read(int(headers["Content-Length"]))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {name: value for name, value in headers.items() if value or name != "Content-Type"}
        connection.request(environ["REQUEST_METHOD"], environ["RAW_URI"], body, sent)
        answer = connection.getresponse()
        data = answer.read()
        passed = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        if environ["REQUEST_METHOD"] != "HEAD":
            passed = [(name, value) for name, value in passed if name.lower() != "content-length"]
            passed.append(("Content-Length", str(len(data))))
        start_response(f"{answer.status} {answer.reason}", passed)
        return [data]


HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding")


def environment(server: ObjectServer) -> dict[str, str]:
    return {
        "AZURE_STORAGE_ENDPOINT": f"{server.url}/{ACCOUNT}",
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
    }


@contextmanager
def azure_server() -> Iterator[ObjectServer]:
    """A server with the container `data`; the environment leads to it, also that of child processes."""
    server = ObjectServer(Azure(Buckets("data")), "az", f"/{ACCOUNT}")
    with running(server, environment(server)):
        yield server


@contextmanager
def azurite_server() -> Iterator[ObjectServer]:
    """`azure_server` with Azurite behind it. Skips where `azurite-blob` (`npm install azurite`) is not on PATH."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on PATH; run `npm install -g azurite`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck"]
    process = subprocess.Popen([program, *words, "--silent"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        make_container(port)
        server = ObjectServer(Azurite(port), "az", f"/{ACCOUNT}")
        with running(server, environment(server)):
            yield server
    finally:
        process.terminate()
        process.wait()


def make_container(port: int) -> None:
    """Wait for Azurite and make the container `data`."""
    for _ in range(600):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    signed = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/data", "restype:container"])
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("PUT", f"/{ACCOUNT}/data?restype=container", b"", {**headers, "Content-Length": "0"})
    assert connection.getresponse().status == 201
