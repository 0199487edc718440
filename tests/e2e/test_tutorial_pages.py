"""The commands of docs/tutorials/your-own-clips.md and docs/tutorials/diving48.md run in order, on small made data."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import cli
from tests.conftest import REPO
from tests.support.diving import make_diving48
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_video

TUTORIALS = REPO / "docs" / "tutorials"
BLOCK = re.compile(r"```bash\n(.*?)```", flags=re.DOTALL)
OFFICIAL = "encoder.embed_dim=16 encoder.depths=[2,2,2,2] encoder.num_heads=[1,2,4,8]"  # of the small checkpoint
SMALL_DIVES = f"{OFFICIAL} sampling.frames=4 augment.crop_px=64 views.short_side_px=64 global_batch=4 loop.epochs=3"
SMALL_DIVES += " loop.max_steps=1 loop.micro_batches=1 loop.precision=fp32 loop.num_workers=0"


def commands(page: str) -> Iterator[list[str]]:
    """The arguments of each `bevt` of the page's shell blocks, in order."""
    for block in BLOCK.findall((TUTORIALS / page).read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert words[0] == "bevt", line
                yield words[1:]


def run(words: list[str]) -> str:
    """Run one command in this process; it must succeed. Returns what it printed."""
    print("$ bevt", *words)
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    print(result.output)
    assert result.exit_code == 0, result.output
    return result.output


def smaller(words: list[str], settings: str) -> list[str]:
    """The command with settings that fit the made data."""
    return [*words, *(word for setting in settings.split() for word in ("--set", setting))]


@pytest.mark.slow
def test_diving48(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oracle: Path) -> None:
    monkeypatch.chdir(tmp_path)
    make_diving48(Path("data/diving48"))
    torch.save({"state_dict": load_file(oracle / "official_tiny.safetensors")}, "bevt_pretrained.pth")
    with without_ray():
        for words in commands("diving48.md"):
            if words[0] == "finetune" and "--dry-run" not in words:
                words = smaller(words, SMALL_DIVES)
            output = run(words)
            if words[0] == "import-checkpoint":
                assert "fresh       none" in output
            if "--assume" in words:
                assert "steps                     28,080" in output
    for name in ("1x3", "1x1"):
        evaluation = json.loads(Path("evaluations", f"diving48-{name}", "evaluation.json").read_text())
        assert evaluation["overlap_with_training"]["count"] == 0
    assert Path("report", "report.html").is_file() and Path("hub", "bevt-diving48", "README.md").is_file()


CLIPS = 8  # of each class
SMALL_CLIPS = {
    "tokenizer train": "samples_per_epoch=16 global_batch=8 loop.num_workers=0",
    "train": "loop.max_steps=2 loop.num_workers=0",
    "finetune": "loop.max_steps=2 loop.num_workers=0",
}


@pytest.mark.slow
def test_your_own_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for label, name in enumerate(("left", "right")):
        for number in range(CLIPS):
            seed = 2 * number + label
            write_video(Path("clips", name, f"{number}.mp4"), moving_frames(40, 120, 128, seed=seed))
    write_video(Path("new-clips", "new.mp4"), moving_frames(40, 120, 128, seed=99))
    accuracies = []
    with without_ray():
        for words in commands("your-own-clips.md"):
            settings = SMALL_CLIPS.get(words[0]) or SMALL_CLIPS.get(" ".join(words[:2]))
            output = run(smaller(words, settings) if settings else words)
            if words[0] == "finetune":
                assert "4 of 16 videos held out" in output
            if words[0] == "evaluate":
                evaluation = json.loads(Path(words[-1], "evaluation.json").read_text())
                assert evaluation["overlap_with_training"]["count"] == 0
                assert evaluation["num_videos"] == 4
                accuracies.append(evaluation["top1"])
    assert len(accuracies) == 3
    assert Path("hub", "mine", "README.md").is_file() and Path("mine.pt2").is_file()
