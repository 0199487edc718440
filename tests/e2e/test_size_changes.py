"""A video whose size changes in its middle costs fine-tuning, evaluation and prediction one file, and no more."""

import json
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

import cli
from tests.support.coded_clips import coded_frames, size_changing_clip
from tests.support.media import write_video

TINY = ["encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]", "encoder.window=[2,4,4]"]
TINY += ["sampling.frames=4", "global_batch=4", "loop.epochs=1", "loop.num_workers=0"]


def bevt(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def summary(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout.splitlines()[-1])


def test_it_is_one_unreadable_file(tmp_path: Path) -> None:
    files, run = tmp_path / "files", tmp_path / "run"
    for split in ("train", "val"):
        for i, name in enumerate(("left", "left", "right", "right")):
            write_video(files / split / name / f"{i}.mp4", coded_frames(12, 72, 96))
        size_changing_clip(files / split / "right" / "changes.ts", "h264", "ts", [(96, 128), (48, 64)])
    error = "frames of 2 sizes: [(48, 64), (96, 128)]"
    settings = [part for change in TINY for part in ("--set", change)]
    tuned = bevt("finetune", "folder", "--root", files, "--recipe", "nano_finetune", "--out", run, *settings)
    assert summary(tuned)["finished"] and summary(tuned)["unreadable"] == ["train/right/changes.ts"]
    assert f"warning: train/right/changes.ts left out of training: {error}" in tuned.stderr
    tested = summary(bevt("evaluate", run, "--root", files, "--clips", 1, "--crops", 1))
    assert (tested["num_videos"], tested["failed"]) == (4, {"val/right/changes.ts": error})
    rows = summary(bevt("predict", run, files / "val"))["videos"]
    assert {Path(row["video"]).name: row.get("error") for row in rows} == {
        **{f"{i}.mp4": None for i in range(4)},
        "changes.ts": error,
    }
