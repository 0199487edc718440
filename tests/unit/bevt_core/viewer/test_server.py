"""The server: who is answered, what is answered, and that nothing ends it."""

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from bevt_core.reporting.marks import Html
from bevt_core.reporting.page import Page
from bevt_core.viewer.query import NoSuchPage, Query
from bevt_core.viewer.server import HEADERS, LOCALHOST, ViewServer
from bevt_core.viewer.site import Site
from schemas.errors import UserError
from tests.support.hostile_names import NAMES
from tests.support.served_pages import ServedPage


def overview(query: Query) -> Page:
    page = Page(NAMES[0])
    page.text(NAMES[2])
    return page


def broken(query: Query) -> Page:
    kind = query.choice("kind", {"user", "disk", "bug", "missing"}, "user")
    raise {"user": UserError, "disk": OSError, "bug": ZeroDivisionError, "missing": NoSuchPage}[kind](NAMES[0])


PAGES = {
    "": overview,
    "broken": broken,
    "part": lambda query: Html(f"<p>{query.integer('n', 0, 9)}</p>"),
    "picture": lambda query: b"\x89PNG\r\n\x1a\nrest",
}


@pytest.fixture
def server() -> Iterator[ViewServer]:
    with ViewServer(Site(PAGES, {"Overview": "."})) as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def ask(
    server: ViewServer, target: str, method: str = "GET", host: str | None = None
) -> tuple[http.client.HTTPResponse, str]:
    """The answer to a request for a target, below the key unless it begins with a slash."""
    connection = http.client.HTTPConnection(LOCALHOST, server.server_port, timeout=10)
    path = target if target.startswith("/") else f"/{server.key}/{target}"
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"{LOCALHOST}:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode(errors="replace")
    connection.close()
    return answer, body


def test_pages_parts_pictures_and_files(server: ViewServer) -> None:
    answer, body = ask(server, "")
    assert answer.status == 200 and ServedPage(body).faults == []
    assert NAMES[0] in ServedPage(body).text and NAMES[2] in ServedPage(body).text
    assert ask(server, "part?n=3")[1] == "<p>3</p>"
    assert ask(server, "picture")[0].headers["Content-Type"] == "image/png"
    assert ask(server, "style.css")[0].headers["Content-Type"].startswith("text/css")
    assert ask(server, "view.js")[0].headers["Content-Type"].startswith("text/javascript")
    assert ask(server, "nothing")[0].status == 404


def test_every_answer_has_the_policy(server: ViewServer) -> None:
    for target in ("", "broken", "nothing", "/", "view.js"):
        answer, _ = ask(server, target)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "[::1]", ""])
def test_other_hosts_are_refused(server: ViewServer, host: str) -> None:
    assert ask(server, "", host=host)[0].status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "127.0.0.1:9"])
def test_a_forwarded_port_is_answered(server: ViewServer, host: str) -> None:
    assert ask(server, "", host=host)[0].status == 200


def test_two_hosts_are_refused(server: ViewServer) -> None:
    with socket.create_connection((LOCALHOST, server.server_port), timeout=10) as connection:
        connection.sendall(f"GET /{server.key}/ HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n".encode())
        assert connection.recv(100).split()[1] == b"403"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "X"])
def test_other_methods_are_refused(server: ViewServer, method: str) -> None:
    answer, _ = ask(server, "", method)
    assert answer.status == 405 and answer.headers["Allow"] == "GET, HEAD"


def test_head_has_no_body(server: ViewServer) -> None:
    answer, body = ask(server, "", "HEAD")
    assert answer.status == 200 and int(answer.headers["Content-Length"]) > 100 and body == ""


def test_the_key_is_needed(server: ViewServer) -> None:
    for path in ("/", "/style.css", f"/{'0' * len(server.key)}/", f"/{server.key[:-1]}/", "//", "/%00/", "/%C3%A9/"):
        assert ask(server, path)[0].status == 404
    with ViewServer(Site(PAGES, {})) as other:
        assert other.key != server.key and len(other.key) >= 24


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/", "/etc/passwd", "style.css/..", "file:///etc/passwd"],
)
def test_no_path_is_a_file(server: ViewServer, name: str) -> None:
    answer, body = ask(server, f"/{server.key}/{name}")
    assert answer.status == 404 and "root:" not in body


def test_it_listens_on_this_machine_only(server: ViewServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with pytest.raises(UserError, match=f"port {server.server_port} of 127.0.0.1 cannot be used"):
        ViewServer(server.site, server.server_port)


def test_errors_are_pages_and_the_next_request_is_answered(
    server: ViewServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, status in {"user": 500, "disk": 500, "bug": 500, "missing": 404, "other": 400}.items():
        answer, body = ask(server, f"broken?kind={kind}")
        assert answer.status == status and ServedPage(body).faults == []
        assert kind == "other" or NAMES[0] in ServedPage(body).text
    assert ask(server, "part?n=1")[0].status == 200
    printed = capsys.readouterr().err
    assert "ZeroDivisionError" in printed and printed.count("Traceback") == 1, "only a bug is printed"


def test_what_is_no_request_does_not_end_it(server: ViewServer) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / " + b"a" * 70000,
    ):
        with socket.create_connection((LOCALHOST, server.server_port), timeout=10) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)
    assert ask(server, "a" * 5000)[0].status == 414
    assert ask(server, "")[0].status == 200
