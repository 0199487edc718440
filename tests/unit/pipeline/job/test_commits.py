"""The journal of commits: a job that resumes gets the same commits with it, whatever its state."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from bevt_core.dataset.commit_journal import JOURNAL
from bevt_core.dataset.commits import FramePart, TokenPart, part_name
from bevt_core.dataset.source_list import read_plan
from bevt_core.dataset.token_set import TokenSet, read_token_plan
from pipeline.job import commits
from pipeline.job.commits import (
    add_to_frame_journal,
    add_to_token_journal,
    frame_commits,
    journal_frame_commits,
    journal_token_commits,
    token_commits,
)
from tests.support.builders import make_token_set

Found = tuple[dict[int, FramePart], dict[int, TokenPart]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    make_token_set(root, num_samples=6, sources_per_part=2, frames=2)
    return root


@pytest.fixture
def made(whole: Path, tmp_path: Path) -> TokenSet:
    shutil.copytree(whole, tmp_path / "data")
    return TokenSet(next((tmp_path / "data" / "tokens").iterdir()))


def read_with(
    made: TokenSet, frames_of: Callable[..., dict[int, FramePart]], tokens_of: Callable[..., dict[int, TokenPart]]
) -> Found:
    plan, token_plan = read_plan(made.frames.path), read_token_plan(made.path)
    assert plan is not None and token_plan is not None
    frames = frames_of(made.frames.path, plan)
    return frames, tokens_of(made.path, frames.values(), token_plan)


def journalled(made: TokenSet) -> Found:
    return read_with(made, journal_frame_commits, journal_token_commits)


def through_journal(made: TokenSet) -> Found:
    return read_with(made, frame_commits, token_commits)


def without_journal(made: TokenSet) -> Found:
    kept = [(folder, (folder / JOURNAL).read_bytes()) for folder in (made.frames.path, made.path)]
    for folder, _ in kept:
        (folder / JOURNAL).unlink()
    found = through_journal(made)
    for folder, data in kept:
        (folder / JOURNAL).write_bytes(data)
    return found


def refuse(*_: object) -> NoReturn:
    raise AssertionError("a commit was parsed again")


def test_commits_in_the_journal_are_not_parsed_again(made: TokenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = through_journal(made)
    assert not (made.frames.path / JOURNAL).exists()  # only the writer of a store writes it
    assert journalled(made) == first and list(first[0]) == list(first[1]) == [0, 1, 2]
    sizes = [(folder / JOURNAL).stat().st_size for folder in (made.frames.path, made.path)]
    monkeypatch.setattr(commits, "read_frame_commit", refuse)
    monkeypatch.setattr(commits, "read_token_commit", refuse)
    assert journalled(made) == through_journal(made) == first
    assert [(folder / JOURNAL).stat().st_size for folder in (made.frames.path, made.path)] == sizes


def test_parts_that_were_made_just_now_are_added(made: TokenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, token_plan = read_plan(made.frames.path), read_token_plan(made.path)
    assert plan is not None and token_plan is not None
    expected = through_journal(made)
    for parts in ([2], [0, 1]):
        add_to_token_journal(made.path, add_to_frame_journal(made.frames.path, plan, parts), token_plan)
    monkeypatch.setattr(commits, "read_frame_commit", refuse)
    monkeypatch.setattr(commits, "read_token_commit", refuse)
    assert through_journal(made) == expected


def part_of(made: TokenSet) -> Path:
    return made.frames.path / part_name(1)


def rewrite(path: Path, data: bytes) -> None:
    """Replace a file, as an atomic write does."""
    path.with_name("new").write_bytes(data)
    path.with_name("new").replace(path)


CHANGES: dict[str, Callable[[TokenSet], object]] = {
    "a frame part is removed": lambda made: shutil.rmtree(part_of(made)),
    "its commit is removed": lambda made: (part_of(made) / "commit.json").unlink(),
    "a shard is truncated": lambda made: os.truncate(part_of(made) / "frames.zarr/jpeg/c/0", 7),
    "a table is removed": lambda made: (part_of(made) / "index.parquet").unlink(),
    "its commit is another one": lambda made: rewrite(
        part_of(made) / "commit.json",
        (part_of(made) / "commit.json").read_bytes().replace(b'"num_sources": 2', b'"num_sources": 1'),
    ),
    "a commit of the same size and time": lambda made: same_time(part_of(made) / "commit.json"),
    "a token part is removed": lambda made: (made.path / f"{part_name(1)}.parquet").unlink(),
    "a token part is truncated": lambda made: os.truncate(made.path / f"{part_name(1)}.parquet", 9),
    "a token commit is removed": lambda made: (made.path / f"{part_name(1)}.json").unlink(),
}


def same_time(path: Path) -> None:
    before = path.stat()
    rewrite(path, path.read_bytes().replace(b'"num_samples": 2', b'"num_samples": 1'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_since_is_read_again(made: TokenSet, change: str) -> None:
    before = journalled(made)
    CHANGES[change](made)
    found = through_journal(made)
    assert found == without_journal(made) and found != before
    assert journalled(made) == found == through_journal(made)


@pytest.mark.parametrize("keep", [0, 1, 40, 75, 76, 200, -1, -30])
def test_a_torn_journal_loses_only_time(made: TokenSet, keep: int) -> None:
    expected = journalled(made)
    for folder in (made.frames.path, made.path):
        data = (folder / JOURNAL).read_bytes()
        (folder / JOURNAL).write_bytes(data[:keep])
        assert through_journal(made) == expected
        (folder / JOURNAL).write_bytes(data[:keep] + b"\0" * 4096)  # as some file systems leave after a crash
        assert journalled(made) == expected == through_journal(made)


def test_a_damaged_journal_is_not_believed(made: TokenSet) -> None:
    expected = journalled(made)
    path = made.frames.path / JOURNAL
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert through_journal(made) == expected, at
    path.write_bytes(b"\xff" * 100)
    assert through_journal(made) == expected
    path.unlink()
    path.mkdir()
    assert through_journal(made) == expected


def test_a_journal_of_another_plan_or_of_a_copy_is_not_believed(made: TokenSet, tmp_path: Path, monkeypatch) -> None:
    expected = journalled(made)
    path = made.frames.path / JOURNAL
    lines = path.read_text().split("\n")
    (made.frames.path / "plan.json").write_text(
        (made.frames.path / "plan.json").read_text().replace('"seed": 0', '"seed": 1')
    )
    assert through_journal(made)[0] == {}
    assert path.read_text().split("\n") == lines
    shutil.copytree(tmp_path / "data", tmp_path / "copy", copy_function=shutil.copy2)
    copy = TokenSet(tmp_path / "copy" / "tokens" / made.path.name)
    (copy.frames.path / "plan.json").write_text(
        (copy.frames.path / "plan.json").read_text().replace('"seed": 1', '"seed": 0')
    )
    asked = []
    monkeypatch.setattr(commits, "read_token_commit", lambda *args: asked.append(args))
    assert through_journal(copy)[0] == expected[0] and len(asked) == 3
