"""A split that the root does not have is refused if it has others, and otherwise reported as unused."""

import logging
from pathlib import Path

import pytest

from pipeline.sources import list_sources, note_unused_split
from schemas.errors import UserError
from tests.support.listings import touch


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("folder", ["train/a/1.mp4", "val/a/2.mp4"]),
        ("folder", ["videos/train/a/1.mp4", "videos/val/a/2.mp4"]),
        ("k400", ["train/a/1.mp4", "val/a/2.mp4"]),
        ("howto100m", ["train/1.mp4", "val/2.mp4"]),
        ("imagenet", ["train/n01440764/1.JPEG", "val/ILSVRC2012_val_00000001.JPEG"]),
    ],
)
def test_a_split_without_a_folder_is_refused_if_others_have_one(tmp_path: Path, dataset: str, names: list[str]) -> None:
    expected = (
        r"no folder for split 'trian', only for train, val; did you mean 'train'\? give one that exists as `split`"
    )
    with pytest.raises(UserError, match=expected):
        list_sources(dataset, touch(tmp_path, *names), "trian")


def test_a_list_names_its_files_whatever_the_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "val/a/2.mp4")
    (tmp_path / "list.txt").write_text("val/a/2.mp4 0\n")
    listing = list_sources("folder", tmp_path, "mine", tmp_path / "list.txt")
    assert [item.source for item in listing.items] == ["val/a/2.mp4"]


@pytest.mark.parametrize(
    ("names", "split", "is_noted"),
    [
        (["a/1.mp4"], "tran", True),
        (["a/1.mp4"], None, False),
        (["train/a/1.mp4"], "train", False),
        (["train/a/1.mp4"], "tran", False),  # `list_sources` refuses it
    ],
)
def test_a_split_of_a_root_without_splits_is_noted(
    tmp_path: Path, names: list[str], split: str | None, is_noted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    note_unused_split("folder", touch(tmp_path, *names), split, None)
    assert (f"split {split!r} is only recorded" in caplog.text) == is_noted
