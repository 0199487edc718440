"""One part: whatever happens in the decoder, every source is either indexed or rejected."""

import errno
import os
import resource
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from bevt_core.dataset.frame_store import FrameSample, Rejected
from bevt_core.dataset.source_list import sources_digest
from bevt_core.media.video.video_file import open_video
from bevt_core.untrusted.isolation import IsolatedFunction
from pipeline.job import decode_part as frames_job
from pipeline.job.decode_part import load_source, make_frame_part, read_source
from schemas.errors import StorageError
from schemas.frames import Plan, PoolSpec, SourceItem
from tests.support.media import moving_frames, write_image, write_video

POOL = PoolSpec(stride=2, phase="zero", max_frames=8, short_side_px=32)


@pytest.fixture
def evil(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    function = IsolatedFunction("tests.support.evil:evil_loader")
    monkeypatch.setattr(frames_job, "_isolated", function)
    yield
    function.close()


def item(source: str) -> SourceItem:
    return SourceItem(source=source, kind="video", label=0)


def one_part(items: list[SourceItem]) -> Plan:
    return Plan(
        dataset="folder",
        split="train",
        classes=("x",),
        pool=POOL,
        seed=0,
        sources_per_part=len(items),
        num_sources=len(items),
        sources_digest=sources_digest(items),
    )


def test_hangs_and_crashes_are_rejected_and_the_part_goes_on(tmp_path: Path, evil: None) -> None:
    root = tmp_path / "root"
    names = ["a.mp4", "hangs.mp4", "b.mp4", "segfaults.mp4", "once.mp4", "c.mp4", "noise.mp4"]
    for name in names:
        write_video(root / name, moving_frames(8))
    (root / "noise.mp4").write_bytes(b"noise")
    items = [item(name) for name in names]
    commit = make_frame_part(tmp_path / "frames", root, 0, items, one_part(items), limit_s=1.0, attempts=2)
    assert (commit.num_samples, commit.num_rejected, commit.num_sources) == (4, 3, 7)
    rejected = pq.read_table(tmp_path / "frames/part-00000/rejected.parquet").to_pylist()
    assert [(row["source"], row["stage"], row["reason"], row["attempts"]) for row in rejected] == [
        ("hangs.mp4", "time-out", "time-out", 2),
        ("segfaults.mp4", "crash", "crash", 2),
        ("noise.mp4", "open", "not-media", 1),
    ]
    assert "SIGSEGV" in rejected[1]["message"] and "1 s" in rejected[0]["message"]


class Jpegs(list[bytes]):
    """A list that can be watched."""


def test_the_frames_of_one_source_at_a_time_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[weakref.ref[Jpegs]] = []

    def decoded(root: Path, item: SourceItem, *_: Any) -> list[FrameSample]:
        assert sum(jpegs() is not None for jpegs in watched) <= 1  # those of the source before
        jpegs = Jpegs([b"x", b"y"])
        watched.append(weakref.ref(jpegs))
        return [FrameSample(item.source, 0, jpegs, [0, 2], [0.0, 0.1], 32, 32, "pyav", "0", [])]

    monkeypatch.setattr(frames_job, "read_source", decoded)
    items = [item(f"{number}.mp4") for number in range(4)]
    commit = make_frame_part(tmp_path / "frames", tmp_path, 0, items, one_part(items), 1.0, 1)
    assert (commit.num_sources, commit.num_samples, commit.num_frames, len(watched)) == (4, 4, 8, 4)


def test_a_long_video_is_thinned_or_cut(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", moving_frames(50))
    (thin,) = load_source(tmp_path, item("long.mp4"), POOL, seed=0)
    assert (thin.sample_id, len(thin.jpegs)) == ("long.mp4", 8)
    assert (thin.frame_indices[0], thin.frame_indices[-1]) == (0, 48)
    pieces = load_source(tmp_path, item("long.mp4"), POOL.model_copy(update={"long": "cut"}), seed=0)
    assert [piece.sample_id for piece in pieces] == [f"long.mp4#{i:04d}" for i in range(4)]
    assert [i for piece in pieces for i in piece.frame_indices] == list(range(0, 50, 2))
    assert max(len(piece.jpegs) for piece in pieces) == 7


def test_the_time_of_every_frame_is_kept(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", moving_frames(20), rate=10)
    (sample,) = load_source(tmp_path, item("x.mp4"), POOL.model_copy(update={"phase": "random"}), seed=3)
    assert sample.times_s == pytest.approx([i / 10 for i in sample.frame_indices])
    assert (sample.height, sample.width) == (32, 43)


def test_outcomes_name_no_place(tmp_path: Path) -> None:
    """Messages are part of the committed bytes, so they must not depend on the path of the root."""
    (tmp_path / "x.mp4").write_bytes(b"nonsense")
    outcome = read_source(tmp_path, item("x.mp4"), POOL, 0, 10, 1)
    assert isinstance(outcome, Rejected)
    assert str(tmp_path) not in outcome.message
    gone = read_source(tmp_path, item("gone.mp4"), POOL, 0, 10, 1)
    assert isinstance(gone, Rejected) and gone.reason == "missing"


def test_a_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    for i, frame in enumerate(moving_frames(12)):
        write_image(tmp_path / "clip" / f"{i:04d}.jpg", frame)
    (sample,) = load_source(tmp_path, item("clip"), POOL, seed=0)
    assert (len(sample.jpegs), sample.decoder) == (6, "pillow")


def test_a_child_that_is_killed_leaves_no_trace_in_the_verdict(tmp_path: Path, evil: None) -> None:
    (tmp_path / "once.mp4").write_bytes(b"noise")
    outcomes = [
        read_source(tmp_path, item("once.mp4"), POOL, 0, 10, 2) for _ in range(2)
    ]  # the child dies in the first attempt
    assert (tmp_path / "again").exists()
    assert outcomes[0] == outcomes[1]


def test_a_root_that_is_gone_rejects_nothing(tmp_path: Path) -> None:
    items = [item("a.mp4")]
    for folder, trouble in (("nowhere", "no such folder"), ("empty", "an empty folder")):
        with pytest.raises(
            StorageError, match=rf"{folder}: {trouble}, while reading a.mp4; .*run the same command again"
        ):
            (tmp_path / "empty").mkdir(exist_ok=True)
            make_frame_part(tmp_path / "frames", tmp_path / folder, 0, items, one_part(items), 10.0, 1)
    assert not list(tmp_path.glob("frames/part-*"))
    (tmp_path / "empty" / "b.mp4").touch()
    assert make_frame_part(tmp_path / "frames", tmp_path / "empty", 0, items, one_part(items), 10.0, 1).num_rejected


def test_a_disk_that_cannot_be_read_rejects_nothing(tmp_path: Path) -> None:
    """Reading the first byte of a process's own memory is a real EIO on Linux."""
    (tmp_path / "a.mp4").symlink_to("/proc/self/mem")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "1.jpg").symlink_to("/proc/self/mem")
    for name in ("a.mp4", "clip"):
        with pytest.raises(StorageError, match=r"cannot be read: Input/output error\. .*the same command again"):
            read_source(tmp_path, item(name), POOL, 0, 10, 1)


def test_too_many_open_files_are_not_the_videos_fault(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_frames(4))
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        with pytest.raises(StorageError) as caught:
            open_video(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_a_picture_that_needs_too_much_memory_is_rejected_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_job, "_isolated", None)
    monkeypatch.setattr(frames_job, "DECODER_BYTES", 200 << 20)
    for name, size in (("large.png", (7900, 7900)), ("small.png", (90, 90))):
        Image.new("RGB", size).save(tmp_path / name, compress_level=1)
    try:
        large, small = (
            frames_job.read_source(tmp_path, SourceItem(source=name, kind="image"), POOL, 0, limit_s=30, attempts=1)
            for name in ("large.png", "small.png")
        )
    finally:
        frames_job._isolated_loader("pyav").close()
    assert isinstance(large, Rejected) and large.reason == "out-of-memory"
    assert not isinstance(small, Rejected) and len(small[0].jpegs) == 1
