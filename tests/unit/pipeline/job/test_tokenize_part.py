"""Token parts: frames are read piece by piece, so that a part of any size fits into memory."""

from pathlib import Path
from typing import Any

import pytest

from bevt_core.dataset.frame_store import read_frame_commit
from bevt_core.dataset.jpeg_array import JpegStore
from bevt_core.dataset.token_set import read_token_plan
from bevt_core.tokenizers import load_tokenizer
from pipeline.job import tokenize_part
from pipeline.job.tokenize_part import PartTokenizer
from tests.support.builders import make_token_set
from tests.support.tiny_jobs import digests, save_tiny_tokenizer


def test_a_part_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(save_tiny_tokenizer(tmp_path / "tokenizer"))
    made = make_token_set(tmp_path / "set", num_samples=5, sources_per_part=5, frames=10, tokenizer=tokenizer)
    frames, plan = made.frames, read_token_plan(made.path)
    commit = read_frame_commit(frames.path, 0, frames.manifest.plan_digest)
    assert commit is not None and plan is not None
    reads: list[tuple[int, int]] = []
    read = JpegStore.read

    def watched(store: JpegStore, first: int, count: int) -> Any:
        reads.append((first, count))
        return read(store, first, count)

    monkeypatch.setattr(JpegStore, "read", watched)
    monkeypatch.setattr(tokenize_part, "READ_FRAMES", 16)
    PartTokenizer(tokenizer, batch_frames=32, threads=2).make_token_part(frames.path, tmp_path / "new", commit, plan)
    assert reads == [(0, 16), (16, 16), (32, 16), (48, 2)]
    assert digests(tmp_path / "new").items() <= digests(made.path).items()
