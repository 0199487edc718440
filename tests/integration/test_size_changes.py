"""A video whose size changes in its middle is one unreadable file, in every command and wherever a clip of it lies."""

from pathlib import Path

import numpy as np
import pytest

from bevt_core.media.errors import MediaError
from bevt_core.media.frame_size import one_size
from bevt_core.media.video.keyframes import announces_another_size, size_headers
from pipeline.job.decode_part import load_source
from schemas.frames import PoolSpec, SourceItem
from schemas.recipes import ClipSampling, EvalViews
from tests.support.coded_clips import FRAMES, coded_frames, size_changing_clip
from tests.support.media import write_video
from trainer.clips.multi_view import Chunk, ViewChunks, ViewPlan
from trainer.clips.sources import FileClips

POOL = PoolSpec(stride=8, phase="zero")
KINDS = [  # codec, a suffix whose files can be joined, the suffix of the file
    ("h264", "ts", "ts"),
    ("h264", "h264", "h264"),
    ("h264", "h264", "mp4"),
    ("h264", "h264", "mkv"),
    ("h264", "h264", "flv"),
    ("h264", "h264", "avi"),
    ("hevc", "hevc", "mp4"),
    ("mpeg4", "m4v", "mov"),
    ("mpeg4", "m4v", "avi"),
    ("mpeg2", "mpg", "mpg"),
    ("vp8", "ivf", "webm"),
    ("vp9", "ivf", "webm"),
    ("vp9", "ivf", "mp4"),
]


def item(path: Path) -> SourceItem:
    return SourceItem(source=path.name, kind="video", label=0)


@pytest.mark.parametrize(("codec", "raw", "suffix"), KINDS)
def test_it_is_unreadable_for_all(codec: str, raw: str, suffix: str, tmp_path: Path) -> None:
    path = size_changing_clip(tmp_path / f"clip.{suffix}", codec, raw, [(96, 128), (48, 64)])
    with pytest.raises(MediaError) as rejected:
        load_source(tmp_path, item(path), POOL, seed=0)
    assert (rejected.value.stage, rejected.value.reason) == ("decode", "size-changes")
    clips = FileClips(tmp_path, (item(path),), ("x",))
    for start in (0, 5, FRAMES + 3):  # clips on either side of the change
        with pytest.raises(MediaError) as unread:
            clips.read(0, lambda num_frames, start=start: np.arange(start, start + 4))
        assert str(unread.value) == str(rejected.value)


def test_testing_has_a_row_with_the_error(tmp_path: Path) -> None:
    size_changing_clip(tmp_path / "changes.ts", "h264", "ts", [(96, 128), (48, 64)])
    write_video(tmp_path / "good.mp4", coded_frames())
    source = FileClips(tmp_path, (item(tmp_path / "changes.ts"), item(tmp_path / "good.mp4")), ("x",))
    sampling, views = ClipSampling(kind="dense", frames=4, interval=1), EvalViews(clips=1, crops=1, short_side_px=32)
    got = ViewChunks(source, ViewPlan(sampling, 32, views, "normal", seed=0), [Chunk(0, 0, 2)])[0]
    assert [row["error"] for row in got["rows"]] == ["frames of 2 sizes: [(48, 64), (96, 128)]", None]
    assert len(got["views"]) == 1


def test_a_mere_change_of_resolution_is_read(tmp_path: Path) -> None:
    path = size_changing_clip(tmp_path / "clip.ts", "h264", "ts", [(96, 128), (48, 64)])
    (sample,) = load_source(tmp_path, item(path), POOL.model_copy(update={"short_side_px": 48}), seed=0)
    assert (sample.height, sample.width, len(sample.jpegs)) == (48, 64, 8)
    assert one_size({(720, 1280), (360, 640)}, 256) == (256, 455)


def test_equal_headers_announce_nothing(tmp_path: Path) -> None:
    sets = [b"\x00\x00\x00\x03\x67ab\x00\x00\x00\x02\x65x", b"\x00\x00\x00\x03\x67ac\x00\x00\x00\x02\x65x"]
    extradata = b"\x01\x64\x00\x0a\xff" + b"\x67ab"
    first, other = (size_headers("h264", extradata, data) for data in sets)
    assert first == {b"\x67ab"} and not announces_another_size([first, set(), first], extradata)
    assert announces_another_size([first, other], extradata) and announces_another_size([set(), other], extradata)
