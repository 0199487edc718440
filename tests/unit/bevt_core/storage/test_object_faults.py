"""Object stores that fail: what is retried, for how long, what is one error, and what its message must not contain."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bevt_core.storage import objects
from bevt_core.storage.clouds import clients
from bevt_core.storage.clouds.schemes import CLOUDS
from bevt_core.storage.clouds.transfers import TooLong
from schemas.errors import StorageError, UserError
from tests.support.object_server import CUT, DENIED, INTERNAL, LOST, SKEWED, SLOW_DOWN, WSGI, Fault, ObjectServer

only_s3 = pytest.mark.parametrize("each_server", ["s3"], indirect=True)


def first(count: int, fault: Fault, method: str = "") -> Callable[[int, str], Fault | None]:
    """Fail the first `count` requests of a method."""
    left = iter(range(count))
    return lambda number, request: fault if request.startswith(method) and next(left, None) is not None else None


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (SLOW_DOWN, "503.*reduce your request rate.*finished work is kept"),
        (INTERNAL, "internal error.*same command"),
        (LOST, "sending request.*same command"),
    ],
)
def test_attempts_end_in_one_error(
    store: ObjectServer, monkeypatch: pytest.MonkeyPatch, fault: Fault, says: str
) -> None:
    monkeypatch.setenv("BEVT_RETRY_S", "0.3")
    store.fault = lambda number, request: fault
    path = store.path("x")
    with pytest.raises(StorageError, match=rf"{path}: cannot write it \(\d+ attempts in \d s.*{says}") as caught:
        path.write_bytes(b"x")
    assert 2 < len(store.requests) < 20 and str(caught.value).count("http://") == 1  # the endpoint's


@pytest.mark.parametrize("fault", [SLOW_DOWN, INTERNAL, CUT, LOST, ("429 Too Many Requests", "TooMany", "x")])
def test_every_request_is_repeated(store: ObjectServer, tmp_path: Path, fault: Fault) -> None:
    path, data = store.path("repeated/x"), bytes(range(256)) * 64
    for request, method in (
        (lambda: path.write_bytes(data), "PUT"),
        (lambda: path.read_bytes() == data or None, "GET"),
        (lambda: path.read_range(5, 900) == data[5:900] or None, "GET"),
        (lambda: path.parent.sizes() == {"x": len(data)} or None, "GET"),
        (lambda: path.parent.entries() == {"x": False} or None, "GET"),
        (lambda: path.size() == len(data) or None, "HEAD"),
    ):
        store.fault = first(2, fault, method)
        done = request()
        assert done or method == "PUT"
    store.fault = first(2, fault)
    path.download(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data
    store.fault = first(2, fault)
    path.unlink()
    assert not path.exists()


def test_a_download_continues_where_it_was_cut(store: ObjectServer, tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    path = store.path("cut/large")
    path.write_bytes(data)
    store.requests.clear()
    store.fault = first(3, CUT, "GET")
    path.download(tmp_path / "back", len(data))
    assert (tmp_path / "back").read_bytes() == data and len(store.requests) == 4
    store.fault = lambda number, request: None
    for missing, limit, error in (("large", len(data) - 1, TooLong), ("nothing", None, FileNotFoundError)):
        with pytest.raises(error):
            (path.parent / missing).download(tmp_path / missing, limit)
        assert not (tmp_path / missing).exists()


def test_a_conditional_put_after_a_lost_response(store: ObjectServer) -> None:
    """The attempt that wrote the object is not known to have written it: its retry finds one."""
    path = store.path("created")
    store.fault = first(1, LOST, "PUT")
    assert path.create_bytes(b"first") is False
    assert path.read_bytes() == b"first"
    assert path.create_bytes(b"second") is False and path.read_bytes() == b"first"
    store.fault = first(2, SLOW_DOWN, "PUT")
    assert store.path("created-2").create_bytes(b"x") is True


def test_a_store_without_conditional_puts_overwrites(store: ObjectServer) -> None:
    store.fault = first(
        1, ("501 Not Implemented", "NotImplemented", "a header implies unsupported functionality"), "PUT"
    )
    assert store.path("plain").create_bytes(b"x") is True and store.path("plain").read_bytes() == b"x"


def test_what_cannot_pass_is_not_tried_again(store: ObjectServer) -> None:
    word, path = CLOUDS[store.scheme].bucket, store.path("x")
    with pytest.raises(StorageError, match=f"no {word} 'nowhere'; make it"):
        store.path("x", "nowhere").write_bytes(b"x")
    assert store.path("x", "nowhere").sizes() == {} and not store.path("x", "nowhere").exists()
    for fault, says in (
        (DENIED, "no permission to read it .*403 .*Access Denied.*; check the credentials"),
        (SKEWED, "cannot read it: 403 .*; set this machine's clock"),
        (("400 Bad Request", "InvalidArgument", "Invalid argument."), "cannot read it: 400 .*Invalid argument"),
    ):
        store.requests.clear()
        store.fault = lambda number, request, fault=fault: fault
        with pytest.raises(StorageError, match=says) as caught:
            path.read_bytes()
        assert len(store.requests) == 1 and str(caught.value).startswith(f"{path}: ")
        assert "http" not in str(caught.value) and "\n" not in str(caught.value)


def elsewhere(region: str | None, app: WSGI) -> WSGI:
    """S3 for requests that are signed for eu-west-1; others are redirected, and named `region`."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "/eu-west-1/s3" in environ.get("HTTP_AUTHORIZATION", ""):
            return app(environ, start_response)
        header = [("x-amz-bucket-region", region)] if region else []
        start_response("301 Moved Permanently", [*header, ("Content-Length", "0")])
        return []

    return answer


@only_s3
@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1", None])
def test_a_bucket_in_another_region(region: str | None, store: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store.path("elsewhere").write_bytes(b"x")
    monkeypatch.setattr(store, "_app", elsewhere(region, store._app))
    clients.forget_clients()
    if region == "eu-west-1":
        with ThreadPoolExecutor(4) as pool:  # the region is asked for once
            assert list(pool.map(lambda _: store.path("elsewhere").read_bytes(), range(8))) == [b"x"] * 8
    else:
        with pytest.raises(StorageError, match="set AWS_DEFAULT_REGION to the bucket's region"):
            store.path("elsewhere").read_bytes()
    assert sum(request == "HEAD /data?" for request in store.requests) == 1
    clients.forget_clients()


@only_s3
def test_listed_keys_that_cannot_be_files_are_one_error(store: ObjectServer) -> None:
    """Such keys come from other tools, here boto3: obstore itself refuses them."""
    import boto3

    for number, key in enumerate(("a/../../x", "../x", "/etc/x", "a//b", "./a")):
        boto3.client("s3").put_object(Bucket="data", Key=f"hostile/{number}/{key}", Body=b"x")
        root = store.path(f"hostile/{number}")
        with pytest.raises(UserError, match=rf"{root}: the object .* below it cannot be a file; rename or remove it"):
            root.sizes()


@only_s3
def test_markers_of_folders_are_no_files(store: ObjectServer) -> None:
    import boto3

    for key in ("", "empty/", "full/", "full/x", "none"):
        boto3.client("s3").put_object(Bucket="data", Key=f"marked/{key}", Body=b"")
    root = store.path("marked")
    assert root.sizes() == {"full/x": 0, "none": 0}
    assert root.entries() == {"empty": True, "full": True, "none": False}
    assert root.is_dir() and (root / "full").is_dir() and not (root / "empty").is_dir()


def test_a_listing_continues_where_it_stopped(store: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is repeated, and a listing that still fails goes on after its last key."""
    names = [f"{number:03d}" for number in range(70)]
    for name in names:
        store.path(f"many/{name}").write_bytes(b"x")
    monkeypatch.setattr(objects, "PAGE_RETRIES", 0)
    store.requests.clear()
    store.fault = lambda number, request: INTERNAL if number in (1, 19) else None
    assert list(store.path("many").sizes()) == names


def test_a_forked_child_is_an_error_and_never_hangs(store: ObjectServer) -> None:
    store.path("fork").write_bytes(b"x")
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            store.path("fork").read_bytes()
        except UserError as error:
            os._exit(0 if "start it by `spawn`" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


WAITS = """
import faulthandler, sys
from bevt_core.storage.objects import as_path
faulthandler.dump_traceback_later(50, exit=True)
path = as_path("gs://data/x")
{"put": lambda: path.write_bytes(b"x"), "get": path.read_bytes, "list": path.sizes, "head": path.size}[sys.argv[1]]()
"""


@pytest.mark.parametrize("request_", ["put", "get", "list", "head"])
def test_ctrl_c_ends_a_request_to_a_silent_server(request_: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "GOOGLE_BASE_URL": address, "GOOGLE_BEARER_TOKEN": "token"}
        words = [sys.executable, "-c", WAITS, request_]
        child = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        connection, _ = silent.accept()
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        connection.close()
    assert time.monotonic() - began < 20 and "KeyboardInterrupt" in errors, errors
