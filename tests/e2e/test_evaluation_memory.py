"""What evaluation holds in memory does not grow with the number of videos."""

import resource
from pathlib import Path

import pytest
import torch

from bevt_core.models.build import build_classifier
from bevt_core.storage.files import write_record
from bevt_core.weights.model_files import save_weights
from schemas.evaluation import ClassifierCard
from schemas.frames import SourceItem
from schemas.recipes import ClipSampling, EvalViews
from tests.support.media import moving_frames, write_video
from trainer.clips.sources import FileClips
from trainer.distributed.launch import launch
from trainer.testing.evaluate import evaluate

SIZES = {"embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2), "window": (2, 2, 2), "patch": (2, 8, 8)}


def peak_bytes(checkpoint: Path, data: FileClips, out: Path) -> int:
    """Of a process that evaluates. Top-level, so that it can be launched."""
    result = evaluate(checkpoint, data, out=out)
    assert result["num_videos"] == len(data.items)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
def test_the_peak_stays(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_frames(12, 96, 128))
    torch.manual_seed(0)
    save_weights(tmp_path / "weights.safetensors", build_classifier(**SIZES, num_classes=2))
    card = ClassifierCard(
        title="test",
        classes=("no", "yes"),
        sampling=ClipSampling(kind="dense", frames=8, interval=1),
        crop_px=64,
        views=EvalViews(clips=1, crops=1, short_side_px=64),
    )
    write_record(tmp_path / "classifier.json", card)
    peaks = {}
    for videos in (64, 1920):
        for at in range(videos):
            if not (tmp_path / f"{at}.mp4").exists():
                (tmp_path / f"{at}.mp4").symlink_to(tmp_path / "clip.mp4")
        items = tuple(SourceItem(source=f"{at}.mp4", kind="video", label=at % 2) for at in range(videos))
        # two processes, so that the peak is not this one's
        peaks[videos] = launch(
            peak_bytes, 2, tmp_path, FileClips(tmp_path, items, card.classes), tmp_path / f"{videos}"
        )
    print(f"peak of evaluation, MB by number of videos: { {videos: peak >> 20 for videos, peak in peaks.items()} }")
    views_bytes = (1920 - 64) * 8 * 64 * 64 * 3  # what would be held if views were kept
    assert peaks[1920] - peaks[64] < views_bytes / 10
