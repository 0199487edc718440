"""Archives opened for reading single members: volumes are concatenated, compressed tars have their restart points."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bevt_core.storage.objects import AnyPath, ObjectPath
from bevt_core.untrusted.archives.gzip_file import open_indexed
from bevt_core.untrusted.archives.volumes import open_volumes
from pipeline.sources.archives.gzip_index import restart_points
from pipeline.sources.archives.names import archives_among, volume_of


def volumes_beside(root: AnyPath, archive: str) -> tuple[str, ...]:
    """The paths of all volumes of an archive, relative to the root, given the first. Raises UserError."""
    folder, slash, name = archive.rpartition("/")
    if volume_of(name) is None:
        return (archive,)
    place = root / folder
    beside = place.entries() if isinstance(place, ObjectPath) else (path.name for path in place.iterdir())
    found = next((files for files in archives_among(beside).values() if files[0] == name), (name,))
    return tuple(folder + slash + file for file in found)


@contextmanager
def open_for_members(volumes: Sequence[AnyPath], method: str) -> Iterator[BinaryIO]:
    """The file in which members stored by `method` have their offsets. Raises UserError, OSError."""
    with open_volumes(volumes) as file:
        if method != "gzip":
            yield file
            return
        local = [Path(str(volume)) for volume in volumes]
        with open_indexed(file, local[0], restart_points(local)) as tar:
            yield tar
