"""Datasets and names as an attacker makes them, consistent with themselves: every digest is right."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import google_crc32c
import numpy as np

NAMES = (
    "",
    ".",
    "..",
    "../secret/s.png",
    "a/../../secret/s.png",
    "./../secret/s.png",
    "a//b.png",
    "a/./b.png",
    "a/",
    "/etc/passwd",
    "//etc/passwd",
    "a\0.png",
    "..\\secret\\s.png",
    "a\\..\\..\\s.png",
    "\\\\server\\share\\s.png",
    "C:\\s.png",
    "c:/s.png",
    "C:",
)


class Touch:
    """Makes the file `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def make_pickled_zarr(path: Path, touched: Path, arrays: tuple[str, ...] = ("jpeg", "offsets")) -> None:
    """Turn the `frames.zarr` at `path` into a group of Zarr version 2; a chunk of `arrays` is a pickle that runs code.

    Other arrays stay as they are, readable by either version.
    """
    (path / "zarr.json").unlink()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    payload = pickle.dumps(Touch(touched))
    for name in arrays:
        shape = json.loads((path / name / "zarr.json").read_text())["shape"]
        shutil.rmtree(path / name)
        (path / name).mkdir()
        array = {
            "zarr_format": 2,
            "shape": shape,
            "chunks": shape,
            "dtype": "|O",
            "filters": [{"id": "vlen-utf8"}],  # so that the dtype is one that zarr knows
            "compressor": {"id": "pickle", "protocol": 5},
            "fill_value": "",
            "order": "C",
        }
        (path / name / ".zarray").write_text(json.dumps(array))
        (path / name / "0").write_bytes(payload)


def recommit(part: Path) -> None:
    """Write the commit of a part folder anew, with the digests of the files that it names as they are now."""
    commit = json.loads((part / "commit.json").read_text())
    for name in commit["files"]:
        data = (part / name).read_bytes()
        commit["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    (part / "commit.json").write_text(json.dumps(commit))


def edit_metadata(path: Path, keys: tuple[str | int, ...], value: object) -> None:
    """Set one value of a zarr.json, `keys` deep."""
    data = json.loads(path.read_text())
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(data))


def claim_size(jpeg: bytes, height: int, width: int) -> bytes:
    """The JPEG with another size in its header: a few bytes that decode to as many pixels as wanted."""
    at = jpeg.index(b"\xff\xc0") + 5  # the baseline frame header
    return jpeg[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[at + 4 :]


def write_offsets(path: Path, offsets: list[int]) -> None:
    """The offsets of a `frames.zarr`, with the right checksum."""
    payload = np.array(offsets, "<i8").tobytes()
    (path / "offsets" / "c" / "0").write_bytes(payload + google_crc32c.value(payload).to_bytes(4, "little"))
