"""The demo after an interruption, and in the folder of another one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import UserError
from tests.support.children import is_running, wait_until
from trainer.demo import run


@pytest.mark.parametrize("stopped", [True, False])
def test_an_interrupted_training_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    for step in run.demo_steps(tmp_path, 0)[:4]:
        step.product.parent.mkdir(parents=True, exist_ok=True)
        step.product.touch()
    (tmp_path / run.VIDEOS).write_text('{"seed": 0, "train_clips_per_class": 32}')
    if stopped:
        (tmp_path / "runs" / "joint").mkdir(parents=True)
        (tmp_path / "runs" / "joint" / "run.json").touch()
    commands: list[list[str]] = []
    monkeypatch.setattr(run, "_run", lambda words: commands.append(words) or 1)
    with pytest.raises(UserError, match="ended with exit code 1"):
        run.demo(tmp_path)
    (words,) = commands
    assert "train" in words and ("--resume" in words) == stopped


@pytest.mark.parametrize(("made", "refused"), [((0, 32), "seed 0, wanted 1"), ((1, 100), "class 100, wanted 32")])
def test_results_of_other_videos_are_not_shown_as_those_of_the_demo(
    tmp_path: Path, made: tuple[int, int], refused: str
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / run.VIDEOS).write_text(json.dumps(dict(zip(("seed", "train_clips_per_class"), made, strict=True))))
    with pytest.raises(UserError, match=refused):
        run.demo(tmp_path, seed=1)


def test_seconds_include_interrupted_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 5.0, 10.0, 12.5])
    monkeypatch.setattr(run.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(run, "_run", lambda words: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run.demo(tmp_path)
    assert list(json.loads((tmp_path / run.SECONDS).read_text()).values()) == [7.5]


def test_sigterm_ends_the_command_that_runs(tmp_path: Path) -> None:
    child = tmp_path / "child"
    work = f"import os, pathlib, time; pathlib.Path({str(child)!r}).write_text(str(os.getpid())); time.sleep(60)"
    script = f"import sys; from trainer.demo.run import _run; _run([sys.executable, '-c', {work!r}])"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        wait_until(lambda: child.exists() and child.read_text() != "")
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    assert not is_running(int(child.read_text()))
