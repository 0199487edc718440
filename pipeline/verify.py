"""`bevt verify`: is a dataset what its manifests say, file by file, and are its tokens those of its frames?"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from bevt_core.files import each, read_record, sha256_of, sizes_in
from bevt_core.objects import AnyPath
from bevt_core.shards import (
    COMMIT,
    part_name,
    read_frame_commit,
    read_plan,
    read_sources,
    read_token_commit,
    read_token_plan,
    sources_digest,
    token_set_folders,
)
from bevt_core.tables import for_arrow, read_table
from pipeline.problems import REMOVE, REPAIR, RERUN, RESTORE, Problem, below, part_of
from schemas.base import Record
from schemas.errors import UserError
from schemas.frames import (
    INDEX_SCHEMA,
    REJECTED_SCHEMA,
    FramePartCommit,
    FrameStoreManifest,
    Plan,
)
from schemas.tokens import TokenPartCommit, TokenPlan, TokenSetManifest, token_schema

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R", bound=BaseModel)


def verify(
    dataset_dir: AnyPath, *, deep: bool = False, sample: int = 32, tokenizer: str | None = None
) -> dict[str, Any]:
    """Check a dataset folder (the one with `frames/` and `tokens/`). Returns `ok`, counts, `problems`, agreement.

    Every file of a part is hashed again, every source must be in one of index and rejected. Of `sources.parquet` the
    rows are what a digest covers, so a flipped bit that leaves them equal is none. `sample` samples of each token set
    are tokenized again, or with `deep` all of them; `token_agreement` is the share of equal tokens, None where no
    token set is there. `tokenizer` says where the tokenizer is, if its name alone does not lead to it.
    """
    counts, problems = check_files(dataset_dir)
    token_sets = token_sets_in(dataset_dir)
    equal = compared = 0
    if not problems:
        equal, compared, problems = check_tokens(token_sets, deep=deep, sample=sample, tokenizer=tokenizer)
    return {
        "ok": not problems,
        **counts,
        "token_sets": [path.name for path in token_sets],
        "token_agreement": equal / compared if compared else None,
        "tokens_compared": compared,
        "problems": [asdict(problem) for problem in problems],
    }


def check_files(dataset_dir: AnyPath) -> tuple[dict[str, int], list[Problem]]:
    """Counts, and what is wrong with the files; whether the tokens are right is another question.

    Raises UserError for a folder that holds no dataset.
    """
    frames_dir = dataset_dir / "frames"
    if not frames_dir.is_dir():
        raise UserError(f"{dataset_dir}: no frames/ in it; give the folder that `bevt tokenize --out` wrote")
    problems: list[Problem] = []
    counts = {"sources": 0, "indexed": 0, "rejected": 0, "samples": 0, "parts": 0}
    path = frames_dir / "plan.json"
    plan = _read(lambda: read_plan(frames_dir), path, problems, REMOVE)
    if plan is not None and _contradicted(plan, _committed(frames_dir, f"*/{COMMIT}", FramePartCommit, "plan_digest")):
        problems.append(Problem(str(path), "none of the parts is of this plan", REMOVE))
    elif plan is not None:
        commits = _verify_frames(frames_dir, plan, counts, problems)
        for tokens_dir in token_sets_in(dataset_dir):
            _verify_token_files(frames_dir, plan, tokens_dir, commits, problems)
    return counts, problems


def check_tokens(
    token_sets: Sequence[AnyPath], *, deep: bool, sample: int, tokenizer: str | None
) -> tuple[int, int, list[Problem]]:
    """(equal, compared, problems) of token sets whose files are whole; `verify` says what the arguments are."""
    problems: list[Problem] = []
    equal = compared = 0
    if deep or sample:
        for tokens_dir in token_sets:
            from pipeline.verify_tokens import compare_tokens  # torch comes with it

            agreed = compare_tokens(tokens_dir, None if deep else sample, tokenizer, problems)
            equal, compared = equal + agreed[0], compared + agreed[1]
    return equal, compared, problems


def token_sets_in(dataset_dir: AnyPath) -> list[AnyPath]:
    """The token sets of a dataset, by name, also those that have lost their plan."""
    found = {str(path): path for name in ("plan.json", "dataset.json") for path in token_set_folders(dataset_dir, name)}
    return [found[name] for name in sorted(found)]


def derived_token_plan(tokens_dir: AnyPath, frames_plan: Plan) -> TokenPlan | None:
    """The plan of a finished token set as its manifest has it. None where no committed part bears it out."""
    manifest = readable(tokens_dir / "dataset.json", TokenSetManifest)
    if manifest is None:
        return None
    plan = TokenPlan(
        name=manifest.name, tokenizer=manifest.tokenizer, views=manifest.views, frames_plan=frames_plan.digest()
    )
    return plan if plan.digest() in _token_plans(tokens_dir) else None


def parts_digest(commits: Sequence[FramePartCommit] | Sequence[TokenPartCommit]) -> str:
    """What the manifests hold, computed here again: sha256 over the digests of the commits."""
    return hashlib.sha256("".join(commit.digest() for commit in commits).encode()).hexdigest()


def readable(path: AnyPath, kind: type[R]) -> R | None:
    """The record, or None for one that is missing or damaged, where another function reports that."""
    try:
        return read_record(path, kind)
    except UserError:
        return None


# ---- the frame store -------------------------------------------------------------------------------------------------


def _verify_frames(
    frames_dir: AnyPath, plan: Plan, counts: dict[str, int], problems: list[Problem]
) -> list[FramePartCommit]:
    """The commits of the parts that have one; what they hold is added to `counts`."""
    counts["sources"] = plan.num_sources
    commits: list[FramePartCommit] = []
    planned = _planned_sources(frames_dir, plan, problems)

    def look(part: int) -> tuple[FramePartCommit | None, list[Problem]]:
        span = slice(part * plan.sources_per_part, (part + 1) * plan.sources_per_part)
        found: list[Problem] = []
        expected = None if planned is None else planned[span]
        return _verify_frame_part(frames_dir, part, plan, expected, found), found

    for commit, found_problems in _in_threads(look, range(plan.num_parts), frames_dir):
        problems += found_problems
        if commit is not None:
            commits.append(commit)
            counts["indexed"] += commit.num_sources - commit.num_rejected
            counts["samples"] += commit.num_samples
            counts["rejected"] += commit.num_rejected
            counts["parts"] += 1
    problems += _strays(frames_dir, plan)
    path = frames_dir / "dataset.json"
    manifest = _read(lambda: read_record(path, FrameStoreManifest), path, problems)
    if manifest is not None:
        expected = {
            **plan.model_dump(include={"dataset", "split", "classes", "pool", "seed"}),
            "plan_digest": plan.digest(),
            "num_parts": plan.num_parts,
            "num_sources": sum(commit.num_sources for commit in commits),
            "num_samples": counts["samples"],
            "num_frames": sum(commit.num_frames for commit in commits),
            "parts_digest": parts_digest(commits),
        }
        problems += _differences(path, manifest, expected)
        rejected = sum(manifest.rejected.values())
        if rejected != counts["rejected"]:
            problems.append(Problem(str(path), f"says {rejected} rejected, the parts have {counts['rejected']}", RERUN))
    return commits


def _planned_sources(frames_dir: AnyPath, plan: Plan, problems: list[Problem]) -> list[str] | None:
    """The sources in the order of their parts, or None where the list of them cannot be trusted."""
    path = frames_dir / "sources.parquet"
    try:
        items = read_sources(frames_dir)
    except (OSError, ValueError, pa.ArrowException) as error:
        problems.append(Problem(str(path), f"cannot be read: {error}", RESTORE))
        return None
    if sources_digest(items) != plan.sources_digest:
        problems.append(Problem(str(path), "is not the plan's list", RESTORE))
        return None
    return [item.source for item in items]


def _verify_frame_part(
    frames_dir: AnyPath, part: int, plan: Plan, planned: list[str] | None, problems: list[Problem]
) -> FramePartCommit | None:
    """The part's commit, if it has one. `planned` None: nobody knows which sources it should have."""
    folder = frames_dir / part_name(part)

    def wrong(path: AnyPath, problem: str) -> None:
        problems.append(Problem(str(folder), f"{below(path, frames_dir)}: {problem}", REPAIR))

    if not folder.is_dir():
        problems.append(Problem(str(folder), "missing", RERUN))
        return None
    try:
        commit = read_frame_commit(frames_dir, part, plan.digest())
    except UserError as error:
        wrong(folder / COMMIT, str(error))
        return None
    if commit is None:
        wrong(folder, "no commit of this plan, or files that are missing or of another size")
        return None
    if commit.part != part:
        wrong(folder / COMMIT, f"is the commit of part {commit.part}")
    there = sizes_in(folder).keys() - {COMMIT}
    for name in sorted(there - commit.files.keys()):
        wrong(folder / name, "is not in the commit")
    damaged = [name for name, digest in commit.files.items() if sha256_of(folder / name) != digest.sha256]
    for name in damaged:
        wrong(folder / name, "its bytes are not those that were committed")
    if damaged:
        return commit
    index = read_table(folder / "index.parquet")
    rejected = read_table(folder / "rejected.parquet")
    if not index.schema.equals(INDEX_SCHEMA) or not rejected.schema.equals(REJECTED_SCHEMA):
        wrong(folder, "the columns are not those of this format version")
        return commit
    ended = [*dict.fromkeys(index["source"].to_pylist()), *rejected["source"].to_pylist()]
    if planned is not None and sorted(ended) != sorted(planned):
        wrong(folder, f"{len(ended)} sources in index and rejected, the plan has {len(planned)} others")
    counts = (len(index), len(rejected), sum(index["num_frames"].to_pylist()))
    if counts != (commit.num_samples, commit.num_rejected, commit.num_frames):
        wrong(folder / COMMIT, f"its counts are not those of the tables: {counts}")
    return commit


# ---- token sets ------------------------------------------------------------------------------------------------------


def _verify_token_files(
    frames_dir: AnyPath,
    frames_plan: Plan,
    tokens_dir: AnyPath,
    commits: Sequence[FramePartCommit],
    problems: list[Problem],
) -> None:
    """Check the token parts of the frame parts that have a commit."""
    before = len(problems)
    path = tokens_dir / "plan.json"
    derived = derived_token_plan(tokens_dir, frames_plan)
    mend = REPAIR if derived else f"remove {tokens_dir} and run the same `bevt tokenize` command again"
    plan = _read(lambda: read_token_plan(tokens_dir), path, problems, mend)
    if plan is not None and _contradicted(plan, _token_plans(tokens_dir)):
        problems.append(Problem(str(path), "none of the parts is of this plan", mend))
        plan = None
    plan = plan or derived
    if plan is None:
        return
    if plan.frames_plan != frames_plan.digest():
        problems.append(Problem(str(path), "is of another frame store", "tokenize again with --overwrite"))
        return

    def look(frames: FramePartCommit) -> tuple[TokenPartCommit | None, list[Problem]]:
        of_part: list[Problem] = []
        return _verify_token_part(tokens_dir, frames, plan, of_part), of_part

    found = []
    for commit, part_problems in _in_threads(look, commits, tokens_dir):
        found.append(commit)
        problems += part_problems
    for part in sorted(set(range(frames_plan.num_parts)) - {commit.part for commit in commits}):
        path = tokens_dir / f"{part_name(part)}.json"  # of frames that must be made again, but the job reads it
        try:
            read_record(path, TokenPartCommit)
        except UserError as error:
            problems.append(Problem(str(path), str(error), REPAIR))
    problems += _strays(tokens_dir, frames_plan)
    path = tokens_dir / "dataset.json"
    manifest = _read(lambda: read_record(path, TokenSetManifest), path, problems)
    store = readable(frames_dir / "dataset.json", FrameStoreManifest)
    if len(problems) > before or manifest is None or store is None:
        return
    expected = {
        **plan.model_dump(include={"name", "tokenizer", "views"}),
        "frames_digest": store.digest(),
        **store.model_dump(include={"num_parts", "num_samples", "num_frames"}),
        "parts_digest": parts_digest([commit for commit in found if commit is not None]),
    }
    problems += _differences(path, manifest, expected)


def _verify_token_part(
    tokens_dir: AnyPath, frames: FramePartCommit, plan: TokenPlan, problems: list[Problem]
) -> TokenPartCommit | None:
    path = tokens_dir / f"{part_name(frames.part)}.parquet"
    if not path.is_file():
        problems.append(Problem(str(path), "missing", RERUN))
        return None
    try:
        commit = read_token_commit(tokens_dir, frames, plan.digest())
    except UserError as error:
        problems.append(Problem(str(path.parent / f"{part_name(frames.part)}.json"), str(error), REPAIR))
        return None
    if commit is None:
        problems.append(Problem(str(path), "no commit for this plan and these frames, or another size", REPAIR))
        return None
    if commit.part != frames.part or sha256_of(path) != commit.sha256:
        problems.append(Problem(str(path), "its bytes are not those that were committed", REPAIR))
        return None
    with pq.ParquetFile(for_arrow(path)) as file:
        if not file.schema_arrow.equals(token_schema(plan.tokenizer.grid)):
            problems.append(Problem(str(path), "the columns are not those of this format version", REPAIR))
        if file.metadata.num_rows != frames.num_samples * plan.views.num_views:
            problems.append(Problem(str(path), f"{file.metadata.num_rows} rows of another number", REPAIR))
    return commit


# ---- both ------------------------------------------------------------------------------------------------------------


def _strays(folder: AnyPath, plan: Plan) -> list[Problem]:
    """What is named like a part, but has a number that the plan does not reach."""
    names = sorted(path.name for path in folder.glob("part-*"))
    beyond = [name for name in names if (part := part_of(name)) is not None and part >= plan.num_parts]
    return [Problem(str(folder / name), f"the plan has only {plan.num_parts} parts", REPAIR) for name in beyond]


def _in_threads(function: Callable[[A], B], items: Iterable[A], where: AnyPath) -> Iterator[B]:
    """`map` in threads: hashing lets go of the interpreter lock, and requests to an object store mostly wait."""
    if not isinstance(where, Path):
        yield from each(function, items, where)
        return
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="verify") as pool:
        yield from pool.map(function, items)


def _read(read: Callable[[], R | None], path: AnyPath, problems: list[Problem], mend: str = REPAIR) -> R | None:
    """`read()`, or None after a note that `path` is missing, or that it is damaged, which `mend` mends."""
    try:
        record = read()
    except UserError as error:
        problems.append(Problem(str(path), str(error), mend))
        return None
    if record is None:
        problems.append(Problem(str(path), "missing: the job has not finished", RERUN))
    return record


def _token_plans(tokens_dir: AnyPath) -> Iterator[str]:
    return _committed(tokens_dir, "part-*.json", TokenPartCommit, "token_plan")


def _committed(folder: AnyPath, pattern: str, kind: type[Record], digest: str) -> Iterator[str]:
    """The digests of plans that the commits below `folder` carry, of those commits that can be read."""
    commits = (readable(path, kind) for path in folder.glob(pattern))
    return (getattr(commit, digest) for commit in commits if commit is not None)


def _contradicted(plan: Plan | TokenPlan, committed: Iterator[str]) -> bool:
    """Are there parts, and all of another plan? Then it is the plan that is wrong, not every part."""
    first = next(committed, None)
    return first is not None and first != plan.digest() and plan.digest() not in committed


def _differences(path: AnyPath, manifest: Record, expected: dict[str, Any]) -> list[Problem]:
    """Where a manifest is not what its parts and its plan make it. The job writes it anew in any case."""
    said = manifest.model_dump(include=set(expected))
    wrong = [key for key, value in expected.items() if said[key] != value]
    return [Problem(str(path), f"{key} is {said[key]!r}, expected {expected[key]!r}", RERUN) for key in wrong]
