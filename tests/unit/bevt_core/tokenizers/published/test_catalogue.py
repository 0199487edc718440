"""Published tokenizers by name: addresses, digests, and downloads from the hub and from a plain server."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cli
from bevt_core.dataset.token_set import write_token_plan
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.families import family_of
from bevt_core.tokenizers.published.catalogue import CATALOGUE, published
from bevt_core.tokenizers.published.fetch import fetch_published
from bevt_core.tokenizers.published.set_names import default_set_name, short_name
from bevt_core.tokenizers.taming.family import IbqSizes
from schemas.errors import UserError
from schemas.tokens import TokenizerIdentity, TokenPlan
from schemas.views import ViewSpec
from tests.support.published_weights import made_state

GOLDEN = Path(__file__).parents[4] / "golden" / "tokenizers"
COMMIT = "c" * 40


def checkpoint(kind: str, path: Path) -> bytes:
    shapes = json.loads(str(np.load(GOLDEN / f"{kind}.npz")["source"]))["shapes"]
    torch.save({"state_dict": made_state(shapes)}, path)
    return path.read_bytes()


class Hub(ThreadingHTTPServer):
    """Serve one file of one repository at COMMIT, which `main` names, as the hub does."""

    file, content = "/TencentARC/IBQ-Tokenizer-8192/resolve/{}/imagenet256_8192.ckpt", b""


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if self._answer():
            self.wfile.write(self.server.content)

    def _answer(self) -> bool:
        if self.path not in [self.server.file.format(revision) for revision in ("main", COMMIT)]:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(self.server.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        return True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    settings = {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_entry_has_one_place_and_a_kind_with_a_key_map() -> None:
    for name, entry in CATALOGUE.items():
        assert family_of(entry.kind).convert, name
        assert (entry.url is None) != (entry.repo is None), name
        assert entry.sha256_begins is None or re.fullmatch("[0-9a-f]{8}", entry.sha256_begins), name
        assert entry.page.startswith("https://")
    with pytest.raises(UserError, match=r"no published tokenizer 'ibq'; .*known: dalle, vqkd, .*convert FILE"):
        published("ibq")


def test_published_tokenizers_have_token_sets_of_their_own(tmp_path: Path) -> None:
    """Their default names differ; a set of the same weights with the name of older versions keeps it."""
    sizes = {"dalle": 8192, "vqkd": 8192, "llamagen-vq16": 16_384}
    sizes |= {name: int(name.rpartition("-")[2]) for name in CATALOGUE.keys() - sizes.keys()}
    kinds = {name: entry.kind for name, entry in CATALOGUE.items()} | {"dalle": "dalle"}
    names = {name: short_name(kinds[name], size) for name, size in sizes.items()}
    assert len(set(names.values())) == len(names) == len(CATALOGUE) + 1, names
    assert names["ibq-16384"] == "ibq-16384" and names["vqkd"] == "vqkd"
    tokenizers = [
        StoredTokenizer(
            kind="ibq",
            sizes=IbqSizes(vocab_size=size),
            input_px=224,
            encoder_sha256=str(size),
            decoder_sha256=None,
            origin={},
        )
        for size in (8192, 16_384)
    ]
    facts = {"grid": (14, 14), "input_px": 224, "dtype": "float32", "device_kind": "cpu"}
    identity = TokenizerIdentity(name="ibq", weights_sha256="8192", vocab_size=8192, **facts)
    assert [default_set_name(each, 8, tmp_path) for each in tokenizers] == ["ibq-8192-v8", "ibq-16384-v8"]
    views = ViewSpec(num_views=8, crop_px=224, short_side_min_px=256, short_side_max_px=320, flip_share=0.5, jitter=0.0)
    plan = TokenPlan(name="ibq-v8", tokenizer=identity, views=views, frames_plan="0" * 64)
    write_token_plan(tmp_path / "ibq-v8", plan)
    assert [default_set_name(each, 8, tmp_path) for each in tokenizers] == ["ibq-v8", "ibq-16384-v8"]


def test_a_hub_file_needs_a_revision_and_records_its_commit(hub: Hub, tmp_path: Path) -> None:
    hub.content = checkpoint("ibq", tmp_path / "made.ckpt")
    with pytest.raises(UserError, match=r"give `--revision` with a commit of https://huggingface\.co/TencentARC/IBQ-"):
        fetch_published("ibq-8192", tmp_path / "out")
    with pytest.raises(UserError, match=r"IBQ-Tokenizer-8192/\S+ at revision 'gone': .* no such branch.*; or download"):
        fetch_published("ibq-8192", tmp_path / "out", revision="gone")
    digest = hashlib.sha256(hub.content).hexdigest()
    with pytest.raises(UserError, match=r"sha256 \w{12}, expected 00"):
        fetch_published("ibq-8192", tmp_path / "out", revision="main", expected_sha256="00")
    assert not (tmp_path / "out").exists()
    stored = fetch_published("ibq-8192", tmp_path / "out", revision="main", expected_sha256=digest)
    assert stored.origin == {
        "checkpoint": "imagenet256_8192.ckpt",
        "checkpoint_sha256": digest,
        "repository": "TencentARC/IBQ-Tokenizer-8192",
        "revision": COMMIT,
    }
    assert load_tokenizer(tmp_path / "out").vocab_size == 64
    assert COMMIT in (tmp_path / "out" / "CARD.md").read_text()


def test_a_mirror_serves_any_of_them(hub: Hub, tmp_path: Path) -> None:
    hub.file, hub.content = "/mirror/last.ckpt", checkpoint("vqgan", tmp_path / "made.ckpt")
    mirror = f"http://127.0.0.1:{hub.server_address[1]}/mirror"
    command = ["tokenizer", "fetch", "vqgan-1024", "--out", str(tmp_path / "out"), "--mirror", mirror, "--json"]
    result = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert json.loads(result.stdout)["origin"]["url"] == f"{mirror}/last.ckpt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.ckpt", "out"]
    with pytest.raises(UserError, match=r"answered 404 .*download https://github\.com/addf400/.*--kind vqkd --out"):
        fetch_published("vqkd", tmp_path / "other", mirror=mirror)
    with pytest.raises(UserError, match=r"`--revision` is for files on the hub; this one is at https://heibox"):
        fetch_published("vqgan-1024", tmp_path / "other", revision="main")


def test_the_beginning_of_a_digest_is_checked(hub: Hub, tmp_path: Path) -> None:
    hub.file, hub.content = f"/mirror/{CATALOGUE['vqkd'].file}", checkpoint("vqkd", tmp_path / "made.ckpt")
    mirror = f"http://127.0.0.1:{hub.server_address[1]}/mirror"
    with pytest.raises(UserError, match=r"sha256 \w{12}, expected d5036aa7\.\.\.; file removed"):
        fetch_published("vqkd", tmp_path / "out", mirror=mirror)
    assert not list((tmp_path / "out.download").iterdir())
    digest = hashlib.sha256(hub.content).hexdigest()
    with pytest.raises(UserError, match=r"input_px 224, expected 32"):  # the made file has a smaller grid
        fetch_published("vqkd", tmp_path / "out", mirror=mirror, expected_sha256=digest)
