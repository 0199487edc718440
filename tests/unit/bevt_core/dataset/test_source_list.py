"""The list of sources as columns: the same items, digest and bytes as from one object per source."""

from pathlib import Path

import pyarrow as pa
import pytest

from bevt_core.dataset import source_list
from bevt_core.dataset.source_list import SourceTable, kinds_of, read_sources, sources_digest, sources_table
from bevt_core.rng import rng_for
from bevt_core.untrusted.parquet_file import parquet_bytes
from schemas.errors import UserError
from schemas.frames import SOURCES_SCHEMA, SourceItem

ITEMS = [
    SourceItem(source="a/b.mp4", kind="video", label=0),
    SourceItem(source="ä,\n\t日本.mp4", kind="video", label=None),
    SourceItem(source="None", kind="image", label=2**31 - 1),
    SourceItem(source="", kind="image"),
]


def many(count: int) -> list[SourceItem]:
    rng = rng_for("sources")
    return [
        SourceItem(source=f"{'é' * int(rng.integers(9))}/{i}.mp4", kind="video", label=None if i % 7 == 0 else i % 50)
        for i in range(count)
    ]


@pytest.mark.parametrize("items", [[], ITEMS, many(1000)], ids=["empty", "odd", "many"])
def test_digest_and_bytes_are_those_of_the_items(items: list[SourceItem], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.Table.from_pylist([item.model_dump() for item in items], schema=SOURCES_SCHEMA)
    for block in (1 << 16, 3):
        monkeypatch.setattr(source_list, "BLOCK_ROWS", block)
        assert sources_digest(SourceTable.of(items)) == sources_digest(items)
        assert sources_digest(SourceTable.of(items)[1:]) == sources_digest(items[1:])
        assert list(SourceTable.of(items)) == items
    for given in (items, SourceTable.of(items)):
        assert parquet_bytes(sources_table(given)) == parquet_bytes(rows)


def test_a_digest_does_not_change() -> None:
    expected = "cfcee30a"
    assert sources_digest(ITEMS)[:8] == sources_digest(SourceTable.of(ITEMS))[:8] == expected


def test_names_that_are_not_utf8_have_a_digest() -> None:
    odd = [SourceItem(source="\udcff.mp4", kind="video", label=1)]
    assert sources_digest(odd) != sources_digest([SourceItem(source="x.mp4", kind="video", label=1)])


def test_it_is_a_sequence_of_items() -> None:
    table = SourceTable.of(ITEMS)
    assert len(table) == 4 and table == ITEMS and table == ITEMS and table != ITEMS[:3] and table != SourceTable.of([])
    assert table[-1] == ITEMS[-1] and table[1] == ITEMS[1] and table[1].label is None
    assert table[1:3] == ITEMS[1:3] and table[::-1] == ITEMS[::-1] and table[3:1] == [] and table[2:99] == ITEMS[2:]
    assert table.take([2, 0, 0]) == [ITEMS[2], ITEMS[0], ITEMS[0]] and list(table.sources()) == [
        i.source for i in ITEMS
    ]
    assert (
        kinds_of(table) == kinds_of(ITEMS) == {"video", "image"}
        and ITEMS[2] in table
        and SourceTable.of(table) is table
    )
    with pytest.raises(IndexError):
        _ = table[4]


DAMAGE = {
    "a kind": ({"kind": "sound"}, "a kind other than video and image"),
    "a label": ({"label": -1}, "a negative label"),
    "a column": ({"more": 1}, "the columns are not those of a list of sources"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_values_that_cannot_be_are_one_error(tmp_path: Path, damage: str) -> None:
    values, message = DAMAGE[damage]
    schema = SOURCES_SCHEMA if "more" not in values else SOURCES_SCHEMA.append(pa.field("more", pa.int32()))
    rows = pa.Table.from_pylist([ITEMS[0].model_dump() | values], schema=schema)
    (tmp_path / "sources.parquet").write_bytes(parquet_bytes(rows))
    with pytest.raises(UserError, match=rf"sources\.parquet: .*{message}"):
        read_sources(tmp_path)
    (tmp_path / "sources.parquet").write_bytes(parquet_bytes(sources_table(ITEMS)))
    assert read_sources(tmp_path) == ITEMS
