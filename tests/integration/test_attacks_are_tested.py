"""docs/explanation/security.md and docs/explanation/reliability.md name a test for each promise: they must exist."""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["security.md", "reliability.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    text = (REPO / "docs" / "explanation" / page).read_text()
    files = set(re.findall(r"`?(tests/[\w/]+\.py)", text))
    names = set(re.findall(r"`(test_\w+)`", text))
    defined = {
        name
        for path in (REPO / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(names) > 20
    assert not [file for file in sorted(files) if not (REPO / file).is_file()]
    assert not sorted(names - defined)
