"""WebDataset shards: samples of several members, with their labels."""

import json
from pathlib import Path

import pytest

from pipeline.sources import SourceListing, list_sources
from schemas.errors import UserError
from tests.support.archives import picture, tar_of
from tests.support.listings import labels


def shards(root: Path, *members: tuple[str, bytes], per_shard: int = 4) -> SourceListing:
    for number, start in enumerate(range(0, len(members), per_shard)):
        (root / f"train-{number:06d}.tar").write_bytes(tar_of(members[start : start + per_shard]))
    return list_sources("folder", root, "train")


def test_cls_is_the_label(tmp_path: Path) -> None:
    """Numbers sort as numbers, and shards are no classes."""
    members = [
        member
        for i, label in enumerate([10, 2, 0, 2])
        for member in ((f"{i:04d}.jpg", picture(i)), (f"{i:04d}.cls", f"{label}\n".encode()))
    ]
    listing = shards(tmp_path, *members)
    assert labels(listing) == {"0000.jpg": "10", "0001.jpg": "2", "0002.jpg": "0", "0003.jpg": "2"}
    assert listing.items[0].label == 10 and len(listing.classes) == 11 and listing.inferred
    assert listing.ignored == {".cls": 4}
    (tmp_path / "classes.txt").write_text("\n".join("abcdefghijk"))
    listing = list_sources("folder", tmp_path, "train")
    assert labels(listing)["0000.jpg"] == "k" and not listing.inferred


def test_json_has_the_label(tmp_path: Path) -> None:
    named = {"run": {"label": "run"}, "sit": {"cls": "sit", "text": "a"}, "none": {"caption": "x"}}
    members = [
        member
        for key, content in named.items()
        for member in ((f"x/{key}.mp4", b""), (f"x/{key}.json", json.dumps(content).encode()))
    ]
    listing = shards(tmp_path, *members, per_shard=6)
    assert labels(listing) == {"x/none.mp4": None, "x/run.mp4": "run", "x/sit.mp4": "sit"}


def test_captions_are_no_labels(tmp_path: Path) -> None:
    listing = shards(tmp_path, ("0.jpg", b""), ("0.txt", b"a dog"), ("1.jpg", b""), ("1.json", b'{"url": "x"}'))
    assert labels(listing) == {"0.jpg": None, "1.jpg": None} and listing.classes == ()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("0.cls", b"\xff\xfe", r"train-000000\.tar: 0\.cls: not UTF-8"),
        ("0.cls", b"1\n2\n", "expected a label: one number, or one name"),
        ("0.cls", b"x" * 70_000, r"0\.cls has 70000 bytes, expected a label"),
        ("0.json", b"[1]", "expected"),
        ("0.cls", b"999999", "label 999999, expected one below 30000"),
    ],
)
def test_an_unreadable_label_is_one_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        shards(tmp_path, ("0.jpg", b""), (name, data))
