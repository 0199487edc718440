"""The metadata of a `frames.zarr`: what zarr writes for us, and a reader that accepts nothing else.

A store may be untrusted. Zarr metadata names codecs, which are code, and sizes, which are allocated. Before any chunk
is read, the three small files are therefore read as plain JSON and compared with those that `write_jpegs` makes.
"""

import json
from dataclasses import dataclass
from typing import Any

from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from schemas.errors import DAMAGED, UserError
from schemas.frames import JPEG_SHARD_BYTES, MAX_FRAMES, MAX_JPEG_SHARDS

GROUP, JPEG, OFFSETS = "zarr.json", "jpeg", "offsets"
CHUNK_BYTES = 128 << 10  # per crc32c; zarr reads chunks of 64 KiB and 256 KiB more slowly (benchmarks/zarr_chunks.py)
SHARD_BYTES = JPEG_SHARD_BYTES  # per file
CRC_BYTES = 4  # after every chunk and after a shard's index
METADATA_BYTES = 64 << 10  # limit for a zarr.json; ours have 66 to 934
SHOWN_CHARACTERS = 80  # limit for a value in a message


@dataclass(frozen=True)
class Layout:
    """The number of JPEG bytes and of offsets, and the sizes of chunks and shards."""

    num_bytes: int
    num_offsets: int
    chunk_bytes: int
    shard_bytes: int

    @classmethod
    def of(cls, num_bytes: int, num_offsets: int) -> "Layout":
        chunks = max(1, -(-num_bytes // CHUNK_BYTES))
        return cls(num_bytes, num_offsets, CHUNK_BYTES, min(SHARD_BYTES, chunks * CHUNK_BYTES))

    @property
    def shard_chunks(self) -> int:
        return self.shard_bytes // self.chunk_bytes

    @property
    def most_shard_file_bytes(self) -> int:
        """The size of a file with all chunks of a shard: the chunks and the index, each with its crc32c."""
        return self.shard_chunks * (self.chunk_bytes + CRC_BYTES + 16) + CRC_BYTES

    def metadata(self) -> dict[str, dict[str, Any]]:
        """The content of every zarr.json, by its path in the group."""
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        crc = {"name": "crc32c"}
        sharding = {
            "chunk_shape": [self.chunk_bytes],
            "codecs": [{"name": "bytes"}, crc],
            "index_codecs": [little, crc],
            "index_location": "end",
        }
        jpeg_codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        return {
            GROUP: {"zarr_format": 3, "node_type": "group", "attributes": {}},
            f"{JPEG}/zarr.json": _array(self.num_bytes, "uint8", self.shard_bytes, jpeg_codecs),
            f"{OFFSETS}/zarr.json": _array(self.num_offsets, "int64", self.num_offsets, [little, crc]),
        }


def _array(length: int, data_type: str, chunk: int, codecs: list[Any]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [length],
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
        "storage_transformers": [],
    }


def read_layout(path: AnyPath) -> Layout:
    """Return the layout of the `frames.zarr` at `path`. Raises UserError, naming file, value and expected value."""
    group = _read_metadata(path / GROUP)
    jpeg, offsets = (_read_metadata(path / name / "zarr.json") for name in (JPEG, OFFSETS))
    num_bytes = _length(path / JPEG / "zarr.json", jpeg, MAX_JPEG_SHARDS * SHARD_BYTES)
    num_offsets = _length(path / OFFSETS / "zarr.json", offsets, MAX_FRAMES + 1)
    layout = Layout.of(num_bytes, num_offsets)
    for found, (name, expected) in zip((group, jpeg, offsets), layout.metadata().items(), strict=True):
        difference = _difference(found, expected)
        if difference is not None:
            raise UserError(f"{path / name}: {difference}; {DAMAGED}")
    return layout


def _read_metadata(path: AnyPath) -> dict[str, Any]:
    """Return the JSON object in a zarr.json."""
    if not path.is_file():  # missing, or a pipe, which may never end
        old = (path.parent / ".zgroup", path.parent / ".zarray")
        what = "a store of Zarr version 2" if any(file.is_file() for file in old) else "no such file"
        raise UserError(f"{path}: {what}, expected Zarr version 3 as bevt writes it; {DAMAGED}")
    data = storage_of(path).read_start(METADATA_BYTES + 1)
    if len(data) > METADATA_BYTES:
        raise UserError(f"{path}: more than {METADATA_BYTES} bytes, expected the metadata of one array; {DAMAGED}")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object, expected Zarr's metadata; {DAMAGED}")
    return {key: value for key, value in found.items() if value is not None}  # zarr 3.1.0 writes a null


def _length(path: AnyPath, found: dict[str, Any], most: int) -> int:
    """Return the length of a one-dimensional array."""
    shape = found.get("shape")
    if isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int and 0 <= shape[0] <= most:
        return int(shape[0])
    raise UserError(f"{path}: shape is {_shown(shape)}, expected [N] with N from 0 to {most}; {DAMAGED}")


def _difference(found: Any, expected: Any, at: str = "") -> str | None:
    """Describe the first difference, with both values; None if there is no difference."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in (*expected, *sorted(found.keys() - expected.keys())):
            here = f"{at}.{key}" if at else key
            if key not in expected:
                return f"{_shown(here)} is {_shown(found[key])}, expected no such key"
            difference = _difference(found.get(key), expected[key], here)
            if difference is not None:
                return difference
        return None
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return next((text for i, pair in pairs if (text := _difference(*pair, f"{at}[{i}]")) is not None), None)
    if type(found) is type(expected) and found == expected:
        return None
    return f"{at} is {_shown(found)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
