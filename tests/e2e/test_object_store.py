"""The commands as a user runs them, from objects to objects of each cloud: killed, throttled, verified, trained on."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bevt_core.storage.files import sha256_of, sizes_in
from bevt_core.storage.objects import AnyPath
from tests.support.media import moving_frames, write_video
from tests.support.object_server import SLOW_DOWN, ObjectServer
from tests.support.object_servers import SERVERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["s3", "gs", "az"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with SERVERS[request.param]() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEVT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield server


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cli", *map(str, arguments), "--json"]


def bevt(*arguments: object) -> dict:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600)
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert answers, done.stdout + done.stderr
    return json.loads(answers[-1])


def dataset_digests(path: AnyPath) -> dict[str, str]:
    """path -> sha256 of all files but the reports, which differ from run to run."""
    return {name: sha256_of(path / name) for name in sizes_in(path) if not name.endswith("report.html")}


def test_from_objects_to_objects(server: ObjectServer, tmp_path: Path, tiny_tokenizer: Path) -> None:
    root, raw, out = tmp_path / "root", server.path("raw"), server.path("set")
    for i in range(7):
        write_video(root / f"class {i % 2}" / f"{i}.mp4", moving_frames(9, seed=i))
    (root / "class 0" / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    for name in sizes_in(root):
        (raw / name).upload(root / name)
    job = ["tokenize", "--dataset", "folder", "--recipe", "nano_video", "--tokenizer", tiny_tokenizer]
    job += ["--set", "sources_per_part=2", "--set", "pool.max_frames=8"]
    bevt(*job, "--root", root, "--out", tmp_path / "local")
    remote = [*job, "--root", raw, "--out", out]

    first = subprocess.Popen(command(*remote), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any("part-" in put and put.endswith("commit.json") for put in server.puts()):
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    server.fault = lambda number, request: SLOW_DOWN if number % 7 == 0 else None
    summary = bevt(*remote)
    server.fault = lambda number, request: None
    assert (summary["indexed"], summary["rejected"], summary["parts"]) == (7, 1, 4)
    made = dataset_digests(out)
    assert made == dataset_digests(tmp_path / "local")

    server.requests.clear()
    assert bevt(*remote)["parts_done_before"] == 4
    assert not [put for put in server.puts() if "/part-" in put]
    assert bevt("verify", out)["token_agreement"] == 1.0

    (out / "frames/part-00001/index.parquet").write_bytes(b"torn")
    assert not bevt("verify", out)["ok"]
    assert bevt("repair", out, "--root", raw)["removed"] == ["frames/part-00001"]
    assert dataset_digests(out) == made

    name = Path(summary["tokens_dir"]).name
    changes = ["model.vocab_size=32", "streams.video.global_batch=2", "loop.max_steps=2", "loop.num_workers=1"]
    train = ["train", "video", "--recipe", "nano_video", *(word for change in changes for word in ("--set", change))]
    bevt(*train, "--video-tokens", f"{out}/tokens/{name}", "--out", tmp_path / "run-cloud")
    bevt(*train, "--video-tokens", tmp_path / "local" / "tokens" / name, "--out", tmp_path / "run-local")
    assert sha256_of(tmp_path / "run-cloud/weights.safetensors") == sha256_of(
        tmp_path / "run-local/weights.safetensors"
    )
