"""`bevt verify` finds a flipped byte, a missing part, a swapped file, a stale token set, and says what mends it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bevt_core.shards import TokenSet
from pipeline.verify import verify
from schemas.errors import UserError
from tests.builders import make_token_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts whose tokens are random numbers; enough for everything but the tokens themselves."""
    root = tmp_path_factory.mktemp("whole")
    make_token_set(root)
    return root


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    third = one.with_name("third")
    one.rename(third)
    other.rename(one)
    third.rename(other)


def edit_json(path: Path, key: str, value: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte in the frames": (lambda d: flip_byte(d / "frames/part-00001/frames.zarr/jpeg/c/0"), "part-00001"),
    "a flipped byte in the index": (lambda d: flip_byte(d / "frames/part-00000/index.parquet"), "part-00000"),
    "a flipped byte in the tokens": (
        lambda d: flip_byte(d / "tokens/test-v2/part-00002.parquet"),
        "part-00002.parquet",
    ),
    "a missing frame part": (lambda d: shutil.rmtree(d / "frames/part-00002"), "part-00002"),
    "a missing file of a part": (lambda d: (d / "frames/part-00002/rejected.parquet").unlink(), "part-00002"),
    "a missing token part": (lambda d: (d / "tokens/test-v2/part-00000.parquet").unlink(), "part-00000.parquet"),
    "a stray file": (lambda d: (d / "frames/part-00000/extra").write_text("x"), "part-00000"),
    "swapped frame parts": (lambda d: swap(d / "frames/part-00000", d / "frames/part-00001"), "part-00000"),
    "swapped token files": (
        lambda d: swap(d / "tokens/test-v2/part-00000.parquet", d / "tokens/test-v2/part-00001.parquet"),
        "part-00000.parquet",
    ),
    "another list of sources": (
        lambda d: shutil.copy(d / "frames/part-00000/rejected.parquet", d / "frames/sources.parquet"),
        "sources.parquet",
    ),
    "an unfinished store": (lambda d: (d / "frames/dataset.json").unlink(), "dataset.json"),
    "other counts": (lambda d: edit_json(d / "frames/dataset.json", "num_samples", 23), "dataset.json"),
    "a stale token set": (lambda d: edit_json(d / "tokens/test-v2/dataset.json", "frames_digest", "0"), "dataset.json"),
    "a commit that is no JSON": (lambda d: (d / "frames/part-00001/commit.json").write_text("{"), "part-00001"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_named(whole: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    inflict, place = DAMAGE[damage]
    inflict(tmp_path / "copy")
    report = verify(tmp_path / "copy", sample=0)
    assert not report["ok"]
    assert any(place in problem["path"] for problem in report["problems"])
    assert all(problem["mend"] for problem in report["problems"])


def test_a_whole_dataset_has_no_problems(whole: Path) -> None:
    report = verify(whole, sample=0)
    assert report["problems"] == []
    assert (report["ok"], report["sources"], report["indexed"], report["rejected"]) == (True, 24, 24, 0)


def test_wrong_tokens_are_found(whole: Path, tmp_path: Path, tiny_tokenizer: Path) -> None:
    """A token set whose files are as committed, but whose tokens are not those of its frames."""
    from bevt_core.tokenizers import load_tokenizer

    identity = load_tokenizer(tiny_tokenizer).identity()
    copy = tmp_path / "copy"
    make_token_set(copy, vocab_size=identity.vocab_size, grid=identity.grid[0])
    with pytest.raises(UserError, match="--tokenizer"):
        verify(copy, sample=4, tokenizer=str(tiny_tokenizer))


def test_not_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frames/ in it"):
        verify(tmp_path)


def test_the_format_needs_nothing_but_pyarrow(whole: Path) -> None:
    table = pq.read_table(whole / "tokens/test-v2/part-00000.parquet")
    tokens = np.array(table["tokens"][0].as_py())
    assert tokens.shape == (10, 16)
    np.testing.assert_array_equal(tokens, TokenSet(whole / "tokens/test-v2").read_view(0, 0).tokens[0].reshape(10, 16))
