"""docs/trip-of-a-frame.md names the files that a frame passes."""

import re
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.support.frame_trip import follow_a_frame

TEXT = (REPO / "docs" / "trip-of-a-frame.md").read_text()
NAMED = set(re.findall(r"\b(?:bevt_core|pipeline|trainer)/[\w/]+\.py", TEXT))
COUNTS = re.search(r"\| after \| (\d+) \| (\d+) \|", TEXT)


def test_the_files_that_it_names_exist() -> None:
    assert len(NAMED) > 30
    assert {name for name in NAMED if not (REPO / name).is_file()} == set()


@pytest.mark.slow
def test_a_frame_passes_the_files_that_it_names(tmp_path: Path) -> None:
    trip = follow_a_frame(tmp_path)
    assert set(trip.modules) <= NAMED
    assert COUNTS is not None
    assert tuple(map(int, COUNTS.groups())) == (len(trip.modules), len(trip.onward))
