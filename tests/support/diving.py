"""A made data set in Diving48's layout: two dives, names that begin with a dash, and annotation files of version 2."""

import json
from pathlib import Path

from tests.support.media import moving_frames, write_video

CLIPS = {"train": 4, "test": 2}  # of each of two classes
VOCABULARY = [["Back", f"{number}som", "FREE"] for number in range(48)]


def make_diving48(root: Path) -> Path:
    """Write 12 clips of 48 frames below `root`/rgb, the rows of both splits, and a vocabulary of 48 classes."""
    for split, clips in CLIPS.items():
        rows = []
        for label in (0, 1):
            for number in range(clips):
                name = f"{'-' if number == 0 else ''}{split}{label}_{number:05d}"
                write_video(root / "rgb" / f"{name}.mp4", moving_frames(48, 80, 96, seed=10 * number + label))
                rows.append({"vid_name": name, "label": label, "start_frame": 0, "end_frame": 48})
        (root / f"Diving48_V2_{split}.json").write_text(json.dumps(rows))
    (root / "Diving48_vocab.json").write_text(json.dumps(VOCABULARY))
    return root
