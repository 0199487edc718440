"""The site's navigation: a section per kind of page, filled from its folder, so that a new page needs no entry."""

from pathlib import Path
from typing import Any

SECTIONS = {"Tutorials": "tutorials", "How-to": "how-to", "Reference": "reference", "Explanation": "explanation"}
FIRST = (  # the pages that a section begins with, in this order; others follow by their title
    "your-own-clips",
    "first-run",
    "kinetics-400-on-a-cluster",
    "training-on-a-cluster",
    "after-pretraining",
    "commands",
    "recipe-keys",
    "recipes",
    "python-api",
    "format",
    "json-keys",
    "environment",
    "exit-codes",
)


def navigation(docs: Path) -> list[dict[str, Any]]:
    """The `nav` of mkdocs for the pages below `docs`."""
    nav: list[dict[str, Any]] = [{"Home": "index.md"}]
    for title, folder in SECTIONS.items():
        pages = sorted([*(docs / folder).glob("*.md"), *(docs / folder).glob("*.ipynb")], key=_place)
        nav += [{title: [f"{folder}/{page.stem}.md" for page in pages]}] if pages else []
    project = ["project/contributing.md", "project/changelog.md", "project/security.md", "log.md"]
    return [*nav, {"Decisions": ["adr/README.md"]}, {"Project": project}]


def _place(page: Path) -> tuple[int, str]:
    first = FIRST.index(page.stem) if page.stem in FIRST else len(FIRST)
    return first, page.read_text().partition("\n")[0]
