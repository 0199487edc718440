"""How busy the tokenizers were, from the times of their parts."""

import pytest

from bevt_core.console.readable import summary_lines
from pipeline.job.busy import TokenizeTimes, bottleneck, busy_share
from pipeline.job.finish import shown_summary
from pipeline.job.progress import Meter
from pipeline.job.rows import PartMade


def parts(worker: str, first: float, count: int, takes: float, busy: float, gap: float) -> list[TokenizeTimes]:
    """`count` parts one after another, with a gap in between."""
    starts = [first + i * (takes + gap) for i in range(count)]
    return [TokenizeTimes(worker, start, start, start + takes, busy) for start in starts]


def test_nothing_measured() -> None:
    assert busy_share([]) is None
    assert Meter().busy_share() is None


def test_a_tokenizer_that_waits_for_decoding() -> None:
    share = busy_share(parts("a", 0, 100, takes=6, busy=6, gap=4))
    assert share is not None
    assert (share.busy, share.occupied) == (pytest.approx(0.6, abs=1e-9), pytest.approx(0.6, abs=1e-9))
    assert bottleneck(share).startswith("decoding: the tokenizers waited for parts for 40% of their time")


def test_a_tokenizer_that_waits_for_its_views() -> None:
    share = busy_share(parts("a", 0, 100, takes=10, busy=5, gap=0))
    assert share is not None
    assert (share.busy, share.occupied) == (pytest.approx(0.5), pytest.approx(1))
    assert bottleneck(share).startswith("preparing views")


def test_two_parts_at_once_are_not_counted_twice() -> None:
    """One is prepared while another is on the device: each takes 10 s, with the device busy for 5 s."""
    overlapping = [TokenizeTimes("a", 5 * i, 5 * i, 5 * i + 10, 4.8) for i in range(200)]
    share = busy_share(overlapping)
    assert share is not None
    assert share.busy == pytest.approx(0.96, abs=0.01)
    assert share.occupied == 1
    assert bottleneck(share).startswith("tokenizing")


def test_starting_and_draining_are_not_the_steady_state() -> None:
    """The hour of the last part is not counted: no part is waiting by then."""
    share = busy_share([*parts("a", 100, 50, takes=1, busy=1, gap=0), TokenizeTimes("a", 150, 150, 3750, 1)])
    assert share is not None
    assert share.busy == pytest.approx(1)


def test_each_worker_has_its_own_clock() -> None:
    """Another node booted years ago, and a worker that joined late is counted from its first part."""
    share = busy_share([*parts("a", 1e8, 10, 1, 1, 0), *parts("b", 5, 10, 1, 0.5, 0)])
    assert share is not None
    assert share.busy == pytest.approx(0.75)


def test_few_parts_are_counted_whole() -> None:
    share = busy_share(parts("a", 10, 2, takes=4, busy=3, gap=2))
    assert share is not None
    assert (share.busy, share.occupied) == (pytest.approx(0.6), pytest.approx(0.8))


def test_the_first_tokens_are_those_of_the_first_batch_by_the_clock_of_the_driver() -> None:
    """Workers' clocks have different origins: only durations are taken from them."""
    meter = Meter()
    meter.began -= 20
    meter.add(PartMade(0, 1, 1, times=TokenizeTimes("a", 1e6, 1e6 + 2, 1e6 + 9, 1.0)))  # returned after 20 s
    assert meter.first_tokens_s == pytest.approx(13, abs=0.5)
    meter.began -= 10
    meter.add(PartMade(1, 1, 1, times=TokenizeTimes("b", 5.0, 6.0, 26.0, 1.0)))  # after 30 s
    assert meter.first_tokens_s == pytest.approx(10, abs=0.5)
    meter.add(PartMade(2, 1, 1, times=TokenizeTimes("a", 1e6 + 9, 1e6 + 10, 1e6 + 11, 1.0)))
    assert meter.first_tokens_s == pytest.approx(10, abs=0.5)


def measured(takes: float, gap: float, count: int, before_s: float) -> Meter:
    """The meter of a job with one tokenizer that began to work `before_s` seconds after the job did."""
    meter = Meter()
    meter.began -= before_s + count * (takes + gap)
    meter.times = parts("a", 100, count, takes, busy=takes, gap=gap)
    meter.first_tokens_s = before_s
    return meter


def test_no_bottleneck_is_named_without_a_steady_state() -> None:
    """With a few parts nothing waits for long, and a short job mostly starts: no stage limits it."""
    assert Meter().bottleneck() is None
    assert measured(takes=5, gap=5, count=3, before_s=1).bottleneck() is None
    waits = measured(takes=5, gap=5, count=8, before_s=1).bottleneck()
    assert waits is not None and waits.startswith("decoding")
    starts = measured(takes=1, gap=0, count=8, before_s=20).bottleneck()
    assert starts is not None and starts.startswith("the start of the job took most of the time")


def test_the_terminal_names_what_the_times_include_and_no_speed_of_nothing() -> None:
    summary = {"parts": 3, "seconds": 22.1, "videos_per_s": 0.0, "report_error": None}
    assert summary_lines(shown_summary(summary)) == [
        "parts  3",
        "total  22.1 s (start of Ray included, unlike the progress line)",
    ]
