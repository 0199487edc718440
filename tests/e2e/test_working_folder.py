"""Commands from a folder whose files have our modules' names: no process may import them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bevt_core.untrusted.isolation import IsolatedFunction
from pipeline.cluster.session import ray_session
from tests.support.builders import make_token_set
from tests.support.media import write_image
from tests.support.tiny_jobs import save_tiny_tokenizer

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TRAP = "open(__file__ + '.imported', 'w').close()\nraise RuntimeError(__file__)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with traps."""
    if not (BIN / "bevt").is_file():
        pytest.skip("the console script `bevt` is not installed beside this Python")
    for name in ("trainer", "cli", "pipeline", "schemas", "bevt_core"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    return tmp_path


def run(folder: Path, *command: object) -> str:
    """Run a console script there; the path is that of this test's code, whichever checkout is installed."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONSAFEPATH", None)
    program, *arguments = map(str, command)
    ended = subprocess.run(
        [BIN / program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not list(folder.glob("*.imported"))
    return ended.stdout


def training(folder: Path) -> list[str]:
    tokens = make_token_set(folder / "set", num_samples=8, sources_per_part=4)
    small = ["streams.video.global_batch=2", "loop.max_steps=1", "loop.num_workers=1", "model.encoder.embed_dim=24"]
    options = ["--recipe", "nano_video", "--video-tokens", str(tokens.path), "--out", "run"]
    return ["train", "video", *options, *(word for setting in small for word in ("--set", setting))]


def test_torchrun_and_its_loaders(folder: Path) -> None:
    torchrun = ["torchrun", "--standalone", "--nproc-per-node", "1", "--no-python", BIN / "bevt"]
    printed = run(folder, *torchrun, *training(folder))
    assert "1 process on cpu" in printed and (folder / "run" / "weights.safetensors").is_file()


@pytest.mark.slow
def test_spawned_processes(folder: Path) -> None:
    assert "2 processes on cpu" in run(folder, "bevt", *training(folder), "--nproc", "2")


@pytest.mark.slow
def test_ray_and_decoding_children(folder: Path) -> None:
    write_image(folder / "raw" / "x" / "a.png", np.zeros((64, 64, 3), np.uint8))
    tokenizer = save_tiny_tokenizer(folder / "tokenizer")
    command = ["tokenize", "--dataset", "folder", "--recipe", "nano_image", "--root", "raw", "--out", "out"]
    run(folder, "bevt", *command, "--tokenizer", tokenizer)
    assert list((folder / "out" / "tokens").glob("*/dataset.json"))


def test_an_isolated_child(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    child = IsolatedFunction("bevt_core.rng:rng_for")
    child("seed", limit_s=60)
    child.close()
    assert not list(folder.glob("*.imported"))


def test_rays_workers_are_given_our_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    seen: list[Path] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: seen.append(Path.cwd()))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.chdir(folder)
    with ray_session(None, None, None):
        assert Path.cwd() == folder
    assert seen == [REPO]
