"""Data sets of the hub: Parquet files per split, with labels."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import has_split, list_sources
from pipeline.sources.archives.local_copy import local_source
from schemas.errors import UserError
from tests.support.archives import picture
from tests.support.listings import labels


def write_split(
    root: Path, split: str, values: list[int], names: tuple[str, ...] = ("sit", "run"), of: int = 2
) -> None:
    """`values` are the labels of the pictures, which are divided over `of` files."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    media = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (root / "data").mkdir(parents=True, exist_ok=True)
    for number in range(of):
        part = range(number, len(values), of)
        pictures = pa.array([{"bytes": picture(i), "path": None} for i in part], media)
        table = pa.table({"image": pictures, "label": pa.array([values[i] for i in part], pa.int64())})
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        path = root / f"data/{split}-{number:05d}-of-{of:05d}.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_split(tmp_path, "train", [1, 0, 1, 1, 0])
    write_split(tmp_path, "validation", [0, 1], of=1)
    (tmp_path / "README.md").write_text("a card")
    return tmp_path


def test_a_split_is_its_files(root: Path) -> None:
    listing = list_sources("folder", root, "train")
    assert labels(listing) == {
        "data/train/00000/0000000.jpg": "run",
        "data/train/00000/0000001.jpg": "run",
        "data/train/00000/0000002.jpg": "sit",
        "data/train/00001/0000000.jpg": "sit",
        "data/train/00001/0000001.jpg": "run",
    }
    assert listing.classes == ("sit", "run") and not listing.ignored
    assert {item.kind for item in listing.items} == {"image"}
    assert len(list_sources("folder", root / "data", "validation").items) == 2
    assert has_split("folder", root, "validation")
    with pytest.raises(UserError, match=r"no folder for split 'val', only for train, validation; give one that exists"):
        list_sources("folder", root, "val")


def test_the_bytes_of_a_row_are_the_source(root: Path) -> None:
    listing = list_sources("folder", root, "train")
    for source, number in {"data/train/00000/0000002.jpg": 4, "data/train/00001/0000000.jpg": 1}.items():
        with local_source(root, source, listing.packed[source], False) as folder:
            assert (folder / source).read_bytes() == picture(number)


def test_rows_without_labels_have_no_class(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [-1, -1])
    listing = list_sources("folder", tmp_path, "train")
    assert {item.label for item in listing.items} == {None}


def test_files_must_agree_about_the_classes(root: Path) -> None:
    write_split(root, "train2", [0], names=("run", "sit"), of=1)
    with pytest.raises(
        UserError, match=r"train2-00000-of-00001\.parquet: its class names differ from those of other files"
    ):
        list_sources("folder", root, "train")
