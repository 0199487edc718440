"""The problems that `bevt verify` finds, how each is fixed, and which files `bevt repair` removes first."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bevt_core.storage.objects import AnyPath, as_path

RERUN = "run the same `bevt tokenize` command again"
REPAIR = "run `bevt repair`, or remove it and run the same `bevt tokenize` command again"
REMOVE = "remove it and run the same `bevt tokenize` command again"
RESTORE = "run `bevt repair`, with --list if the dataset was made with one"
OUTSIDE = "give --allow-outside if the dataset was made with it; else do not use it: its list was changed"
REPAIRABLE = {RERUN, REPAIR, RESTORE}

_PART = re.compile(r"part-(\d{5,})(\.parquet|\.json)?")


@dataclass(frozen=True)
class Problem:
    path: str
    problem: str
    mend: str


def part_of(name: str) -> int | None:
    """The number in the name of a part folder, or of one of the files of a token part; None for other names."""
    found = _PART.fullmatch(name)
    return int(found[1]) if found else None


def parts_in(folder: AnyPath, num_parts: int, problems: Iterable[Problem]) -> list[int]:
    """The parts of a frame store or a token set that have a problem, of those that its plan has."""
    paths = [as_path(problem.path) for problem in problems]
    parts = {part_of(path.name) for path in paths if str(path.parent) == str(folder)}
    return sorted(part for part in parts if part is not None and part < num_parts)


def to_remove(problems: Iterable[Problem]) -> list[AnyPath]:
    """What keeps the job from making again what is broken. Of a token part that is its table and its commit."""
    paths: dict[AnyPath, None] = {}
    for problem in problems:
        path = as_path(problem.path)
        if problem.mend != REPAIR or path.name == "plan.json":  # that one is written anew in its place
            continue
        stem, dot, _ = path.name.partition(".")
        twins = part_of(path.name) is not None and dot
        names = [f"{stem}.parquet", f"{stem}.json"] if twins else [path.name]
        paths |= dict.fromkeys(path.parent / name for name in names)
    return list(paths)


def below(path: AnyPath, folder: AnyPath) -> str:
    """`path` as it is called in `folder`."""
    return str(path).removeprefix(f"{folder}/")
