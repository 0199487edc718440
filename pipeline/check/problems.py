"""The problems that `bevt verify` reports, their fixes, and the files that `bevt repair` removes first."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bevt_core.storage.objects import AnyPath, as_path
from schemas.errors import DAMAGED

RERUN = "run the same `bevt tokenize` command again"
REPAIR = "run `bevt repair`, or remove it and run the same `bevt tokenize` command again"
REMOVE = "remove it and run the same `bevt tokenize` command again"
RESTORE = "run `bevt repair`, or `bevt repair --list LIST` if the dataset was made from a list"
OUTSIDE = (
    "use `bevt verify --allow-outside` or `bevt repair --allow-outside` if the dataset was made with that "
    "option; otherwise its list was changed: do not use the dataset"
)
COPY = "restore it from a copy of the dataset"
CHANGED = "it was changed after it was written: do not use the dataset"
REPAIRABLE = {RERUN, REPAIR, RESTORE}

_PART = re.compile(r"part-(\d{5,})(\.parquet|\.json)?")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file or folder, and the advice that fixes it (`mend` in the JSON of `bevt verify`)."""

    path: str
    problem: str
    fix: str


def part_of(name: str) -> int | None:
    """The part number in the name of a part's folder or file; None for other names."""
    found = _PART.fullmatch(name)
    return int(found[1]) if found else None


def parts_in(folder: AnyPath, num_parts: int, problems: Iterable[Problem]) -> list[int]:
    """The parts of the frame store or token set `folder` that have a problem, in order."""
    paths = [as_path(problem.path) for problem in problems]
    parts = {part_of(path.name) for path in paths if str(path.parent) == str(folder)}
    return sorted(part for part in parts if part is not None and part < num_parts)


def to_remove(problems: Iterable[Problem]) -> list[AnyPath]:
    """The damaged files and folders to remove so that the job makes them again.

    For a token part these are both its table and its commit.
    """
    paths: dict[AnyPath, None] = {}
    for problem in problems:
        path = as_path(problem.path)
        if problem.fix != REPAIR or path.name == "plan.json":  # `repair` rewrites a plan
            continue
        stem, dot, _ = path.name.partition(".")
        is_token_part = part_of(path.name) is not None and dot
        names = [f"{stem}.parquet", f"{stem}.json"] if is_token_part else [path.name]
        paths |= dict.fromkeys(path.parent / name for name in names)
    return list(paths)


def below(path: AnyPath, folder: AnyPath) -> str:
    """`path` relative to `folder`."""
    return str(path).removeprefix(f"{folder}/")


def reason_of(error: Exception, path: AnyPath) -> str:
    """The reason in an error about the file or folder `path`, without the path and the advice: a `Problem` has both.

    Files inside a folder keep their relative name.
    """
    reason = str(error).removesuffix(f"; {DAMAGED}")
    return reason.removeprefix(str(path)).lstrip("/").removeprefix(": ").removeprefix(", ")
