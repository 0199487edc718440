"""An S3 server in this process, and what can go wrong with one."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

SLOW_DOWN = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
INTERNAL = ("500 Internal Server Error", "InternalError", "We encountered an internal error.")
DENIED = ("403 Forbidden", "AccessDenied", "Access Denied")
Fault = tuple[str, str, str]


class S3Server:
    """moto's S3 behind a door: `requests` lists `METHOD path?query`, `fault` may answer in its place."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.fault: Callable[[int, str], Fault | None] = lambda number, request: None
        self._app = DomainDispatcherApplication(create_backend_app)
        self.port = 0
        self._closed = threading.Event()
        self._closed.set()
        self.start()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        self.requests.append(request)
        fault = self.fault(len(self.requests), request)
        if fault is None:
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code, message = fault
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def start(self) -> None:
        assert self._closed.wait(timeout=60)
        self._closed.clear()
        self._server = make_server("127.0.0.1", self.port, self, threaded=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._closed.set()

    def puts(self) -> list[str]:
        return [request.split()[1].rstrip("?") for request in self.requests if request.startswith("PUT ")]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with the bucket `data`; the environment leads to it, also that of child processes."""
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # so that it is our tries that are seen
        from bevt_core.storage.s3 import service

        service._new_file_system.cache_clear()
        import boto3

        boto3.client("s3").create_bucket(Bucket="data")
        yield server
        service._new_file_system.cache_clear()
    server.stop()
