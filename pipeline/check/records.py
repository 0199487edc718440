"""What the checks of `bevt verify` share: records that may be damaged, and manifests that may say something else."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel

from bevt_core.console.inert import one_line
from bevt_core.console.progress import ProgressLine
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
    """`read()`, or None after a problem is noted: `path` is missing, or damaged, with `mend` as its fix."""
    try:
        record = read()
    except UserError as error:
        problems.append(Problem(str(path), str(error), mend))
        return None
    if record is None:
        problems.append(Problem(str(path), "missing: the job has not finished", RERUN))
    return record


def differences(path: AnyPath, manifest: Record, expected: dict[str, Any]) -> list[Problem]:
    """The fields of a manifest that its parts and its plan contradict. The job always writes manifests anew."""
    said = manifest.model_dump(include=set(expected))
    wrong = [key for key, value in expected.items() if said[key] != value]
    return [Problem(str(path), f"{key} is {said[key]!r}, expected {expected[key]!r}", RERUN) for key in wrong]


def parts_digest(commits: Sequence[FramePartCommit] | Sequence[TokenPartCommit]) -> str:
    """The manifests' `parts_digest`, computed again: sha256 over the digests of the commits."""
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


def look_at_parts(name: str, look: Callable[[A], B], parts: Sequence[A], where: AnyPath) -> Iterator[B]:
    """`look` at each of the parts, in their order and many at a time, with progress under `name` on stderr."""
    with ProgressLine(one_line(name), len(parts), unit="parts") as progress:
        for found in _in_threads(look, parts, where):
            progress.add(1)
            yield found


def _in_threads(function: Callable[[A], B], items: Iterable[A], where: AnyPath) -> Iterator[B]:
    """`map` in threads: hashing lets go of the interpreter lock, and requests to an object store mostly wait."""
    with ThreadPoolExecutor(storage_of(where).hash_threads, thread_name_prefix="verify") as pool:
        yield from pool.map(function, items)
