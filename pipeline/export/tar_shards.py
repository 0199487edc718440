"""WebDataset's format: a tar file per part, whose members with the same key are one sample.

    part-00003.tar
      00003-000017.json                 sample_id, source, label, class_name, ...
      00003-000017.00000.jpg            the stored JPEG of frame 0, unchanged, and so on
      00003-000017.dalle-v8.0.json      view 0 of the token set dalle-v8: scale, crop, flip, jitter
      00003-000017.dalle-v8.0.npy       its tokens, uint16 (T, h, w)

Equal datasets give equal bytes: members have no times, owners or other traces of the machine.
"""

import errno
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bevt_core.dataset.commits import digest_file, part_name
from bevt_core.storage.staging import staged_file
from pipeline.export.samples import Sample
from schemas.errors import StorageError
from schemas.frames import FileDigest
from schemas.text.json_text import json_text

Member = tuple[str, bytes]  # name and content


def members_of(sample: Sample) -> Iterator[Member]:
    """Return the files of a sample in the order in which they are written."""
    yield f"{sample.key}.json", json_text(sample.facts).encode()
    for number, jpeg in enumerate(sample.jpegs):
        yield f"{sample.key}.{number:05d}.jpg", jpeg
    for name, views in sample.views.items():
        for number, view in enumerate(views):
            yield f"{sample.key}.{name}.{number}.json", json_text(view.model_dump(mode="json")).encode()
            buffer = io.BytesIO()
            np.save(buffer, sample.tokens[name][number])
            yield f"{sample.key}.{name}.{number}.npy", buffer.getvalue()


def write_shard(out: Path, part: int, samples: Iterable[Sample]) -> dict[str, FileDigest]:
    """Write the tar file of a part, read it back, and return its digest.

    Raises StorageError if the file does not have the bytes that were written.
    """
    target = out / f"{part_name(part)}.tar"
    written: list[tuple[str, str]] = []
    with staged_file(target) as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            for name, content in members_of(sample):
                entry = tarfile.TarInfo(name)  # time 0, owner 0, mode 0644
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
                written.append((name, hashlib.sha256(content).hexdigest()))
    check_members(target, written)
    return {target.name: digest_file(target)}


def check_members(target: Path, written: list[tuple[str, str]]) -> None:
    """Raise StorageError unless the tar file has the members `written`, names and SHA-256, in this order."""
    with tarfile.open(target, "r:") as tar:
        for name, sha256 in written:
            entry = tar.next()
            content = None if entry is None else tar.extractfile(entry)
            if entry is None or entry.name != name or content is None:
                raise StorageError(errno.EIO, f"{target}: {name} is missing after writing; run the same command again")
            if hashlib.file_digest(content, "sha256").hexdigest() != sha256:  # type: ignore[arg-type]
                raise StorageError(errno.EIO, f"{target}: {name} not stored as written; check the disk, then run again")
