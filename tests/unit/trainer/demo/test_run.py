"""The demo after an interruption, and in the folder of another one."""

from pathlib import Path

import pytest

from schemas.errors import UserError
from trainer.demo import run


@pytest.mark.parametrize("stopped", [True, False])
def test_an_interrupted_training_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    for step in run.demo_steps(tmp_path, 0)[:4]:
        step.product.parent.mkdir(parents=True, exist_ok=True)
        step.product.touch()
    (tmp_path / run.VIDEOS).write_text('{"seed": 0}')
    if stopped:
        (tmp_path / "runs" / "joint").mkdir(parents=True)
        (tmp_path / "runs" / "joint" / "run.json").touch()
    commands: list[list[str]] = []
    monkeypatch.setattr(run, "_run", lambda words: commands.append(words) or 1)
    with pytest.raises(UserError, match="ended with exit code 1"):
        run.demo(tmp_path)
    (words,) = commands
    assert "train" in words and ("--resume" in words) == stopped


def test_results_of_another_seed_are_not_shown_as_this_one_s(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / run.VIDEOS).write_text('{"seed": 0}')
    with pytest.raises(UserError, match="the demo of seed 0, wanted 1"):
        run.demo(tmp_path, seed=1)
