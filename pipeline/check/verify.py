"""`bevt verify`: check every file of a dataset, and that its tokens match its frames."""

from collections.abc import Sequence
from typing import Any

from bevt_core.dataset.commits import COMMIT
from bevt_core.dataset.source_list import read_plan
from bevt_core.dataset.token_set import token_set_folders
from bevt_core.storage.descriptions import dataset_around, what_is
from bevt_core.storage.objects import AnyPath, as_path
from pipeline.check.frames import verify_frames
from pipeline.check.problems import REMOVE, Problem
from pipeline.check.records import check_extensions, is_contradicted, plan_digests, read_or_report
from pipeline.check.token_files import verify_token_files
from schemas.errors import UserError
from schemas.frames import FramePartCommit


def verify(
    directory: str | AnyPath,
    *,
    deep: bool = False,
    sample: int = 32,
    tokenizer: str | None = None,
    allow_outside: bool = False,
) -> dict[str, Any]:
    """Check a dataset folder, which contains `frames/` and `tokens/`. Returns `ok`, counts, `problems` and agreement.

    Every file of a part is hashed again, and every source must be either indexed or rejected. The digest of
    `sources.parquet` covers its rows, so a flipped bit that does not change a row is not reported. `sample` samples of
    each token set are tokenized again, or all with `deep`; `token_agreement` is the share of equal tokens, None if no
    tokens were compared. `tokenizer` is the tokenizer's name or folder, if it has moved. Sources that lead out of the
    root are a problem unless `allow_outside`.
    """
    dataset_dir = as_path(directory)
    counts, problems = check_files(dataset_dir, allow_outside)
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
        "problems": [{"path": problem.path, "problem": problem.problem, "mend": problem.fix} for problem in problems],
    }


def check_files(dataset_dir: AnyPath, allow_outside: bool = False) -> tuple[dict[str, int], list[Problem]]:
    """Check the files of a dataset; returns counts and problems. `check_tokens` checks the tokens themselves.

    Raises UserError if the folder is not a dataset.
    """
    frames_dir = dataset_dir / "frames"
    if not frames_dir.is_dir():
        raise UserError(f"{dataset_dir}: no frames/ in it ({what_is(dataset_dir)}); give {dataset_around(dataset_dir)}")
    problems: list[Problem] = []
    counts = {"sources": 0, "indexed": 0, "rejected": 0, "samples": 0, "parts": 0}
    path = frames_dir / "plan.json"
    plan = read_or_report(lambda: read_plan(frames_dir), path, problems, REMOVE)
    committed = plan_digests(frames_dir, f"*/{COMMIT}", FramePartCommit, "plan_digest")
    if plan is not None and is_contradicted(plan, committed):
        problems.append(Problem(str(path), "none of the parts belongs to this plan", REMOVE))
    elif plan is not None:
        extensions = check_extensions(frames_dir, plan, problems)
        if extensions is None:
            return counts, problems
        plans = [plan, *extensions]
        commits = verify_frames(frames_dir, plans, counts, problems, allow_outside)
        for tokens_dir in token_sets_in(dataset_dir):
            verify_token_files(frames_dir, plans, tokens_dir, commits, problems)
    return counts, problems


def check_tokens(
    token_sets: Sequence[AnyPath], *, deep: bool, sample: int, tokenizer: str | None
) -> tuple[int, int, list[Problem]]:
    """Compare the tokens of token sets with intact files; arguments as in `verify`.

    Returns (equal, compared, problems).
    """
    problems: list[Problem] = []
    equal = compared = 0
    if deep or sample:
        for tokens_dir in token_sets:
            from pipeline.check.tokens import compare_tokens  # imports torch

            counts = compare_tokens(tokens_dir, None if deep else sample, tokenizer, problems)
            equal, compared = equal + counts[0], compared + counts[1]
    return equal, compared, problems


def token_sets_in(dataset_dir: AnyPath) -> list[AnyPath]:
    """The folders of a dataset's token sets, sorted by path, including those without a plan."""
    found = {str(path): path for name in ("plan.json", "dataset.json") for path in token_set_folders(dataset_dir, name)}
    return [found[name] for name in sorted(found)]
