"""Module names of bevt that other projects use too: which of their files Python imports instead of ours.

`bevt` runs this at every start, before it imports anything else.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

OUR_NAMES = ("cli", "schemas", "bevt_core", "pipeline", "trainer")
PACKAGES = Path(__file__).resolve().parents[1]  # the folder that has them

_RECORDED = re.compile(rf"^(?:{'|'.join(OUR_NAMES)})(?:\.py|/__init__\.py),", flags=re.MULTILINE)


def foreign_modules(paths: Iterable[str]) -> Iterator[str]:
    """Yield the files of other projects in these folders whose modules have our names."""
    for path in dict.fromkeys(str(Path(path).resolve()) for path in paths):
        if Path(path) != PACKAGES:
            for name in OUR_NAMES:
                spec = PathFinder.find_spec(name, [path])
                # a folder without __init__.py, as spec without origin, does not hide ours
                if spec is not None and spec.origin and not Path(spec.origin).resolve().is_relative_to(PACKAGES):
                    yield spec.origin


def hiding_modules(paths: Sequence[str]) -> list[str]:
    """Return those of `foreign_modules` that Python finds before ours."""
    folders = [Path(path).resolve() for path in paths]
    before = folders.index(PACKAGES) if PACKAGES in folders else len(folders)
    return list(foreign_modules(paths[:before]))


def rival_distributions() -> list[str]:
    """Return installed projects that have modules of our names; in the same folder, theirs replaced ours or mix."""
    from importlib.metadata import distributions  # slow to import

    return sorted(
        {
            distribution.name
            for distribution in distributions()
            if distribution.name != "bevt" and _RECORDED.search(distribution.read_text("RECORD") or "")
        }
    )


def collision() -> str | None:
    """Describe in one line what hides our modules, with a fix; None if nothing does. Takes below a millisecond."""
    hiding = hiding_modules(sys.path)
    if not hiding:
        return None
    others = f" (and {len(hiding) - 1} more)" if len(hiding) > 1 else ""
    return (
        f"Python imports {_printable(hiding[0])}{others} instead of bevt's module of this name; "
        f"rename it, or take its folder off PYTHONPATH"
    )


def replacement() -> str | None:
    """Describe in one line which installed projects may have replaced our files; None if none. Reads all records."""
    rivals = rival_distributions()
    if not rivals:
        return None
    names = ", ".join(OUR_NAMES)
    return (
        f"{', '.join(map(_printable, rivals))} installed modules with bevt's names ({names}); "
        f"install bevt in an environment of its own"
    )


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)
