"""The dataset format: round trip, exact bytes, atomic writes, and how an incomplete dataset is recognised."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bevt_core.dataset import frame_store
from bevt_core.dataset.frame_store import FrameStore, read_frame_commit, write_frame_manifest
from bevt_core.dataset.jpeg_array import opened
from bevt_core.dataset.source_list import read_plan, read_sources, sources_digest
from bevt_core.dataset.token_set import TokenSet
from bevt_core.rng import rng_for
from bevt_core.storage.staging import STAGING, staged_folder
from bevt_core.views.replay import decode_jpeg
from schemas.errors import UserError
from tests.golden.golden_dataset import write_golden
from tests.support.builders import make_token_set, smooth_frame


def _tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_round_trip_of_frames_and_tokens(tmp_path: Path) -> None:
    token_set = make_token_set(tmp_path, num_samples=5, sources_per_part=2, frames=3)
    index = token_set.frames.index.to_pylist()
    assert [row["part"] for row in index] == [0, 0, 1, 1, 2]
    row = index[3]
    frames = token_set.frames.read_frames(row["part"], row["frame_start"] + 1, 2)
    truth = smooth_frame((row["source"], 1))
    assert frames[0].shape == truth.shape
    assert np.abs(frames[0].astype(int) - truth).mean() < 20  # JPEG 4:2:0 of 8-px colour blocks
    view = token_set.read_view(1, 1)
    assert (view.tokens[1] == rng_for("tokens", row["source"], 1).integers(0, 64, (3, 4, 4))).all()
    assert view.views[1].crop_px == 64


def test_bytes_are_a_function_of_the_content(tmp_path: Path) -> None:
    make_token_set(tmp_path / "a")
    make_token_set(tmp_path / "b")
    assert _tree(tmp_path / "a") == _tree(tmp_path / "b")


def test_plain_libraries_read_it(tmp_path: Path) -> None:
    import zarr

    token_set = make_token_set(tmp_path)
    table = pq.read_table(token_set.path / "part-00000.parquet")
    assert len(table["tokens"][0][0]) == 16
    part = zarr.open_group(token_set.frames.path / "part-00000" / "frames.zarr", mode="r", zarr_format=3)
    first = part["jpeg"][part["offsets"][0] : part["offsets"][1]]
    assert decode_jpeg(first).shape == (72, 96, 3)


def test_a_flipped_byte_in_a_frame_is_an_error(tmp_path: Path) -> None:
    token_set = make_token_set(tmp_path)
    shard = token_set.frames.path / "part-00000" / "frames.zarr" / "jpeg" / "c" / "0"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    opened.cache_clear()
    with pytest.raises(ValueError, match="checksum"):
        token_set.frames.read_frames(0, 0, 1)


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "part-00000") as staging:
        (staging / "half").write_bytes(b"x")
        raise RuntimeError("stop")
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / STAGING])


def test_the_first_writer_of_a_part_wins(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "part") as first:
        (first / "x").write_text("first")
        with staged_folder(tmp_path / "part") as second:
            (second / "x").write_text("second")
    assert (tmp_path / "part" / "x").read_text() == "second"
    assert not (tmp_path / STAGING).exists()


def test_unfinished_sets_are_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such frame store"):
        FrameStore(tmp_path / "frames")
    token_set = make_token_set(tmp_path)
    (token_set.path / "dataset.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        TokenSet(token_set.path)


def test_a_token_set_of_another_frame_store_is_refused(tmp_path: Path) -> None:
    make_token_set(tmp_path / "a", seed=1)
    token_set = make_token_set(tmp_path / "b", seed=2)
    manifest = tmp_path / "a" / "frames" / "dataset.json"
    manifest.replace(tmp_path / "b" / "frames" / "dataset.json")
    with pytest.raises(UserError, match="made from the frame store"):
        TokenSet(token_set.path)


def test_commit_is_void_for_another_plan_or_a_short_file(tmp_path: Path) -> None:
    token_set = make_token_set(tmp_path)
    frames = token_set.frames.path
    plan = read_plan(frames)
    assert plan is not None
    assert sources_digest(read_sources(frames)) == plan.sources_digest
    assert read_frame_commit(frames, 0, plan.digest()) is not None
    assert read_frame_commit(frames, 0, "another") is None
    index = frames / "part-00000" / "index.parquet"
    index.write_bytes(index.read_bytes()[:-1])
    assert read_frame_commit(frames, 0, plan.digest()) is None


def test_random_tokens_stay_under_330_bytes_per_frame(tmp_path: Path) -> None:
    """Uniform tokens of 13 bits need 318.5 bytes per 14x14 frame; real ones are less random."""
    token_set = make_token_set(
        tmp_path, num_samples=64, sources_per_part=64, frames=20, crop_px=224, grid=14, vocab_size=8192, num_views=1
    )
    size = (token_set.path / "part-00000.parquet").stat().st_size
    assert size / (64 * 20) < 330


def test_a_wrong_name_is_answered_with_what_is_there(tmp_path: Path) -> None:
    token_set = make_token_set(tmp_path)
    with pytest.raises(UserError, match=rf"no such token set \(found: {token_set.path.name}\)"):
        TokenSet(token_set.path.with_name("dalle-v8"))


def test_a_manifest_is_written_again_without_reading_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But if what it counts cannot be right, the rejected sources are counted again."""
    write_golden(tmp_path)
    frames = tmp_path / "frames"
    plan = read_plan(frames)
    assert plan is not None
    commit = read_frame_commit(frames, 0, plan.digest())
    assert commit is not None
    before = {path: path.read_bytes() for path in frames.iterdir() if path.is_file()}
    for damage in (b'"empty": 2', b'"empty": 1, "x": 1', b'"empty": {'):
        data = before[frames / "dataset.json"].replace(b'"empty": 1', damage)
        (frames / "dataset.json").write_bytes(data)
        write_frame_manifest(frames, plan, [commit])
        assert {path: path.read_bytes() for path in before} == before
    monkeypatch.setattr(frame_store, "rejected_reasons", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(frame_store, "samples_in_parts", lambda *_: pytest.fail("read again"))
    write_frame_manifest(frames, plan, [commit])
    assert {path: path.read_bytes() for path in before} == before
