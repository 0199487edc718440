"""Keys of commands that take too long to run whole: what they call is replaced, what they print is not."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
import pipeline.bench.job
import trainer.demo.run
from tests.support.builders import make_token_set
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer.clips.multi_view import TEMPORAL
from trainer.testing.evaluate import RESULT
from trainer.testing.temporal import TABLE


def printed(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_model_info(json_keys: CheckKeys) -> None:
    json_keys("model info", printed("model", "info", "nano"))


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_keys: CheckKeys) -> None:
    make_token_set(tmp_path / "train", num_samples=2)
    for step in trainer.demo.run.demo_steps(tmp_path, seed=0):
        step.product.parent.mkdir(parents=True, exist_ok=True)
        step.product.touch()
    (tmp_path / trainer.demo.run.VIDEOS).write_text(
        json.dumps({"seed": 0, "train_clips_per_class": trainer.demo.run.CLIPS})
    )
    for start in trainer.demo.run.STARTS.values():
        tested = tmp_path / "runs" / f"temporal-{start}"
        (tested / TABLE).write_text("frames,top1\n" + "".join(f"{order},0.5\n" for order in TEMPORAL))
        (tested / "normal").mkdir()
        (tested / "normal" / RESULT).write_text('{"num_videos": 2}')
    monkeypatch.setattr(trainer.demo.run, "write_report", lambda out, *_: out / "report.html")
    json_keys("demo", printed("demo", "--out", tmp_path))


def test_bench_tokenize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_keys: CheckKeys) -> None:
    write_video(tmp_path / "root" / "a.mp4", moving_frames(2))
    summary = json.dumps({"actor_busy_share": 0.5, "bottleneck": "decoding", "videos_per_s": 1.0})
    seconds = iter(range(1, 5))
    monkeypatch.setattr(
        pipeline.bench.job, "measure", lambda _: pipeline.bench.job.Usage(next(seconds), 1, 1.0, summary)
    )
    command = ["bench", "tokenize", "--dataset", "folder", "--root", tmp_path / "root", "--work", tmp_path / "work"]
    json_keys("bench tokenize", printed(*command, "--tokenizer", save_tiny_tokenizer(tmp_path / "tiny")))
