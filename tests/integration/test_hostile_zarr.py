"""A `frames.zarr` that somebody else made: no reader runs code that it names, or reserves memory for what it claims."""

import contextlib
import os
import shutil
import tomllib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.pickles
import numpy as np
import pytest
import zarr
from packaging.requirements import Requirement

from bevt_core.dataset.frame_store import FrameStore, read_frame_commit
from bevt_core.dataset.jpeg_array import MAX_FRAME_BYTES, JpegStore, opened, write_jpegs
from bevt_core.dataset.jpeg_layout import METADATA_BYTES
from bevt_core.dataset.token_set import TokenSet
from bevt_core.tokenizers import load_tokenizer
from pipeline.check.repair import repair
from pipeline.check.tokens import compare_tokens
from pipeline.check.verify import verify
from pipeline.look.report import report_job
from pipeline.look.sample import inspect_dataset
from schemas.errors import UserError
from schemas.models import TubeMask
from tests.conftest import REPO
from tests.support.builders import make_token_set
from tests.support.hostile import claim_size, edit_metadata, make_pickled_zarr, recommit, write_offsets
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer.clips.sources import StoreClips
from trainer.data.clip_dataset import TokenDataset
from trainer.tokenizer.frame_crops import FrameCrops


def read_part(dataset: Path) -> object:
    store = FrameStore(dataset / "frames")
    commit = read_frame_commit(store.path, 0, store.manifest.plan_digest)
    assert commit is None  # as files are missing; a reader that has not looked goes on
    return JpegStore(dataset / "frames" / "part-00000" / "frames.zarr")[:]


def report(dataset: Path) -> None:
    summary: dict[str, Any] = {"frames_dir": str(dataset / "frames"), "tokens_dir": str(dataset / "tokens" / "test-v2")}
    summary |= {"parts_done_before": 1, "parts": 1}
    raise UserError(report_job(summary, [])["report_error"])


def verify_files(dataset: Path) -> None:
    problems = verify(dataset, sample=0)["problems"]
    assert "part-00000" in problems[0]["path"]
    raise UserError("{path}/{problem}; {mend}".format(**problems[0]))


READERS: dict[str, Callable[[Path], object]] = {
    "FrameStore": lambda d: FrameStore(d / "frames").read_frames(0, 0, 1),
    "a whole part": read_part,
    "verify": verify_files,
    "tokens again": lambda d: compare_tokens(d / "tokens" / "test-v2", None, str(d / "tokenizer"), []),
    "repair": lambda d: repair(d, d, tokenizer=str(d / "tokenizer")),
    "inspect": lambda d: inspect_dataset(d, picture=d / "sheet.png"),
    "report": report,
    "clips": lambda d: StoreClips(d / "frames").read(0, lambda n: np.zeros(1, np.int64)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    tokenizer = load_tokenizer(save_tiny_tokenizer(root / "tokenizer"))
    make_token_set(root, num_samples=4, sources_per_part=4, frames=2, tokenizer=tokenizer)
    return root


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    opened.cache_clear()
    return Path(shutil.copytree(whole, tmp_path / "data"))


@pytest.mark.parametrize("arrays", [("jpeg", "offsets"), ("offsets",)], ids="+".join)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_runs_the_pickle_of_a_store(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, arrays: tuple[str, ...]
) -> None:
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)  # as before numcodecs 0.16.6
    path, touched = dataset / "frames" / "part-00000" / "frames.zarr", tmp_path / "touched"
    make_pickled_zarr(path, touched, arrays)
    with pytest.raises(UserError):
        READERS[reader](dataset)
    assert not touched.exists()


def test_what_is_installed_and_what_is_required_refuse_pickles() -> None:
    """The reader above needs no such care; whoever opens a store with zarr itself does."""
    needs = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    (specifier,) = (Requirement(need).specifier for need in needs if Requirement(need).name == "numcodecs")
    versions = ["0.15.1", "0.16.1", "0.16.5", "0.16.6", "0.17.0", "0.17.1"]
    assert [version for version in versions if version in specifier] == ["0.16.6", "0.17.1"]
    with pytest.raises(RuntimeError, match=r"(?i)pickle"):
        numcodecs.pickles.Pickle().decode(b"\x80\x04N.")


def test_the_pickle_runs_where_zarr_chooses_the_version(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the tests above would show nothing; `zarr_format=3`, as README has it, is safe by itself."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)
    path, touched = dataset / "frames" / "part-00000" / "frames.zarr", tmp_path / "touched"
    make_pickled_zarr(path, touched)
    with pytest.raises(FileNotFoundError):
        zarr.open_group(path, mode="r", zarr_format=3)
    assert not touched.exists()
    with contextlib.suppress(Exception):
        zarr.open_group(path, mode="r")["offsets"][:]
    assert touched.exists()


LIES: dict[str, tuple[str, tuple[str | int, ...], object, str]] = {
    "another codec": (
        "jpeg",
        ("codecs", 0, "configuration", "codecs", 1, "name"),
        "pickle",
        "is 'pickle', expected 'crc",
    ),
    "a codec more": (
        "offsets",
        ("codecs",),
        [{"name": "bytes"}, {"name": "numcodecs.pickle"}, {"name": "crc32c"}],
        "codecs",
    ),
    "objects": ("offsets", ("data_type",), "object", "data_type is 'object', expected 'int64'"),
    "a long array": ("jpeg", ("shape",), [10**18], "shape is .* from 0 to"),
    "a negative length": ("offsets", ("shape",), [-1], "shape is .* from 0 to"),
    "a length that is no number": ("jpeg", ("shape",), [float("nan")], "shape is .*nan"),
    "a length that is a truth": ("jpeg", ("shape",), [True], "shape is .*True"),
    "two dimensions": ("jpeg", ("shape",), [4, 4], "shape is"),
    "a long chunk": (
        "jpeg",
        ("chunk_grid", "configuration", "chunk_shape"),
        [2**40],
        "chunk_shape.0. is 1099511627776",
    ),
    "an empty chunk": (
        "jpeg",
        ("codecs", 0, "configuration", "chunk_shape"),
        [0],
        "chunk_shape.0. is 0, expected 131072",
    ),
    "another fill value": ("offsets", ("fill_value",), "NaN", "fill_value is 'NaN', expected 0"),
    "attributes": ("jpeg", ("attributes",), {"a": 1}, "'attributes.a' is 1, expected no such key"),
    "another version": ("jpeg", ("zarr_format",), 2, "zarr_format is 2, expected 3"),
    "a storage transformer": ("offsets", ("storage_transformers",), [{"name": "x"}], "storage_transformers"),
}


@pytest.mark.parametrize("lie", LIES)
def test_other_metadata_is_one_error(tmp_path: Path, lie: str) -> None:
    array, keys, value, message = LIES[lie]
    path = tmp_path / "frames.zarr"
    write_jpegs(path, [b"abc", b"defg"])
    edit_metadata(path / array / "zarr.json", keys, value)
    with pytest.raises(UserError, match=f"{array}/zarr.json: .*{message}.*bevt repair"):
        JpegStore(path)


TEXTS = {
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 60_000,
    "a number of 60000 digits": b'{"shape": [' + b"9" * 60_000 + b"]}",
    "no text": b"\xff\xfe",
    "too long": b" " * (METADATA_BYTES + 1) + b"{}",
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["zarr.json", "jpeg/zarr.json", "offsets/zarr.json"])
def test_metadata_that_cannot_be_read_is_one_error(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "frames.zarr"
    write_jpegs(path, [b"abc"])
    (path / name).write_bytes(TEXTS[text])
    with pytest.raises(UserError, match=f"{name}: .*expected .*bevt repair"):
        JpegStore(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("zarr.json", "offsets/zarr.json", "offsets/c/0", "jpeg/c/0"):
        path = tmp_path / name.replace("/", "-")
        write_jpegs(path, [b"abc"])
        (path / name).unlink()
        os.mkfifo(path / name)
        with pytest.raises(UserError, match=f"{name}: "):
            JpegStore(path).read(0, 1)


@pytest.mark.parametrize("offsets", [[0, 5, 3, 7], [0, -5, 3, 7], [1, 2, 3, 7], [0, 2, 3, 8], [0, 2**62, -(2**62), 7]])
def test_offsets_that_do_not_rise_to_the_end_are_refused(tmp_path: Path, offsets: list[int]) -> None:
    path = tmp_path / "frames.zarr"
    write_jpegs(path, [b"ab", b"c", b"defg"])
    write_offsets(path, offsets)
    with pytest.raises(UserError, match="expected increasing offsets from 0 to 7"):
        JpegStore(path)


@pytest.mark.parametrize("place", [(0, 2**63), (2**62, 131076), (2**64 - 5, 2**64 - 5), (0, 0), (4, 131076)])
def test_a_shard_whose_index_leads_out_of_it_is_refused(tmp_path: Path, place: tuple[int, int]) -> None:
    path = tmp_path / "frames.zarr"
    write_jpegs(path, [b"abc"])
    shard = path / "jpeg" / "c" / "0"
    index = np.array(place, "<u8").tobytes()
    shard.write_bytes(shard.read_bytes()[:-20] + index + google_crc32c.value(index).to_bytes(4, "little"))
    tracemalloc.start()
    with pytest.raises(UserError, match="the index of shard 0 points outside"):
        JpegStore(path).read(0, 1)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_a_shard_longer_than_its_chunks_is_refused(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "frames.zarr", [b"abc"])
    with (tmp_path / "frames.zarr" / "jpeg" / "c" / "0").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="1099511627776 bytes, expected at most"):
        JpegStore(tmp_path / "frames.zarr").read(0, 1)


def test_no_memory_is_reserved_for_shards_that_are_not_there(tmp_path: Path) -> None:
    path, claimed = tmp_path / "frames.zarr", 1 << 42
    write_jpegs(path, [b"abc"])
    edit_metadata(path / "jpeg" / "zarr.json", ("shape",), [claimed])
    edit_metadata(path / "jpeg" / "zarr.json", ("chunk_grid", "configuration", "chunk_shape"), [64 << 20])
    frames = claimed >> 27
    for keys in (("shape",), ("chunk_grid", "configuration", "chunk_shape")):
        edit_metadata(path / "offsets" / "zarr.json", keys, [frames + 1])
    write_offsets(path, list(range(0, claimed + 1, 1 << 27)))
    with pytest.raises((UserError, FileNotFoundError)):
        JpegStore(path).read(0, frames)


def test_a_frame_of_absurdly_many_bytes_is_refused(tmp_path: Path) -> None:
    path, claimed = tmp_path / "frames.zarr", MAX_FRAME_BYTES + 2
    write_jpegs(path, [b"ab", b"c"])
    edit_metadata(path / "jpeg" / "zarr.json", ("shape",), [claimed])
    edit_metadata(path / "jpeg" / "zarr.json", ("chunk_grid", "configuration", "chunk_shape"), [64 << 20])
    write_offsets(path, [0, 1, claimed])
    with pytest.raises(UserError, match=f"offsets/c/0: frame 1 has {claimed - 1} bytes, .* at most {MAX_FRAME_BYTES}"):
        JpegStore(path)


@pytest.mark.parametrize("second", [0, 131072])
def test_a_shard_whose_chunks_overlap_is_refused(tmp_path: Path, second: int) -> None:
    """One chunk of zeros, named by every entry of the index, would be 64 MiB in a file of 139 kB."""
    path = tmp_path / "frames.zarr"
    write_jpegs(path, [bytes(range(256)) * 1024])  # two chunks
    shard = path / "jpeg" / "c" / "0"
    index = np.array([0, 131076, second, 131076], "<u8").tobytes()
    shard.write_bytes(shard.read_bytes()[:-36] + index + google_crc32c.value(index).to_bytes(4, "little"))
    with pytest.raises(UserError, match=r"chunks overlap in the index of shard 0; .*bevt repair"):
        JpegStore(path).read(0, 1)


def test_a_null_of_an_older_zarr_is_no_difference(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "frames.zarr", [b"abc"])
    edit_metadata(tmp_path / "frames.zarr" / "zarr.json", ("consolidated_metadata",), None)
    assert [frame.tobytes() for frame in JpegStore(tmp_path / "frames.zarr")[:]] == [b"abc"]


def test_verify_names_a_store_of_another_layout_whose_commit_fits(dataset: Path) -> None:
    path = dataset / "frames" / "part-00000"
    edit_metadata(path / "frames.zarr" / "offsets" / "zarr.json", ("data_type",), "object")
    recommit(path)
    (problem, *_) = verify(dataset, sample=0)["problems"]
    assert "data_type is 'object', expected 'int64'" in problem["problem"]


def read_clip(dataset: Path) -> object:
    tokens = TokenSet(dataset / "tokens" / "test-v2")
    mask = TubeMask(kind="tube", ratio=0.5, min_block=2)
    return TokenDataset(tokens, name="v", seed=0, clip_frames=2, tubelet=2, mask=mask, cached_parts=1)[0, 0]


DECODERS: dict[str, Callable[[Path], object]] = {
    "training": read_clip,
    "a tokenizer's training": lambda d: FrameCrops((d / "frames",), 32, (0,), held_out=False)[0, 0],
    "tokens again": READERS["tokens again"],
    "clips": READERS["clips"],
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_frame_of_another_size_than_its_sample_is_not_decoded(dataset: Path, decoder: str) -> None:
    path = dataset / "frames" / "part-00000" / "frames.zarr"
    frames = [claim_size(frame.tobytes(), 7000, 7000) for frame in JpegStore(path)[:]]
    shutil.rmtree(path)
    write_jpegs(path, frames)
    recommit(path.parent)
    with pytest.raises(UserError, match="a stored frame of 7000 x 7000 px, but its sample has 72 x 96 px"):
        DECODERS[decoder](dataset)
