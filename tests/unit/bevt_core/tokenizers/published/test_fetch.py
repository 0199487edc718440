"""Downloads over an unreliable connection, from a server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from dall_e import Decoder, Encoder

from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.published.fetch import ATTEMPTS, fetch_dalle, fetch_file, fetch_published
from schemas.errors import UserError
from tests.support.json_keys import CheckKeys

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serve `files`; each connection ends after `cut` bytes, and the first `refusals` requests get a 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file.bin": CONTENT}
        self.cut: int | None = None
        self.refusals = 0
        self.ranges: list[str | None] = []  # the Range header of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if server.refusals:
            server.refusals -= 1
            self.send_error(503)
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        content = server.files[self.path]
        etag = hashlib.sha256(content).hexdigest()[:16]
        start = 0
        if self.headers.get("If-Range") == etag:
            start = int(str(self.headers["Range"]).removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if server.cut is None else content[start : start + server.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_broken_transfer_resumes(server: Server, tmp_path: Path) -> None:
    server.cut = 300_000
    seen: list[int] = []
    digest = fetch_file(
        f"{server.url}/file.bin",
        tmp_path / "file.bin",
        first_wait_s=0,
        progress=lambda name, done, total: seen.append(done),
    )
    assert digest == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert seen == sorted(seen) and seen[-1] == len(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_later_call_resumes_unless_the_file_has_changed(server: Server, tmp_path: Path) -> None:
    server.cut = 100_000
    with pytest.raises(UserError, match=f"failed after {ATTEMPTS} attempts: the connection ended early"):
        fetch_file(f"{server.url}/file.bin", tmp_path / "file.bin", first_wait_s=0)
    assert not (tmp_path / "file.bin").exists()
    server.cut = None
    server.ranges.clear()
    server.files["/file.bin"] = other = CONTENT[::-1]
    fetch_file(f"{server.url}/file.bin", tmp_path / "file.bin", first_wait_s=0)
    assert server.ranges == ["bytes=500000-"]
    assert (tmp_path / "file.bin").read_bytes() == other


def test_a_busy_server_is_retried_and_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    server.refusals = 2
    fetch_file(f"{server.url}/file.bin", tmp_path / "file.bin", first_wait_s=0)
    assert len(server.ranges) == 3
    server.ranges.clear()
    with pytest.raises(UserError, match="answered 404"):
        fetch_file(f"{server.url}/none.bin", tmp_path / "none.bin", first_wait_s=0)
    assert len(server.ranges) == 1


def test_a_file_with_another_digest_is_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sha256 \w{12}, expected 00"):
        fetch_file(f"{server.url}/file.bin", tmp_path / "file.bin", expected_sha256="00")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mirror", ["mirror.example/files", "file:///etc"])
def test_a_mirror_that_is_no_server_is_one_line(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{mirror}/.*: no address of a server; give one such as https://"):
        fetch_published("vqkd", tmp_path / "vqkd", mirror=mirror)
    assert not (tmp_path / "vqkd").exists()


def test_without_a_server_the_error_gives_the_manual_steps(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"failed after(.|\n)*cdn\.openai\.com/dall-e/encoder\.pkl(.|\n)*tokenizer convert"
    ):
        fetch_dalle(tmp_path / "dalle", base_url="http://127.0.0.1:9", first_wait_s=0)


def test_fetch_makes_a_tokenizer_and_cleans_up(server: Server, tmp_path: Path, json_keys: CheckKeys) -> None:
    (tmp_path / "made").mkdir()
    torch.save(Encoder(n_hid=64, n_blk_per_group=1, vocab_size=512), tmp_path / "made" / "encoder.pkl")
    torch.save(Decoder(n_init=8, n_hid=64, n_blk_per_group=1, vocab_size=512), tmp_path / "made" / "decoder.pkl")
    for name in ("encoder.pkl", "decoder.pkl"):
        server.files[f"/mirror/{name}"] = (tmp_path / "made" / name).read_bytes()
    server.cut = 3_000_000  # the encoder has 5.3 MB
    stored = fetch_dalle(tmp_path / "dalle", base_url=f"{server.url}/mirror/", first_wait_s=0)
    digest = hashlib.sha256(server.files["/mirror/encoder.pkl"]).hexdigest()
    assert stored.origin["encoder_pkl_sha256"] == digest
    assert load_tokenizer(tmp_path / "dalle").vocab_size == 512
    json_keys("tokenizer fetch", {"tokenizer": "", **stored.model_dump(mode="json")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dalle", "made"]
