"""Helpers shared by the checks of `bevt verify`: reading records, and comparing them with their parts."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel

from bevt_core.console.inert import one_line
from bevt_core.console.progress import ProgressLine
from bevt_core.dataset.extensions import read_extended_plans
from bevt_core.dataset.source_list import plan_path
from bevt_core.storage.files import read_record
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from pipeline.check.problems import COPY, REPAIR, RERUN, Problem, part_of, reason_of
from schemas.base import Record
from schemas.errors import UserError
from schemas.frames import FramePartCommit, FrameStoreManifest, Plan
from schemas.text.plain import short
from schemas.tokens import TokenPartCommit, TokenPlan

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R", bound=BaseModel)


def readable(path: AnyPath, kind: type[R]) -> R | None:
    """The record, or None if it is missing or damaged; another check reports that."""
    try:
        return read_record(path, kind)
    except UserError:
        return None


def read_or_report(read: Callable[[], R | None], path: AnyPath, problems: list[Problem], fix: str = REPAIR) -> R | None:
    """The result of `read()`, or None, with a problem added, if `path` is missing or damaged; `fix` is for damage."""
    try:
        record = read()
    except UserError as error:
        problems.append(Problem(str(path), reason_of(error, path), fix))
        return None
    if record is None:
        problems.append(Problem(str(path), "missing: the job has not finished", RERUN))
    return record


def check_extensions(frames_dir: AnyPath, plan: Plan, problems: list[Problem]) -> list[Plan] | None:
    """The plans of the store's extensions, or None, with a problem added, if one is damaged or lost.

    Its parts must not be taken for strays then, which `repair` removes.
    """
    try:
        plans = read_extended_plans(frames_dir, plan)
    except UserError as error:
        problems.append(Problem(str(frames_dir), reason_of(error, frames_dir), COPY))
        return None
    manifest = readable(frames_dir / "dataset.json", FrameStoreManifest)
    if manifest is not None and len(manifest.generations) > len(plans):
        path = plan_path(frames_dir, len(plans) + 1)
        problems.append(Problem(str(path), "missing, but dataset.json has parts of this extension", COPY))
        return None
    return plans


def differences(path: AnyPath, manifest: Record, expected: dict[str, Any]) -> list[Problem]:
    """A problem for each field of a manifest that differs from `expected`. A rerun of the job rewrites the manifest."""
    actual = manifest.model_dump(include=set(expected))
    wrong = [key for key, value in expected.items() if actual[key] != value]
    pairs = {key: (short(actual[key]), short(expected[key])) for key in wrong}
    return [Problem(str(path), f"{key} is {old!r}, expected {new!r}", RERUN) for key, (old, new) in pairs.items()]


def parts_digest(commits: Sequence[FramePartCommit] | Sequence[TokenPartCommit]) -> str:
    """Recompute a manifest's `parts_digest`: SHA-256 over the digests of the commits, in order."""
    return hashlib.sha256("".join(commit.digest() for commit in commits).encode()).hexdigest()


def stray_parts(folder: AnyPath, plan: Plan) -> list[Problem]:
    """A problem for each file or folder whose part number is beyond the last part of the newest plan."""
    names = sorted(path.name for path in folder.glob("part-*"))
    beyond = [name for name in names if (part := part_of(name)) is not None and part >= plan.num_parts]
    return [Problem(str(folder / name), f"the plan has only {plan.num_parts} parts", REPAIR) for name in beyond]


def plan_digests(folder: AnyPath, pattern: str, kind: type[Record], field: str) -> Iterator[str]:
    """The digests of plans, read from `field` of the readable commits that match `pattern` in `folder`."""
    commits = (readable(path, kind) for path in folder.glob(pattern))
    return (getattr(commit, field) for commit in commits if commit is not None)


def is_contradicted(plan: Plan | TokenPlan, digests: Iterator[str]) -> bool:
    """Whether parts exist but none belongs to `plan`, which means that the plan is damaged, not every part."""
    first = next(digests, None)
    return first is not None and first != plan.digest() and plan.digest() not in digests


def map_parts(name: str, check: Callable[[A], B], parts: Sequence[A], where: AnyPath) -> Iterator[B]:
    """Call `check` on each part in threads and yield the results in order, with progress under `name` on stderr."""
    with ProgressLine(one_line(name), len(parts), unit="parts") as progress:
        for found in _in_threads(check, parts, where):
            progress.add(1)
            yield found


def _in_threads(function: Callable[[A], B], items: Iterable[A], where: AnyPath) -> Iterator[B]:
    """`map` in threads: hashing releases the interpreter lock, and requests to an object store mostly wait."""
    with ThreadPoolExecutor(storage_of(where).hash_threads, thread_name_prefix="verify") as pool:
        yield from pool.map(function, items)
