"""Pages name only files that exist: links, modules, tests, benchmarks. Commands in the log are exempt."""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:schemas|bevt_core|pipeline|trainer|benchmarks|tests)/[\w./-]+\.\w+)")
TO_BE_WRITTEN = re.compile(r"NAME|-v?N\b|ucf101")  # in instructions


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_to_files(page: Path) -> None:
    text = page.read_text()
    paths = set() if page.name == "log.md" else set(PATH.findall(text))
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [path for path in sorted(paths) if not TO_BE_WRITTEN.search(path) and not (REPO / path).exists()]
    assert not missing


def test_the_index_of_decisions_has_each_of_them_once_in_order() -> None:
    folder = REPO / "docs" / "adr"
    rows = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\) \| ([^|]+) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert [name for _, name, _ in rows] == sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    for number, name, title in rows:
        assert (folder / name).read_text().startswith(f"# {int(number)}. {title}\n")
