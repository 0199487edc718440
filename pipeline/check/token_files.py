"""Check the files of a token set against its commits and its frame store. The tokens are compared in `tokens.py`."""

from collections.abc import Iterator, Sequence

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.token_set import read_token_commit, read_token_plan, token_manifest
from bevt_core.storage.files import read_record, sha256_of
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.parquet_file import ParquetFile
from pipeline.check.problems import REPAIR, RERUN, Problem, reason_of
from pipeline.check.records import (
    differences,
    is_contradicted,
    map_parts,
    plan_digests,
    read_or_report,
    readable,
    stray_parts,
)
from schemas.errors import UserError
from schemas.frames import FramePartCommit, FrameStoreManifest, Plan
from schemas.tokens import TokenPartCommit, TokenPlan, TokenSetManifest, token_schema


def verify_token_files(
    frames_dir: AnyPath,
    frames_plans: Sequence[Plan],
    tokens_dir: AnyPath,
    commits: Sequence[FramePartCommit],
    problems: list[Problem],
) -> None:
    """Check the token parts of committed frame parts, and append what is wrong to `problems`.

    `frames_plans` are the plan of the frame store and those of its extensions.
    """
    before = len(problems)
    frames_plan, num_parts = frames_plans[0], frames_plans[-1].num_parts
    path = tokens_dir / "plan.json"
    derived = derived_token_plan(tokens_dir, frames_plan)
    fix = REPAIR if derived else f"remove {tokens_dir} and run the same `bevt tokenize` command again"
    plan = read_or_report(lambda: read_token_plan(tokens_dir), path, problems, fix)
    if plan is not None and is_contradicted(plan, _committed_plans(tokens_dir)):
        problems.append(Problem(str(path), "none of the parts belongs to this plan", fix))
        plan = None
    plan = plan or derived
    if plan is None:
        return
    if plan.frames_plan != frames_plan.digest():
        fix = "run the same job again with `bevt tokenize ... --overwrite`"
        problems.append(Problem(str(path), "belongs to another frame store", fix))
        return

    def check_part(frames: FramePartCommit) -> tuple[TokenPartCommit | None, list[Problem]]:
        part_problems: list[Problem] = []
        return _verify_token_part(tokens_dir, frames, plan, part_problems), part_problems

    found = []
    for commit, part_problems in map_parts(f"check {tokens_dir.name}", check_part, commits, tokens_dir):
        found.append(commit)
        problems += part_problems
    for part in sorted(set(range(num_parts)) - {commit.part for commit in commits}):
        path = tokens_dir / f"{part_name(part)}.json"  # the frame part is damaged, but the job still reads this commit
        try:
            read_record(path, TokenPartCommit)
        except UserError as error:
            problems.append(Problem(str(path), reason_of(error, path), REPAIR))
    problems += stray_parts(tokens_dir, frames_plans[-1])
    path = tokens_dir / "dataset.json"
    manifest = read_or_report(lambda: read_record(path, TokenSetManifest), path, problems)
    store = readable(frames_dir / "dataset.json", FrameStoreManifest)
    if len(problems) > before or manifest is None or store is None:
        return
    expected = token_manifest(plan, store, [commit for commit in found if commit is not None])
    problems += differences(path, manifest, expected.model_dump(exclude={"format_version"}))


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
        path = tokens_dir / f"{part_name(frames.part)}.json"
        problems.append(Problem(str(path), reason_of(error, path), REPAIR))
        return None
    if commit is None:
        problems.append(Problem(str(path), "no commit for this plan and these frames, or the wrong size", REPAIR))
        return None
    if commit.part != frames.part or sha256_of(path) != commit.sha256:
        problems.append(Problem(str(path), "its bytes do not match the committed digest", REPAIR))
        return None
    with ParquetFile(path) as file:
        if not file.schema_arrow.equals(token_schema(plan.tokenizer.grid)):
            problems.append(Problem(str(path), "its columns do not match this format version", REPAIR))
        expected = frames.num_samples * plan.views.num_views
        if file.metadata.num_rows != expected:
            problems.append(Problem(str(path), f"{file.metadata.num_rows} rows, expected {expected}", REPAIR))
    return commit


def derived_token_plan(tokens_dir: AnyPath, frames_plan: Plan) -> TokenPlan | None:
    """The plan of a finished token set, rebuilt from its manifest; None if no committed part confirms it."""
    manifest = readable(tokens_dir / "dataset.json", TokenSetManifest)
    if manifest is None:
        return None
    plan = TokenPlan(
        name=manifest.name, tokenizer=manifest.tokenizer, views=manifest.views, frames_plan=frames_plan.digest()
    )
    return plan if plan.digest() in _committed_plans(tokens_dir) else None


def _committed_plans(tokens_dir: AnyPath) -> Iterator[str]:
    return plan_digests(tokens_dir, "part-*.json", TokenPartCommit, "token_plan")
