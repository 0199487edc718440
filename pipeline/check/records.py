"""What the checks of `bevt verify` share: records that may be damaged, and manifests that may say something else."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel

from bevt_core.storage.files import read_record
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from pipeline.check.problems import REPAIR, RERUN, Problem, part_of
from schemas.base import Record
from schemas.errors import UserError
from schemas.frames import FramePartCommit, Plan
from schemas.tokens import TokenPartCommit, TokenPlan

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R", bound=BaseModel)


def readable(path: AnyPath, kind: type[R]) -> R | None:
    """The record, or None for one that is missing or damaged, where another function reports that."""
    try:
        return read_record(path, kind)
    except UserError:
        return None


def read_or_note(read: Callable[[], R | None], path: AnyPath, problems: list[Problem], mend: str = REPAIR) -> R | None:
    """`read()`, or None after a note that `path` is missing, or that it is damaged, which `mend` mends."""
    try:
        record = read()
    except UserError as error:
        problems.append(Problem(str(path), str(error), mend))
        return None
    if record is None:
        problems.append(Problem(str(path), "missing: the job has not finished", RERUN))
    return record


def differences(path: AnyPath, manifest: Record, expected: dict[str, Any]) -> list[Problem]:
    """Where a manifest is not what its parts and its plan make it. The job writes it anew in any case."""
    said = manifest.model_dump(include=set(expected))
    wrong = [key for key, value in expected.items() if said[key] != value]
    return [Problem(str(path), f"{key} is {said[key]!r}, expected {expected[key]!r}", RERUN) for key in wrong]


def parts_digest(commits: Sequence[FramePartCommit] | Sequence[TokenPartCommit]) -> str:
    """What the manifests hold, computed here again: sha256 over the digests of the commits."""
    return hashlib.sha256("".join(commit.digest() for commit in commits).encode()).hexdigest()


def strays(folder: AnyPath, plan: Plan) -> list[Problem]:
    """What is named like a part, but has a number that the plan does not reach."""
    names = sorted(path.name for path in folder.glob("part-*"))
    beyond = [name for name in names if (part := part_of(name)) is not None and part >= plan.num_parts]
    return [Problem(str(folder / name), f"the plan has only {plan.num_parts} parts", REPAIR) for name in beyond]


def committed(folder: AnyPath, pattern: str, kind: type[Record], digest: str) -> Iterator[str]:
    """The digests of plans that the commits below `folder` carry, of those commits that can be read."""
    commits = (readable(path, kind) for path in folder.glob(pattern))
    return (getattr(commit, digest) for commit in commits if commit is not None)


def contradicted(plan: Plan | TokenPlan, digests: Iterator[str]) -> bool:
    """Are there parts, and all of another plan? Then it is the plan that is wrong, not every part."""
    first = next(digests, None)
    return first is not None and first != plan.digest() and plan.digest() not in digests


def in_threads(function: Callable[[A], B], items: Iterable[A], where: AnyPath) -> Iterator[B]:
    """`map` in threads: hashing lets go of the interpreter lock, and requests to an object store mostly wait."""
    with ThreadPoolExecutor(storage_of(where).hash_threads, thread_name_prefix="verify") as pool:
        yield from pool.map(function, items)
