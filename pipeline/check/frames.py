"""Check the files of a frame store against its plan and its commits."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from bevt_core.dataset.commits import COMMIT, FRAMES_ZARR, part_name
from bevt_core.dataset.extensions import plan_of_part
from bevt_core.dataset.frame_rows import BadRow, check_index
from bevt_core.dataset.frame_store import frame_manifest, read_frame_commit
from bevt_core.dataset.jpeg_layout import read_layout
from bevt_core.dataset.sample_table import COMMIT as TABLE_COMMIT
from bevt_core.dataset.sample_table import TABLE, read_sample_table, samples_in_parts
from bevt_core.dataset.source_list import SourceTable, plan_path, read_sources, sources_digest, sources_path
from bevt_core.storage.files import read_record, sha256_of, sizes_in
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.parquet_file import read_table
from pipeline.check.problems import CHANGED, COPY, OUTSIDE, REPAIR, RERUN, RESTORE, Problem, reason_of
from pipeline.check.records import differences, map_parts, parts_digest, read_or_report, stray_parts
from pipeline.job.part_size import entries_of_part
from schemas.errors import UserError
from schemas.frames import INDEX_SCHEMA, REJECTED_SCHEMA, FramePartCommit, FrameStoreManifest, Plan
from schemas.text.names import leads_out


def verify_frames(
    frames_dir: AnyPath, plans: Sequence[Plan], counts: dict[str, int], problems: list[Problem], allow_outside: bool
) -> list[FramePartCommit]:
    """Check a frame store, append what is wrong to `problems`, and add its totals to `counts`.

    `plans` are that of the store and those of its extensions. Returns the commits that could be read. Sources that lead
    out of the root are problems unless `allow_outside`.
    """
    counts["sources"] = sum(plan.num_sources for plan in plans)
    commits: list[FramePartCommit] = []
    planned = {plan: _planned_sources(frames_dir, number, plan, problems) for number, plan in enumerate(plans)}
    for number, items in enumerate(planned.values()):
        if items is not None and not allow_outside:
            problems += _outside(sources_path(frames_dir, number), items.sources())

    def check_part(part: int) -> tuple[FramePartCommit | None, list[Problem]]:
        found: list[Problem] = []
        plan = plan_of_part(plans, part)
        items = planned[plan]
        expected = None if items is None else [item.source for item in entries_of_part(items, plan, part)]
        return _verify_frame_part(frames_dir, part, plan, expected, found), found

    for commit, found_problems in map_parts("check frames", check_part, range(plans[-1].num_parts), frames_dir):
        problems += found_problems
        if commit is not None:
            commits.append(commit)
            counts["indexed"] += commit.num_sources - commit.num_rejected
            counts["samples"] += commit.num_samples
            counts["rejected"] += commit.num_rejected
            counts["parts"] += 1
    problems += stray_parts(frames_dir, plans[-1])
    path = frames_dir / "dataset.json"
    manifest = read_or_report(lambda: read_record(path, FrameStoreManifest), path, problems)
    if manifest is not None:
        expected = {
            **plans[0].model_dump(include={"dataset", "split", "pool", "seed"}),
            "classes": plans[-1].classes,
            "plan_digest": plans[-1].digest(),
            "num_parts": plans[-1].num_parts,
            "num_sources": sum(commit.num_sources for commit in commits),
            "num_samples": counts["samples"],
            "num_frames": sum(commit.num_frames for commit in commits),
            "parts_digest": parts_digest(commits),
        }
        problems += differences(path, manifest, expected)
        rejected = sum(manifest.rejected.values())
        if rejected != counts["rejected"]:
            problems.append(
                Problem(str(path), f"counts {rejected} rejected sources, its parts have {counts['rejected']}", RERUN)
            )
    if manifest is not None and not problems:
        built = frame_manifest(frames_dir, plans[0], commits, plans[1:])
        problems += differences(path, manifest, built.model_dump(include={"generations", "mix"}))
    if manifest is not None and not problems:
        problems += _sample_table(frames_dir, manifest)
    return commits


def _sample_table(frames_dir: AnyPath, manifest: FrameStoreManifest) -> list[Problem]:
    """Compare the table of all samples with the index of every part, which must be intact; and look for repeated ids.

    Stores of older versions have no table.
    """
    try:
        expected = samples_in_parts(frames_dir, manifest)
    except BadRow as error:
        return [Problem(str(frames_dir), reason_of(error, frames_dir), CHANGED)]
    path, commit_path = frames_dir / TABLE, frames_dir / TABLE_COMMIT
    try:
        found = read_sample_table(frames_dir, manifest)
    except UserError as error:
        damaged = commit_path if str(error).startswith(str(commit_path)) else path
        return [Problem(str(damaged), reason_of(error, damaged), REPAIR)]
    if found is None:
        stale = "belongs to other parts, or its samples.json is missing"
        return [Problem(str(path), stale, RERUN)] if path.is_file() else []
    return [] if found.equals(expected) else [Problem(str(path), "its rows are not those of the parts", REPAIR)]


def _planned_sources(frames_dir: AnyPath, number: int, plan: Plan, problems: list[Problem]) -> SourceTable | None:
    """The sources in the order of their parts, or None, with a problem added, if their list is damaged.

    `number` is that of the extension; 0 is the store.
    """
    path, fix = sources_path(frames_dir, number), COPY if number else RESTORE
    try:
        items = read_sources(frames_dir, number)
    except (OSError, ValueError, pa.ArrowException) as error:
        problems.append(Problem(str(path), reason_of(error, path), fix))
        return None
    if sources_digest(items) != plan.sources_digest:
        what = f"does not match the digest in {plan_path(frames_dir, number).name}"
        problems.append(Problem(str(path), what, fix))
        return None
    return items


def _outside(path: AnyPath, sources: Iterable[str]) -> list[Problem]:
    """A problem if any source in the table at `path` leads out of the root; else nothing."""
    outside = [source for source in sources if leads_out(source) is not None]
    if not outside:
        return []
    return [Problem(str(path), f"{len(outside)} sources lead out of the root, the first is {outside[0]!r}", OUTSIDE)]


def _verify_frame_part(
    frames_dir: AnyPath, part: int, plan: Plan, planned: Sequence[str] | None, problems: list[Problem]
) -> FramePartCommit | None:
    """Check a part and return its commit, or None if that is missing or unusable.

    `planned` are the sources it should contain, or None if the list of sources is damaged.
    """
    folder = frames_dir / part_name(part)

    def wrong(problem: str | Exception) -> None:
        problems.append(
            Problem(str(folder), problem if isinstance(problem, str) else reason_of(problem, folder), REPAIR)
        )

    if not folder.is_dir():
        problems.append(Problem(str(folder), "missing", RERUN))
        return None
    try:
        commit = read_frame_commit(frames_dir, part, plan.digest())
    except UserError as error:
        wrong(error)
        return None
    if commit is None:
        wrong("no commit for this plan, or files are missing or have the wrong size")
        return None
    if commit.part != part:
        wrong(f"{COMMIT} belongs to part {commit.part}")
    present = sizes_in(folder).keys() - {COMMIT}
    for name in sorted(present - commit.files.keys()):
        wrong(f"{name} is not listed in {COMMIT}")
    damaged = [name for name, digest in commit.files.items() if sha256_of(folder / name) != digest.sha256]
    for name in damaged:
        wrong(f"the bytes of {name} do not match the committed digest")
    if damaged:
        return commit
    try:
        layout = read_layout(folder / FRAMES_ZARR)
    except UserError as error:
        wrong(error)
        return commit
    if layout.num_offsets != commit.num_frames + 1:
        wrong(f"{FRAMES_ZARR} has {layout.num_offsets} offsets, expected {commit.num_frames + 1}")
    try:
        index = read_table(folder / "index.parquet")
        rejected = read_table(folder / "rejected.parquet")
    except UserError as error:
        wrong(error)
        return commit
    if not index.schema.equals(INDEX_SCHEMA) or not rejected.schema.equals(REJECTED_SCHEMA):
        wrong("the columns of its tables do not match this format version")
        return commit
    try:
        check_index(index, folder / "index.parquet", len(plan.classes))
    except UserError as error:
        wrong(error)
        return commit
    recorded = [*dict.fromkeys(index["source"].to_pylist()), *rejected["source"].to_pylist()]
    if planned is not None and sorted(recorded) != sorted(planned):
        wrong(f"its {len(recorded)} sources, used and rejected, are not the {len(planned)} of the plan")
    counts = (len(index), len(rejected), sum(index["num_frames"].to_pylist()))
    if counts != (commit.num_samples, commit.num_rejected, commit.num_frames):
        wrong(f"the counts in {COMMIT} do not match the tables, which have {counts}")
    return commit
