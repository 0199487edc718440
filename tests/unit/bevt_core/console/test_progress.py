"""When a job with too many rejected sources stops, and the rate of its progress line."""

import io

import pytest

from bevt_core.console.progress import ProgressLine
from pipeline.job.progress import Meter, ProgressView, RejectionLimit, unit_of
from pipeline.job.rows import PartMade
from schemas.errors import UserError


def test_no_limit() -> None:
    RejectionLimit(None, 10).add(10, 10)


def test_it_stops_when_the_whole_job_must_exceed_it() -> None:
    limit = RejectionLimit(0.05, 1000)
    limit.add(100, 20)  # a bad start may be chance: 50 are allowed
    with pytest.raises(UserError, match="51 of 120"):
        limit.add(20, 31)


def test_it_stops_early_when_the_share_is_certain() -> None:
    limit = RejectionLimit(0.05, 240_000)
    limit.add(190, 38)
    with pytest.raises(UserError, match=r"20\.1%"):
        limit.add(64, 13)


def test_chance_alone_does_not_stop_it() -> None:
    limit = RejectionLimit(0.05, 240_000)
    for _ in range(100):
        limit.add(64, 3)


MADE = PartMade(0, sources=8, frames=80, rejected=1)


def test_it_counts_sources_and_not_parts(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter()
    with ProgressView("auto", "tokenize", 16, unit_of({"video"})) as view:
        for _ in range(2):
            meter.add(MADE)
            view.update(meter)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("tokenize 0/16 videos  0.0%")
    assert "tokenize 16/16 videos  100.0%" in shown.err and "2 rejected" in shown.err.splitlines()[-1]
    with ProgressView("off", "tokenize", 8, "videos") as view:
        view.update(meter)
    assert capsys.readouterr().err == ""
    assert unit_of({"video", "image"}) == "sources"
    assert unit_of({"image"}) == "images"


def test_a_listing_has_no_total() -> None:
    clock, stream = [0.0], io.StringIO()
    with ProgressLine("list videos", unit="files", now=lambda: clock[0], stream=stream) as line:
        for _ in range(4):
            clock[0] += 20
            line.add(20_000)
    first, *others = stream.getvalue().splitlines()
    assert first == "list videos 0 files  elapsed 0:00" and len(others) == 2  # every 30 s
    assert others[-1] == "list videos 80,000 files  1,000 files/s  elapsed 1:20"


def test_the_rate_leaves_the_start_out() -> None:
    """Processes may start for a minute before the first result."""
    clock = [0.0]
    line = ProgressLine("tokenize", 12, unit="videos", now=lambda: clock[0], stream=io.StringIO())
    for at, done in ((30.0, 0), (60.0, 2), (62.0, 4)):
        clock[0] = at
        line.update(done)
    assert "1 videos/s" in line.text() and "elapsed 1:02  left 0:08" in line.text()


def test_results_that_arrive_together_are_no_rate() -> None:
    """Four workers start for 2 s, return four results at once, and then four every 2 s."""
    clock = [0.0]
    line = ProgressLine("scan", 48, unit="videos", now=lambda: clock[0], stream=io.StringIO())
    for done in range(1, 5):
        clock[0] = 2.0 + done / 1e5
        line.update(done)
        assert "videos/s" not in line.text() and "left" not in line.text()
    for done in range(5, 9):
        clock[0] = 4.0
        line.update(done)
    assert "2 videos/s" in line.text()
