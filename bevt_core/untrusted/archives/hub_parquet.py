"""Pictures and videos in Parquet files, as Hugging Face's `datasets` writes them: a column of {bytes, path} structs.

A row is read with its row group, since a row group is compressed as a whole; `datasets` writes 100 pictures or 10
videos into one. Labels are read from a `ClassLabel` column, or from one named `label`.
"""

import bisect
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from bevt_core.untrusted.archives.members import MAX_MEMBERS, Member, member_name
from bevt_core.untrusted.parquet_file import ParquetFile
from schemas.errors import UserError
from schemas.text.plain import shown

MAX_GROUP_BYTES = 256 << 20  # unpacked; the memory that reading one row takes
MAX_LABEL_NAMES = 1_000_000
FEATURES = b"huggingface"  # key of the schema's metadata
PREFERRED = ("video", "image")  # columns to use if there are several


@dataclass(frozen=True)
class HubRows:
    """The sources in a Parquet file. A member's `offset` is its row."""

    members: tuple[Member, ...]
    labels: dict[str, str | None]  # member -> the text of its label
    classes: tuple[str, ...]  # class names by label; empty if the file names none


def hub_rows(path: Path, is_source: Callable[[str], bool]) -> HubRows | None:
    """The sources in a Parquet file; None if it has no column of pictures or videos.

    They are named by the base names of the column's paths, if these are different and `is_source(name)`; else by row.
    Raises UserError for a damaged or unsuitable file, OSError.
    """
    with ParquetFile(path) as file:
        features = _features(file.schema_arrow)
        column = _media_column(file.schema_arrow, path)
        if column is None:
            return None
        rows = file.metadata.num_rows
        if rows > MAX_MEMBERS:
            raise UserError(f"{path}: {rows} rows, expected at most {MAX_MEMBERS}")
        _check_groups(file, column)
        label = _label_column(file.schema_arrow, features)
        table = file.read([f"{column}.path", *([label] if label else [])])
    paths = table[column].combine_chunks().field("path").to_pylist() if rows else []
    names = _names(paths, "mp4" if _is_video(column, features) else "jpg", is_source)
    members = tuple(
        Member(member_name(name, f"{path}, row {row}"), row, 0, 0, "parquet", None) for row, name in enumerate(names)
    )
    classes = _class_names(features.get(label, {}), path) if label else ()
    values: Sequence[Any] = table[label].to_pylist() if label else [None] * rows
    texts = (_label_text(value, classes, f"{path}, row {row}") for row, value in enumerate(values))
    return HubRows(members, {member.name: text for member, text in zip(members, texts, strict=True)}, classes)


def row_bytes(path: Path, row: int) -> bytes | None:
    """The bytes of the picture or video in a row; None if the row has none. Raises UserError, OSError."""
    status = path.stat()
    group, first = _group_of(path, status.st_size, status.st_mtime_ns, row)
    value = _group_bytes(path, status.st_size, status.st_mtime_ns, group)[row - first]
    return value.as_py()  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=256)
def _first_rows(path: Path, size: int, mtime_ns: int) -> tuple[int, ...]:
    """The first row of each row group, and the number of rows."""
    starts = [0]
    with ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return tuple(starts)


def _group_of(path: Path, size: int, mtime_ns: int, row: int) -> tuple[int, int]:
    """The row group with a row, and its first row."""
    starts = _first_rows(path, size, mtime_ns)
    group = bisect.bisect_right(starts, row) - 1
    if not 0 <= row < starts[-1]:
        raise UserError(f"{path}: row {row} of {starts[-1]}; run the same command again, which lists the file again")
    return group, starts[group]


@functools.lru_cache(maxsize=2)
def _group_bytes(path: Path, size: int, mtime_ns: int, group: int) -> pa.Array:
    with ParquetFile(path) as file:
        column = _media_column(file.schema_arrow, path)
        if column is None:
            raise UserError(f"{path}: no column of pictures or videos any more; run the same command again")
        _check_groups(file, column)
        return file.read_values(f"{column}.bytes", group, 2 * MAX_GROUP_BYTES)


def _check_groups(file: ParquetFile, column: str) -> None:
    for group in range(file.num_row_groups):
        meta = file.metadata.row_group(group)
        chunks = (meta.column(at) for at in range(meta.num_columns))
        num_bytes = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == f"{column}.bytes")
        if num_bytes > MAX_GROUP_BYTES:
            raise UserError(
                f"{file.path}: row group {group} has {num_bytes / 1e6:.0f} MB in {meta.num_rows} rows, expected at "
                f"most {MAX_GROUP_BYTES / 1e6:.0f}, since one row is read with its group; write it again with "
                "`pyarrow.parquet.write_table(table, path, row_group_size=10)`"
            )


def _media_column(schema: pa.Schema, path: Path) -> str | None:
    found = [field.name for field in schema if _is_media(field.type)]
    for name in PREFERRED:
        if name in found:
            return name
    if len(found) > 1:
        raise UserError(
            f"{path}: pictures or videos in the columns {', '.join(map(shown, found))}; expected one, or one named "
            f"{' or '.join(PREFERRED)}"
        )
    return found[0] if found else None


def _is_media(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or {kind.field(at).name for at in range(kind.num_fields)} != {"bytes", "path"}:
        return False
    content, name = kind.field("bytes").type, kind.field("path").type
    return bool((pa.types.is_binary(content) or pa.types.is_large_binary(content)) and pa.types.is_string(name))


def _is_video(column: str, features: Mapping[str, Any]) -> bool:
    kind = features.get(column, {}).get("_type")
    return kind == "Video" or (kind != "Image" and column == "video")


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """The features that `datasets` describes in the schema's metadata, by column; empty if it has none."""
    try:
        features = json.loads((schema.metadata or {})[FEATURES])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _label_column(schema: pa.Schema, features: Mapping[str, Mapping[str, Any]]) -> str | None:
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    name = classes[0] if len(classes) == 1 else "label"
    if name not in schema.names:
        return None
    kind = schema.field(name).type
    return name if pa.types.is_integer(kind) or pa.types.is_string(kind) else None


def _class_names(feature: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = feature.get("names", [])
    if not isinstance(names, list) or len(names) > MAX_LABEL_NAMES or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: the class names in its metadata are not a list of texts")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: a class name in its metadata occurs twice")
    return tuple(names)


def _label_text(value: int | str | None, classes: Sequence[str], where: str) -> str | None:
    if value is None or (isinstance(value, int) and value < 0):  # -1: the labels of a test set are hidden
        return None
    if isinstance(value, str) or not classes:
        return str(value)
    if value >= len(classes):
        raise UserError(f"{where}: label {value}, expected one below {len(classes)}, the number of its class names")
    return classes[value]


def _names(paths: Sequence[str | None], suffix: str, is_source: Callable[[str], bool]) -> list[str]:
    names = [PurePosixPath(path).name if path else "" for path in paths]
    if all(map(is_source, names)) and len(set(names)) == len(names):
        return names
    return [f"{row:07d}.{suffix}" for row in range(len(names))]
