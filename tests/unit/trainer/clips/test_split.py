"""Shares of the labels: balanced, nested, the same on every call."""

import pytest

from schemas.frames import SourceItem
from trainer.clips.split import share_of_labels

ITEMS = [SourceItem(source=f"{label}/{i}.mp4", kind="video", label=label) for i in range(40) for label in range(3)]


@pytest.mark.parametrize(("share", "expected"), [(1.0, 40), (0.25, 10), (0.05, 2), (0.001, 1)])
def test_every_class_keeps_the_same_share(share: float, expected: int) -> None:
    kept = share_of_labels(ITEMS, share, seed=0)
    assert [sum(item.label == label for item in kept) for label in range(3)] == [expected] * 3
    assert kept == [item for item in ITEMS if item in kept]


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    few, more = ({item.source for item in share_of_labels(ITEMS, share, seed=3)} for share in (0.1, 0.5))
    assert few < more
    assert few != {item.source for item in share_of_labels(ITEMS, 0.1, seed=4)}
    assert few == {item.source for item in share_of_labels(ITEMS[::-1], 0.1, seed=3)}
