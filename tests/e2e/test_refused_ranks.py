"""A job of several processes that rank 0 refuses ends on all of them, with one message."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bevt_core.storage.one_writer import hold
from tests.support.builders import make_token_set
from tests.support.processes import elsewhere

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    make_token_set(tmp_path, num_samples=4, sources_per_part=2, kind="image", grid=8)
    settings = [f"streams.image.tokens={tmp_path / 'tokens' / 'test-v2'}", "model.vocab_size=64"]
    settings += ["streams.image.global_batch=2", "loop.num_workers=0"]
    options = [option for setting in settings for option in ("--set", setting)]
    return [sys.executable, "-m", "cli", "train", "image", "--recipe", "nano_image", "--out", "run", *options]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ends_of(command: list[str], folder: Path) -> list[tuple[int, str]]:
    """Run it as two ranks, as torchrun would; their exit statuses and stderr."""
    job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **job, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    stderr = [rank.communicate(timeout=300)[1] for rank in ranks]
    return [(rank.returncode, said) for rank, said in zip(ranks, stderr, strict=True)]


def test_a_second_writer_and_another_run(command: list[str], tmp_path: Path) -> None:
    with elsewhere(hold(tmp_path / "run", "bevt train video")):
        first, second = ends_of(command, tmp_path)
    assert first[0] == second[0] == 2 and second[1] == ""
    assert first[1].startswith("error: run: `bevt train video` (process") and first[1].count("\n") == 1
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    first, second = ends_of(command, tmp_path)
    assert first[0] == second[0] == 2 and second[1] == ""
    assert first[1] == "error: run is not empty and contains no run; give another --out\n"


def test_processes_started_here(command: list[str], tmp_path: Path) -> None:
    with elsewhere(hold(tmp_path / "run", "bevt train video")):
        done = subprocess.run(
            [*command, "--nproc", "2"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: run: `bevt train video` (process")
