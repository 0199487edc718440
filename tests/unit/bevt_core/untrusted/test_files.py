"""Untrusted files: every fault is a UserError that names the file and the line."""

import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bevt_core.untrusted import files as foreign_files
from bevt_core.untrusted.files import (
    Lines,
    read_csv,
    read_json,
    read_json_rows,
    read_parquet,
    read_text,
    whole_number,
)
from schemas.errors import StorageError, UserError
from schemas.frames import SOURCES_SCHEMA
from schemas.text import regular_file


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    path = written(tmp_path / "x.txt", f"café/1.mp4 0{end}{end}b\u2028\x0c\x85.mp4 1".encode(encoding))
    assert list(Lines(path)) == [(f"{path}, line 1", "café/1.mp4 0"), (f"{path}, line 3", "b\u2028\x0c\x85.mp4 1")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\ncafé\n".encode("latin1"), "x.txt, line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (b"\xff\xfea\x00\n\x00\x00\xd8", "line 2: byte 0x00 is not UTF-16-LE"),
        ("a\nb".encode("utf-16-be"), "line 1: a zero byte, expected text"),
        (b"\n <!DOCTYPE html>\n<html>", "line 1: a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_text(written(tmp_path / "x.txt", data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column 'a' in the header"),
        ("a;b\n1;2\n", "line 1: no column 'a' in the header 'a;b'"),
        ("a,b\n1,2\n\n3\n", r"x\.csv, line 4: 1 fields, expected 2 \('a,b'\)"),
        ("a,b\n1,2,3\n", "line 2: 3 fields, expected 2"),
        ('a,b\n1,2\n"3,4\n5,6\n', "line 3: not CSV: unexpected end of data"),
        ("a,b\n1," + "2" * 200_000, "line 2: not CSV: field larger"),
    ],
)
def test_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_csv(written(tmp_path / "x.csv", text.encode()), ["a", "b"]))


def test_csv_rows_know_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", b'\xef\xbb\xbfa,b\r\n"1\r\n1",2\r\n3,4,,\r\n')
    assert list(read_csv(path, ["b"])) == [
        (f"{path}, line 2", {"a": "1\r\n1", "b": "2"}),
        (f"{path}, line 4", {"a": "3", "b": "4"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: JSON that ends early"),
        ('[{"id": 1},\n{"id": 2}', "line 2: JSON that ends early"),
        ('[{"id": 1},\n{"id"', "line 2"),
        ('[\n{"id": 1}\n{"id": 2}]', "line 3, column 1: not JSON"),
        ('{"id": 1}', "the content is {'id': 1}, expected a list"),
        ("[1]", "entry 1: the content is 1, expected an object"),
        ('[{"id": 1}, {"no": 2}]', "entry 2: no 'id' in {'no': 2}"),
        ('[{"id": true}]', "entry 1: id is True, expected a whole number"),
        ('[{"id": 1.5}]', "entry 1: id is 1.5, expected a whole number"),
        ('[{"id": NaN}]', "NaN is not a JSON number"),
        ('[{"id": ' + "9" * 5000 + "}]", "not JSON"),
        ("[" * 100_000, "nests too deeply"),
    ],
)
def test_json(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "x.json", text.encode())
    with pytest.raises(UserError, match=message) as error:
        list(read_json_rows(path, {"id": int}))
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < len(str(path)) + 200


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    columns = {"source": ["a"], "kind": ["video"], "label": [3]}
    for name, what in [("label", ["cat"]), ("source", [None]), ("label", [2**40])]:
        pq.write_table(pa.table({**columns, name: what}), path)
        with pytest.raises(UserError, match="expected the columns source string, kind string, label int32"):
            read_parquet(path, SOURCES_SCHEMA, "bevt scan --write")
    pq.write_table(pa.table({"source": ["a"], "kind": ["video"]}), path)
    with pytest.raises(UserError, match=r"x\.parquet: no column 'label' in \['source', 'kind'\]; bevt scan --write"):
        read_parquet(path, SOURCES_SCHEMA, "bevt scan --write")
    pq.write_table(pa.table({**columns, "source": pa.array(["a"], pa.large_string())}), path)
    assert read_parquet(path, SOURCES_SCHEMA, "").to_pylist() == [{"source": "a", "kind": "video", "label": 3}]
    for data in (path.read_bytes()[:-9], b"", b"<html>"):
        with pytest.raises(UserError, match="not a Parquet file, truncated"):
            read_parquet(written(path, data), SOURCES_SCHEMA, "")


@pytest.mark.parametrize(("text", "expected"), [("10", 10), ("10.0", 10), (" 10.9", 10), ("1e2", 100), ("0", 0)])
def test_numbers_as_programs_for_tables_write_them(text: str, expected: int) -> None:
    assert whole_number(text, "here", "start") == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "1e400", "9" * 5000, "10^20", "1" + "0" * 20])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(UserError, match=r"here: start is .*, expected a number from 0"):
        whole_number(text, "here", "start")


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission errors are simulated, since root may read everything. A failing disk is not the user's mistake."""
    path = written(tmp_path / "x.txt", b"a 0\n")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json(tmp_path, dict)

    def refuse(number: int) -> None:
        def read(descriptor: int, most: int) -> bytes:
            raise OSError(number, "told so", str(path))

        monkeypatch.setattr(regular_file, "_read", read)

    refuse(errno.EACCES)
    with pytest.raises(UserError, match=r"x\.txt: no permission to read it; allow it with `chmod a"):
        read_text(path)
    refuse(errno.EIO)
    with pytest.raises(StorageError, match="cannot be read"):
        read_text(path)
    monkeypatch.setattr(foreign_files, "MAX_BYTES", 3)
    with pytest.raises(UserError, match="expected a file of at most"):
        read_text(path)
