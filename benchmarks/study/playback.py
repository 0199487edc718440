"""Forward against reversed playback: `python benchmarks/study/playback.py ROOT OUT --train 1024 --test 192`.

Cuts clips of 8 frames, every second of the source, from random places of the videos below ROOT, 80 px square. Each is
written twice, to OUT/train/forward/NUMBER.mp4 and OUT/train/reversed/NUMBER.mp4 (or OUT/test), encoded anew in the same
way, so that the coding does not show the class. What the sources' own coding left in the frames remains.

A video is either in train or in test, and with it the videos of its group (`group_of`). OUT/playback.json, written
last, lists the videos of both, and those that were left out, with the reason.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bevt_core.media.decoding import decode_source
from bevt_core.media.errors import MediaError
from bevt_core.media.kinds import kind_of
from bevt_core.rng import rng_for
from bevt_core.storage.files import write_atomic
from pipeline.synthetic.camera_motion import write_clip
from schemas.text.json_text import json_text

FRAMES, INTERVAL, SIZE_PX, FPS = 8, 2, 80, 8
SPAN = (FRAMES - 1) * INTERVAL + 1  # frames of the source
TEST_SHARE = 0.25  # of the groups
UCF_CLIP = re.compile(r"(.*_g\d+)_c\d+")  # of UCF-101: clips of one group are parts of one film


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1024, help="clips per direction (default 1024)")
    parser.add_argument("--test", type=int, default=192, help="clips per direction (default 192)")
    options = parser.parse_args()
    videos = [path for path in sorted(options.root.rglob("*")) if path.is_file() and kind_of(path.name) == "video"]
    groups = split_groups([group_of(path) for path in videos])
    used, left_out = {}, {}
    for split, count in (("train", options.train), ("test", options.test)):
        mine = [path for path in videos if groups[group_of(path)] == split]
        left_out |= cut_clips(mine, options.out / split, count)
        used[split] = sorted({str(path.relative_to(options.root)) for path in mine if path not in left_out})
    reasons = {str(path.relative_to(options.root)): reason for path, reason in sorted(left_out.items())}
    facts = {"train": options.train, "test": options.test, "videos": used, "left_out": reasons}
    write_atomic(options.out / "playback.json", json_text(facts, indent=1).encode())


def group_of(path: Path) -> str:
    """Return a name that videos of one film share: of UCF-101 the group, else the path without its suffix."""
    name = path.with_suffix("").as_posix()
    match = UCF_CLIP.fullmatch(name)
    return match[1] if match else name


def split_groups(groups: Sequence[str]) -> dict[str, str]:
    """Return `train` or `test` of every group. Raises SystemExit if there are fewer than two."""
    names = sorted(set(groups))
    if len(names) < 2:
        raise SystemExit(f"{len(names)} groups of videos, expected 2 or more: one to train on, one to test on")
    drawn = rng_for("playback split", len(names)).permutation(len(names))
    tests = {names[i] for i in drawn[: max(1, round(len(names) * TEST_SHARE))]}
    return {name: "test" if name in tests else "train" for name in names}


def cut_clips(videos: Sequence[Path], out: Path, count: int) -> dict[Path, str]:
    """Write `count` clips in both directions, in turn from each video; return the videos left out, with the reason."""
    usable, left_out, done = list(videos), dict[Path, str](), 0
    for direction in ("forward", "reversed"):
        (out / direction).mkdir(parents=True, exist_ok=True)
    while done < count:
        if not usable:
            raise SystemExit(f"{out}: none of {len(videos)} videos can be used, expected {SPAN} frames or more")
        video = usable[done % len(usable)]
        try:
            clip_THWC = np.stack(decode_source(video, "video", span_from(done, out.name), square).frames)
        except MediaError as error:
            usable.remove(video)
            left_out[video] = str(error)
            continue
        write_clip(out / "forward" / f"{done:06d}.mp4", clip_THWC, FPS)
        write_clip(out / "reversed" / f"{done:06d}.mp4", clip_THWC[::-1], FPS)
        done += 1
    return left_out


def span_from(index: int, split: str) -> Callable[[int], np.ndarray]:
    """Return a function from a video's number of frames to the frames of clip `index`."""

    def choose(num_frames: int) -> np.ndarray:
        if num_frames < SPAN:
            raise MediaError("decode", "short", f"{num_frames} frames, expected {SPAN} or more")
        first = int(rng_for("playback", split, index).integers(num_frames - SPAN + 1))
        return first + INTERVAL * np.arange(FRAMES)

    return choose


def square(frame_HWC: np.ndarray) -> np.ndarray:
    """The centre of a frame, SIZE_PX square."""
    height, width = frame_HWC.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    picture = Image.fromarray(frame_HWC[top : top + side, left : left + side])
    return np.asarray(picture.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main()
