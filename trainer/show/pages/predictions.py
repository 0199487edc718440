"""The newest pictures in a run's TensorBoard files: what the model predicts for the first sample of each stream.

A file is a sequence of records: length, checksum, protocol buffer, checksum. Records without pictures are skipped.
"""

import functools
import struct
from pathlib import Path

from schemas.text.regular_file import is_irregular

HEADER_BYTES, CHECKSUM_BYTES = 12, 4
LEAST_PICTURE_BYTES = 2 << 10  # records of numbers are smaller
MAX_PICTURE_BYTES = 4 << 20
MAX_FILES, MAX_RECORDS, MAX_TAGS = 32, 20_000, 8  # read at most: the newest files, and in each records and tags
NUMBERS_FIRST = 8  # a file whose first so many records are small has numbers only
PNG = b"\x89PNG\r\n\x1a\n"


def newest_pictures(run: Path) -> dict[str, tuple[int, bytes]]:
    """Return tag -> (step, PNG file) of the newest picture of each tag, in the order of the tags."""
    found: dict[str, tuple[int, bytes]] = {}
    for path in sorted((run / "tensorboard").glob("events.out.tfevents.*"))[-MAX_FILES:]:
        if is_irregular(path):
            continue
        for tag, (step, png) in _pictures_in(path, path.stat().st_size).items():
            if tag not in found or step >= found[tag][0]:
                found[tag] = (step, png)
    return dict(sorted(found.items()))


@functools.lru_cache(MAX_FILES)
def _pictures_in(path: Path, num_bytes: int) -> dict[str, tuple[int, bytes]]:
    """The newest picture of each tag in a file of `num_bytes`; what is damaged or not yet written ends it."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    found: dict[str, tuple[int, bytes]] = {}
    with path.open("rb") as file:
        small = 0
        for _ in range(MAX_RECORDS):
            header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES:
                break
            (length,) = struct.unpack("<Q", header[:8])
            end = file.tell() + length + CHECKSUM_BYTES
            if end > num_bytes:
                break
            if LEAST_PICTURE_BYTES <= length <= MAX_PICTURE_BYTES:
                try:
                    event = Event.FromString(file.read(length))
                except DecodeError:
                    break
                for value in event.summary.value:
                    is_known = value.tag in found or len(found) < MAX_TAGS
                    if is_known and value.image.encoded_image_string.startswith(PNG):
                        found[value.tag] = (int(event.step), bytes(value.image.encoded_image_string))
            else:
                small += 1
                if small >= NUMBERS_FIRST and not found:
                    break
            file.seek(end)
    return found
