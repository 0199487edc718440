"""Means over seeds, and whether two of them differ by more than noise."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

# two-sided 95 % limits of Student's t by degrees of freedom; more than 10 count as 10
T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23}
DASH = "–"
RULE = (
    "A difference counts if it exceeds both the 95 % limit of a two-sample t-test over the seeds (equal variances, two "
    "or more seeds each) and twice the standard error of two accuracies on that many independent test clips. Then the "
    "paper's ordering *holds* or *does not*; otherwise it *cannot be told at this size*. In brackets: the difference "
    "in points, and the larger limit. Neither limit covers the choice of test videos: those of camera motion show four "
    "photographs."
)

Word = Literal["holds", "does not", "cannot be told at this size"]


class Measured(NamedTuple):
    """One accuracy per seed, as shares, each on `videos` clips."""

    values: Sequence[float]
    videos: int


class Verdict(NamedTuple):
    word: Word
    difference: float  # of the means
    limit: float  # of differences that may be noise; infinite if there are too few seeds


def verdict(better: Measured, worse: Measured) -> Verdict:
    """Return whether `better`, the paper's first, is above `worse`. RULE says how; neither may be empty."""
    difference = fmean(better.values) - fmean(worse.values)
    limit = max(_seed_limit(better.values, worse.values), _test_limit(better, worse))
    if abs(difference) <= limit:
        return Verdict("cannot be told at this size", difference, limit)
    return Verdict("holds" if difference > 0 else "does not", difference, limit)


def verdict_cell(better: Measured, worse: Measured) -> str:
    """A verdict as text, or a dash if one of the two was not measured."""
    if not better.values or not worse.values:
        return DASH
    word, difference, limit = verdict(better, worse)
    noise = f"{100 * limit:.1f}" if math.isfinite(limit) else "one seed"
    return f"{word} ({100 * difference:+.1f}; {noise})"


def mean_cell(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Mean ± sample standard deviation (number of seeds), or a dash."""
    if not values:
        return DASH
    spread = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * fmean(values):.{digits}f}{spread} ({len(values)})"


def _seed_limit(first: Sequence[float], second: Sequence[float]) -> float:
    if min(len(first), len(second)) < 2:
        return math.inf
    freedom = len(first) + len(second) - 2
    squares = sum((value - fmean(values)) ** 2 for values in (first, second) for value in values)
    error = math.sqrt(squares / freedom * (1 / len(first) + 1 / len(second)))
    return T_95[min(freedom, max(T_95))] * error


def _test_limit(first: Measured, second: Measured) -> float:
    """Seeds share the test clips, so more seeds do not make it smaller."""
    shares = [(fmean(values), videos) for values, videos in (first, second)]
    return 2 * math.sqrt(sum(share * (1 - share) / videos for share, videos in shares))
