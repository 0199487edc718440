"""A server of an object store in this process, behind a door that logs requests and may answer with a fault."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from xml.sax.saxutils import escape

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from bevt_core.storage.objects import ObjectPath

SLOW_DOWN = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
INTERNAL = ("500 Internal Server Error", "InternalError", "We encountered an internal error.")
DENIED = ("403 Forbidden", "AccessDenied", "Access Denied")
SKEWED = ("403 Forbidden", "RequestTimeTooSkewed", "The difference between the request time and the server's is large.")
Fault = tuple[str, str, str]
CUT: Fault = ("", "", "")  # the request is answered, but the connection ends in the middle of the response
LOST: Fault = ("", "", "lost")  # the request is carried out, but its response never arrives


class WSGI(Protocol):
    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]: ...


class Quiet(WSGIRequestHandler):
    def log_request(self, *words: object) -> None:
        pass


class ObjectServer:
    """`requests` lists `METHOD /bucket/key?query`, `fault` may answer in place of `app`."""

    def __init__(self, app: WSGI, scheme: str, account: str = "") -> None:
        self.requests: list[str] = []
        self.fault: Callable[[int, str], Fault | None] = lambda number, request: None
        self.scheme = scheme
        self._app, self._account = app, account
        self.port = 0
        self._closed = threading.Event()
        self._closed.set()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def path(self, key: str, bucket: str = "data") -> ObjectPath:
        return ObjectPath(f"{self.scheme}://{bucket}") / key

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"].encode("latin-1").decode().removeprefix(self._account)
        request = f"{environ['REQUEST_METHOD']} {path}?{environ['QUERY_STRING']}"
        self.requests.append(request)
        fault = self.fault(len(self.requests), request)
        if fault is None:
            return self._app(environ, start_response)
        if fault in (CUT, LOST):
            return self._cut(environ, start_response, 0.5 if fault == CUT else 0)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code, message = fault
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def _cut(self, environ: dict[str, Any], start_response: Any, share: float) -> Iterable[bytes]:
        """Send the headers and `share` of the body, or nothing at all for 0."""
        answered: list[Any] = []
        body = b"".join(self._app(environ, lambda status, headers, *_: answered.extend((status, headers))))
        if not share or not body:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError("the response is lost")
        headers = [(name, value) for name, value in answered[1] if name.lower() != "content-length"]
        start_response(answered[0], [*headers, ("Content-Length", str(len(body)))])
        return [body[: int(len(body) * share)]]

    def start(self) -> None:
        assert self._closed.wait(timeout=60)
        self._closed.clear()
        self._server = make_server("127.0.0.1", self.port, self, threaded=True, request_handler=Quiet)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._closed.set()

    def puts(self) -> list[str]:
        """`/bucket/key` of each object, and of each piece of one, in the order of the requests."""
        puts = [request.removeprefix("PUT ") for request in self.requests if request.startswith("PUT ")]
        return [put.removesuffix("?") for put in puts]


@contextmanager
def running(server: ObjectServer, environment: dict[str, str]) -> Iterator[ObjectServer]:
    """Let the environment lead to `server`, also that of child processes; stop it at the end."""
    from bevt_core.storage.clouds import clients

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        clients.forget_clients()
        yield server
        clients.forget_clients()
    server.stop()
