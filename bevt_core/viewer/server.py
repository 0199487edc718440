"""The HTTP server of `bevt view`: on 127.0.0.1 only, read-only, behind an address that others cannot guess.

Who may not read a site, and what keeps them out:

- other machines: the server listens on 127.0.0.1
- other users of this machine: the address contains a random key
- pages of other sites in the same browser: the key, and the `Host` header must name this machine, which also stops DNS
  rebinding

A path has two parts, the key and a page's name from a table, so no request can name a file.
"""

import hmac
import secrets
import socket
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bevt_core.console.terminal import print_lines
from bevt_core.viewer.site import Answer, Site
from schemas.errors import UserError

LOCALHOST = "127.0.0.1"
HOSTS = frozenset({LOCALHOST, "localhost"})  # with any port, which may be forwarded by ssh -L
TIMEOUT_S = 10.0  # for a request to arrive, and for an answer to be taken
MAX_TARGET = 4000  # characters of a path and its parameters
MAX_CONNECTIONS = 64  # at a time; browsers open 6

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # the browser keeps no copy of the pictures
}


class ViewServer(ThreadingHTTPServer):
    """Serves a site, as a context manager; `address` is its URL. Port 0 is any free port."""

    daemon_threads, block_on_close = True, False  # Ctrl-C does not wait for an answer

    def __init__(self, site: Site, port: int = 0) -> None:
        """Raises UserError if the port cannot be used."""
        self.site, self.key = site, secrets.token_hex(12)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((LOCALHOST, port), _Requests)
        except OSError as error:
            raise UserError(
                f"port {port} of {LOCALHOST} cannot be used: {error.strerror}; give another `port`"
            ) from None

    @property
    def address(self) -> str:
        return f"http://{LOCALHOST}:{self.server_port}/{self.key}/"

    def server_bind(self) -> None:
        """Bind without the look-up of this machine's name, which HTTPServer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = LOCALHOST, self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless the browser closed the connection."""
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            print_lines("".join(traceback.format_exception(error)), sys.stderr)


class _Requests(BaseHTTPRequestHandler):
    """One request per connection."""

    server: ViewServer
    server_version, sys_version = "bevt", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        self._send(self._answer())

    def do_HEAD(self) -> None:
        self._send(self._answer())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request, or one with another method, which the base class calls 501."""
        status = 405 if code == 501 else int(code)
        self._send(self._plain(status, "Only GET and HEAD are answered." if status == 405 else "Not a request."))

    def log_message(self, format: str, *args: Any) -> None:
        """Print no line per request."""

    def _answer(self) -> Answer:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or (hosts[0].rpartition(":")[0] not in HOSTS and hosts[0] not in HOSTS):
            return self._plain(403, f"Open the address that bevt view printed; it begins with http://{LOCALHOST}.")
        path, _, query = self.path.partition("?")
        key, _, page = path.removeprefix("/").partition("/")
        if len(self.path) > MAX_TARGET:
            return self._plain(414, "The address is too long.")
        if not hmac.compare_digest(key.encode(errors="replace"), self.server.key.encode()):
            return self._plain(404, "Open the address that bevt view printed, with its random key.")
        return self.server.site.answer(page, query)

    def _plain(self, status: int, text: str) -> Answer:
        return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if answer.status == 405:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
