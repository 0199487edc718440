"""Parquet files with pictures or videos in rows: what is listed and read, and what is one error."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bevt_core.untrusted.archives import hub_parquet
from bevt_core.untrusted.archives.hub_parquet import HubRows, hub_rows, row_bytes
from schemas.errors import UserError

MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, group: int = 3) -> Path:
    types = {name: MEDIA if isinstance(values[0], dict) else None for name, values in columns.items()}
    table = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return path


def rows(count: int, paths: bool = True) -> list[dict[str, Any]]:
    return [{"bytes": bytes([i]) * (i + 1), "path": f"some/x{i}.jpg" if paths else None} for i in range(count)]


def listed(path: Path) -> HubRows:
    found = hub_rows(path, lambda name: name.endswith((".jpg", ".mp4")))
    assert found is not None
    return found


def test_rows_are_named_by_their_paths_and_read_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"image": rows(8), "label": list(range(8))})
    found = listed(path)
    assert [(member.name, member.offset) for member in found.members] == [(f"x{i}.jpg", i) for i in range(8)]
    assert found.labels["x7.jpg"] == "7" and found.classes == ()
    assert [row_bytes(path, i) for i in range(8)] == [bytes([i]) * (i + 1) for i in range(8)]


@pytest.mark.parametrize("column", [rows(3, paths=False), [{"bytes": b"", "path": "same.jpg"}] * 3])
def test_without_different_paths_rows_are_numbered(tmp_path: Path, column: list[dict[str, Any]]) -> None:
    video = write(tmp_path / "v.parquet", {"video": column, "other": [1, 2, 3]})
    assert [member.name for member in listed(video).members] == ["0000000.mp4", "0000001.mp4", "0000002.mp4"]
    assert set(listed(video).labels.values()) == {None}
    features = {"clip": {"_type": "Image"}}
    image = write(tmp_path / "i.parquet", {"clip": column}, features)
    assert listed(image).members[2].name == "0000002.jpg"


def test_labels_have_the_names_of_the_features(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["sit", "run"]}}
    found = listed(write(tmp_path / "x.parquet", {"image": rows(3), "kind": [1, 0, -1]}, features))
    assert list(found.labels.values()) == ["run", "sit", None] and found.classes == ("sit", "run")


def test_other_tables_have_no_sources(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"source": ["a.mp4"], "label": [0]}, {"source": {"_type": "Value"}})
    assert hub_rows(path, lambda name: True) is None


def test_a_row_without_bytes_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"image": [{"bytes": None, "path": "/data/a.jpg"}, None]})
    assert row_bytes(path, 0) is None and row_bytes(path, 1) is None


def test_a_value_that_repeats_takes_memory_once(tmp_path: Path) -> None:
    """A hundred rows of one megabyte, of which the file has one."""
    path = tmp_path / "x.parquet"
    table = pa.table({"image": pa.array([{"bytes": b"x" * 1_000_000, "path": "a"}] * 100, MEDIA)})
    pq.write_table(table, path, dictionary_pagesize_limit=2 << 20, compression="none")
    assert path.stat().st_size < 2_000_000
    del table
    before = pa.total_allocated_bytes()
    assert row_bytes(path, 99) == b"x" * 1_000_000
    assert pa.total_allocated_bytes() - before < 10_000_000


def class_label(names: object) -> dict[str, object]:
    return {"label": {"_type": "ClassLabel", "names": names}}


FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "two columns": ({"a": rows(1), "b": rows(1)}, {}, "pictures or videos in the columns 'a', 'b'"),
    "large label": ({"image": rows(1), "label": [2]}, class_label(["a"]), "row 0: label 2, expected one below 1"),
    "names": ({"image": rows(1), "label": [0]}, class_label("ab"), "not a list of texts"),
    "twice": ({"image": rows(1), "label": [0]}, class_label(["a", "a"]), "occurs twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error(tmp_path: Path, fault: str) -> None:
    columns, features, message = FAULTS[fault]
    with pytest.raises(UserError, match=rf"x\.parquet.*{message}"):
        listed(write(tmp_path / "x.parquet", columns, features))


def test_a_cut_file_is_one_error(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"image": rows(3)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a Parquet file, truncated"):
        listed(path)


def test_large_row_groups_are_refused_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", {"image": rows(3)})
    monkeypatch.setattr(hub_parquet, "MAX_GROUP_BYTES", 10)
    with pytest.raises(UserError, match=r"row group 0 has .* in 3 rows, expected at most .* row_group_size=10"):
        listed(path)
