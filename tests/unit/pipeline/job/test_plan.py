"""Jobs that start at the same moment, and roots and commits that have disappeared."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bevt_core.dataset import frame_store, source_list
from bevt_core.dataset.source_list import read_plan, read_sources
from bevt_core.storage.files import create_record, sha256_of, sizes_in
from bevt_core.storage.objects import AnyPath, as_path
from pipeline.job import plan as plans
from pipeline.job.commits import check_complete
from pipeline.job.decode_part import check_root
from pipeline.job.plan import write_or_check_plan
from schemas.errors import StorageError, UserError
from schemas.frames import Plan, PoolSpec, SourceItem
from tests.support.s3_server import S3Server, s3_server

ITEMS = [SourceItem(source=f"{i}.mp4", kind="video", label=0) for i in range(4)]


def plan_of(items: list[SourceItem], seed: int = 0) -> Plan:
    return Plan(
        dataset="folder",
        split="train",
        classes=("x",),
        pool=PoolSpec(stride=2, phase="zero", max_frames=8, short_side_px=32),
        seed=seed,
        sources_per_part=2,
        num_sources=len(items),
        sources_digest=source_list.sources_digest(items),
    )


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["disk", "objects"])
def frames_dir(request: pytest.FixtureRequest, server: S3Server, tmp_path: Path) -> AnyPath:
    return tmp_path / "frames" if request.param == "disk" else as_path(f"s3://data/{tmp_path.name}/frames")


def test_of_two_jobs_at_the_same_moment_one_is_refused(frames_dir: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both start before either has written its plan."""
    write_or_check_plan(frames_dir, plan_of(ITEMS), ITEMS, overwrite=False)
    before = {name: sha256_of(frames_dir / name) for name in sizes_in(frames_dir)}
    assert before.keys() == {"plan.json", "sources.parquet"}
    with monkeypatch.context() as patch:
        for module in (plans, source_list):
            patch.setattr(module, "read_plan", lambda folder, extension=0: None)
        with pytest.raises(UserError, match=r"another job's output: .*num_sources 4 there, 3 here"):
            write_or_check_plan(frames_dir, plan_of(ITEMS[:3]), ITEMS[:3], overwrite=False)
        write_or_check_plan(frames_dir, plan_of(ITEMS), ITEMS, overwrite=False)  # the same job
    assert {name: sha256_of(frames_dir / name) for name in sizes_in(frames_dir)} == before


def test_a_job_that_was_killed_before_its_list_was_written(frames_dir: AnyPath) -> None:
    create_record(frames_dir / "plan.json", plan_of(ITEMS))
    write_or_check_plan(frames_dir, plan_of(ITEMS), ITEMS, overwrite=False)
    assert (read_plan(frames_dir), read_sources(frames_dir)) == (plan_of(ITEMS), ITEMS)


def test_a_root_is_needed_only_where_something_is_to_be_decoded(server: S3Server, tmp_path: Path) -> None:
    plan = plan_of(ITEMS)
    commit = frame_store.write_frame_part(tmp_path, 0, [], [], plan)
    (tmp_path / "mount").mkdir()
    for root in (tmp_path / "mount", tmp_path / "typo", as_path("s3://data/typo")):
        check_root(root, plan, {0: commit, 1: commit})
        with pytest.raises(UserError, match=rf"`root` {root}: .*, and 1 of 2 parts still have to be decoded"):
            check_root(root, plan, {0: commit})
    (as_path("s3://data/videos") / "a.mp4").write_bytes(b"")
    for root in (tmp_path, as_path("s3://data/videos")):
        check_root(root, plan, {})


def test_a_lost_commit_is_reported() -> None:
    check_complete(Path("frames"), {0, 1, 2}, 3)
    with pytest.raises(
        StorageError, match=r"frames/part-00001 and 1 more: removed or changed .* Run the same command again"
    ):
        check_complete(Path("frames"), {0, 3}, 4)
