"""docs/explanation/trip-of-a-frame.md names the files that a frame passes."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.support.frame_trip import follow_a_frame

TEXT = (REPO / "docs" / "explanation" / "trip-of-a-frame.md").read_text()
NAMED = set(re.findall(r"\b(?:bevt_core|pipeline|trainer)/[\w/]+\.py", TEXT))
COUNTS = re.search(r"\| today \| (\d+) \| (\d+) \|", TEXT)
DECODERS = "bevt_core/media/video/"  # give each frame to their caller's `keep`


def test_the_files_that_it_names_exist() -> None:
    assert len(NAMED) > 20
    assert {name for name in NAMED if not (REPO / name).is_file()} == set()


@pytest.mark.slow
def test_a_frame_passes_the_files_that_it_names(tmp_path: Path) -> None:
    trip = follow_a_frame(tmp_path)
    assert set(trip.modules) <= NAMED
    assert COUNTS is not None
    assert tuple(map(int, COUNTS.groups())) == (len(trip.modules), len(trip.onward))
    callers = {name: {a for a, b in trip.calls if b == name and not a.startswith(DECODERS)} for name in trip.modules}
    TopologicalSorter(callers).prepare()  # raises CycleError if a frame turns back
