"""Both sources of clips return the requested frames in the requested order."""

import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.untrusted.isolation import IsolatedFunction
from schemas.errors import UserError
from schemas.frames import SourceItem
from schemas.recipes import ClipSampling, EvalViews
from tests.support.builders import make_token_set
from tests.support.media import decode_all, moving_frames, write_image, write_video
from trainer.clips import isolated_frames
from trainer.clips.multi_view import Chunk, ViewChunks, ViewPlan
from trainer.clips.sources import (
    FileClips,
    StoreClips,
    check_classes,
    check_labels,
    interval_of,
    thinned,
)
from trainer.clips.split import split_items

POSITIONS = np.array([3, 0, 0, 5, 2])


def clips_of(store: Path) -> StoreClips:
    return StoreClips(make_token_set(store).frames.path)


def test_a_store_gives_its_frames(tmp_path: Path) -> None:
    source = clips_of(tmp_path)
    assert len(source.items) == 24 and source.classes == ("no", "yes") and source.stride == 1
    row = source.store.index.to_pylist()[9]
    stored = source.store.read_frames(row["part"], row["frame_start"], row["num_frames"])
    asked = []
    frames = source.read(9, lambda n: asked.append(n) or POSITIONS)
    assert asked == [10] and source.items[9].source == row["source"]
    assert all(np.array_equal(frame, stored[at]) for frame, at in zip(frames, POSITIONS, strict=True))


def test_files_give_their_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a" / "clip one.mp4", moving_frames(8))
    write_image(tmp_path / "b.png", moving_frames(1)[0])
    items = (
        SourceItem(source="a/clip one.mp4", kind="video", label=0),
        SourceItem(source="b.png", kind="image", label=1),
    )
    source = FileClips(tmp_path, items, ("a", "b"))
    truth = [frame for _, frame in decode_all(path)]
    frames = source.read(0, lambda n: POSITIONS % n)
    assert all(np.array_equal(frame, truth[at]) for frame, at in zip(frames, POSITIONS, strict=True))
    assert len(source.read(1, lambda n: np.zeros(4, np.int64) + n - 1)) == 4


def test_a_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    """As Something-Something V2 is often stored. Frames are ordered by number: 10.png follows 9.png."""
    pictures = moving_frames(11)
    for number, picture in enumerate(pictures):
        write_image(tmp_path / "clip" / f"{number}.png", picture)
    source = FileClips(tmp_path, (SourceItem(source="clip", kind="video", label=0),), ("a",))
    frames = source.read(0, lambda n: np.array([10, 0, 9]) % n)
    assert all(np.array_equal(frame, pictures[at]) for frame, at in zip(frames, (10, 0, 9), strict=True))


def test_a_decoder_that_hangs_or_dies_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation, with the loader in this process: bad files are reported, the others are read by the next child."""
    monkeypatch.setattr(isolated_frames, "_isolated", IsolatedFunction("tests.support.evil:evil_decoder"))
    names = ("a", "hang", "b", "segfault", "c")
    for name in names:
        write_video(tmp_path / f"{name}.mp4", moving_frames(8, 64, 64))
    items = tuple(SourceItem(source=f"{name}.mp4", kind="video", label=0) for name in names)
    source = FileClips(tmp_path, items, ("x",), decode_timeout_s=1.0)
    sampling, views = ClipSampling(kind="dense", frames=4, interval=1), EvalViews(clips=1, crops=1, short_side_px=32)
    chunks = ViewChunks(source, ViewPlan(sampling, 32, views, "normal", seed=0), [Chunk(0, 0, len(names))])
    began = time.monotonic()
    got = chunks[0]
    assert time.monotonic() - began < 60 and len(got["views"]) == 3
    errors = {row["video"]: row["error"] for row in got["rows"] if row["error"] is not None}
    assert errors == {
        "hang.mp4": "no answer within 1 s of decoding",
        "segfault.mp4": "the decoder was killed by SIGSEGV",
    }
    pid = isolated_frames.decoder_pid()
    assert pid is not None and len(source.read(0, lambda n: POSITIONS)) == 5 and isolated_frames.decoder_pid() == pid
    isolated_frames._isolated.close()


def test_sources_travel_to_workers(tmp_path: Path) -> None:
    source = clips_of(tmp_path)
    again = pickle.loads(pickle.dumps(source))
    assert again.digest == source.digest and again.items == source.items


def test_a_subset_is_the_named_items_and_another_identity(tmp_path: Path) -> None:
    source = clips_of(tmp_path)
    some = source.subset(source.items[::3])
    assert some.items == source.items[::3] and some.digest != source.digest
    first, second = (np.stack(s.read(i, lambda n: np.arange(n))) for s, i in ((source, 3), (some, 1)))
    assert np.array_equal(first, second)


def test_a_split_is_per_class_and_stable() -> None:
    items = [SourceItem(source=f"{i}.mp4", kind="video", label=i % 3) for i in range(60)]
    train, held_out = split_items(items, 0.2, seed=0)
    assert sorted([*train, *held_out], key=items.index) == items
    assert [sum(item.label == label for item in held_out) for label in range(3)] == [4, 4, 4]
    assert split_items(items[::-1], 0.2, seed=0)[1] == held_out[::-1]
    assert split_items(items, 0.2, seed=1)[1] != held_out
    fewer = [item for item in items if item.label != 2]
    assert split_items(fewer, 0.2, seed=0)[1] == [item for item in held_out if item.label != 2]


def test_a_class_of_one_cannot_be_split() -> None:
    items = [SourceItem(source=f"{i}.mp4", kind="video", label=int(i == 0)) for i in range(5)]
    with pytest.raises(UserError, match=r"single item, 0\.mp4"):
        split_items(items, 0.2, seed=0)
    with pytest.raises(UserError, match=r"class 'b' has a single item, 0\.mp4"):
        split_items(items[:1], 0.2, seed=0, classes=("a", "b"))


def test_the_pieces_of_a_long_video_stay_together_and_count_once() -> None:
    pieces = [SourceItem(source=name, kind="video", label=0) for name in ("a.mp4", "a.mp4", "a.mp4", "b.mp4")]
    train, held_out = split_items(pieces, 0.5, seed=0)
    assert {len({item.source for item in half}) for half in (train, held_out)} == {1}
    assert len(train) + len(held_out) == 4
    with pytest.raises(UserError, match=r"a single item, a\.mp4"):
        split_items(pieces[:3], 0.5, seed=0)


def test_every_item_needs_a_class() -> None:
    clips = [SourceItem(source=f"{name}.mp4", kind="video", label=label) for name, label in (("x", None), ("y", 2))]
    for classes in ((), ("a", "b", "c")):
        with pytest.raises(
            UserError, match=r"clips without a class: 1 of 2, such as x\.mp4; .* give the folder above it"
        ):
            check_labels(FileClips(Path("root"), tuple(clips), classes))
    with pytest.raises(UserError, match=r"y\.mp4 has label 2, expected 0 to 1"):
        check_labels(FileClips(Path("root"), tuple(clips[1:]), ("a", "b")))
    with pytest.raises(UserError, match="no clips found"):
        check_labels(FileClips(Path("root"), (), ("a", "b")))


def test_class_maps_must_be_the_same() -> None:
    check_classes(("a", "b"), ["a", "b"], "data", "model")
    with pytest.raises(UserError, match="label 1: 'c' and 'b'"):
        check_classes(("a", "c"), ("a", "b"), "data", "model")


def test_a_thinned_pool_has_no_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clips_of(tmp_path)
    dense, uniform = (ClipSampling(kind=kind, frames=4, interval=1) for kind in ("dense", "uniform"))
    assert interval_of(source, dense) == 1
    rows = source.store.samples.to_pylist()
    rows[3] |= {"num_frames": 3, "span": 5}
    rows[5] |= {"num_frames": 1, "span": 0}  # a single frame has no spacing
    monkeypatch.setitem(source.store.__dict__, "samples", pa.RecordBatch.from_pylist(rows, source.store.samples.schema))
    assert thinned(source.store) == [rows[3]["source"]]
    del source.__dict__["uneven_item"]
    assert interval_of(source, uniform) == 1
    with pytest.raises(UserError, match=f"the frames of {rows[3]['source']} were thinned"):
        interval_of(source, dense)


def test_the_store_must_be_finished(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such frame store"):
        _ = StoreClips(tmp_path / "nothing").items
    assert FrameStore(clips_of(tmp_path).folder).manifest.num_samples == 24
