"""Ctrl-C ends a command with 130, as shells expect, and with no traceback; SIGTERM ends a job on Ray with 143."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
import trainer.demo.run
from pipeline.cluster.watch import sigterm_exits
from tests.support.builders import make_token_set
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer.metrics.log import read_metrics

REPO = Path(__file__).parents[2]
SLEEPER = """
import time
from bevt_core.console.command_line import App
app = App("test")
@app.command("sleep")
def sleep() -> None:
    print("ready", flush=True)
    time.sleep(60)
@app.command("other")
def other(): ...
app(["sleep"])
"""


def test_ctrl_c_in_a_command() -> None:
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", SLEEPER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == "interrupted\n"


def test_ctrl_c_in_training_writes_a_checkpoint(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path / "data", kind="image", num_samples=8).path
    out = tmp_path / "run"

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not (out.exists() and read_metrics(out)) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    settings = ["model.vocab_size=64", "streams.image.global_batch=4", "loop.num_workers=0", "loop.epochs=10000"]
    options = [part for setting in settings for part in ("--set", setting)]
    thread = threading.Thread(target=interrupt)
    thread.start()
    command = ["train", "image", "--recipe", "nano_image", "--image-tokens", str(tokens), "--out", str(out)]
    result = CliRunner().invoke(cli.app, [*command, *options])
    thread.join()
    assert result.exit_code == 130
    assert "resume with: " in result.stderr
    assert list((out / "checkpoints").glob("step-*/checkpoint.json"))


def test_ctrl_c_in_the_demo_leaves_its_command_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.demo.run, "INTERRUPT_S", 0.1)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        trainer.demo.run._run([sys.executable, "-c", "import time; time.sleep(60)"])
    assert 0.4 < time.monotonic() - begun < 30


def test_sigterm_leaves_a_block_on_ray_by_its_exits() -> None:
    left = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised, sigterm_exits():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            left.append("cleaned up")
    assert raised.value.code == 143
    assert left
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_in_a_job_on_ray(signum: int, status: int, tmp_path: Path) -> None:
    for i in range(40):
        write_video(tmp_path / "videos" / f"{i}.mp4", moving_frames(20, 120, 160, seed=i))
    tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
    command = [sys.executable, "-m", "cli", "tokenize", "--dataset", "folder", "--root", str(tmp_path / "videos")]
    command += ["--out", str(tmp_path / "out"), "--recipe", "nano_video", "--tokenizer", str(tokenizer)]
    command += ["--set", "sources_per_part=1"]
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "out").glob("frames/part-*")) and time.monotonic() < deadline:
            assert process.poll() is None, "ended before the signal"
            time.sleep(0.01)
        process.send_signal(signum)
        assert process.wait(60) == status
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
